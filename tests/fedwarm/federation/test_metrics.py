"""What a Prometheus server scrapes, read by Prometheus' own parser, and the dashboard that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from fedwarm.federation.control import Seen
from fedwarm.federation.metrics import Watched, kind_of, newest_runs, registry_of
from fedwarm.federation.settings import Federation
from fedwarm.record.ledger import Entry, Ledger

DASHBOARD = Path(__file__).parents[3] / "docker" / "grafana.json"
SEEN = [Seen(7, "hospital-a", b"", "online", 3.5, 20.0), Seen(8, "hospital-b", b"", "offline", 95.0, 0.0)]


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
    with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    server.shutdown()
    thread.join()
    server.server_close()
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


def test_the_dashboard_is_one_by_grafanas_schema_and_asks_for_what_is_told(told: dict[tuple[str, ...], float]) -> None:
    said = json.loads(DASHBOARD.read_text())
    made = Dashboard.from_json(said)
    again = json.loads(json.dumps(made, cls=JSONEncoder))
    assert said.keys() <= again.keys() and [p["title"] for p in again["panels"]] == [p["title"] for p in said["panels"]]
    for mine, theirs in zip(said["panels"], again["panels"], strict=True):
        assert mine.keys() <= theirs.keys() and mine["gridPos"].items() <= theirs["gridPos"].items()
        assert len(theirs["targets"]) == len(mine["targets"]) and theirs["fieldConfig"]["defaults"]["unit"]
    asked = {name for panel in said["panels"] for each in panel["targets"] for name in re.findall(r"fedwarm_\w+", each["expr"])}
    assert asked == {name for name, *_ in told} - {name for name, *_ in told if name.endswith("_created")}
    corners = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in said["panels"]]
    assert len({*corners}) == len(corners) and all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in said["panels"])
