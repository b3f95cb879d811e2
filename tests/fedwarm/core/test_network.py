"""Whether the Hub answers is asked once and shortly; without it, caches are all that is looked at."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from fedwarm.core.network import calm_hub, hub_answers
from fedwarm.data.hub import read
from fedwarm.settings.fields import SettingError

Serve = Callable[[int], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Puts a Hub on this machine that answers everything by one status, whoever else wants to be offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    servers = []

    def start(status: int) -> None:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def nobody(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_answer_is_one(serve: Serve, status: int) -> None:
    serve(status)
    assert hub_answers()


@pytest.mark.usefixtures("nobody")
def test_no_answer_is_none() -> None:
    assert not hub_answers()


def test_who_wants_to_be_offline_is_not_asked_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(200)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers()


@pytest.mark.usefixtures("nobody")
def test_libraries_ask_nothing_of_a_hub_that_does_not_answer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("somebody waits for the Hub"))
    with pytest.raises(SettingError, match="the Hub does not answer, and no copy of nobody-at-all/no-such-set is kept") as caught:
        read("nobody-at-all/no-such-set")
    assert "a Hub name on a machine with network" in str(caught.value)
    assert "Retrying" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


@pytest.mark.usefixtures("nobody")
def test_a_folder_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedwarm.core.network.hub_answers", lambda: pytest.fail("asked"))
    with calm_hub(str(tmp_path)):
        assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(serve: Serve) -> None:
    serve(404)
    with calm_hub("owner/name"):
        assert not constants.HF_HUB_OFFLINE
    with pytest.raises(ConnectionError, match="its own words"), calm_hub("owner/name"):
        raise ConnectionError("its own words")
