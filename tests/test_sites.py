"""The whole way of a federation of sites, by its commands alone: kits, keys made at the sites, checks, policies, a third site
that joins a run, one that is shut out, a certificate renewed, audit logs, metrics, and an upgrade that does not fit.

Server and sites have folders of their own on one machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from fedwarm.cli.app import app
from fedwarm.core.chain import verify
from fedwarm.core.version import VERSION
from fedwarm.federation.bringup import down
from fedwarm.federation.control import control
from fedwarm.federation.metrics import registry_of
from fedwarm.federation.settings import load
from fedwarm.flower.processes import Daemon, environment, free_ports
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from fedwarm.settings.fields import SettingError
from tests.sets import write_site
from tests.waiting import wait_until

until = partial(wait_until, seconds=400, poll_seconds=0.3)
pytestmark = [pytest.mark.alone, pytest.mark.proof]
FEDWARM = str(Path(sys.executable).parent / "fedwarm")
ROOT = Path(__file__).parents[1]
WORDS = ("cat", "dog")
QUICK = " nodes.return-timeout=5 stage-timeout=240 "
SETTINGS = "data.name='own' data.image-size=8 local-epochs=1 model.name='logistic' min-replies=1 "


class Place:
    """A federation's server and its sites, each in a folder of its own, and the command line."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], stack: ExitStack) -> None:
        self.root, self.capsys, self.stack = root, capsys, stack
        self.server = str(root / "server" / "hospitals")
        self.nodes: dict[str, Daemon] = {}

    def __call__(self, *words: str) -> str:
        """What a command prints."""
        self.capsys.readouterr()
        code = app(list(words), standalone_mode=False)
        told = "".join(self.capsys.readouterr())
        assert not code, told
        return told

    def joins(self, site: str) -> str:
        """A site gets its kit, makes its key and sends its line; the line."""
        write_site(self.root / site / "pictures", "classes", [(word, i) for word in WORDS for i in range(12)], WORDS)
        kit = self.root / site / f"{site}.zip"
        self("federation", "kit", site, "--federation", self.server, "--out", str(kit))
        line = self("node", "join", str(kit), "--folder", self.kit(site), "--data", str(self.root / site / "pictures"))
        return line.strip().splitlines()[-1]

    def kit(self, site: str) -> str:
        return str(self.root / site / "kit")

    def starts(self, site: str, fedwarm: str = FEDWARM) -> None:
        """A site's node, as a process at the site."""
        (port,) = free_ports(1)
        words = [fedwarm, "node", "run", "--kit", self.kit(site), "--port", str(port)]
        home = self.root / site / f"flower-{port}"
        home.mkdir()
        env = {**environment(home, self.root / "bytecode", ["127.0.0.1"]), "FEDWARM_ENGINE": "deployment"}
        env["PATH"] = f"{Path(fedwarm).parent}{os.pathsep}{env['PATH']}"
        node = Daemon(words, log=home / "log", folder=self.root / site, env=env)
        self.nodes[site] = self.stack.enter_context(node)

    def state(self, site: str) -> str:
        """What the SuperLink says of a site."""
        with control(load(self.server)) as link:
            return next((each.status for each in link.nodes() if each.name == site), "")

    def run(self, out: Path, rounds: int, more: str = "") -> list[str]:
        where = ["--engine", "deployment", "--federation", self.server, "--out", str(out)]
        return [FEDWARM, "run", "fedavg", *where, "-c", f"{SETTINGS}{QUICK}num-server-rounds={rounds} {more}"]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Place]:
    """A federation that is up; the SuperLink itself listens, or, by the parameter "proxy", nobody until a proxy does."""
    with ExitStack() as stack:
        made = Place(tmp_path, capsys, stack)
        (port,) = free_ports(1)
        listens = [] if hasattr(request, "param") else ["--listen", "127.0.0.1"]
        here = ["--host", "127.0.0.1", *listens, "--port", str(port), "--sites", "3"]
        assert "fingerprint of the CA" in made("federation", "new", made.server, *here)
        made("federation", "up", "--federation", made.server)
        stack.callback(down, made.server, lambda line: None)
        yield made


def entries(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def test_the_whole_way(place: Place, tmp_path: Path) -> None:
    joined(place)
    out = tmp_path / "runs" / "first"
    a_site_refuses_and_the_run_goes_on(place, out)
    out = tmp_path / "runs" / "second"
    a_third_site_joins_a_run_and_one_is_shut_out(place, out)
    registry = registry_of(place.server, tmp_path / "runs")
    assert registry.get_sample_value("fedwarm_node_online", {"site": "lab-b"}) == 1
    assert registry.get_sample_value("fedwarm_rounds_total", {"run": "first"}) == 1
    refused = {"run": "first", "site": "lab-b (1)", "kind": "policy"}
    assert registry.get_sample_value("fedwarm_failures_total", refused) == 1
    a_certificate_is_renewed_while_nodes_stay(place)
    logs_hold_together_until_a_byte_is_changed(place, out)
    told = json.loads((Path(place.kit("lab-c")) / "kit.json").read_text())
    (Path(place.kit("lab-c")) / "kit.json").write_text(json.dumps({**told, "flwr": "0.9.0"}))
    with pytest.raises(SettingError, match=r"versions do not fit: flwr 0.9.0 at the server"):
        place("node", "run", "--kit", place.kit("lab-c"))


def joined(place: Place) -> None:
    lines = [place.joins(site) for site in ("lab-a", "lab-b")]
    with pytest.raises(AssertionError, match="registered: it is not registered"):
        place("node", "check", "--kit", place.kit("lab-a"))
    for line in lines:
        assert "is registered" in place("federation", "register", line, "--federation", place.server)
    told = place("node", "check", "--kit", place.kit("lab-a"))
    assert told.strip().splitlines()[-1] == "ready", told
    assert "24 pictures of 2 classes" in told and "the SuperLink knows this key" in told
    (Path(place.kit("lab-b")) / "policy.toml").write_text("methods = ['scaffold']\n")
    for site in ("lab-a", "lab-b"):
        place.starts(site)
    until(lambda: place.state("lab-a") == place.state("lab-b") == "online")
    one = place.nodes["lab-b"]
    place.starts("lab-b")  # the same key twice
    until(lambda: not place.nodes["lab-b"].alive)
    assert "[code: 2004]" in "\n".join(place.nodes["lab-b"].tail(100)) and one.alive and place.state("lab-b") == "online"
    place.nodes["lab-b"] = one


def a_site_refuses_and_the_run_goes_on(place: Place, out: Path) -> None:
    done = subprocess.run(place.run(out, 1), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    failed = [each for each in entries(out) if each["failure"]]
    assert {each["site"] for each in failed} == {"lab-b"}
    assert str(failed[0]["failure"]).startswith("refused (policy): this site's policy allows the methods scaffold")
    assert {each["site"] for each in entries(out) if not each["failure"]} == {"lab-a"}
    assert json.loads((out / "results.json").read_text())["privacy"]["refusals"] == {"policy": 1}
    (Path(place.kit("lab-b")) / "policy.toml").write_text("most-seconds = 600\n")


def a_third_site_joins_a_run_and_one_is_shut_out(place: Place, out: Path) -> None:
    with subprocess.Popen(place.run(out, 6), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: exists(out) and checkpoint(out).done >= 1)
        line = place.joins("lab-c")
        place("federation", "register", line, "--federation", place.server)
        place.starts("lab-c")
        until(lambda: any(each["site"] == "lab-c" and not each["failure"] for each in entries(out)))
        assert "registered no more" in place("federation", "revoke", "lab-a", "--federation", place.server)
        _, told = running.communicate(timeout=900)
    assert running.returncode == 0, told[-3000:]
    until(lambda: not place.nodes["lab-a"].alive)
    assert place.state("lab-a") == "" and "fedwarm: the SuperLink refused" in "\n".join(place.nodes["lab-a"].tail(100))
    last = [each for each in entries(out) if each["round"] == 6 and not each["failure"]]
    assert {each["site"] for each in last} == {"lab-b", "lab-c"}


def a_certificate_is_renewed_while_nodes_stay(place: Place) -> None:
    certificate = Path(place.server) / "certificates" / "server.crt"
    before = certificate.read_bytes()
    assert "issued anew" in place("federation", "renew", "--federation", place.server)
    assert certificate.read_bytes() != before
    until(lambda: place.state("lab-b") == place.state("lab-c") == "online")
    assert place.nodes["lab-b"].alive


def logs_hold_together_until_a_byte_is_changed(place: Place, out: Path) -> None:
    told = [json.loads(line) for line in (Path(place.server) / "audit.jsonl").read_text().splitlines()]
    events = [each["event"] for each in told]
    assert events[:3] == ["founded", "kit", "kit"] and {"registered", "revoked", "renewed", "run"} <= {*events}
    joined = [each["site"] for each in told if each["event"] == "joined"]
    assert sorted(joined[:2]) == ["lab-a", "lab-b"] and sorted(joined[2:]) == ["lab-a", "lab-b", "lab-c"]  # two runs
    refused = [each for each in told if each["event"] == "refused"]
    assert [(each["site"], each["why"][:17]) for each in refused if "run" in each] == [("lab-b", "refused (policy):")]
    assert any(each.get("why", "").startswith("No SuperNode found") for each in refused)  # `node check` before it was registered
    logs: dict[str, Callable[[], Path]] = {
        place.server: lambda: Path(place.server) / "audit.jsonl",
        place.kit("lab-b"): lambda: Path(place.kit("lab-b")) / "state" / "audit.jsonl",
        str(out): lambda: out / "audit.jsonl",
    }
    for where, log in logs.items():
        assert re.search(r"[1-9]\d* lines hold together", place("audit", "verify", where))
        raw = bytearray(log().read_bytes())
        raw[len(raw) // 2] ^= 1
        log().write_bytes(raw)
        assert verify(log()).problem


def test_versions_that_do_not_fit_are_refused_by_whom_the_page_names(place: Place, tmp_path: Path) -> None:
    """A site with a wheel of the next release, and with the metadata of another Flower; a site of the server's goes on."""
    there = Other(tmp_path / "other", "99.0.0")
    for site in ("lab-a", "lab-b"):
        place("federation", "register", place.joins(site), "--federation", place.server)
    kit = Path(place.kit("lab-b"))
    refused = there("node", "run", "--kit", str(kit))
    assert refused.strip().splitlines()[-1].endswith("or ask for a kit of the server as it is now")
    assert f"versions do not fit: fedwarm {VERSION} at the server and 99.0.0 here; install fedwarm=={VERSION} here" in refused
    told = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps({**told, "fedwarm": "99.0.0"}))  # as though the site knew better
    place.starts("lab-a")
    place.starts("lab-b", there.fedwarm)
    until(lambda: place.state("lab-a") == place.state("lab-b") == "online")
    done = subprocess.run(place.run(tmp_path / "run", 1), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {each["site"] for each in entries(tmp_path / "run")} == {"lab-a"}
    notes = " ".join(json.loads((tmp_path / "run" / "results.json").read_text())["notes"])
    assert "lab-b" in notes and f"it runs fedwarm '99.0.0' and the server {VERSION}" in notes
    there.tells_another_flower("0.9.0")
    assert "versions do not fit: flwr " in there("node", "run", "--kit", str(kit))


class Other:
    """An environment with a wheel of this fedwarm under another version; all else is this environment's."""

    def __init__(self, folder: Path, version: str) -> None:
        source, self.shared = folder / "source", next(Path(p) for p in sys.path if p.endswith("site-packages"))
        for name in ("fedwarm", "strategies", "clients"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("README.md", "LICENSE"):
            shutil.copy(ROOT / name, source / name)
        text = (ROOT / "pyproject.toml").read_text()
        (source / "pyproject.toml").write_text(text.replace(f'version = "{VERSION}"', f'version = "{version}"', 1))
        quiet = {"check": True, "capture_output": True}
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=source, **quiet)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], **quiet)
        (self.site,) = (folder / "env" / "lib").glob("python3*/site-packages")
        (wheel,), python = folder.glob("*.whl"), str(folder / "env" / "bin" / "python")
        install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--offline", "--python", python, str(wheel)]
        subprocess.run(install, **quiet)
        (self.site / "shared.pth").write_text(f"{self.shared}\n")
        self.fedwarm = str(folder / "env" / "bin" / "fedwarm")
        for name in ("flwr-clientapp", "flower-superexec"):  # Flower's commands, by this environment's Python
            script = (Path(sys.executable).parent / name).read_text().split("\n", 1)[1]
            (folder / "env" / "bin" / name).write_text(f"#!{python}\n{script}")
            (folder / "env" / "bin" / name).chmod(0o755)

    def __call__(self, *words: str) -> str:
        """What a command says that fails."""
        env = {**os.environ, "PATH": f"{Path(self.fedwarm).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run([self.fedwarm, *words], capture_output=True, text=True, timeout=300, env=env)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def tells_another_flower(self, version: str) -> None:
        """Have it say that its Flower is of another version."""
        (real,) = self.shared.glob("flwr-*.dist-info")
        made = self.site / f"flwr-{version}.dist-info"
        made.mkdir()
        text = (real / "METADATA").read_text()
        (made / "METADATA").write_text(re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.M))


@pytest.mark.parametrize("place", ["proxy"], indirect=True)
@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_a_proxy_that_refuses_large_bodies_is_named(place: Place, tmp_path: Path) -> None:
    """Its site ends with what to do, and the run is told within a minute or two that the site went away."""
    proxy = Path(place.server) / "proxy.conf"
    proxy.write_text(proxy.read_text().replace("client_max_body_size 0", "client_max_body_size 20k"))
    place("federation", "register", place.joins("lab-a"), "--federation", place.server)
    with Daemon(["nginx", "-g", "daemon off;", "-c", str(proxy)], log=tmp_path / "nginx.log", folder=tmp_path, env=os.environ):
        place.starts("lab-a")
        until(lambda: place.state("lab-a") == "online")
        words = place.run(tmp_path / "run", 1, "data.image-size=32")
        done = subprocess.run(words, capture_output=True, text=True, timeout=580)
        assert done.returncode != 0
        until(lambda: not place.nodes["lab-a"].alive)
    assert "refuses bodies of this size (HTTP 413)" in "\n".join(place.nodes["lab-a"].tail(100))
    assert "43200" not in done.stderr and "no reply within" not in done.stderr, done.stderr[-3000:]
    assert "its reply did not arrive whole" in done.stderr
