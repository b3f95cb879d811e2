"""Flower's SuperNode under watch, against a SuperLink that is played: heartbeats are told, and who is no longer heard ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from socket import socket
from types import ModuleType, SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesRequest, PullMessagesResponse, RegisterNodeFleetResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from fedwarm.federation import processes
from fedwarm.federation.settings import Federation, Node
from fedwarm.flower.processes import LOOPBACK, environment, free_ports, own_commands
from fedwarm.node import supernode
from fedwarm.node.heartbeat import Pulse, look
from fedwarm.node.messages import POLL_SECONDS
from tests.waiting import wait_until

until = partial(wait_until, seconds=120, poll_seconds=0.05)
BODIES = {
    "register-node": RegisterNodeFleetResponse(node_id=7),
    "activate-node": ActivateNodeResponse(node_id=7),
    "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
    "pull-messages": PullMessagesResponse(),
}


class Played(ThreadingHTTPServer):
    """A SuperLink for one node: `spoiled` are calls that are answered by this HTTP status (200: by an empty body)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.calls: list[str] = []
        self.spoiled: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    server: Played

    def do_POST(self) -> None:
        call = self.path.rpartition("/")[2]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append(call)
        status = self.server.spoiled.get(call, 0)
        body = BODIES[call].SerializeToString() if call in BODIES and not status else b""
        self.send_response(status or 200)
        self.send_header("Content-Type", PROTOBUF_MEDIA_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def link() -> Iterator[Played]:
    with Played() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ("pull-messages", 500, "given the SuperLink up"),
        pytest.param("pull-messages", 401, "HTTP 401", marks=pytest.mark.long),
        pytest.param(
            "send-node-heartbeat", 500, "takes this node's heartbeats (Server error '500 Internal", marks=pytest.mark.long
        ),
        pytest.param("send-node-heartbeat", 200, "does not recognize this SuperNode", marks=pytest.mark.long),
    ],
)
def test_a_node_that_is_no_longer_heard_signs_off_and_ends(
    call: str, status: int, said: str, link: Played, tmp_path: Path
) -> None:
    """Flower's own process goes on for ever (HTTP 500, heartbeats) or ends with exit code 0 and no word (HTTP 401)."""
    if call == "send-node-heartbeat":
        link.spoiled[call] = status
    words = ["--insecure", "--isolation", "process", "--superlink", f"{LOOPBACK}:{link.server_port}", "--host", LOOPBACK]
    command = [*processes.SUPERNODE, *words, "--port", str(free_ports(1)[0])]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        node = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment(tmp_path), cwd=tmp_path)
    try:
        if call == "pull-messages":
            until(lambda: look(tmp_path / "heartbeat").alive(90) and call in link.calls)
            link.spoiled[call] = status
        assert node.wait(120) == 1, log.read_text()
    finally:
        node.kill()
        node.wait()
    lines = [line for line in log.read_text().splitlines() if line.startswith("fedwarm: ")]
    assert len(lines) == 1 and said in lines[0] and lines[0].endswith("so that it can be started anew")
    assert "deactivate-node" in link.calls and not look(tmp_path / "heartbeat").runs


def test_what_flower_has_is_what_is_watched(link: Played, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flwr.supernode import fleet_http_connection as connection
    from flwr.supernode import start_client_internal as loop

    for name in ("HeartbeatSender", "NodeAuthHttpInterceptor", "FleetHttpClient"):
        monkeypatch.setattr(connection, name, getattr(connection, name))  # so that they are put back
    monkeypatch.setattr(loop, "subprocess", subprocess)
    pulse = Pulse(tmp_path / "heartbeat")
    assert supernode.install(supernode.Watch(lambda: pulse))
    answers = iter([False, True])
    sender = connection.HeartbeatSender(lambda: next(answers))
    assert not sender.heartbeat_fn() and look(tmp_path / "heartbeat").seconds is None
    assert sender.heartbeat_fn() and look(tmp_path / "heartbeat").alive(90)
    pulse.close()
    address = f"{LOOPBACK}:{link.server_port}"
    with connection.FleetHttpClient.from_server_address(address, True, None, interceptors=[]) as client:
        assert client.PullMessages(PullMessagesRequest()) == PullMessagesResponse() and link.calls == ["pull-messages"]


def test_a_node_ends_with_the_process_that_starts_those_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    watch = supernode.Watch(lambda: None)
    monkeypatch.setattr(watch, "deaf", ended.put)
    monkeypatch.setattr(supernode, "TOGETHER_SECONDS", 0.0)
    process = watch.executors(subprocess.Popen)([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin is not None and ended.empty()
    process.stdin.close()
    assert ended.get(timeout=60) == supernode.IDLE


@pytest.mark.long
def test_a_node_without_its_executor_ends(link: Played, tmp_path: Path) -> None:
    """Flower's own takes messages on, and nobody answers them."""
    words = ["--insecure", "--superlink", f"{LOOPBACK}:{link.server_port}", "--host", LOOPBACK, "--port", str(free_ports(1)[0])]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        command = [*processes.SUPERNODE, *words]
        node = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment(tmp_path), cwd=tmp_path)
    try:
        until(lambda: "pull-messages" in link.calls)
        (executor,) = psutil.Process(node.pid).children()
        executor.kill()
        assert node.wait(120) == 1, log.read_text()
    finally:
        node.kill()
        node.wait()
    assert supernode.IDLE in log.read_text() and "deactivate-node" in link.calls


@pytest.mark.parametrize(("status", "said"), [(413, "client_max_body_size 0"), (401, "HTTP 401"), (200, "")])
def test_an_answer_that_ends_a_node_is_told_for_what_it_is(status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        def intercept(self, *given: object) -> SimpleNamespace:
            return SimpleNamespace(status_code=status)

    ends: list[str] = []
    watch = supernode.Watch(lambda: None)
    monkeypatch.setattr(watch, "ends", lambda why: bool(ends.append(why)))
    monkeypatch.setattr(supernode.signal, "getsignal", lambda number: supernode.signal.SIG_IGN)
    assert watch.signers(Base)().intercept(None, None).status_code == status
    assert said in "".join(ends) and bool(ends) == bool(said)


def test_another_make_of_flower_runs_unwatched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(supernode, "CONNECTION", "flwr.supernode.no_such_module")
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as end:
        supernode.main(["--version"])
    assert end.value.code == 0 and "does not tell of heartbeats" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "bare", ModuleType("bare"))
    monkeypatch.setattr(supernode, "CONNECTION", "bare")
    assert not supernode.install(supernode.Watch(lambda: None))


def test_it_finds_flowers_commands_whatever_the_path_and_says_in_a_line_what_keeps_it_from_starting(tmp_path: Path) -> None:
    program = "from fedwarm.node.supernode import main; main(['--insecure', '--superlink', '127.0.0.1:1', '--port', '{}'])"
    environment = {**os.environ, "PATH": os.defpath, "HOME": str(tmp_path), "FLWR_HOME": str(tmp_path)}
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-c", program.format(taken.getsockname()[1])]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(
        "fedwarm: the node cannot start (SuperNode Runtime HTTP API failed to start.)"
    )
    program = (
        "import os, shutil; from flwr.supernode import cli; "
        "cli.flower_supernode = lambda: print(*map(shutil.which, ('flower-superexec', 'flwr-clientapp')), "
        "os.environ['FLWR_SUPEREXEC_TASK_POLL_INTERVAL'], sep='\\n')"
    )
    command = [sys.executable, "-c", f"{program}; from fedwarm.node.supernode import main; main([])"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    executor, clientapp, poll_seconds = ended.stdout.split()
    assert executor == str(Path(sys.executable).parent / "flower-superexec")
    assert Path(clientapp).is_relative_to(tmp_path / "fedwarm"), "messages are forked from a warm process"
    assert float(poll_seconds) == POLL_SECONDS


def test_a_home_that_cannot_be_written_costs_warm_messages_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("PATH", own_commands())
    assert supernode.commands() == own_commands()
    assert "so every message loads torch anew; set FLWR_HOME" in capsys.readouterr().err


def test_a_file_that_cannot_be_had_is_said_and_hinders_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    first = supernode.pulse()
    assert first is not None and supernode.pulse() is None and "another SuperNode" in capsys.readouterr().err
    first.close()
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "file" / "home"))
    assert supernode.pulse() is None and "cannot be written (Not a directory)" in capsys.readouterr().err


def test_a_federation_knows_its_nodes_heartbeats_without_the_superlink(tmp_path: Path) -> None:
    from fedwarm.federation.status import status

    made = Federation("mine", tmp_path, nodes=[Node("node-0", 0, 9100)])
    made.processes["node-0"] = processes.Process(os.getpid(), psutil.Process().create_time(), "0.1.0")
    assert status(made).members[2].row()[2:4] == ("runs", "")
    pulse = Pulse(processes.home(made, "node-0") / "heartbeat")
    pulse.beat()
    assert re.fullmatch(r"\d+ s ago", status(made).members[2].row()[3])
    pulse.close()
    made.processes.clear()
    made.log("node-0").parent.mkdir()
    made.log("node-0").write_text("fedwarm: why it ended\nlast words of another\n\n")
    assert status(made).notes[-1] == "node-0 ended; its log ends: fedwarm: why it ended"
