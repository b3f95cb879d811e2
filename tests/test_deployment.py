"""A federation of real processes on loopback, with TLS and node keys: what runs there, and who gets in."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives import serialization
from safetensors.numpy import load_file

from fedwarm.core import logs
from fedwarm.core.chain import verify
from fedwarm.engines import FEDERATION
from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import control
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.processes import command, home, living, member_environment
from fedwarm.federation.settings import CLIENTS, SUPEREXEC, SUPERLINK, Federation, Node, load
from fedwarm.federation.status import status
from fedwarm.flower import certificates
from fedwarm.flower.certificates import ensure_certificates, ensure_node_key
from fedwarm.flower.family import family
from fedwarm.flower.processes import Daemon, free_ports
from fedwarm.launch.run import Request, run_method
from fedwarm.node import heartbeat
from fedwarm.node.checks import Site, look
from fedwarm.node.key import fingerprint
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from tests.runs import same
from tests.waiting import wait_until

until = partial(wait_until, seconds=300, poll_seconds=0.2)
pytestmark = pytest.mark.processes
SETTINGS = "num-server-rounds=1 local-epochs=1 data.max-examples=40"


def marked(federation: Federation) -> list[psutil.Process]:
    """All processes of a federation."""
    return family([], federation.marks)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two nodes; a proxy in the environment leads nowhere."""
    said, told = str(tmp_path_factory.mktemp("federation") / "pair"), []  # type: str, list[str]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv(logs.FILE_VARIABLE, str(Path(said) / "log.jsonl"))
        try:
            yield up(said, Wanted(nodes=2), told.append)
            assert told[-1].endswith("online (2 of 2)")
        finally:
            down(said, told.append)


def run(engine: str, out: Path, federation: Federation, settings: str = SETTINGS) -> dict[str, object]:
    said = str(federation.folder) if engine == "deployment" else FEDERATION
    request = Request("fedavg", engine, out, 3, clients=2, run_config=(settings,), federation=said)
    return json.loads((run_method(request) / "results.json").read_text())  # type: ignore[no-any-return]


def assert_warm(federation: Federation) -> None:
    """The processes of two nodes' messages were forked from one: training and measuring at least, after who are you."""
    (told,) = [path.read_text().splitlines() for path in (federation.folder / CLIENTS).glob("*.log")]
    assert all(line.startswith("fedwarm: ") for line in told)
    assert sum("ready as process" in line for line in told) == 1 and sum("message: process" in line for line in told) >= 4


def audited(federation: Federation) -> list[dict[str, str]]:
    """The federation's audit log, which holds together."""
    path = federation.folder / "audit.jsonl"
    assert verify(path).problem == ""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_method_gives_the_local_engines_model_bit_for_bit(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = run("deployment", tmp_path / "there", federation)
    said = capsys.readouterr()
    lines = [json.loads(line) for line in (federation.folder / "log.jsonl").read_text().splitlines()]
    here = run("local", tmp_path / "here", federation)
    assert there["final"] == here["final"] and (there["engine"], here["engine"]) == ("deployment", "local")
    assert same(load_file(tmp_path / "there" / "model.safetensors"), load_file(tmp_path / "here" / "model.safetensors"))
    assert "server: rounds 1/1" in said.err and "client 1: train 1/1" in said.err
    assert (tmp_path / "there" / "report.html").is_file()
    assert not (federation.folder / "runs").exists()
    assert_warm(federation)
    joined = [(each["event"], each.get("site", "")) for each in audited(federation) if each["event"] in ("run", "joined")]
    assert joined == [("run", ""), ("joined", "node-0"), ("joined", "node-1")]
    (started,) = [each["run"] for each in audited(federation) if each["event"] == "run"]
    for node in ("node-0", "node-1"):  # each line written by the process of a message
        at = {(line["run"], line["round"]) for line in lines if line.get("node") == node and "train 1/1" in line["text"]}
        assert at == {(started, "1")}
    told = status(federation)
    assert told.well and [member.state for member in told.members] == ["up", "up", "online", "online"]
    assert "fedavg, finished:completed, after round 1, evaluate" in told.runs[0] and str(tmp_path / "there") in told.runs[0]


def test_nothing_listens_beyond_loopback(federation: Federation) -> None:
    listening = set()
    for process in marked(federation):
        with suppress(psutil.NoSuchProcess):  # one that answered a message has ended
            listening |= {each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    assert {place.port for place in listening} == {federation.port, *(node.port for node in federation.nodes)}
    assert {place.ip for place in listening} == {"127.0.0.1"}


def test_secrets_are_their_owners_alone(federation: Federation) -> None:
    secrets = [path for path in federation.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()[:200]]
    assert {path.name for path in secrets} == {"ca.key", "server.key", "node-0", "node-1"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in [federation.folder, *secrets])
    words: list[str] = []
    for process in marked(federation):
        with suppress(psutil.NoSuchProcess):
            words += process.cmdline()
    assert words and (federation.folder / "keys" / "superexec.secret").read_text() not in " ".join(words)


def test_a_site_is_checked_and_its_node_is_heard(federation: Federation) -> None:
    """What `fedwarm node check` takes for a SuperLink is one."""
    key = federation.key_file("node-0")
    found = {each.topic: each.level for each in look(Site(federation.address, federation.authority, key))}
    looked_at = ("name", "port", "certificate", "clock", "server", "version", "key")
    assert {topic: found[topic] for topic in looked_at} == dict.fromkeys(looked_at, "ok")
    for node in federation.nodes:
        assert heartbeat.look(heartbeat.place(home(federation, node.name))).alive(heartbeat.WITHIN_SECONDS)


def stranger(federation: Federation, folder: Path, change: Callable[[Federation], None]) -> str:
    """What a SuperNode says that calls the federation's SuperLink with a folder of its own, and is not let in."""
    own = Federation("stranger", folder, host=federation.host, port=federation.port, nodes=[Node("node-0", 0, *free_ports(1))])
    ensure_node_key(own.key_file("node-0"))
    ensure_certificates(folder / "certificates", "stranger", ["localhost"])
    change(own)
    words, env = [*command(own, "node-0"), "--max-wait-time", "10"], member_environment(own, "node-0")
    with Daemon(words, log=folder / "log", folder=folder, env=env) as node:
        until(lambda: not node.alive)
        return "\n".join(node.tail(1000))


def test_an_unregistered_key_is_refused_and_harms_nobody(federation: Federation, tmp_path: Path) -> None:
    def trust(own: Federation) -> None:
        shutil.copyfile(federation.folder / "certificates" / "ca.crt", own.folder / "certificates" / "ca.crt")

    told = stranger(federation, tmp_path / "stranger", trust)
    assert "[code: 2004]" in told
    key = fingerprint((tmp_path / "stranger" / "keys" / "node-0.pub").read_bytes())
    refused = [each for each in audited(federation) if each["event"] == "refused"]
    assert [(each["key"], each["why"]) for each in refused] == [(key, "No SuperNode found with the given public key.")]
    with control(federation) as link:
        assert len(link.nodes()) == 2
    assert status(federation).well


def trust_ended(federation: Federation, own: Federation) -> None:
    """Give a node the federation's CA as it would be after its last day."""
    now = datetime.now(UTC)
    authority = certificates.ensure_authority(federation.folder / "certificates", federation.name, now)
    subject, so_long_ago = authority.certificate.subject, now - timedelta(days=certificates.CA_DAYS + 1)
    ended = certificates._authority(subject, authority.key, so_long_ago).certificate
    (own.folder / "certificates" / "ca.crt").write_bytes(ended.public_bytes(serialization.Encoding.PEM))


@pytest.mark.long
def test_another_ca_and_no_tls_are_refused(federation: Federation, tmp_path: Path) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in stranger(federation, tmp_path / "other", lambda own: None)
    told = stranger(federation, tmp_path / "ended", partial(trust_ended, federation))
    assert "certificate verify failed: certificate has expired" in told
    keyless = stranger(federation, tmp_path / "plain", lambda own: setattr(own, "insecure", True))
    assert "SuperNode ID" not in keyless
    assert status(federation).well


def test_up_again_starts_what_is_missing_and_nothing_else(federation: Federation) -> None:
    """SuperExec is killed by hand: it is back, and nobody else was started anew."""
    before = dict(load(str(federation.folder)).processes)
    gone = living(federation, SUPEREXEC)
    assert gone is not None
    gone.kill()
    gone.wait(10)
    assert [each.state for each in status(federation).members] == ["up", "ended", "online", "online"]
    told: list[str] = []
    after = up(str(federation.folder), Wanted(), told.append).processes
    assert after[SUPEREXEC].pid != before[SUPEREXEC].pid
    assert {name: each for name, each in after.items() if name != SUPEREXEC} == {
        name: each for name, each in before.items() if name != SUPEREXEC
    }


@pytest.mark.long
def test_a_killed_node_comes_back_under_its_id(federation: Federation) -> None:
    def ids() -> dict[str, int]:
        with control(federation) as link:
            return {node.name: node.node_id for node in link.nodes()}

    before, gone = ids(), living(load(str(federation.folder)), "node-1")
    assert gone is not None
    gone.kill()
    gone.wait(10)
    up(str(federation.folder), Wanted(), lambda line: None)
    assert ids() == before and status(load(str(federation.folder))).well


def in_background(out: Path, federation: Federation, *more: str) -> subprocess.Popen[str]:
    words = [str(Path(sys.executable).parent / "fedwarm"), "run", "fedavg", "--engine", "deployment", "--out", str(out), *more]
    settings = ["--federation", str(federation.folder), "--seed", "3", "-c", SETTINGS.replace("rounds=1", "rounds=3")]
    return subprocess.Popen([*words, *settings], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.long
def test_a_superlink_that_is_killed_in_a_run_and_started_again_costs_nothing(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "there"
    running = in_background(out, federation, "--keep-going")
    until(lambda: exists(out) and checkpoint(out).done >= 2)
    gone = living(load(str(federation.folder)), SUPERLINK)
    assert gone is not None
    gone.kill()
    gone.wait(10)
    up(str(federation.folder), Wanted(), lambda line: None)
    _, told = running.communicate(timeout=600)
    assert running.returncode == 0, told
    run("local", tmp_path / "here", federation, SETTINGS.replace("rounds=1", "rounds=3"))
    assert same(load_file(out / "model.safetensors"), load_file(tmp_path / "here" / "model.safetensors"))


@pytest.mark.long
def test_ctrl_c_stops_the_run_which_can_be_resumed(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "there"
    running = in_background(out, federation)
    until(lambda: exists(out) and checkpoint(out).done >= 2)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 130 and "is stopped" in told
    with control(federation) as link:
        assert link.runs()[-1].status == "finished:stopped"
    run_method(Request("", "deployment", out, resume=True, federation=str(federation.folder)))
    run("local", tmp_path / "here", federation, SETTINGS.replace("rounds=1", "rounds=3"))
    assert same(load_file(out / "model.safetensors"), load_file(tmp_path / "here" / "model.safetensors"))


@pytest.mark.long
def test_without_tls_and_keys(tmp_path: Path) -> None:
    said, told = str(tmp_path / "bare"), []  # type: str, list[str]
    try:
        bare = up(said, Wanted(nodes=1, insecure=True), told.append)
        assert status(bare).well and not list((bare.folder / "certificates").iterdir())
        run_method(Request("fedavg", "deployment", tmp_path / "run", run_config=(SETTINGS,), federation=said))
    finally:
        down(said, told.append)


def test_down_leaves_no_process_also_when_half_of_it_is_dead(federation: Federation) -> None:
    """The last test of the module: the federation's SuperLink is killed before it is ended."""
    present = load(str(federation.folder))
    gone = living(present, SUPERLINK)
    assert gone is not None and len(marked(present)) >= 6
    gone.kill()
    gone.wait(10)
    assert down(str(federation.folder), lambda line: None) == 3
    assert marked(present) == [] and load(str(federation.folder)).processes == {}
    assert [each.state for each in status(present).members] == ["ended"] * 4
