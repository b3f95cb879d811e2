"""A federation of sites by its commands alone, for tests: a server and sites with folders of their own, another version's wheel.

with standing(tmp_path, capsys) as place:
    place.registered("lab-a")
    place.starts("lab-a")
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from fedwarm.cli.app import app
from fedwarm.core.version import VERSION
from fedwarm.federation.bringup import down
from fedwarm.federation.control import Unreachable, control
from fedwarm.federation.settings import load
from fedwarm.flower.processes import LOOPBACK, Daemon, environment, free_ports
from tests.sets import write_site
from tests.waiting import wait_until

until = partial(wait_until, seconds=400, poll_seconds=0.3)
FEDWARM = str(Path(sys.executable).parent / "fedwarm")
ROOT = Path(__file__).parents[1]
WORDS = ("cat", "dog")
QUICK = " nodes.return-timeout=5 stage-timeout=240 "
SETTINGS = "data.name='own' data.image-size=8 local-epochs=1 model.name='logistic' min-replies=1 "


class Place:
    """A federation's server and its sites, each in a folder of its own, and the command line.

    Args:
        host: the address by which sites call the server.
        spaces: for sites that are in network namespaces of their own, the words that run a command there.
    """

    def __init__(
        self, root: Path, capsys: pytest.CaptureFixture[str], stack: ExitStack, host: str, spaces: Mapping[str, Sequence[str]]
    ) -> None:
        self.root, self.capsys, self.stack, self.host, self.spaces = root, capsys, stack, host, spaces
        self.server = str(root / "server" / "hospitals")
        self.nodes: dict[str, Daemon] = {}

    def __call__(self, *words: str) -> str:
        """What a command prints."""
        self.capsys.readouterr()
        code = app(list(words), standalone_mode=False)
        told = "".join(self.capsys.readouterr())
        assert not code, told
        return told

    def joins(self, site: str, pictures: int = 12) -> str:
        """A site with so many pictures of each class gets its kit, makes its key and sends its line; the line."""
        write_site(self.root / site / "pictures", "classes", [(word, i) for word in WORDS for i in range(pictures)], WORDS)
        kit = self.root / site / f"{site}.zip"
        self("federation", "kit", site, "--federation", self.server, "--out", str(kit))
        line = self("node", "join", str(kit), "--folder", self.kit(site), "--data", str(self.root / site / "pictures"))
        return line.strip().splitlines()[-1]

    def registered(self, *sites: str, pictures: int = 12) -> None:
        """Sites join, and are let in."""
        for site in sites:
            line = self.joins(site, pictures)
            assert "is registered" in self("federation", "register", line, "--federation", self.server)

    def kit(self, site: str) -> str:
        return str(self.root / site / "kit")

    def policy(self, site: str, text: str) -> None:
        """A site writes its policy."""
        (Path(self.kit(site)) / "policy.toml").write_text(text)

    def at(self, site: str, *words: str) -> tuple[int, str]:
        """Exit code and words of a command at a site."""
        env = {**os.environ, **self.way()}
        done = subprocess.run([*self.spaces.get(site, []), FEDWARM, *words], capture_output=True, text=True, timeout=300, env=env)
        return done.returncode, done.stdout + done.stderr

    def way(self) -> dict[str, str]:
        """A site calls its server without a detour by a proxy of this machine."""
        return dict.fromkeys(("NO_PROXY", "no_proxy"), f"{LOOPBACK},{self.host}")

    def starts(self, site: str, fedwarm: str = FEDWARM, **more: str) -> Daemon:
        """A site's node, as a process at the site, with more in its environment."""
        (port,) = free_ports(1)
        words = [*self.spaces.get(site, []), fedwarm, "node", "run", "--kit", self.kit(site), "--port", str(port)]
        home = self.root / site / f"flower-{port}"
        home.mkdir()
        env = {**environment(home, self.root / "bytecode"), "FEDWARM_ENGINE": "deployment", **self.way(), **more}
        env["PATH"] = f"{Path(fedwarm).parent}{os.pathsep}{env['PATH']}"
        node = Daemon(words, log=home / "log", folder=self.root / site, env=env)
        self.nodes[site] = self.stack.enter_context(node)
        return node

    def online(self, *sites: str, fedwarm: str = FEDWARM) -> Daemon:
        """The nodes of sites, started and online; the last one's."""
        started = [self.starts(site, fedwarm) for site in sites]
        until(lambda: {self.state(site) for site in sites} == {"online"})
        return started[-1]

    def said(self, site: str) -> str:
        """All that a site's node has said."""
        return "\n".join(self.nodes[site].tail(1000))

    def state(self, site: str) -> str:
        """What the SuperLink says of a site; of one that it does not know, nothing."""
        try:
            with control(load(self.server)) as link:
                return next((each.status for each in link.nodes() if each.name == site), "")
        except Unreachable:
            return "the SuperLink does not answer"

    def run(self, out: Path, rounds: int, more: str = "", method: str = "fedavg") -> list[str]:
        where = ["--engine", "deployment", "--federation", self.server, "--out", str(out)]
        return [FEDWARM, "run", method, *where, "-c", f"{SETTINGS}{QUICK}num-server-rounds={rounds} {more}"]

    def ran(self, out: Path, rounds: int = 1, more: str = "", method: str = "fedavg") -> Path:
        """A run that ends well; its folder."""
        done = subprocess.run(self.run(out, rounds, more, method), capture_output=True, text=True, timeout=580)
        assert done.returncode == 0, done.stderr[-3000:]
        return out


@contextmanager
def standing(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    proxied: bool = False,
    host: str = LOOPBACK,
    spaces: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Place]:
    """A federation that is up; the SuperLink itself listens, or, `proxied`, nobody until a proxy does."""
    with ExitStack() as stack:
        made = Place(root, capsys, stack, host, spaces or {})
        (port,) = free_ports(1)
        listens = [] if proxied else ["--listen", host]
        here = ["--host", host, *listens, "--port", str(port), "--sites", "3"]
        assert "fingerprint of the CA" in made("federation", "new", made.server, *here)
        made("federation", "up", "--federation", made.server)
        stack.callback(down, made.server, lambda line: None)
        yield made


def entries(out: Path) -> list[dict[str, object]]:
    """A run's ledger."""
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def failures(out: Path) -> dict[str, list[str]]:
    """What a run's ledger says of replies that were left out, by site."""
    found: dict[str, list[str]] = {}
    for each in entries(out):
        if each["failure"] and "site" in each:  # a number that no site has is not there
            found.setdefault(str(each["site"]), []).append(str(each["failure"]))
    return found


def heard(out: Path) -> set[object]:
    """The sites whose replies counted."""
    return {each["site"] for each in entries(out) if not each["failure"]}


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
        for own in [*Path(sys.executable).parent.glob("flwr*"), *Path(sys.executable).parent.glob("flower-*")]:
            script = folder / "env" / "bin" / own.name  # Flower's commands, by this environment's Python
            script.write_text(f"#!{python}\n{own.read_text().split(chr(10), 1)[1]}")
            script.chmod(0o755)

    def __call__(self, *words: str, fails: bool = False) -> str:
        """What a command says that does well, or fails."""
        env = {**os.environ, "PATH": f"{Path(self.fedwarm).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run([self.fedwarm, *words], capture_output=True, text=True, timeout=300, env=env)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def tells_another_flower(self, version: str) -> None:
        """Have it say that its Flower is of another version."""
        (real,) = self.shared.glob("flwr-*.dist-info")
        made = self.site / f"flwr-{version}.dist-info"
        made.mkdir()
        text = (real / "METADATA").read_text()
        (made / "METADATA").write_text(re.sub(r"^Version: .*$", f"Version: {version}", text, count=1, flags=re.M))
