"""A kit's systemd unit on a machine that systemd runs, a container: it starts, comes back, and ends. By `make test-docker`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fedwarm.core.chain import verify
from tests.sites import Place, heard, standing
from tests.waiting import wait_until

until = partial(wait_until, seconds=240, poll_seconds=0.5)
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not os.environ.get("FEDWARM_TEST_DOCKER"), reason="needs a Docker engine; see `make test-docker`"),
]
SITE, HOME, DATA = "ward", "/srv/fedwarm", "/srv/pictures"
IMAGE = f"""
FROM {os.environ.get("FEDWARM_IMAGE") or "fedwarm:dev"}
USER root
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq systemd systemd-sysv >/dev/null
RUN echo 'u fedwarm - - {HOME}' | systemd-sysusers - && mkdir -p {HOME} && ln -s /venv {HOME}/venv
ENTRYPOINT []
CMD ["/sbin/init"]
"""
MAY = [word for each in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_NICE") for word in ("--cap-add", each)]


def docker(*words: str, stdin: str | None = None) -> str:
    """What a command of Docker prints; it fails with what it said."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, encoding="utf-8", timeout=600)
    if done.returncode:
        raise ChildProcessError(f"docker {words[0]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


class Machine:
    """A container whose first process is systemd."""

    def __init__(self) -> None:
        self.name = f"fedwarm-test-systemd-{os.getpid()}"

    def __call__(self, *words: str, user: str = "root") -> str:
        return docker("exec", "-u", user, self.name, *words).strip()

    def starts(self) -> None:
        docker("build", "-q", "--network", "host", "-t", "fedwarm-test-systemd", "-", stdin=IMAGE)
        room = ["--tmpfs", "/run", "--tmpfs", "/run/lock", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns", "host"]
        like = [*MAY, "--security-opt", "seccomp=unconfined", "--network", "host", "-e", "container=docker"]
        docker("run", "-d", "--name", self.name, *room, *like, "fedwarm-test-systemd")
        until(lambda: self.state() in ("running", "degraded"), seconds=60)

    def state(self) -> str:
        """What systemd says of itself; nothing while it cannot be asked."""
        words = ["docker", "exec", self.name, "systemctl", "is-system-running"]
        return subprocess.run(words, capture_output=True, encoding="utf-8").stdout.strip()

    def shows(self, key: str) -> str:
        """What systemd says of the unit."""
        return self("systemctl", "show", "-p", key, "--value", "fedwarm-node")

    def takes(self, source: Path, target: str) -> None:
        """A copy of a folder, which belongs to the unit's user."""
        self("mkdir", "-p", str(Path(target).parent))
        docker("cp", str(source), f"{self.name}:{target}")
        self("chown", "-R", "fedwarm", target)

    def reads(self, name: str) -> str:
        return self("cat", f"{HOME}/{SITE}/state/{name}")


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        try:
            made.starts()
        except (ChildProcessError, OSError, AssertionError) as error:
            pytest.skip(f"systemd cannot be had or started in a container here: {str(error) or 'it does not come up'}")
        yield made
    finally:
        subprocess.run(["docker", "rm", "-f", made.name], capture_output=True)


def test_a_kits_unit_on_a_machine_that_systemd_runs(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Started, killed, started with the machine, and stopped; between these the site takes part in runs."""
    with standing(tmp_path, capsys) as place:
        place.registered(SITE)
        data = Path(place.kit(SITE)) / "site.json"
        data.write_text(data.read_text().replace(str(tmp_path / SITE / "pictures"), DATA))
        machine.takes(Path(place.kit(SITE)), f"{HOME}/{SITE}")
        machine.takes(tmp_path / SITE / "pictures", DATA)
        machine("cp", f"{HOME}/{SITE}/fedwarm-node.service", "/etc/systemd/system/")
        machine("systemctl", "enable", "--now", "fedwarm-node")
        takes_part(place, machine, tmp_path / "runs" / "first")

        machine("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "fedwarm-node")
        until(lambda: int(machine.shows("NRestarts")) >= 1)
        takes_part(place, machine, tmp_path / "runs" / "second")

        docker("restart", "-t", "60", machine.name)
        until(lambda: machine.state() in ("running", "degraded"))
        takes_part(place, machine, tmp_path / "runs" / "third")

        machine("systemctl", "stop", "fedwarm-node")
        until(lambda: place.state(SITE) != "online")
        assert (machine.shows("ActiveState"), machine.shows("Result")) == ("inactive", "success")
        assert "flower" not in machine("sh", "-c", "cat /proc/*/comm")
        (tmp_path / "audit.jsonl").write_text(machine.reads("audit.jsonl") + "\n")
        assert verify(tmp_path / "audit.jsonl").problem == ""


def takes_part(place: Place, machine: Machine, out: Path) -> None:
    """The site is online, answers in a run, and its log says so."""
    until(lambda: place.state(SITE) == "online")
    assert machine.shows("User") == "fedwarm" and machine("stat", "-c", "%u", f"/proc/{machine.shows('MainPID')}") != "0"
    assert heard(place.ran(out)) == {SITE}
    lines = [json.loads(line) for line in machine.reads("log.jsonl").splitlines()]
    run = json.loads(machine.reads("audit.jsonl").splitlines()[-1])["run"]
    said = [line["text"] for line in lines if line.get("run") == run]
    assert [bool(re.fullmatch(r"answered (describe|round|evaluate) in .* bytes up", text)) for text in said] == [True] * 3, said
