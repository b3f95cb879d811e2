"""A federation that runs elsewhere: remembered, asked who is there, and never started or ended from here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedwarm.core.failures import RunError
from fedwarm.core.names import place_of
from fedwarm.engines import Asked
from fedwarm.engines.deployment import Deployment, engine
from fedwarm.engines.deployment.engine import ready
from fedwarm.engines.local import Local
from fedwarm.federation import remote
from fedwarm.federation import status as status_module
from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import Seen, Unreachable
from fedwarm.federation.parties import ensure_parties
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.remote import connect
from fedwarm.federation.settings import load
from fedwarm.federation.status import status
from fedwarm.flower.certificates import read_public
from fedwarm.launch.run import QUIET, Request, run_method
from fedwarm.node.key import fingerprint
from fedwarm.record.lock import Lock
from fedwarm.settings.fields import SettingError

NOW = datetime.now(UTC)


class Link:
    """A SuperLink's control: whose keys it knows, and what was asked of it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.asked: list[tuple[str, object]] = []
        self.silent = 0
        self.refuses = ""

    def nodes(self) -> list[Seen]:
        if self.silent:
            self.silent -= 1
            raise Unreachable("the SuperLink does not answer: refused")
        return list(self.seen)

    def runs(self) -> list[object]:
        return []

    def register(self, key: bytes, name: str) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.asked.append(("register", name))
        self.seen.append(Seen(len(self.seen) + 100, name, key, "registered", None))

    def unregister(self, node_id: int) -> None:
        self.asked.append(("unregister", node_id))
        self.seen = [each for each in self.seen if each.node_id != node_id]


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link()

    @contextmanager
    def control(federation: object, trusted: Path | None = None) -> Iterator[Link]:
        yield made

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(remote, "control", control)
    monkeypatch.setattr("fedwarm.federation.control.control", control)
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.0)
    return made


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    ensure_parties(tmp_path / "keys", "a", [], ["b", "a"], NOW)
    return tmp_path / "keys"


Join = Callable[..., list[str]]


@pytest.fixture
def join(link: Link, keys: Path) -> Join:
    def run(*nodes: str, superlink: str = "fed.example.org:8444", wait: float = 5.0) -> list[str]:
        told: list[str] = []
        files = {node: keys / "admin" / f"{node}.pub" for node in nodes}
        connect("default", superlink, keys / "admin" / "ca.crt", files, wait, told.append)
        return told

    return run


def test_it_is_remembered_and_nodes_are_let_in(join: Join, link: Link, keys: Path) -> None:
    assert join("b", "a") == ["b: its key is registered", "a: its key is registered"]
    assert [each.key for each in link.seen] == [read_public(keys / "admin" / f"{name}.pub") for name in ("b", "a")]
    found = load("default")
    assert found.remote and not found.insecure and found.address == "fed.example.org:8444"
    assert [node.name for node in found.nodes] == ["a", "b"]
    assert found.authority is not None and found.authority.read_bytes() == (keys / "admin/ca.crt").read_bytes()
    assert f'root-certificates = "{found.authority}"' in (found.flower / "config.toml").read_text()
    assert found.folder.stat().st_mode & 0o077 == 0


def test_who_was_let_in_stands_in_the_audit_log(join: Join, keys: Path) -> None:
    join("b")
    join("b", "a")
    told = [json.loads(line) for line in (load("default").folder / "audit.jsonl").read_text().splitlines()]
    assert [(each["event"], each.get("site", "")) for each in told] == [
        ("connected", ""), ("registered", "b"), ("registered", "a"),
    ]  # fmt: skip
    assert told[0]["superlink"] == "fed.example.org:8444" and all(each["user"] for each in told)
    assert told[1]["key"] == fingerprint((keys / "admin" / "b.pub").read_bytes())


def test_a_second_time_changes_nothing_and_needs_no_address(join: Join, link: Link, keys: Path) -> None:
    join("a")
    assert connect("default", "", None, {"a": keys / "admin/a.pub"}, 5.0, print).address == "fed.example.org:8444"
    assert link.asked == [("register", "a")]


def test_a_new_key_of_a_known_node_replaces_the_old_one(join: Join, link: Link, keys: Path) -> None:
    join("a")
    (keys / "admin/a.pub").write_bytes((keys / "admin/b.pub").read_bytes())
    assert join("a") == ["a: the key it had before is registered no more", "a: its key is registered"]
    assert [(each.name, each.key) for each in link.seen] == [("a", read_public(keys / "b/key.pub"))]


def test_a_key_that_another_name_has_is_told(join: Join, keys: Path) -> None:
    join("a")
    (keys / "admin/b.pub").write_bytes((keys / "admin/a.pub").read_bytes())
    assert join("b") == ["b: its key is registered already, by the name a"]


def test_a_superlink_that_comes_up_is_waited_for_and_one_that_does_not_is_named(join: Join, link: Link) -> None:
    link.silent = 3
    assert join("a") == ["a: its key is registered"]
    link.silent = 10**9
    with pytest.raises(RunError, match=r"does not answer: refused at fed.example.org:8444; see that it runs"):
        join("b", wait=0.0)


def test_what_was_remembered_stays_until_another_superlink_answers(join: Join, link: Link, keys: Path, tmp_path: Path) -> None:
    join("a")
    before = {path: path.read_bytes() for path in load("default").folder.rglob("*") if path.is_file()}
    ensure_parties(tmp_path / "others", "b", [], ["b"], NOW)
    link.silent = 10**9
    with pytest.raises(RunError, match="at 127.0.0.1:1; see that it runs"):
        connect("default", "127.0.0.1:1", tmp_path / "others/admin/ca.crt", {}, 0.0, print)
    assert {path: path.read_bytes() for path in load("default").folder.rglob("*") if path.is_file()} == before
    with pytest.raises(RunError):
        connect("new", "127.0.0.1:1", keys / "admin/ca.crt", {}, 0.0, print)
    with pytest.raises(SettingError, match="there is no federation 'new'"):
        load("new")


def test_a_status_says_what_is_no_superlink(join: Join, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    join("a")

    def refuses() -> list[Seen]:
        raise RunError("closed here")

    monkeypatch.setattr(link, "nodes", refuses)
    told = status(load("default"))
    assert not told.well and told.notes == ("closed here",)
    with pytest.raises(SettingError, match="federation 'default': closed here at fed.example.org:8444"):
        ready("default")


def test_what_the_superlink_refuses_is_said(join: Join, link: Link) -> None:
    link.refuses = "the SuperLink refused: key in use"
    with pytest.raises(RunError, match="the key of a was not registered: the SuperLink refused: key in use"):
        join("a")


def test_requests_that_cannot_be(join: Join, link: Link, keys: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not known yet; name its SuperLink"):
        connect("other", "", None, {}, 0.0, print)
    with pytest.raises(SettingError, match=r"--ca .*: there is no such file"):
        connect("other", "a:1", tmp_path / "none", {}, 0.0, print)
    (tmp_path / "no.crt").write_text("none")
    with pytest.raises(SettingError, match=r"--ca .*no.crt is no certificate"):
        connect("other", "a:1", tmp_path / "no.crt", {}, 0.0, print)
    with pytest.raises(SettingError, match="--superlink 'a..b' is neither"):
        connect("other", "a..b:1", keys / "admin/ca.crt", {}, 0.0, print)
    with pytest.raises(SettingError, match="cannot be read"):
        connect("other", "a:1", keys / "admin/ca.crt", {"a": keys / "a/key"}, 0.0, print)
    with pytest.raises(SettingError, match="is not a name"):
        connect("other", "a:1", keys / "admin/ca.crt", {"a b": keys / "admin/a.pub"}, 0.0, print)


def test_addresses() -> None:
    assert place_of("a.b:1", "--superlink") == ("a.b", 1) and place_of("[::1]:8443", "--superlink") == ("::1", 8443)


@pytest.mark.parametrize("said", ["", "a", "a:", ":1", "a:0", "a:65536", "https://a:1", "a:1/x", "::1:80"])
def test_what_is_no_address(said: str) -> None:
    with pytest.raises(SettingError, match="it must be HOST:PORT"):
        place_of(said, "--superlink")


def test_it_is_neither_started_nor_ended_here(join: Join) -> None:
    join("a")
    for call in (lambda: up("default", Wanted(), print), lambda: down("default", print)):
        with pytest.raises(SettingError, match=r"runs elsewhere \(fed.example.org:8444\)"):
            call()


def test_a_local_federation_is_not_replaced(join: Join, tmp_path: Path) -> None:
    from fedwarm.federation.preparing import prepare

    prepare("default", Wanted(1))
    with pytest.raises(SettingError, match="is one of processes on this machine"):
        join("a")


def test_its_status_is_what_the_superlink_says(join: Join, link: Link) -> None:
    join("b", "a")
    link.seen = [Seen(1, "b", b"", "online", 12.0), Seen(2, "a", b"", "offline", 300.0)]
    told = status(load("default"))
    assert [member.row()[:4] for member in told.members] == [
        ("superlink", "", "up", ""), ("a", "", "offline", "300 s ago"), ("b", "", "online", "12 s ago"),
    ]  # fmt: skip
    assert not told.well
    link.silent = 1
    assert status(load("default")).members[0].state == "does not answer at fed.example.org:8444"
    assert status_module.UP == "up"


def test_a_run_asks_who_is_there(join: Join, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(engine, "say", told.append)
    join("b", "a")
    states = {"b": "online", "a": "offline", "c": "online"}
    link.seen = [Seen(number, name, b"", state, 1.0) for number, (name, state) in enumerate(states.items())]
    assert [node.name for node in ready("default").nodes] == ["a", "b", "c"] and told == ["not online: a"]
    with pytest.raises(SettingError, match="--clients 2, but federation 'default' has 3 nodes"):
        ready("default", 2)
    link.seen = []
    with pytest.raises(SettingError, match="has no nodes; `fedwarm federation connect --node NAME=KEY.pub`"):
        ready("default")
    link.silent = 1
    with pytest.raises(SettingError, match="federation 'default': the SuperLink does not answer"):
        ready("default")


def test_the_end_of_a_serverapp_elsewhere_shows_in_its_folder(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join("a")
    lock, told = Lock(tmp_path / "run"), list[str]()
    monkeypatch.setattr(engine, "say", told.append)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=iter(range(0, 1000, 10)).__next__, sleep=lambda s: None))
    with lock.held():
        engine.let_end(load("default"), set(), tmp_path / "run")
    assert told == ["the ServerApp of the run still runs; resume the run when it has ended"]
    engine.let_end(load("default"), set(), tmp_path / "run")
    assert len(told) == 1 and not os.path.exists(tmp_path / "run")


class Seeing:
    """An engine's half that keeps what it was asked and runs nothing."""

    def run(self, settings: Mapping[str, object], asked: Asked) -> None:
        TOLD.append({**settings, "clients": asked.clients})
        raise RunError("seen")


class SeeingNodes(Seeing, Deployment):
    """Real nodes."""


class SeeingHere(Seeing, Local):
    """This machine."""


TOLD: list[dict[str, object]] = []
NODES, HERE = SeeingNodes(), SeeingHere()


def test_nodes_elsewhere_keep_what_is_theirs_where_they_are(
    join: Join, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that runs elsewhere has no folder of the run: SCAFFOLD's state, DP-REC's and adapters go to its own cache."""
    join("b", "a")
    link.seen = [replace(each, status="online") for each in link.seen]
    for name in QUIET:
        monkeypatch.setenv(name, "1")
    for engine_, clients in (("NODES", 0), ("HERE", 2)):
        request = Request(
            "fedavg", f"{__name__}:{engine_}", tmp_path / engine_, clients=clients, run_config=("data.max-examples=40",)
        )
        with pytest.raises(RunError, match="^seen"):
            run_method(request)
    there, here = TOLD
    assert there["clients"] == 2 and not there.get("client-folder")
    assert here["client-folder"] == str(tmp_path / "HERE" / "clients")
