"""The whole way of a federation of sites, by its commands alone: kits, keys made at the sites, checks, policies, a third site
that joins a run, one that is shut out, a certificate renewed, audit logs, metrics, and an upgrade that does not fit.

Server and sites have folders of their own on one machine; sites that go the whole way have network namespaces of their own, too,
where the machine has them.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedwarm.core.chain import verify
from fedwarm.core.version import VERSION
from fedwarm.flower.processes import LOOPBACK, Daemon
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from fedwarm.settings.fields import SettingError
from tests.sites import FEDWARM, ROOT, Other, Place, entries, failures, heard, standing, until

pytestmark = [pytest.mark.alone, pytest.mark.proof]
SITES = ("lab-a", "lab-b", "lab-c")
NET = "78"  # of the sites' addresses, 10.NET.x.2


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with standing(tmp_path, capsys) as made:
        yield made


@pytest.fixture
def apart(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Sites in network namespaces that reach the server's address alone; on loopback where this machine has no such thing."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("SLOW_LINES_NET", NET)
    lines = importlib.import_module("lines")
    with ExitStack() as stack:
        host, spaces = LOOPBACK, {}
        if not lines.why_not():
            lines.network(stack, len(SITES), rate=1e9, delay=0.001, loss=0.0)
            host = lines.HUB
            spaces = {site: ["ip", "netns", "exec", lines.namespace(number)] for number, site in enumerate(SITES)}
        yield stack.enter_context(standing(tmp_path, capsys, host=host, spaces=spaces))


def test_the_whole_way(apart: Place, tmp_path: Path) -> None:
    place = apart
    joined(place)
    out = tmp_path / "runs" / "first"
    a_site_refuses_and_the_run_goes_on(place, out)
    out = tmp_path / "runs" / "second"
    a_third_site_joins_a_run_and_one_is_shut_out(place, out)
    a_scrape_tells_it(place, tmp_path / "runs")
    a_certificate_is_renewed_while_nodes_stay(place)
    logs_hold_together_until_a_byte_is_changed(place, out)
    told = json.loads((Path(place.kit("lab-c")) / "kit.json").read_text())
    (Path(place.kit("lab-c")) / "kit.json").write_text(json.dumps({**told, "flwr": "0.9.0"}))
    with pytest.raises(SettingError, match=r"versions do not fit: flwr 0.9.0 at the server"):
        place("node", "run", "--kit", place.kit("lab-c"))


def joined(place: Place) -> None:
    lines = [place.joins(site) for site in ("lab-a", "lab-b")]
    code, told = place.at("lab-a", "node", "check", "--kit", place.kit("lab-a"))
    assert code == 2 and "registered: it is not registered" in told
    for line in lines:
        assert "is registered" in place("federation", "register", line, "--federation", place.server)
    code, told = place.at("lab-a", "node", "check", "--kit", place.kit("lab-a"))
    assert code == 0 and told.strip().splitlines()[-1] == "ready", told
    assert "24 pictures of 2 classes" in told and "the SuperLink knows this key" in told
    place.policy("lab-b", "methods = ['scaffold']\n")
    place.online("lab-a", "lab-b")
    one = place.nodes["lab-b"]
    refused = place.starts("lab-b")  # the same key twice
    until(lambda: not refused.alive)
    assert "[code: 2004]" in place.said("lab-b") and one.alive and place.state("lab-b") == "online"
    asked = [line for line in (Path(place.server) / "logs" / "superlink.log").read_text().splitlines() if "activate-node" in line]
    assert asked[-1].endswith(" 412"), asked
    place.nodes["lab-b"] = one


def a_site_refuses_and_the_run_goes_on(place: Place, out: Path) -> None:
    failed = failures(place.ran(out))
    (told,) = [path.read_text() for path in (place.root / "lab-a").glob("flower-*/fedwarm/clients/*.log")]
    assert told.count("message: process") >= 3, "a site's messages are forked: who are you, train, evaluate"
    assert failed.keys() == {"lab-b"} and heard(out) == {"lab-a"}
    assert failed["lab-b"][0].startswith("refused (policy): this site's policy allows the methods scaffold")
    assert json.loads((out / "results.json").read_text())["privacy"]["refusals"] == {"policy": 1}
    place.policy("lab-b", "most-seconds = 600\n")


def a_third_site_joins_a_run_and_one_is_shut_out(place: Place, out: Path) -> None:
    with subprocess.Popen(place.run(out, 12), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: exists(out) and checkpoint(out).done >= 1)
        place.registered("lab-c")
        place.starts("lab-c")
        until(lambda: any(each["site"] == "lab-c" and not each["failure"] for each in entries(out)))
        assert "registered no more" in place("federation", "revoke", "lab-a", "--federation", place.server)
        _, told = running.communicate(timeout=900)
    assert running.returncode == 0, told[-3000:]
    until(lambda: not place.nodes["lab-a"].alive)
    assert place.state("lab-a") == "" and "fedwarm: the SuperLink refused this node (HTTP 401)" in place.said("lab-a")
    assert re.search(r"lab-a .*no key is registered", place("federation", "status", "--federation", place.server))
    last = [each for each in entries(out) if each["round"] == 12 and not each["failure"]]
    assert {each["site"] for each in last} == {"lab-b", "lab-c"}


def a_scrape_tells_it(place: Place, runs: Path) -> None:
    words = [FEDWARM, "federation", "metrics", "--federation", place.server, "--runs", str(runs), "--port", "0"]
    with Daemon(words, log=place.root / "metrics.log", folder=place.root, env=os.environ) as served:
        until(lambda: "http://" in "".join(served.tail(1)))
        with urlopen(served.tail(1)[0].rpartition(" ")[2], timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    told = {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}
    assert told["fedwarm_superlink_up",] == told["fedwarm_node_online", ("site", "lab-b")] == 1
    assert told["fedwarm_rounds_total", ("run", "first")] == 1 and told["fedwarm_rounds_total", ("run", "second")] == 12
    assert told["fedwarm_failures_total", ("kind", "policy"), ("run", "first"), ("site", "lab-b (1)")] == 1
    assert told["fedwarm_bytes_total", ("run", "second"), ("site", "lab-c (2)"), ("way", "up")] > 0


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
    place.registered("lab-a", "lab-b")
    kit = Path(place.kit("lab-b"))
    refused = there("node", "run", "--kit", str(kit), fails=True)
    assert refused.strip().splitlines()[-1].endswith("or ask for a kit of the server as it is now")
    assert f"versions do not fit: fedwarm {VERSION} at the server and 99.0.0 here; install fedwarm=={VERSION} here" in refused
    told = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps({**told, "fedwarm": "99.0.0"}))  # as though the site knew better
    place.starts("lab-a")
    place.starts("lab-b", there.fedwarm)
    until(lambda: place.state("lab-a") == place.state("lab-b") == "online")
    assert {each["site"] for each in entries(place.ran(tmp_path / "run", more="nodes.gather-timeout=120"))} == {"lab-a"}
    notes = " ".join(json.loads((tmp_path / "run" / "results.json").read_text())["notes"])
    assert "lab-b" in notes and f"it runs fedwarm '99.0.0' and the server {VERSION}" in notes
    there.tells_another_flower("0.9.0")
    assert "versions do not fit: flwr " in there("node", "run", "--kit", str(kit), fails=True)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_a_proxy_that_refuses_large_bodies_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its site ends with what to do, and the run is told within a minute or two that the site went away."""
    with standing(tmp_path, capsys, proxied=True) as place:
        behind_a_proxy_with_a_limit(place, tmp_path)


def behind_a_proxy_with_a_limit(place: Place, tmp_path: Path) -> None:
    proxy = Path(place.server) / "proxy.conf"
    proxy.write_text(proxy.read_text().replace("client_max_body_size 0", "client_max_body_size 20k"))
    place.registered("lab-a")
    with Daemon(["nginx", "-g", "daemon off;", "-c", str(proxy)], log=tmp_path / "nginx.log", folder=tmp_path, env=os.environ):
        place.online("lab-a")
        words = place.run(tmp_path / "run", 1, "data.image-size=32")
        done = subprocess.run(words, capture_output=True, text=True, timeout=580)
        assert done.returncode != 0
        until(lambda: not place.nodes["lab-a"].alive)
    assert "refuses bodies of this size (HTTP 413)" in place.said("lab-a")
    assert "43200" not in done.stderr and "no reply within" not in done.stderr, done.stderr[-3000:]
    seen = ("its reply did not arrive whole", "Node Unavailable")  # the run began to fetch it, or the site had signed off before
    assert any(words in done.stderr for words in seen), done.stderr[-3000:]
