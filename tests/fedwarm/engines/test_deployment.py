"""Following a run from afar: broken streams, a SuperLink that is away, progress out of logs, runs that are started again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from fedwarm.core import chain
from fedwarm.core.failures import RunError
from fedwarm.core.progress import Tick, listening
from fedwarm.engines import Asked
from fedwarm.engines.deployment import COMPONENT, engine, following
from fedwarm.engines.deployment.following import Following, Tail
from fedwarm.engines.deployment.retry import Stopped, persist
from fedwarm.federation.control import Listed, Seen, Unreachable
from fedwarm.federation.settings import Federation, Node
from fedwarm.launch.interrupt import command
from fedwarm.launch.run import chosen
from fedwarm.record.lock import LOCK
from fedwarm.settings.fields import SettingError


class Link:
    """A SuperLink whose log stream breaks after its first piece, and which does not answer the second and third question."""

    def __init__(self) -> None:
        self.asked, self.streams = 0, []  # type: int, list[float]
        self.seen = [Seen(7, "lab-a", b"", "online", 3.0), Seen(8, "", b"", "offline", 95.0)]

    def run(self, run_id: int) -> Listed:
        self.asked += 1
        if self.asked in (2, 3):
            raise Unreachable("away")
        return Listed(run_id, "finished:completed" if self.asked > 4 else "running", "", "", {})

    def nodes(self) -> list[Seen]:
        return self.seen

    def logs(self, run_id: int, after: float) -> Iterator[tuple[str, float]]:
        self.streams.append(after)
        if len(self.streams) == 1:
            yield "\x1b[92mINFO \x1b[0m: server: rounds 1/2 accuracy 0.5\nINFO : noise\n", 1.5
            raise Unreachable("broken")
        if len(self.streams) == 2:
            yield "WARNING : node 7 is late\nINFO : server: rounds 2/2\n", 2.5


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    found = Federation("x", tmp_path / "x", insecure=True, nodes=[Node("node-0", 0, 1)])
    (found.folder / "logs").mkdir(parents=True)
    found.save()
    return found


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link()

    @contextmanager
    def control(_: Federation) -> Iterator[Link]:
        yield made

    monkeypatch.setattr(following, "control", control)
    monkeypatch.setattr(following, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(following, "POLL_SECONDS", 0.02)
    return made


def test_neither_a_broken_stream_nor_an_absent_superlink_ends_the_run(
    federation: Federation, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    federation.log("node-0").write_text("client 0: train 1/9\n")  # of an earlier run
    ticks: list[Tick] = []
    followed = Following(federation, link, 7)  # type: ignore[arg-type]
    with federation.log("node-0").open("a") as log:
        log.write("INFO : client 0: train 2/3, 5 s left\n")
    with listening(ticks.append):
        assert followed.to_the_end().status == "finished:completed"
    assert [line.split(": ", 1)[1] for line in followed.lines] == [
        "server: rounds 1/2 accuracy 0.5", "noise", "node 7 is late", "server: rounds 2/2",
    ]  # fmt: skip
    assert link.streams[:3] == [0.0, 1.5, 2.5]
    rounds = [Tick("server", "rounds", 1, 2, "accuracy 0.5"), Tick("server", "rounds", 2, 2)]
    assert [tick for tick in ticks if tick.who == "server"] == rounds
    assert [tick for tick in ticks if tick.who != "server"] == [Tick("client 0", "train", 2, 3)]
    told = capsys.readouterr().err
    assert (
        told.count(f"has ended; `fedwarm federation up --federation {federation.folder}` starts it again") == 1
        and "the SuperLink answers again" in told
    )
    assert "node 7 is late" in told and "noise" not in told


def test_a_superlink_that_stays_away_ends_the_following(
    federation: Federation, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(following, "DRAIN_SECONDS", 0.1)
    with pytest.raises(RunError, match="did not answer for 0 s; the run may continue without it"):
        Following(federation, link, 7).to_the_end()  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "times"), [("pending", 1), ("running", 0)])
def test_a_run_that_nobody_begins_is_told_of(
    status: str,
    times: int,
    federation: Federation,
    link: Link,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SuperExec ended after it had taken the run and before it ran: it is no failure, and waits."""
    monkeypatch.setattr(link, "run", lambda run_id: Listed(run_id, status, "", "", {}))
    followed = Following(federation, link, 7)  # type: ignore[arg-type]
    assert followed._ask() is None and followed._ask() is None
    said = f"SuperExec has ended; `fedwarm federation up --federation {federation.folder}` starts it again"
    assert capsys.readouterr().err.count(said) == times


def test_who_joins_a_run_or_refuses_it_is_audited_once(
    federation: Federation, link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lab-b comes while the run goes on; its refusals stand in the run's own log, where an earlier part of the run left one."""
    monkeypatch.setattr(following, "SIGNS_SECONDS", 0.0)
    out, why = tmp_path / "run", "refused (policy): this site's policy allows the methods scaffold"
    before = {"event": "refused", "site": "lab-a (0)", "why": "refused (rounds): it is over"}
    chain.add(out / "audit.jsonl", before)
    (out / "results.json").write_text("{}")
    followed = Following(federation, link, 7, out)  # type: ignore[arg-type]
    more = [{"event": "answered", "site": "lab-a (0)"}, *[{"event": "refused", "site": "lab-b (1)", "why": why}] * 2]
    chain.add(out / "audit.jsonl", *more)
    followed._look(ended=False)
    link.seen = [*link.seen, Seen(9, "lab-b", b"", "online", 1.0)]
    followed._look(ended=False)
    chain.add(out / "audit.jsonl", {"event": "refused", "site": "client 2", "why": "refused (epsilon): no more of it"})
    assert followed.to_the_end().finished
    told = [json.loads(line) for line in (federation.folder / "audit.jsonl").read_text().splitlines()]
    assert [(each["event"], each["site"], each.get("why", "")) for each in told] == [
        ("joined", "lab-a", ""), ("refused", "lab-b", why), ("joined", "lab-b", ""),
        ("refused", "client 2", "refused (epsilon): no more of it"),
    ]  # fmt: skip
    assert {each["run"] for each in told} == {"7"} and chain.verify(federation.folder / "audit.jsonl").problem == ""
    assert set(json.loads((out / "signs.json").read_text())["sites"]) == {"lab-a", "8", "lab-b"}


def test_an_audit_log_that_cannot_be_written_to_ends_no_run(
    federation: Federation, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    (federation.folder / "audit.jsonl").mkdir()
    followed = Following(federation, link, 7)  # type: ignore[arg-type]
    followed._look(ended=False)
    assert "the audit log lacks that lab-a joined" in capsys.readouterr().err


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.more()) == []
    path.write_text("one\ntw")
    assert list(tail.more()) == ["one"]
    path.write_text("one\ntwo\nthree\n")
    assert list(tail.more()) == ["two", "three"]
    path.write_text("new\n")
    assert list(tail.more()) == ["new"]


def persisted(done: list[int], again: str = "", keep_going: bool = True, kind: type[RunError] = RunError) -> list[bool]:
    """Let a run fail after these numbers of stages and complete then; whether each try went on from the checkpoint."""
    resumed: list[bool] = []

    def once(resume: bool) -> None:
        resumed.append(resume)
        if len(resumed) <= len(done):
            raise kind("No heartbeat received from the task")

    try:
        persist(once, iter(done).__next__, again, (lambda: None) if keep_going else None)
    except RunError as error:
        raise RunError(f"{len(resumed)} tries: {error}") from error
    return resumed


def test_a_run_that_comes_further_is_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert persisted([0, 1, 3]) == [False, True, True, True]
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["0", "1", "3"]


def test_one_that_does_not_is_given_up_with_the_way_to_go_on(federation: Federation) -> None:
    said = str(federation.folder)
    again = command(Path("/r"), chosen("deployment", COMPONENT, Asked(federation=said)))
    assert again == f"fedwarm run --resume --out /r --engine deployment --federation {said}"
    for done, keep_going, tries, kind in (
        ([1, 1, 1], True, 2, RunError),
        ([1, 2], False, 1, RunError),
        ([1, 2], True, 1, Stopped),
    ):
        with pytest.raises(RunError, match=f"^{tries} tries: No heartbeat.*; continue with: {again}$"):
            persisted(done, again, keep_going, kind)


def test_a_run_that_left_no_checkpoint_cannot_be_gone_on_with() -> None:
    def refused(resume: bool) -> None:
        raise RunError("not taken")

    with pytest.raises(RunError, match="^not taken$"):
        persist(refused, lambda: None, "again", lambda: None)


def test_a_federation_that_is_not_up_is_refused_before_anything_is_written(federation: Federation) -> None:
    said = str(federation.folder)
    with pytest.raises(SettingError, match=f"is not up .superlink, superexec, node-0 ended.; .*up --federation {said}`"):
        engine.ready(said)


def test_sites_are_not_chosen_by_a_number_and_nodes_have_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = str(tmp_path / "sites")
    Federation("sites", tmp_path / "sites", outside="fed.example.org:8443", most_sites=8).save()
    monkeypatch.setattr(engine, "dead", lambda federation: [])
    monkeypatch.setattr(engine, "reached", lambda federation, said, tell: federation.nodes.extend(NODES))
    for clients in (0, 2, 8):
        assert COMPONENT.clients(Asked(clients=clients, federation=said)) == 2
    assert capsys.readouterr().err == ""
    COMPONENT.clients(Asked(clients=7, workers=9, federation=said))
    told = capsys.readouterr().err
    assert "--workers 9 starts nothing here" in told and "--clients 7 chooses nobody here: 2 sites are online" in told


NODES = [Node("lab-a", 0, 0), Node("lab-b", 1, 0)]


@pytest.mark.parametrize("taken", [True, False])
def test_an_interrupt_stops_a_run_whose_submission_was_not_answered_yet(
    taken: bool, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, stopped = [Listed(1, "running", "", "", {"out": str(tmp_path)})], list[int]()

    @contextmanager
    def control(_: Federation) -> Iterator[object]:
        yield SimpleNamespace(runs=lambda: list(runs), stop=stopped.append)

    def submit(*_: object) -> int:
        if taken:
            runs.extend(Listed(number, "pending", "", "", {"out": out}) for number, out in ((2, "/other"), (3, str(tmp_path))))
        raise KeyboardInterrupt

    for name, other in {"control": control, "submit": submit, "refuse_unknown": Mock(), "serverapps": lambda _: []}.items():
        monkeypatch.setattr(engine, name, other)
    monkeypatch.setattr(engine, "TAKEN_SECONDS", 0.3)
    with pytest.raises(KeyboardInterrupt):
        engine.run_deployment(federation, tmp_path, {"out": str(tmp_path)})
    assert stopped == ([3] if taken else [])


def test_the_serverapp_of_another_run_is_not_waited_for(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, begun = list[str](), (0, 100, 200)
    serverapp = SimpleNamespace(pid=1, open_files=lambda: [SimpleNamespace(path=str(tmp_path / "a" / LOCK))])
    monkeypatch.setattr(engine, "serverapps", lambda _: [serverapp])
    monkeypatch.setattr(engine, "say", told.append)
    for folder, line in (("b", []), ("a", ["the ServerApp of the run still runs; resume the run when it has ended"])):
        monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=iter(begun).__next__, sleep=lambda s: None))
        engine.let_end(federation, set(), tmp_path / folder)
        assert told == line


CLIENT = """
import sys
import fedwarm.clients.client_app
from fedwarm.core.arrays import from_module
from fedwarm.clients import trainer_class
from fedwarm.data.node import Node
from fedwarm.catalogue import parse
from fedwarm.core.store import Store
from fedwarm.flower.wire import Payload
config = parse({"method": "fedavg", "data.max-examples": 40, "local-epochs": 1, "client-threads": 1})
trainer = trainer_class("fedavg")(config, Node(0, 2, Store(__import__("pathlib").Path(sys.argv[1]), "a", 0, 10)))
described = trainer.answer("describe", Payload())
reply = trainer.answer("round", Payload("weights", from_module(trainer.model()), {"round": 1}))
trainer.answer("evaluate", Payload("weights", reply.arrays, {"round": 1}))
print(*sorted({name.partition(".")[0] for name in sys.modules}), *[name for name in sys.modules if name == "torch._dynamo"])
"""
HEAVY = {
    "diffusers", "transformers", "peft", "opacus", "datasets", "flwr_datasets", "torchvision", "sklearn", "scipy", "matplotlib",
    "pandas", "pyarrow", "PIL", "sympy", "triton", "torch._dynamo", "ray", "jinja2", "dp_accounting",
}  # fmt: skip


@pytest.mark.long
def test_a_clients_process_imports_only_what_its_message_needs(tmp_path: Path) -> None:
    """Flower starts a process for every message: what is imported needlessly is paid each time."""
    done = subprocess.run([sys.executable, "-c", CLIENT, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "flwr", "fedwarm"} <= loaded and not loaded & HEAVY


def test_the_nodes_command_for_a_message_leaves_the_server_out() -> None:
    from fedwarm.node import clientapp

    told = "import runpy, sys; print(runpy.run_path(sys.argv[1])['lean']().__module__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", told, clientapp.__file__], capture_output=True, text=True, check=True)
    name, *loaded = done.stdout.split()
    assert name == "flwr.supernode.cli.flwr_clientapp"
    assert not {"sqlalchemy", "alembic", "uvicorn", "fedwarm", "torch"} & set(loaded)
