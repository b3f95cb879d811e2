"""What a Prometheus server scrapes, read by Prometheus' own parser, and the dashboard that shows it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from fedwarm.federation.control import Seen
from fedwarm.federation.metrics import Watched, kind_of, newest_runs, registry_of
from fedwarm.federation.settings import Federation
from fedwarm.flower.processes import free_ports
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.settings.fields import Value
from tests.runs import run

register_default_plugins()  # so that questions to Prometheus are read as such
DASHBOARD = Path(__file__).parents[3] / "docker" / "grafana.json"
SEEN = [Seen(7, "hospital-a", b"", "online", 3.5), Seen(8, "hospital-b", b"", "offline", 95.0)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    entries = [
        Entry(1, "round", 0, 90, 100, 180, 200, 1.5, site="hospital-a", epsilon=2.0),
        Entry(1, "round", 1, 90, 100, 0, 0, 2.5, "refused (policy): it is too long", site="hospital-b"),
        Entry(2, "round", 0, 90, 100, 180, 200, 1.0, site="hospital-a", epsilon=3.0),
        Entry(2, "round", 1, 0, 0, 0, 0, 0.0, "no reply within 60 s", site="hospital-b"),
    ]
    (tmp_path / "first").mkdir()
    (tmp_path / "first/ledger.jsonl").write_text(Ledger(entries).lines() + '{"half')
    stages = [{"stage": {"round": number, "name": "round", "seconds": 4.0}} for number in (1, 2)]
    (tmp_path / "first/journal.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [*stages, {"note": "x"}]))
    return tmp_path


@pytest.fixture
def told(runs: Path) -> dict[tuple[str, ...], float]:
    """All samples by name and values of labels, as they come over HTTP."""
    registry = CollectorRegistry()
    registry.register(Watched(lambda: SEEN, lambda: newest_runs(runs)))  # type: ignore[arg-type]
    server, thread = start_http_server(0, "127.0.0.1", registry)
    found = scraped(f"http://127.0.0.1:{server.server_port}/metrics")
    server.shutdown()
    thread.join()
    server.server_close()
    return found


def scraped(url: str) -> dict[tuple[str, ...], float]:
    with urlopen(url, timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(s.name, *(s.labels[key] for key in sorted(s.labels))): s.value for family in families for s in family.samples}


def test_a_scrape_tells_nodes_rounds_failures_bytes_seconds_and_epsilon(told: dict[tuple[str, ...], float]) -> None:
    assert told["fedwarm_superlink_up",] == 1 and told["fedwarm_node_online", "hospital-b"] == 0
    assert told["fedwarm_node_last_seen_seconds", "hospital-a"] == 3.5
    assert told["fedwarm_rounds_total", "first"] == 2 and told["fedwarm_stage_seconds_total", "first", "round"] == 8
    assert told["fedwarm_replies_total", "first", "hospital-a (0)"] == 2
    assert told["fedwarm_failures_total", "policy", "first", "hospital-b (1)"] == 1
    assert told["fedwarm_failures_total", "late", "first", "hospital-b (1)"] == 1
    assert told["fedwarm_bytes_total", "first", "hospital-a (0)", "up"] == 400
    assert told["fedwarm_bytes_total", "first", "hospital-b (1)", "down"] == 100
    assert told["fedwarm_epsilon", "first", "hospital-a (0)"] == 3


def test_a_superlink_that_is_away_and_folders_without_runs(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(Watched(lambda: None, lambda: newest_runs(tmp_path / "none")))  # type: ignore[arg-type]
    assert registry.get_sample_value("fedwarm_superlink_up") == 0
    Federation("here", tmp_path / "here", host="127.0.0.1", port=1, insecure=True).save()
    assert registry_of(f"{tmp_path}/here", tmp_path).get_sample_value("fedwarm_superlink_up") == 0
    assert kind_of("Node Unavailable: x") == "lost" and kind_of("something") == "other"


def test_the_command_serves_a_run_over_http_until_it_is_ended(tmp_path: Path) -> None:
    settings: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 16, "model.name": "logistic"}
    entries = run("fedavg", tmp_path / "runs" / "first", settings, clients=2).ledger
    Federation("here", tmp_path / "here", host="127.0.0.1", port=1, insecure=True).save()
    (port,), program = free_ports(1), str(Path(sys.executable).parent / "fedwarm")
    words = ["--federation", f"{tmp_path}/here", "--runs", f"{tmp_path}/runs", "--port", str(port)]
    with subprocess.Popen([program, "federation", "metrics", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            told = scraped(url)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert url == f"http://127.0.0.1:{port}/metrics" and told["fedwarm_superlink_up",] == 0
    assert told["fedwarm_rounds_total", "first"] == 2 and told["fedwarm_stage_seconds_total", "first", "round"] > 0
    assert told["fedwarm_replies_total", "first", "client 0"] == sum(each["client"] == 0 for each in entries) == 4
    up = sum(each["wire_bytes_up"] for each in entries if each["client"] == 1)
    assert told["fedwarm_bytes_total", "first", "client 1", "up"] == up > 0
    with pytest.raises(URLError):
        scraped(url)


def odd(value: Any, hint: Any, where: str = "dashboard") -> list[str]:
    """Places whose values are not of the types that Grafana's schema gives them.

    Its SDK is made out of the schema, but takes any value where it reads a dashboard; its models carry the types.
    """
    kind, parts = get_origin(hint), get_args(hint)
    if hint in (Any, object):
        return []
    if kind in (Union, UnionType):
        return min((odd(value, part, where) for part in parts), key=len)
    if kind is Literal or issubclass(kind or hint, Enum):
        return [] if value in (parts or [each.value for each in hint]) else [where]
    if kind in (list, dict):
        if not isinstance(value, kind):
            return [where]
        each = value.items() if kind is dict else enumerate(value)
        return [place for name, one in each for place in odd(one, parts[-1], f"{where}.{name}")]
    if hint in (int, float):
        return [] if isinstance(value, (int, hint)) and not isinstance(value, bool) else [where]
    if not isinstance(value, hint):
        return [where]
    hints = get_type_hints(type(value)) if hasattr(value, "from_json") else {}
    return [place for name, one in hints.items() for place in odd(getattr(value, name, None), one, f"{where}.{name}")]


SPOILED: dict[str, tuple[list[str | int], object]] = {
    "title": (["title"], 7),
    "schema_version": (["schemaVersion"], "36"),
    "tags": (["tags"], "fedwarm"),
    "refresh": (["refresh"], 30),
    "time.from_val": (["time", "from"], 6),
    "panels.0.grid_pos.w": (["panels", 0, "gridPos", "w"], "8"),
    "panels.1.field_config.defaults.unit": (["panels", 1, "fieldConfig", "defaults", "unit"], 3),
    "panels.0.targets.0.expr": (["panels", 0, "targets", 0, "expr"], ["fedwarm_superlink_up"]),
}


@pytest.mark.parametrize("place", SPOILED)
def test_a_dashboard_with_a_field_of_a_wrong_type_is_none_by_grafanas_schema(place: str) -> None:
    said, (path, value) = json.loads(DASHBOARD.read_text()), SPOILED[place]
    inner = said
    for key in path[:-1]:
        inner = inner[key]
    assert path[-1] in inner
    inner[path[-1]] = value
    assert odd(Dashboard.from_json(said), Dashboard) == [f"dashboard.{place}"]


@pytest.mark.parametrize("panels", [7, ["no panel"], [{"title": "of no type"}]])
def test_a_dashboard_whose_panels_are_none_is_refused_by_the_sdk(panels: object) -> None:
    with pytest.raises((TypeError, KeyError, AttributeError)):
        Dashboard.from_json({**json.loads(DASHBOARD.read_text()), "panels": panels})


def test_the_dashboard_is_one_by_grafanas_schema_and_asks_for_what_is_told(told: dict[tuple[str, ...], float]) -> None:
    said = json.loads(DASHBOARD.read_text())
    made = Dashboard.from_json(said)
    assert odd(made, Dashboard) == []
    again = json.loads(json.dumps(made, cls=JSONEncoder))
    assert said.keys() <= again.keys() and [p["title"] for p in again["panels"]] == [p["title"] for p in said["panels"]]
    for mine, theirs in zip(said["panels"], again["panels"], strict=True):
        assert mine.keys() <= theirs.keys() and mine["gridPos"].items() <= theirs["gridPos"].items()
        assert len(theirs["targets"]) == len(mine["targets"]) and theirs["fieldConfig"]["defaults"]["unit"]
    asked = {name for panel in said["panels"] for each in panel["targets"] for name in re.findall(r"fedwarm_\w+", each["expr"])}
    assert asked == {name for name, *_ in told} - {name for name, *_ in told if name.endswith("_created")}
    corners = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in said["panels"]]
    assert len({*corners}) == len(corners) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in said["panels"])
