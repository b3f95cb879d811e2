"""A federation's parts without its processes: certificates, keys, state, command lines, refusals."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import psutil  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedwarm.cli import federation as commands
from fedwarm.federation import preparing, processes, settings
from fedwarm.federation.preparing import Wanted, prepare
from fedwarm.federation.settings import CLIENTS, SUPEREXEC, SUPERLINK, Federation, Node, Process, load
from fedwarm.federation.status import stage_of
from fedwarm.flower import certificates
from fedwarm.flower.certificates import ensure_certificates, ensure_node_key, ensure_secret, public_pem
from fedwarm.flower.family import MARK
from fedwarm.flower.processes import LOOPBACK
from fedwarm.settings.fields import SettingError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HERE = ["127.0.0.1", "localhost"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def greeted(server: Path, authority: Path, name: str) -> None:
    """A TLS handshake in memory between a server with `server`'s certificate and a client that trusts `authority` alone."""
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(server / "server.crt", server / "server.key")
    calling.load_verify_locations(authority / "ca.crt")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, there = calling.wrap_bio(down, up, server_hostname=name), serving.wrap_bio(up, down, server_side=True)
    for end in (client, there, client, there):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == "TLSv1.3"


def test_the_server_proves_itself_to_who_knows_the_ca_and_to_nobody_else(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert ensure_certificates(tmp_path / "a", "a", HERE, now) and ensure_certificates(tmp_path / "b", "b", HERE, now)
    for name in HERE:
        greeted(tmp_path / "a", tmp_path / "a", name)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        greeted(tmp_path / "a", tmp_path / "b", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        greeted(tmp_path / "a", tmp_path / "a", "example.org")
    assert mode(tmp_path / "a" / "ca.key") == mode(tmp_path / "a" / "server.key") == 0o600


def test_a_certificate_stays_while_it_serves_and_is_issued_anew_when_it_does_not(tmp_path: Path) -> None:
    read = lambda name: (tmp_path / name).read_bytes()  # noqa: E731
    ensure_certificates(tmp_path, "x", HERE, NOW)
    first = {name: read(name) for name in ("ca.crt", "server.crt", "server.key")}
    certificate = x509.load_pem_x509_certificate(first["server.crt"])
    assert certificate.not_valid_after_utc - NOW == timedelta(days=certificates.SERVER_DAYS)
    assert not ensure_certificates(tmp_path, "x", HERE, NOW + timedelta(days=700))
    assert {name: read(name) for name in first} == first
    assert ensure_certificates(tmp_path, "x", [*HERE, "10.0.0.7"], NOW)
    assert read("ca.crt") == first["ca.crt"] and read("server.crt") != first["server.crt"]
    assert ensure_certificates(tmp_path, "x", [*HERE, "10.0.0.7"], NOW + timedelta(days=800))
    assert read("ca.crt") == first["ca.crt"]
    assert ensure_certificates(tmp_path, "x", HERE, NOW + timedelta(days=3640)) and read("ca.crt") != first["ca.crt"]
    (tmp_path / "server.key").write_text("nonsense")
    with pytest.raises(SettingError, match=r"server\.key or server\.crt cannot be read"):
        ensure_certificates(tmp_path, "x", HERE, NOW + timedelta(days=3640))


def test_node_keys_are_what_flower_reads(tmp_path: Path) -> None:
    from flwr.cli.supernode.register import try_load_public_key

    path = tmp_path / "keys" / "node-0"
    ensure_node_key(path)
    first = path.read_bytes()
    key = load_ssh_private_key(first, None)
    assert mode(path) == 0o600 and key.curve.name == "secp384r1"  # type: ignore[union-attr]
    assert try_load_public_key(path.with_name("node-0.pub")) == public_pem(path)
    ensure_node_key(path)
    assert path.read_bytes() == first
    ensure_secret(tmp_path / "secret")
    assert mode(tmp_path / "secret") == 0o600 and len((tmp_path / "secret").read_text()) == 64


def example(folder: Path, **changes: object) -> Federation:
    nodes = [Node(f"node-{i}", i, 9100 + i) for i in range(2)]
    values: dict[str, object] = {"name": folder.name, "folder": folder, "port": 9000, "nodes": nodes, **changes}
    return Federation(**values)  # type: ignore[arg-type]


def test_the_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = example(settings.folder_of("mine"), processes={"node-0": Process(5, 12.5, "0.1.0")})
    made.save()
    assert load("mine") == made == load(str(made.folder))
    text = (made.flower / "config.toml").read_text()
    assert 'default = "federation"' in text and f'root-certificates = "{made.folder}/certificates/ca.crt"' in text
    with pytest.raises(SettingError, match=r"no federation 'mime' \(there are mine\); `fedwarm federation up --federation mime`"):
        load("mime")
    with pytest.raises(SettingError, match="1 to 32 letters"):
        load("no name")
    (made.folder / settings.STATE).write_text("{")
    with pytest.raises(SettingError, match=r"federation\.json cannot be read"):
        load("mine")


def test_members_are_named_by_name_or_partition(tmp_path: Path) -> None:
    federation = example(tmp_path)
    assert [federation.node(said) for said in ("1", "node-0", SUPERLINK)] == ["node-1", "node-0", SUPERLINK]
    federation.nodes = [Node("2", 0, 1), Node("1", 1, 2)]
    assert [federation.node(said) for said in ("1", "2", "0")] == ["1", "2", "2"]
    assert federation.flag == f" --federation {tmp_path}"
    assert [example(settings.folder_of(name)).flag for name in ("default", "mine")] == ["", " --federation mine"]
    federation.nodes = example(tmp_path).nodes
    with pytest.raises(SettingError, match="has no 'node-7'.*it has superlink, superexec, node-0, node-1"):
        federation.node("node-7")


@pytest.mark.parametrize("insecure", [False, True])
def test_flower_takes_the_command_lines_and_nothing_listens_beyond_loopback(insecure: bool, tmp_path: Path) -> None:
    from flwr.common.config import parse_config_args
    from flwr.supercore.cli.flower_superexec import _parse_args as superexec
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    federation = example(tmp_path, insecure=insecure)
    link = _parse_args_run_superlink().parse_args(processes.command(federation, SUPERLINK)[len(processes.SUPERLINK_COMMAND) :])
    assert (link.host, link.port, link.isolation, link.insecure) == (LOOPBACK, 9000, "process", insecure)
    assert link.enable_supernode_auth is not insecure
    node = _parse_args_run_supernode().parse_args(processes.command(federation, "node-1")[len(processes.SUPERNODE) :])
    assert (node.host, node.port, node.superlink, node.insecure) == (LOOPBACK, 9101, f"{LOOPBACK}:9000", insecure)
    assert parse_config_args([node.node_config]) == {"site": "node-1", "partition-id": 1, "num-partitions": 2}
    assert node.auth_supernode_private_key == (None if insecure else str(tmp_path / "keys" / "node-1"))
    server = superexec().parse_args(processes.command(federation, SUPEREXEC)[1:])
    assert server.runtime_api_address == f"{LOOPBACK}:9000"
    assert server.superexec_auth_secret_file == link.superexec_auth_secret_file


def test_no_proxy_stands_between_the_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    federation = example(tmp_path, host="10.0.0.7")
    env = processes.member_environment(federation, "node-0")
    assert env["NO_PROXY"] == env["no_proxy"] == "example.org,127.0.0.1,localhost,10.0.0.7"
    assert env["PATH"].startswith(f"{tmp_path / 'bin'}{os.pathsep}") and env["FLWR_HOME"] == str(tmp_path / "nodes" / "node-0")
    server = processes.member_environment(federation, SUPEREXEC)
    assert not server["PATH"].startswith(str(tmp_path)) and server["FEDWARM_ENGINE"] == "deployment"


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [
        (Wanted(nodes=-1), "--nodes -1 is out of range"),
        (Wanted(insecure=True, host="0.0.0.0"), "would let everybody in"),
        (Wanted(host="203.0.113.9"), "is not an address of this machine"),
    ]
    for wanted, said in refusals:
        with pytest.raises(SettingError, match=said):
            prepare("fresh", wanted)
    assert not (settings.folder_of("fresh") / settings.STATE).exists()
    made = prepare("made", Wanted(nodes=2))
    with pytest.raises(SettingError, match="was made with TLS and keys, and stays so"):
        prepare("made", Wanted(insecure=True))
    monkeypatch.setattr(preparing, "living", lambda federation, member: psutil.Process())
    with pytest.raises(SettingError, match=r"is up with 2 nodes at 127\.0\.0\.1; `fedwarm federation down --federation made`"):
        prepare("made", Wanted(nodes=3))
    assert [node.port for node in prepare("made", Wanted()).nodes] == [node.port for node in made.nodes]


def test_ports_are_kept_unless_somebody_else_has_taken_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    made = prepare("made", Wanted(nodes=2))
    again = prepare("made", Wanted(nodes=3))
    assert (again.port, again.nodes[:2]) == (made.port, made.nodes) and len({made.port, *(n.port for n in again.nodes)}) == 4
    with socket.socket() as other:
        other.bind((LOOPBACK, made.port))
        other.listen()
        assert prepare("made", Wanted()).port != made.port
    with socket.socket() as other:
        port = load("made").port
        other.bind((LOOPBACK, port))
        other.listen()
        nodes_live = lambda federation, member: psutil.Process() if member == "node-0" else None  # noqa: E731
        monkeypatch.setattr(preparing, "living", nodes_live)
        with pytest.raises(SettingError, match=f"port {port} of the SuperLink is taken"):
            prepare("made", Wanted())


def test_only_own_processes_are_ended(tmp_path: Path) -> None:
    """A process id that another process has today, and a process without the federation's mark, are left alone."""
    federation = example(tmp_path)
    mine = psutil.Process()
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    stranger = subprocess.Popen(sleeper, env={**os.environ, MARK: "another.node-0"})
    orphan = subprocess.Popen(sleeper, env={**os.environ, MARK: federation.mark("node-1")})
    try:
        federation.processes = {
            "node-0": Process(mine.pid, mine.create_time() - 60, "0.1.0"),
            SUPERLINK: Process(stranger.pid, psutil.Process(stranger.pid).create_time() + 60, "0.1.0"),
        }
        assert processes.living(federation, "node-0") is None and processes.living(federation, SUPERLINK) is None
        processes.end(federation, federation.members)
        assert stranger.poll() is None and orphan.wait(10) != 0 and federation.processes == {}
    finally:
        for each in (stranger, orphan):
            each.kill()
            each.wait()


@pytest.mark.parametrize("seen", [True, False])
def test_a_clock_that_is_set_ends_no_member(seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is known by its mark; by its start alone where the system shows no environment."""
    federation = example(tmp_path)
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    node = subprocess.Popen(sleeper, env={**os.environ, MARK: federation.mark("node-0")})
    child = psutil.Process(node.pid)
    born, end = child.create_time(), time.monotonic() + 30
    while MARK not in child.environ() and time.monotonic() < end:  # a program that has just begun shows none yet
        time.sleep(0.01)
    if not seen:
        monkeypatch.setattr(psutil.Process, "environ", Mock(side_effect=psutil.AccessDenied))
    try:
        federation.processes = {"node-0": Process(node.pid, born, "0.1.0")}
        assert processes.living(federation, "node-0") is not None
        federation.processes = {"node-0": Process(node.pid, born - 86_400, "0.1.0")}
        assert (processes.living(federation, "node-0") is not None) is seen
    finally:
        node.kill()
        node.wait()
    assert processes.living(federation, "node-0") is None


def test_templates_of_messages_end_with_the_last_node(tmp_path: Path) -> None:
    federation = example(tmp_path)
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    started = [subprocess.Popen(sleeper, env={**os.environ, MARK: mark}) for mark in federation.marks[-2:]]
    node, forked = started
    try:
        born = psutil.Process(node.pid).create_time()
        federation.processes = {"node-1": Process(node.pid, born, "0.1.0")}
        (tmp_path / CLIENTS).mkdir()
        processes.end(federation, ["node-0"])
        assert forked.poll() is None and (tmp_path / CLIENTS).is_dir()
        processes.end(federation, ["node-1"])
        assert forked.wait(10) != 0 and not (tmp_path / CLIENTS).exists()
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_messages_are_warm_unless_a_person_says_no_and_that_is_remembered() -> None:
    script = settings.folder_of("made") / "bin" / "flwr-clientapp"
    made = prepare("made", Wanted(nodes=1))
    assert f"stub.py {made.folder / CLIENTS} {made.key}. " in script.read_text() and "-I -S" in script.read_text()
    for wanted, cold in ((True, True), (None, True), (False, False)):
        assert prepare("made", Wanted(cold=wanted)).cold is cold and load("made").cold is cold
        assert ("stub.py" in script.read_text()) is not cold


def test_two_commands_at_once_are_refused(tmp_path: Path) -> None:
    with settings.locked(tmp_path / "x"), pytest.raises(SettingError, match="another command"), settings.locked(tmp_path / "x"):
        pass


def test_what_a_person_does_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"https_proxy": "http://proxy:3128"})
    _, flower, own = commands.usage(example(tmp_path), "./here")
    assert flower == f"  NO_PROXY=127.0.0.1 FLWR_HOME={tmp_path}/flower flwr run . --stream"
    assert own == "  fedwarm run fedavg --engine deployment --federation ./here"
    monkeypatch.setattr(os, "environ", {})
    assert "NO_PROXY" not in commands.usage(example(tmp_path), "default")[1]
    assert "no lock" in commands.usage(example(tmp_path, host="10.0.0.7"), "default")[-1]


def test_the_stage_of_a_run_is_read_from_its_journal(tmp_path: Path) -> None:
    assert stage_of(tmp_path) == ""
    events = [{"note": "x"}, {"stage": {"round": 1, "name": "round"}}, {"stage": {"round": 2, "name": "evaluate"}, "loss": 1}]
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, events)))
    assert stage_of(tmp_path) == "after round 2, evaluate"


def test_logs_are_printed_and_followed_from_where_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    shown = commands.more(path, 4)
    path.write_bytes(b"one\n\x1b[92mtwo\x1b[0m\n")
    shown = commands.more(path, shown)
    path.write_bytes(b"new\n")
    commands.more(path, shown)
    assert capsys.readouterr().out == "two\nnew\n"
