"""The federation of `docker/` as a person runs it: the same models as here, who gets in, what survives. By `make test-docker`.

The images are built unless FEDWARM_IMAGE names one; `docker compose` is taken where it is, else `docker-compose`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from fedwarm.core.chain import verify
from fedwarm.flower.certificates import ensure_node_key
from fedwarm.flower.processes import free_ports
from fedwarm.node.kit import join
from tests.sets import write_site
from tests.waiting import wait_until

until = partial(wait_until, seconds=240, poll_seconds=0.5)
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not os.environ.get("FEDWARM_TEST_DOCKER"), reason="needs a Docker engine; see `make test-docker`"),
]
ROOT = Path(__file__).parents[1]
NODES = ("supernode-0", "supernode-1", "supernode-2")
SETTINGS = {
    "fedavg": "",
    "warmfed": "diffusion.lora-steps=2 diffusion.sample-steps=2 warmfed.synthetic-ratio=0.05 warmfed.min-per-class=1 "
    "warmfed.epochs-warm=1 warmfed.distill-epochs=1 warmfed.teacher-epochs=1",
    "dp_rec": "dp-rec.entropy='seeded'",
    "quantization_robust": "",
}
SMALL = "data.max-examples=60 local-epochs=1 client-threads=1 server-threads=1"


class Compose:
    """The services of one project."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.name = f"fedwarm-test-{os.getpid()}"
        new = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        files = ["-f", str(ROOT / "docker" / "compose.yaml"), "-f", str(ROOT / "docker" / "compose.dev.yaml")]
        self.program = ["docker", "compose"] if new else ["docker-compose"]
        self.words = [*self.program, "-p", self.name, *files]
        ports = {"FEDWARM_PORT": f"127.0.0.1:{port}", "FEDWARM_CONTROL_PORT": str(free_ports(1)[0])}
        self.env = {**os.environ, "DOCKER_BUILDKIT": "1" if new else "0", **ports}

    def __call__(self, *words: str, check: bool = True, seconds: float = 900) -> str:
        command, text = [*self.words, *words], {"encoding": "utf-8", "errors": "replace"}
        done = subprocess.run(command, env=self.env, capture_output=True, timeout=seconds, check=False, **text)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def admin(self, *words: str, check: bool = True) -> str:
        """What a command in `admin` prints."""
        return self("run", "--rm", "-T", "admin", *words, check=check)

    def start_admin(self, *words: str) -> subprocess.Popen[str]:
        """A command in `admin` that goes on."""
        command = [*self.words, "run", "--rm", "-T", "admin", *words]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")

    def container(self, service: str) -> str:
        return self("ps", "-q", service).strip()

    def state(self, service: str, form: str) -> str:
        told = subprocess.run(
            ["docker", "inspect", "-f", form, self.container(service)], capture_output=True, encoding="utf-8", check=True
        )
        return told.stdout.strip()

    def health(self, service: str) -> str:
        return self.state(service, "{{.State.Health.Status}}")

    def kill(self, service: str) -> None:
        """End its first process as a crash does: a restart policy acts, as it does not after `docker kill`."""
        os.kill(int(self.state(service, "{{.State.Pid}}")), 9)

    def reached(self, out: str, stage: str) -> bool:
        """Whether a run's journal tells that a stage is done, e.g. `2 train`."""
        told = self("exec", "-T", "superexec", "cat", f"/data/runs/{out}/journal.jsonl", check=False)
        number, name = stage.split()
        return f'{{"stage": {{"round": {number}, "name": "{name}"' in told


@pytest.fixture(scope="module")
def fed() -> Iterator[Compose]:
    """All services, up and healthy."""
    if shutil.which("docker") is None:
        pytest.fail("there is no docker on this machine")
    made = Compose(free_ports(1)[0])
    try:
        made("up", "-d", *([] if os.environ.get("FEDWARM_IMAGE") else ["--build"]), seconds=3000)
        until(lambda: all(made.health(node) == "healthy" for node in NODES))
        yield made
    finally:
        print(made("logs", "--no-color", "--tail", "60", check=False))
        made("down", "--volumes", "--timeout", "20", check=False)


def run(method: str, out: str, settings: str, *more: str) -> Sequence[str]:
    where = ["--out", f"/data/runs/{out}", "--seed", "3", "--rounds", "2", "-c", f"{SMALL} {settings}".strip()]
    return ["fedwarm", "run", method, *where, *more]


THERE = ("--engine", "deployment")
HERE = ("--engine", "local", "--clients", "3")


def digests(fed: Compose, out: str) -> dict[str, str]:
    """A digest of each model of a run."""
    told = fed.admin("sh", "-c", f"cd /data/runs/{out} && sha256sum *.safetensors").split("\n")
    return {line.split()[1]: line.split()[0] for line in told if "  " in line}


def results(fed: Compose, out: str) -> dict[str, object]:
    return json.loads(fed.admin("cat", f"/data/runs/{out}/results.json"))  # type: ignore[no-any-return]


def ledger(fed: Compose, out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in fed.admin("cat", f"/data/runs/{out}/ledger.jsonl").splitlines()]


def alike(fed: Compose, one: str, other: str) -> bool:
    """Whether two runs left the same models and measured the same."""
    models = digests(fed, one)
    return bool(models) and models == digests(fed, other) and results(fed, one)["final"] == results(fed, other)["final"]


@pytest.mark.parametrize("method", list(SETTINGS))
def test_a_method_gives_the_local_engines_model_bit_for_bit(method: str, fed: Compose) -> None:
    told = fed.admin(*run(method, f"there-{method}", SETTINGS[method], *THERE))
    fed.admin(*run(method, f"here-{method}", SETTINGS[method], *HERE))
    assert alike(fed, f"there-{method}", f"here-{method}"), told
    assert results(fed, f"there-{method}")["engine"] == "deployment"


def answer(url: str, context: ssl.SSLContext | None, data: bytes | None = None) -> int:
    """The status that a request gets, 0 where it gets none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10, context=context) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def trust(fed: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trust") / "ca.crt"
    path.write_text(fed.admin("cat", "/keys/ca.crt"))
    return path


def test_the_outside_reaches_the_nodes_part_and_nothing_else(fed: Compose, trust: Path) -> None:
    context, place = ssl.create_default_context(cafile=str(trust)), f"https://localhost:{fed.port}"
    assert answer(f"{place}/health", context) == 200
    for path in ("/v1/control/list-runs", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/"):
        assert answer(place + path, context, b"") == 403, path
        assert answer(f"{place}/v1/fleet/..{path}", context, b"") in (400, 403), path
    assert answer(f"{place}/v1/fleet/register-node", context, b"") in (400, 401, 412, 415, 422)  # Flower's own answer
    assert answer(f"http://localhost:{fed.port}/health", None) == 400
    assert answer(f"{place}/health", ssl.create_default_context()) == 0
    told = fed("logs", "--no-color", "proxy")
    assert '"POST /v1/control/register-node" 403' in told
    for service in ("superlink", "superexec", *NODES):
        assert json.loads(fed.state(service, "{{json .HostConfig.PortBindings}}")) in ({}, None), service


def stranger(fed: Compose, folder: Path) -> str:
    """What a node with keys of its own says that comes to the proxy."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        os.chown(path, 49999, 49999)
    words = ["fedwarm", "node", "run", "--root-certificates", "/keys/ca.crt", "--superlink", "proxy:8443"]
    own = ["--auth-supernode-private-key", "/keys/key", "--host", "127.0.0.1", "--port", "9094", "--max-wait-time", "15"]
    command = ["run", "--rm", "-T", "--no-deps", "-v", f"{folder}:/stranger:ro", "supernode-0"]
    said = " ".join([*words, *own]).replace("/keys/", "/stranger/")
    return fed(*command, "sh", "-c", f"{said} 2>&1; echo code $?", check=False)


def test_an_unregistered_key_another_ca_and_no_key_are_refused(fed: Compose, trust: Path, tmp_path: Path) -> None:
    known, other = tmp_path / "known", tmp_path / "other"
    for folder in (known, other):
        ensure_node_key(folder / "key")
    shutil.copyfile(trust, known / "ca.crt")
    told = stranger(fed, known)
    assert "[code: 2004]" in told and "code 1" in told
    from fedwarm.flower.certificates import ensure_certificates

    ensure_certificates(other, "other", ["proxy"])
    told = stranger(fed, other)
    assert "CERTIFICATE_VERIFY_FAILED" in told and "code 1" in told
    assert all(fed.health(node) == "healthy" for node in NODES)


def test_containers_have_no_more_than_they_need(fed: Compose) -> None:
    for service in ("superlink", "superexec", "proxy", *NODES):
        assert fed.state(service, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.Config.User}}") == "true [ALL] app"
        told = fed("exec", "-T", service, "sh", "-c", "id -u; touch /x 2>&1; ls /keys")
        assert told.splitlines()[0] == "49999" and "Read-only file system" in told
        assert "ca.key" not in told
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection(("127.0.0.1", 8000), timeout=2).close()


def killed(fed: Compose, out: str, at: str, hit: Callable[[], None], *more: str) -> str:
    """Start a run of four rounds, do something when a stage is done, and see it to its end; what it printed."""
    command = [*run("fedavg", out, "", *THERE, *more), "--rounds", "4"]
    process = fed.start_admin(*command)
    try:
        until(lambda: fed.reached(out, at) or process.poll() is not None)
        assert process.poll() is None and not fed.reached(out, "4 evaluate")
        hit()
        told, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def four(fed: Compose) -> str:
    """Four rounds of the local engine."""
    fed.admin(*run("fedavg", "four", "", *HERE), "--rounds", "4")
    return "four"


def test_a_superlink_that_crashes_in_a_run_costs_nothing(fed: Compose, four: str) -> None:
    killed(fed, "superlink", "1 round", lambda: fed.kill("superlink"))
    assert alike(fed, four, "superlink")


def test_a_node_that_crashes_between_rounds_is_back_and_costs_nothing(fed: Compose, four: str) -> None:
    """With all replies asked for, the stage waits for it."""
    before = fed.state("supernode-1", "{{.State.Pid}}")
    killed(fed, "node", "1 evaluate", lambda: fed.kill("supernode-1"), "-c", "min-replies=3")
    assert fed.state("supernode-1", "{{.State.Pid}}") != before
    assert alike(fed, four, "node")


def test_a_superexec_that_crashes_ends_the_run_which_is_kept_going(fed: Compose, four: str) -> None:
    told = killed(fed, "superexec", "2 evaluate", lambda: fed.kill("superexec"), "--keep-going")
    assert "it is started again after stage" in told
    assert alike(fed, four, "superexec")


def test_the_whole_host(fed: Compose, four: str) -> None:
    """All containers at once, the admin's too; `up`, and the run goes on."""
    process = fed.start_admin(*run("fedavg", "host", "", *THERE), "--rounds", "4")
    until(lambda: fed.reached("host", "2 round"))
    assert process.poll() is None
    subprocess.run(["docker", "kill", *running(fed)], check=True, capture_output=True)
    process.communicate(timeout=120)
    fed("up", "-d")
    until(lambda: all(fed.health(node) == "healthy" for node in NODES))
    fed.admin("fedwarm", "run", "--resume", "--out", "/data/runs/host", *THERE)
    assert alike(fed, four, "host")


def running(fed: Compose) -> list[str]:
    told = subprocess.run(
        ["docker", "ps", "-q", "--filter", f"name={fed.name}"], capture_output=True, encoding="utf-8", check=True
    )
    return told.stdout.split()


def docker(*words: str) -> int:
    """The exit code of a command of Docker's."""
    done = subprocess.run(["docker", *words], capture_output=True, encoding="utf-8", check=False)
    print(done.stderr)
    return done.returncode


def trained(container: str) -> int:
    """How many messages of training a node has got so far."""
    told = subprocess.run(["docker", "logs", container], capture_output=True, encoding="utf-8", errors="replace", check=True)
    return (told.stdout + told.stderr).count("Receiving: train message")


def test_a_node_that_is_paused_past_the_deadline_is_left_out_and_named(fed: Compose) -> None:
    long = "local-epochs=600"  # so that a node is still training when it is paused
    without = f"{long} faults.kind='crash' faults.clients='2' faults.rate=1.0 min-replies=2"
    fed.admin(*run("fedavg", "others", without, *HERE), "--rounds", "1")
    node = fed.container("supernode-2")
    before = trained(node)
    command = [*run("fedavg", "paused", f"{long} stage-timeout=240 nodes.least=2", *THERE), "--rounds", "1"]
    process = fed.start_admin(*command)
    try:
        wait_until(lambda: trained(node) > before, seconds=240, poll_seconds=0.1)
        wait_until(lambda: docker("pause", node) == 0, seconds=30, poll_seconds=0.1)  # not while its processes are being forked
        told, _ = process.communicate(timeout=900)
    finally:
        docker("unpause", node)
        process.kill()
    assert process.returncode == 0, told
    failed = [each for each in ledger(fed, "paused") if each["failure"]]
    assert failed and {(each["site"], each["client"]) for each in failed} == {("node-2", 2)}
    assert digests(fed, "paused")["model.safetensors"] == digests(fed, "others")["model.safetensors"]
    until(lambda: fed.health("supernode-2") == "healthy")


class Site:
    """A site whose node runs by the compose.yaml of its kit, in which the network alone is the federation's here."""

    def __init__(self, fed: Compose, folder: Path, data: Path) -> None:
        told = f"networks: {{default: {{external: true, name: {fed.name}_fleet}}}}\n"
        (folder / "network.yaml").write_text(told)
        files = ["-f", str(folder / "compose.yaml"), "-f", str(folder / "network.yaml")]
        self.words, self.env = [*fed.program, "-p", f"{fed.name}-{folder.name}", *files], {**fed.env, "FEDWARM_DATA": str(data)}

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self.words, *words], env=self.env, capture_output=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def health(self) -> str:
        words = ["docker", "inspect", "-f", "{{.State.Health.Status}}", self("ps", "-q", "node").strip()]
        return subprocess.run(words, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def test_a_site_joins_by_its_kit_alone(fed: Compose, tmp_path: Path) -> None:
    """The last test: the federation's own nodes are stopped, so that the run is the site's alone."""
    fed("stop", *NODES)
    folder, data, words = tmp_path / "lab", tmp_path / "pictures", ("cat", "dog")
    write_site(data, "classes", [(word, i) for word in words for i in range(12)], words)
    make = ["fedwarm", "federation", "kit", folder.name, "--address", "proxy:8443", "--sites", "1"]
    fed.admin(*make, "--out", "/data/runs/lab.zip")
    copy = ["docker", "cp", f"{fed.container('superexec')}:/data/runs/lab.zip", str(tmp_path / "lab.zip")]
    subprocess.run(copy, check=True, capture_output=True)
    fed.admin("fedwarm", "federation", "register", join(tmp_path / "lab.zip", folder, None)[1])
    site = Site(fed, folder, data)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 49999, 49999)
    try:
        site("up", "-d")
        until(lambda: site.health() == "healthy")
        fed.admin(*run("fedavg", "kit", "data.name='own' data.image-size=8 model.name='logistic'", *THERE))
        assert [each["site"] for each in ledger(fed, "kit")] == ["lab"] * 4
        log = site("exec", "-T", "node", "sh", "-c", "cat /tmp/flwr/fedwarm/clients/*.log")
        assert log.count("message: process") >= 5, "who are you, two trainings, two measurements"
        assert verify(folder / "state" / "audit.jsonl").problem == ""
    finally:
        print(site("logs", "--no-color", "--tail", "60"))
        site("down", "--volumes", "--timeout", "20")
