"""Warm messages with a tiny program in Flower's place: what reaches it, how it ends, and what is done without a template."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from fedwarm.flower.family import MARK, end_family, family, lives
from fedwarm.node import clientapp
from fedwarm.node.warm import stub, template
from tests.waiting import wait_until

until = partial(wait_until, seconds=60, poll_seconds=0.05)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="messages are warm on Linux alone")
ENTRY = """
import atexit, json, os, signal, sys, threading, time

def warm():
    os.environ["MADE"] = "by an import"
    if os.environ.get("SPOILT") == "thread":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if os.environ.get("SPOILT") == "raises":
        raise ImportError
    sys.path[:0] = [os.environ[name] for name in ("LIBRARY",) if name in os.environ]
    if "LIBRARY" in os.environ:
        import library
    return run

def run():
    mask = os.umask(0)
    told = {"warm": __name__ != "__main__", "argv": sys.argv[1:], "entry": sys.argv[0], "here": os.getcwd(), "pid": os.getpid(),
            "parent": os.getppid(), "environment": dict(os.environ), "mask": mask, "random": __import__("random").random(),
            "numpy": sys.modules["numpy"].random.random() if "numpy" in sys.modules else 0}
    print(json.dumps(told), flush=True)
    what, *rest = sys.argv[1:] or [""]
    if what == "copy":
        print(sys.stdin.read(), end="", file=sys.stderr)
    if what == "exit":
        sys.exit(int(rest[0]) if rest[0].isdigit() else rest[0])
    if what == "raise":
        raise ValueError("wrong")
    if what == "late":
        atexit.register(print, "at the end")
        threading.Thread(target=lambda: (time.sleep(0.2), print("from a thread"))).start()
    if what == "catch":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    if what in ("catch", "wait"):
        print("waits", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run()
"""
NUMPY = "import numpy.random\n"


class Warm:
    """A folder for templates, and stubs that ask them."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder, self.mark, self.entry = folder / "clients", mark, folder / "entry.py"
        self.entry.write_text(ENTRY)
        self.running: list[subprocess.Popen[str]] = []
        self.environment = {**os.environ, MARK: f"{mark}.node", stub.SWITCH: "1"}

    def start(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", stub.__file__, str(self.folder), f"{self.mark}.clients", str(self.entry), *words]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.running.append(subprocess.Popen(command, text=True, cwd=cwd, env={**self.environment, **environment}, **pipes))
        return self.running[-1]

    def ask(self, *words: str, **environment: str) -> dict[str, Any]:
        """What the program tells of itself; it ends well."""
        running = self.start(*words, **environment)
        told, error = running.communicate(timeout=60)
        assert running.returncode == 0 and error == "", error
        return json.loads(told)  # type: ignore[no-any-return]

    def templates(self) -> list[psutil.Process]:
        """Those that live, and not what they have forked."""
        found = family([], [f"{self.mark}.clients"])
        parents = {each.pid: each.ppid() for each in found if lives(each)}
        return [each for each in found if each.pid in parents and parents[each.pid] not in parents]

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def kill(self) -> None:
        for each in self.templates():
            each.kill()
            each.wait(10)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    made = Warm(tmp_path, f"test-{os.getpid()}-{time.monotonic_ns()}")
    yield made
    for each in made.running:
        each.kill()
        with each:
            pass
    end_family([], [f"{made.mark}.clients", f"{made.mark}.node"], 1.0)


def gone(pid: int) -> bool:
    with suppress(psutil.Error):
        return not lives(psutil.Process(pid))
    return True


def test_all_that_the_stub_was_started_with_arrives_and_all_that_comes_of_it_comes_back(warm: Warm, tmp_path: Path) -> None:
    warm.ask(MUCH="is another's")
    there = tmp_path / "where it is"
    there.mkdir()
    before, own = os.umask(0o031), {"FLWR_HOME": "mine", "FEDWARM_DATA": "too"}
    try:
        running = warm.start("copy", "", "--token", "ö\udc80", cwd=there, MUCH="is another's", **own)
    finally:
        os.umask(before)
    said, error = running.communicate("in\nout", timeout=60)
    told = json.loads(said)
    assert told["warm"] and told["argv"] == ["copy", "", "--token", "ö\udc80"] and told["entry"] == str(warm.entry)
    assert (told["here"], told["mask"], error, running.returncode) == (str(there), 0o031, "in\nout", 0)
    wanted = {**warm.environment, **own, "MUCH": "is another's", "MADE": "by an import"}
    assert told["environment"] == wanted
    assert [told["parent"]] == [each.pid for each in warm.templates()] and told["pid"] != running.pid


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(("exit", "7"), 7, ""), (("exit", "no"), 1, "no\n"), (("raise",), 1, "ValueError: wrong\n"), (("exit", "256"), 0, "")],
)
def test_exit_codes_are_an_interpreters(warm: Warm, words: tuple[str, ...], code: int, said: str) -> None:
    running = warm.start(*words)
    told, error = running.communicate(timeout=60)
    assert json.loads(told)["warm"] and running.returncode == code and error.endswith(said) and bool(error) == bool(said)


def test_threads_are_waited_for_and_what_is_due_at_exit_is_done(warm: Warm) -> None:
    told, _ = warm.start("late").communicate(timeout=60)
    assert told.splitlines()[1:] == ["from a thread", "at the end"]


def test_messages_draw_their_own_randomness(warm: Warm) -> None:
    warm.entry.write_text(NUMPY + ENTRY)
    first, second = warm.ask(), warm.ask()
    assert first["parent"] == second["parent"]
    assert first["random"] != second["random"] and first["numpy"] != second["numpy"] and first["numpy"] > 0


def begun(running: subprocess.Popen[str]) -> dict[str, Any]:
    """What a program that waits has told."""
    assert running.stdout is not None
    told = json.loads(running.stdout.readline())
    assert running.stdout.readline() == "waits\n"
    return told  # type: ignore[no-any-return]


def test_signals_are_passed_on(warm: Warm) -> None:
    catching, plain = warm.start("catch"), warm.start("wait")
    pids = [begun(running)["pid"] for running in (catching, plain)]
    for running in (catching, plain):
        running.terminate()
    assert catching.wait(60) == 3 and plain.wait(60) == -signal.SIGTERM
    until(lambda: all(map(gone, pids)))
    assert len(warm.templates()) == 1


def test_who_asked_is_killed_and_who_answers_ends(warm: Warm) -> None:
    running = warm.start("wait")
    pid = begun(running)["pid"]
    running.kill()
    until(lambda: gone(pid))


def test_who_answers_is_killed_and_who_asked_ends_with_a_word(warm: Warm) -> None:
    running = warm.start("wait")
    os.kill(begun(running)["pid"], signal.SIGKILL)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 1 and error.startswith("fedwarm: the process that answered this message was killed")


def test_a_template_that_is_killed_takes_nothing_with_it(warm: Warm) -> None:
    running = warm.start("catch")
    told = begun(running)
    warm.kill()
    again = warm.ask()
    assert again["warm"] and again["parent"] != told["parent"] and running.poll() is None
    running.terminate()
    assert running.wait(60) == 3


def test_twenty_at_once_make_one_template(warm: Warm) -> None:
    running = [warm.start(FLWR_HOME=str(number)) for number in range(20)]
    told = [json.loads(each.communicate(timeout=100)[0]) for each in running]
    assert {each["parent"] for each in told} == {each.pid for each in warm.templates()} and len(warm.templates()) == 1
    assert {each["environment"]["FLWR_HOME"] for each in told} == set(map(str, range(20))) and all(each["warm"] for each in told)
    assert warm.log().count("fedwarm: message: ") == 20 and warm.log().count("fedwarm: ready") == 1


def test_another_environment_has_another_template(warm: Warm) -> None:
    told = [warm.ask(OMP_NUM_THREADS=count, FLWR_HOME=home) for count, home in (("1", "a"), ("2", "a"), ("1", "b"))]
    assert told[0]["parent"] == told[2]["parent"] != told[1]["parent"] and all(each["warm"] for each in told)


def test_it_ends_when_nobody_asks_and_when_its_socket_is_gone(warm: Warm) -> None:
    warm.ask(**{template.IDLE_VARIABLE: "0.1"})
    until(lambda: not warm.templates())
    assert "ended: no message for 0.1 s" in warm.log() and not list(warm.folder.glob("*.sock"))
    first = warm.ask()
    next(warm.folder.glob("*.sock")).unlink()
    second = warm.ask()
    assert second["warm"] and second["parent"] != first["parent"]
    until(lambda: [each.pid for each in warm.templates()] == [second["parent"]])


def test_a_template_that_is_ready_too_late_for_its_first_message_serves_the_next(warm: Warm) -> None:
    """On a busy machine loading may take longer than a stub waits; each message would start one in vain."""
    warm.folder.mkdir(mode=0o700)
    ready, tell = os.pipe()
    os.close(ready)
    lock = os.open(warm.folder / "late.lock", os.O_CREAT | os.O_RDWR)
    command = [sys.executable, "-P", template.__file__, "late", str(warm.entry), str(tell), str(lock)]
    env = {**warm.environment, template.IDLE_VARIABLE: "0.1"}
    ended = subprocess.run(command, cwd=warm.folder, env=env, pass_fds=(tell, lock), capture_output=True, text=True, timeout=60)
    os.close(tell)
    os.close(lock)
    assert ended.returncode == 0 and "ended: no message for 0.1 s" in ended.stderr, ended.stderr


def test_a_template_of_packages_that_were_replaced_serves_no_more(warm: Warm, tmp_path: Path) -> None:
    library = tmp_path / "library.py"
    library.write_text("one = 1")
    told = warm.ask(LIBRARY=str(tmp_path))
    library.write_text("two = 2")
    assert warm.ask(LIBRARY=str(tmp_path))["parent"] != told["parent"]
    until(lambda: told["parent"] not in [each.pid for each in warm.templates()])


@pytest.mark.parametrize("spoilt", ["thread", "raises"])
def test_a_template_that_cannot_be_had_is_tried_once_and_the_message_is_answered(warm: Warm, spoilt: str) -> None:
    assert not warm.ask(SPOILT=spoilt)["warm"]
    log = warm.log()
    assert ("ImportError" if spoilt == "raises" else "has started threads") in log
    for path in warm.folder.glob("*.log"):
        path.unlink()
    assert not warm.ask(SPOILT=spoilt)["warm"] and warm.log() == ""


def test_it_can_be_switched_off_and_is_off_where_dependencies_are_installed(warm: Warm) -> None:
    assert not warm.ask(**{stub.SWITCH: stub.COLD})["warm"] and not warm.ask(stub.INSTALLING)["warm"]
    assert not warm.folder.exists()


def test_a_folder_in_which_others_may_write_is_not_used(warm: Warm) -> None:
    warm.folder.mkdir()
    warm.folder.chmod(0o750)
    assert not warm.ask()["warm"] and not list(warm.folder.iterdir())


def test_a_socket_may_lie_deeper_than_its_address_is_long(warm: Warm) -> None:
    warm.folder = warm.folder / ("deep" * 20) / ("deeper" * 20) / "clients"
    assert warm.ask()["warm"]


def test_another_users_socket_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert stub.trusted(one)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not stub.trusted(one)


@pytest.mark.parametrize("reply", [b"", stub.REFUSED])
def test_who_is_refused_or_left_before_it_began_answers_by_itself(
    warm: Warm, reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm.ask()
    warm.kill()
    name = next(warm.folder.glob("*.sock"))
    name.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(warm.folder)
        listener.bind(name.name)
        listener.listen()
        running = warm.start()
        for _ in range(2):  # as it is, and as the one that another process may have started
            connection, _ = listener.accept()
            with connection:
                for each in socket.recv_fds(connection, 8, 4)[1]:
                    os.close(each)
                connection.sendall(reply)
        told = json.loads(running.communicate(timeout=60)[0])
    assert not told["warm"] and told["pid"] == running.pid


def test_questions_that_are_none_are_refused_and_harm_nobody(warm: Warm) -> None:
    parent = warm.ask()["parent"]
    body = stub.pack(str(warm.entry), [])
    for asked, files in ((body, 1), (b"", 4), (body.replace(stub.PROTOCOL, b"fedwarm 0"), 4), (b"nonsense", 4)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/{parent}/cwd/{next(warm.folder.glob('*.sock')).name}")
            connection.settimeout(60)
            reply = b""
            with suppress(ConnectionError):  # where it does not take all of it
                socket.send_fds(connection, [len(asked).to_bytes(8, "little")], [0] * files)
                connection.sendall(asked)
                connection.shutdown(socket.SHUT_WR)
                reply = connection.recv(10)
            assert reply in (stub.REFUSED, b"")
    assert warm.ask()["parent"] == parent


def test_a_token_is_in_no_file_and_in_no_lasting_process(warm: Warm) -> None:
    token = "5ec2e7" * 8
    assert token in warm.ask("--token", token)["argv"]
    (only,) = warm.templates()
    assert token not in " ".join(only.cmdline()) + str(only.environ())
    assert all(token not in path.read_text() for path in warm.folder.iterdir() if path.is_file())


def test_memory_is_what_the_machine_and_the_group_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    monkeypatch.setattr(template, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(template, "GROUP", tmp_path)
    assert template.free_bytes() == 2000 * 1024
    for name, text in (("max", "1000000\n"), ("current", "900000\n"), ("stat", "anon 7\ninactive_file 50000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert template.free_bytes() == 150000
    (tmp_path / "memory.max").write_text("max\n")
    assert template.free_bytes() == 2000 * 1024
    (tmp_path / "memory").mkdir()
    for name, text in (("limit_in_bytes", "500000"), ("usage_in_bytes", "400000"), ("stat", "total_inactive_file 7\n")):
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert template.free_bytes() == 100007
    monkeypatch.setattr(template, "packages", dict)
    idle = SimpleNamespace(holds=lambda: True, idle_seconds=9, packages={})
    assert template.Template.over(idle, time.monotonic()) == "memory is short"  # type: ignore[arg-type]


LOADED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("template", sys.argv[2])
template = module_from_spec(spec)
spec.loader.exec_module(template)
run = template.loaded(template.Path(sys.argv[3])).warm()
torch, forkable = sys.modules["torch"], template.forkable() or "forkable"
loaded = list(sys.modules)
if not (child := os.fork()):
    model = torch.nn.Linear(300, 300)
    model(torch.ones(300, 300)).sum().backward()
    os._exit(torch.cuda._is_in_bad_fork())
print(run.__module__, forkable, torch.cuda.is_initialized(), os.waitpid(child, 0)[1], *loaded)
"""


@pytest.mark.long
def test_a_template_of_the_federation_can_be_forked_and_holds_no_code_of_an_app(tmp_path: Path) -> None:
    """Also with as many threads as the machine has: numpy has begun with those. What it forks can train, and use a GPU."""
    words = [sys.executable, "-P", "-c", LOADED, str(tmp_path), template.__file__, clientapp.__file__]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    module, forkable, initialised, trained, *loaded = done.stdout.split()
    assert (module, forkable, initialised, trained) == ("flwr.supernode.cli.flwr_clientapp", "forkable", "False", "0")
    assert {"torch", "numpy.random", "safetensors.torch"} <= set(loaded)
    assert not {name.partition(".")[0] for name in loaded} & {"fedwarm", "clients", "strategies", "sqlalchemy", "uvicorn"}
