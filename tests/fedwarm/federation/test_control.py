"""What the SuperLink's answers become, and how long it waits for its database."""

from __future__ import annotations

import sqlite3
import sys
from importlib import import_module

import httpx
import pytest
import uvicorn

from fedwarm.federation import patient
from fedwarm.federation.control import Control, Unreachable


class Client:
    """Answers every question with one status, or not at all."""

    def __init__(self, status: int) -> None:
        self.status = status

    def ListRuns(self, request: object) -> object:  # noqa: N802
        asked = httpx.Request("POST", "https://superlink/v1/control/list-runs")
        if not self.status:
            raise httpx.ConnectError("refused", request=asked)
        answer = httpx.Response(self.status, text="why\n it is so", request=asked)
        raise httpx.HTTPStatusError("no", request=asked, response=answer)


def test_trouble_of_the_server_passes_and_a_refusal_does_not() -> None:
    """A SuperLink whose database was locked answers 500 and goes on: who follows a run must not give it up."""
    for status, words in ((500, r"is in trouble \(HTTP 500\)"), (503, "HTTP 503"), (0, "does not answer: refused")):
        with pytest.raises(Unreachable, match=words):
            Control(Client(status)).runs()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the SuperLink refused: why it is so") as caught:
        Control(Client(412)).runs()  # type: ignore[arg-type]
    assert not isinstance(caught.value, Unreachable)


def test_a_write_may_wait_a_minute_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    mixin = import_module(patient.PLACE)
    monkeypatch.setattr(mixin, patient.NAME, mixin.SQLITE_PRAGMAS)
    others = {name: value for name, value in mixin.SQLITE_PRAGMAS if name != patient.PRAGMA}
    assert patient.install()
    assert {name: value for name, value in mixin.SQLITE_PRAGMAS if name != patient.PRAGMA} == others
    connection = sqlite3.connect(":memory:")
    mixin._set_sqlite_pragmas(connection, None)
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
    connection.close()


@pytest.mark.parametrize("found", [None, (), "no pairs", (("synchronous", "NORMAL"),)])
def test_another_flower_is_taken_as_it_is_and_that_is_said(
    found: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flwr.superlink import cli

    called: list[object] = []
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(import_module(patient.PLACE), patient.NAME, found)
    monkeypatch.setattr(cli, "flower_superlink", lambda: (called.append(sys.argv), uvicorn.run("app")))
    monkeypatch.setattr(uvicorn, "run", lambda app, **named: called.append(named))
    patient.main(["--insecure"])
    assert called == [["flower-superlink", "--insecure"], {"timeout_keep_alive": 90}]
    assert "it waits as it comes" in capsys.readouterr().err
