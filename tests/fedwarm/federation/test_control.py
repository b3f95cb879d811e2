"""What the SuperLink's answers become, and how long it waits for its database."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from importlib import import_module
from pathlib import Path

import httpx
import pytest
import uvicorn

from fedwarm.core.chain import verify
from fedwarm.core.failures import RunError
from fedwarm.federation import patient
from fedwarm.federation.control import Control, Unreachable
from fedwarm.flower.certificates import ensure_node_key, read_public
from fedwarm.node.key import fingerprint


class Client:
    """Answers every question with one status, or not at all."""

    def __init__(self, status: int) -> None:
        self.status = status

    def ListRuns(self, request: object) -> object:  # noqa: N802
        asked = httpx.Request("POST", "https://superlink/v1/control/list-runs")
        if not self.status:
            raise httpx.ConnectError("refused", request=asked)
        if self.status == 200:
            raise ValueError("Invalid protobuf response payload")
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
    with pytest.raises(RunError, match=r"is closed here \(HTTP 403\), as at the port of sites"):
        Control(Client(403)).runs()  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"what answers is no SuperLink \(Invalid protobuf"):
        Control(Client(200)).runs()  # type: ignore[arg-type]


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


def test_whom_a_superlink_does_not_let_in_is_audited_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own handler of the call and its own words, against a state that knows nobody."""
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore import log
    from flwr.supercore.error import FlowerError
    from flwr.superlink.servicer.fleet.fleet_handlers import activate_node

    class Nobody:
        def get_node_id_by_public_key(self, key: bytes) -> None:
            return None

    monkeypatch.setattr(patient, "MOST_KEYS", 2)
    door = patient.Door(tmp_path / "audit.jsonl")
    logging.getLogger("flwr").addHandler(door)
    try:
        for name in ("a", "b", "a", "c"):
            ensure_node_key(tmp_path / name)
            public = read_public(tmp_path / f"{name}.pub")
            with pytest.raises(FlowerError) as caught:
                activate_node(ActivateNodeRequest(public_key=public, heartbeat_interval=30.0), Nobody())  # type: ignore[arg-type]
            log(logging.ERROR, f"[/v1/fleet/activate-node][ApiError:{caught.value.code}] {caught.value.message}")
        log(logging.ERROR, "[/v1/fleet/activate-node][ApiError:2004] of another make")
    finally:
        logging.getLogger("flwr").removeHandler(door)
    told = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    *told, last = told
    assert "key" not in last and last["why"] == "2 keys; more are not noted until the SuperLink starts anew"
    assert [each["key"] for each in told] == [fingerprint((tmp_path / f"{name}.pub").read_bytes()) for name in ("a", "b")]
    assert {(each["event"], each["why"]) for each in told} == {("refused", "No SuperNode found with the given public key.")}
    assert verify(tmp_path / "audit.jsonl").problem == ""
