"""Sites' policies in runs on real nodes: who breaks one is refused before data are opened, is counted, and the run goes on."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from fedwarm.catalogue import parse
from fedwarm.core.chain import verify
from fedwarm.core.logs import FILE_VARIABLE
from fedwarm.core.policy import Policy
from fedwarm.core.refusals import RefusalError
from fedwarm.data import own
from fedwarm.launch.run import privacy_lines
from fedwarm.rounds.policies import accounted, differing, enforce
from tests.machines import world
from tests.runs import Outcome

SETTINGS: dict[str, Any] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 40, "nodes.expected": 2}


def test_a_run_differs_from_its_methods_defaults_alone() -> None:
    assert differing(parse({"method": "fedavg", "out": "/x", "nodes.least": 2})) == set()
    assert differing(parse({"method": "fedavg", "learning-rate": 0.5, "data.alpha": 0.1})) == {"learning-rate", "data.alpha"}
    told = parse({"method": "fedavg", "codec": "top-k", "top-k.share": 0.5})
    assert differing(told) == {"codec", "top-k.share"}
    with pytest.raises(RefusalError, match="lets no run change codec"):
        enforce(Policy(settings=("learning-rate",)), told, "round")


def federated(folder: Path, policy: str, partition: int = 1, **settings: Any) -> Outcome:
    (folder / "policy.toml").write_text(policy)
    with world(2, keys=True) as machines:
        machines.nodes[1001].name, machines.nodes[1002].name = "site-a", "site-b"
        machines.node_config[partition] = {"policy": str(folder / "policy.toml"), "audit": str(folder / "site" / "audit.jsonl")}
        return machines.federate("fedavg", folder / "run", {**SETTINGS, **settings})


def test_a_site_that_refuses_a_method_opens_no_data_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    before = own.Holding.shard

    def shard(self: own.Holding) -> Any:
        opened.append(self.partition)
        return before(self)

    monkeypatch.setattr(own.Holding, "shard", shard)
    outcome = federated(tmp_path, "methods = ['scaffold']")
    assert set(opened) == {0}
    failed = [entry for entry in outcome.ledger if entry["failure"]]
    assert [(e["client"], e["site"]) for e in failed] == [(1, "site-b")]
    assert failed[0]["failure"].startswith("refused (policy): this site's policy allows the methods scaffold")
    assert outcome.results["complete"] and outcome.results["privacy"]["refusals"] == {"policy": 1}


def test_refusals_of_a_run_that_is_not_private_are_told() -> None:
    assert list(privacy_lines({"refusals": {"policy": 2}})) == [("refused", "2 by policy")]
    assert list(privacy_lines(None)) == []


def test_a_site_keeps_its_measures_and_what_is_too_large(tmp_path: Path) -> None:
    outcome = federated(tmp_path, "metrics = 'nobody'")
    told = {(e["stage"], e["client"]): e["failure"] for e in outcome.ledger}
    assert "nobody may read" in told["evaluate", 1] and not told["evaluate", 0] and not told["round", 1]
    (tmp_path / "second").mkdir()
    outcome = federated(tmp_path / "second", "most-bytes = 100", **{"min-replies": 1})
    told = {(e["stage"], e["client"]): e["failure"] for e in outcome.ledger}
    assert "lets 100 bytes" in told["round", 1] and not told["round", 0]


def test_a_sites_own_audit_log_tells_what_was_asked_what_left_and_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the server's ledger: the same bytes and epsilon, and every message; its log has a line for each, too."""
    private = {"privacy": "dp-sgd", "dp-sgd.entropy": "seeded", "batch-size": 16, "model.name": "logistic"}
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "log.jsonl"))
    outcome = federated(tmp_path, "metrics = 'nobody'", **private)
    log = tmp_path / "site" / "audit.jsonl"
    told = [json.loads(line) for line in log.read_text().splitlines()]
    who, trained, measured = told
    assert [(each["event"], each["action"], each["method"]) for each in told] == [
        ("answered", "describe", "fedavg"), ("answered", "round", "fedavg"), ("refused", "evaluate", "fedavg"),
    ]  # fmt: skip
    (booked,) = [entry for entry in outcome.ledger if entry["client"] == 1 and entry["stage"] == "round"]
    assert (trained["round"], trained["bytes-up"]) == ("1", booked["wire_bytes_up"]) and trained["bytes-up"] > 100
    assert trained["epsilon"] == booked["epsilon"] > 0 and "epsilon" not in who
    assert measured["why"].startswith("refused (policy): by this site's policy nobody may read") and "bytes-up" not in measured
    assert len({each["run"] for each in told if each["run"]}) == 1 and verify(log) == (3, measured["hash"], "")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    said = [(each["level"], each["text"]) for each in lines if each.get("node") == "1"]
    assert len(said) == 3 and said[2] == ("warning", f"refused evaluate: {measured['why']}")
    assert re.fullmatch(rf"answered round in \d+\.\d s, {trained['bytes-up']:,} bytes up", said[1][1])


def test_an_account_is_looked_at_by_one_message_at_a_time(tmp_path: Path) -> None:
    seen: list[str] = []
    with accounted(tmp_path / "a", bounded=True):
        other = threading.Thread(target=lambda: _note(tmp_path / "a", seen))
        other.start()
        other.join(0.2)
        seen.append("first")
    other.join(10)
    assert seen == ["first", "second"]
    with accounted(tmp_path / "none", bounded=False):
        assert not (tmp_path / "none").exists()


def _note(root: Path, seen: list[str]) -> None:
    with accounted(root, bounded=True):
        seen.append("second")
