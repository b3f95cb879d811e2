"""States that a federation of sites comes through or names: an upgrade, a certificate that is renewed in a run or has ended, a
site's policy over several runs, a proxy that leads nowhere. By kits and real nodes, as `tests/test_sites.py` makes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedwarm.core.version import VERSION
from fedwarm.federation.processes import end, start
from fedwarm.federation.settings import SUPERLINK, load
from fedwarm.flower import certificates
from fedwarm.flower.processes import Daemon
from fedwarm.node import heartbeat
from fedwarm.node.kit import read
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from tests.sites import Other, Place, entries, failures, heard, standing, until

pytestmark = [pytest.mark.alone, pytest.mark.proof]
NGINX = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
LEFT_SECONDS = 120
EXPIRED = "CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired"
OLD = "0.0.9"
PRIVATE = "data.classes='cat,dog' dp-rec.view='local'"


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with standing(tmp_path, capsys) as made:
        yield made


def test_an_upgrade_the_server_first_then_the_sites_one_by_one(place: Place, tmp_path: Path) -> None:
    """As docs/server.md has it: a node of the old version is left out and told of, and back by a new kit over its old folder."""
    old, named = Other(tmp_path / "old", OLD), ("--federation", place.server)
    place("federation", "down", *named)
    old("federation", "up", *named)
    assert OLD in old("federation", "status", *named)
    lines = {}
    for site in ("lab-a", "lab-b"):
        lines[site] = place.joins(site)  # pictures; the kit is made anew by the old version
        old("federation", "kit", site, *named, "--out", str(tmp_path / f"{site}.zip"))
        assert old("node", "join", str(tmp_path / f"{site}.zip"), "--folder", place.kit(site)).splitlines()[-1] == lines[site]
        assert read(Path(place.kit(site))).fedwarm == OLD
        old("federation", "register", lines[site], *named)
    place.online("lab-a", "lab-b", fedwarm=old.fedwarm)

    old("federation", "down", *named)
    place("federation", "up", *named)  # the server has another version now, and nodes are back by themselves
    until(lambda: place.state("lab-a") == place.state("lab-b") == "online")
    policy = Path(place.kit("lab-a")) / "policy.toml"
    policy.write_text("most-seconds = 600\n")
    key = (Path(place.kit("lab-a")) / "key").read_bytes()
    assert place.joins("lab-a") == lines["lab-a"] and (Path(place.kit("lab-a")) / "key").read_bytes() == key
    assert policy.read_text() == "most-seconds = 600\n"
    place.nodes["lab-a"].close()
    refused = old("node", "run", "--kit", place.kit("lab-a"), fails=True).strip()
    assert f"versions do not fit: fedwarm {VERSION} at the server and {OLD} here; install fedwarm=={VERSION} here" in refused
    place.online("lab-a")
    out = place.ran(tmp_path / "first", more="nodes.gather-timeout=120")  # it waits for a site that is there and does not fit
    assert heard(out) == {"lab-a"}
    notes = [note for note in json.loads((out / "results.json").read_text())["notes"] if "lab-b" in note]
    assert any(f"it runs fedwarm '{OLD}' and the server {VERSION}; install fedwarm=={VERSION} there" in note for note in notes)

    place.nodes["lab-b"].close()
    assert place.joins("lab-b") == lines["lab-b"]
    place.online("lab-b")
    assert heard(place.ran(tmp_path / "second")) == {"lab-a", "lab-b"} and not failures(tmp_path / "second")


@pytest.mark.parametrize("proxied", [False, pytest.param(True, marks=NGINX)], ids=["the SuperLink itself", "behind nginx"])
def test_a_certificate_that_is_renewed_in_a_run_costs_nothing(
    proxied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with standing(tmp_path, capsys, proxied=proxied) as place, ExitStack() as stack:
        nginx = ["nginx", "-c", str(Path(place.server) / "proxy.conf")]
        if proxied:
            words = [*nginx, "-g", "daemon off;"]
            stack.enter_context(Daemon(words, log=tmp_path / "nginx.log", folder=tmp_path, env=os.environ))
        place.registered("lab-a", "lab-b")
        place.online("lab-a", "lab-b")
        host, port = load(place.server).outside.split(":")
        before, out = ssl.get_server_certificate((host, int(port))), tmp_path / "run"
        words = place.run(out, 8, "min-replies=2 nodes.return-timeout=240")
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
            until(lambda: exists(out) and checkpoint(out).done >= 1)
            told = place("federation", "renew", "--federation", place.server)
            if proxied:
                assert " ".join([*nginx, "-s", "reload"]) in told
                subprocess.run([*nginx, "-s", "reload"], check=True)
            until(lambda: ssl.get_server_certificate((host, int(port))) != before)
            assert checkpoint(out).done < 12
            _, told = running.communicate(timeout=900)
        assert running.returncode == 0, told[-3000:]
        assert not failures(out) and {each["site"] for each in entries(out) if each["round"] == 8} == {"lab-a", "lab-b"}
        assert all(node.alive for node in place.nodes.values())


def test_a_policy_counts_epsilon_over_runs(place: Place, tmp_path: Path) -> None:
    """By the kit's own file and the account in the kit's own folder."""
    place.registered("lab-a", "lab-b")
    place.policy("lab-a", "most-epsilon = 1e9\n")
    place.online("lab-a", "lab-b")
    out = place.ran(tmp_path / "first", more=PRIVATE, method="dp_rec")
    assert heard(out) == {"lab-a", "lab-b"} and not failures(out)
    spent = json.loads((out / "results.json").read_text())["privacy"]["epsilon"]
    assert spent > 0
    bound = 1.2 * spent  # enough for the first run, and for the second alone
    place.policy("lab-a", f"most-epsilon = {bound}\n")
    out = place.ran(tmp_path / "second", more=PRIVATE, method="dp_rec")
    failed = failures(out)
    assert failed.keys() == {"lab-a"} and heard(out) >= {"lab-b"}
    told = f"refused (epsilon): limits.most-epsilon of this node is {bound:g}, and its account over all runs would come to "
    assert failed["lab-a"][0].startswith(told)
    assert json.loads((out / "results.json").read_text())["privacy"]["refusals"] == {"epsilon": 1}


def test_a_policy_breaks_off_a_training_that_takes_too_long(place: Place, tmp_path: Path) -> None:
    """Steps of one picture: some thousands at one site, and a hundred thousand and more at the one that gives them 20 s."""
    place.registered("lab-a", pictures=4)
    place.registered("lab-b", pictures=100)
    place.policy("lab-b", "most-seconds = 20\n")
    place.online("lab-a", "lab-b")
    out = place.ran(tmp_path / "run", more="local-epochs=800 batch-size=1")
    assert failures(out) == {"lab-b": ["refused (policy): this site's policy gives a message 20 s, and they are over"]}
    trained = {(each["stage"], each["site"]) for each in entries(out) if not each["failure"]}
    assert trained == {("round", "lab-a"), ("evaluate", "lab-a"), ("evaluate", "lab-b")}
    (said,) = (each for each in audited(place, "lab-b") if each["event"] == "refused")
    assert said["action"] == "round" and str(said["why"]).endswith("gives a message 20 s, and they are over")


def audited(place: Place, site: str) -> list[dict[str, object]]:
    log = Path(place.kit(site)) / "state" / "audit.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_what_a_node_says_whose_certificate_ended_or_whose_proxy_leads_nowhere(place: Place) -> None:
    place.registered("lab-a", "lab-b")
    nowhere = place.starts("lab-b", HTTPS_PROXY="http://127.0.0.1:9", NO_PROXY="", no_proxy="")
    until(lambda: "Connection attempt failed, retrying" in place.said("lab-b"))
    assert nowhere.alive and place.state("lab-b") != "online"
    nowhere.close()

    running = place.online("lab-a")
    since = time.clock_gettime(heartbeat.CLOCK)
    ends = shown(place, timedelta(seconds=LEFT_SECONDS))
    beats = heartbeat.place(running.env["FLWR_HOME"])
    until(lambda: heartbeat.look(beats).alive(time.clock_gettime(heartbeat.CLOCK) - since - 1))
    assert datetime.now(UTC) < ends
    until(lambda: datetime.now(UTC) > ends)
    late = place.starts("lab-b")
    until(lambda: not late.alive)
    assert EXPIRED in place.said("lab-b") and late._process is not None and late._process.returncode == 1
    assert running.alive and EXPIRED not in place.said("lab-a")  # by a connection that it opened before
    shown(place, -timedelta(days=1))
    until(lambda: not running.alive)
    assert EXPIRED in place.said("lab-a") and running._process is not None and running._process.returncode == 1
    assert "fedwarm: Flower's SuperNode has given the SuperLink up" in place.said("lab-a")
    code, told = place.at("lab-a", "node", "check", "--kit", place.kit("lab-a"))
    assert code == 2 and f"it ended on {datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}" in told
    told = place("federation", "status", "--federation", place.server)
    renewal = re.escape(f"`fedwarm federation renew --federation {place.server}` issues it anew")
    assert re.search(rf"the certificate ended on [\d-]+, and sites are shut out; {renewal}", told)
    assert "with a certificate that was issued anew" in place("federation", "up", "--federation", place.server)
    place.online("lab-a")


def shown(place: Place, left: timedelta) -> datetime:
    """Have the SuperLink show a certificate that ends so soon; when it does."""
    federation, now = load(place.server), datetime.now(UTC)
    folder = federation.folder / "certificates"
    authority = certificates.ensure_authority(folder, federation.name, now)
    issued = certificates.issue(authority, [place.host, "localhost"], now + left - timedelta(days=certificates.SERVER_DAYS))
    certificates._write(folder / "server", issued)
    end(federation, [SUPERLINK])
    start(federation, SUPERLINK)
    return issued.certificate.not_valid_after_utc
