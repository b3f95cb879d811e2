"""A round is booked on disk before its first message leaves: a run that breaks in it states what was spent, and resumes to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedwarm.faults import Fault, InjectedError
from fedwarm.privacy.accountant import Accountant
from fedwarm.record.checkpoint import load
from fedwarm.record.reading import read_run
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import Value
from tests.runs import LOCAL, run, same

FAST: dict[str, Value] = {
    **LOCAL,
    "num-server-rounds": 3,
    "local-epochs": 1,
    "data.max-examples": 12,
    "data.image-size": 8,
    "server-threads": 1,
}
CODED: dict[str, Value] = {"dp-rec.bits": 4, "dp-rec.sigma": 0.5, "dp-rec.entropy": "seeded"}
CENTRAL: dict[str, Value] = {**CODED, "dp-rec.view": "central_limit"}
CODEC: dict[str, Value] = {**CODED, "codec": "dp-rec"}
WAYS = pytest.mark.parametrize(
    ("method", "settings"), [("dp_rec", CODED), ("dp_rec", CENTRAL), ("fedavg", CODEC)], ids=["local", "central", "codec"]
)


def broken(kind: str) -> dict[str, Value]:
    """The settings of a fault of this module."""
    return {"faults.kind": f"{__name__}:{kind}", "faults.rate": 1.0}


class Broken(Fault):
    """Clients from `first` on fail in round 2."""

    first = 0

    def before(self, ticket: str) -> None:
        stage, _, client = ticket.split(".")
        if int(stage) == 2 and int(client) >= self.first:
            raise InjectedError("broken")


class BrokenButFirst(Broken):
    """All but client 0 fail in round 2."""

    first = 1


@WAYS
def test_a_run_that_breaks_has_booked_its_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, Value]
) -> None:
    whole = run(method, tmp_path / "whole", {**FAST, **settings}, clients=3)
    settings = {**settings, **broken("Broken")}
    with pytest.raises(FederationError, match="round 2"):
        run(method, tmp_path / "run", {**FAST, **settings}, clients=3)
    kept = load(tmp_path / "run").facts["method" if method == "dp_rec" else "codec"]
    booked = Accountant.from_state(kept["account"]).epsilon()
    told = read_run(tmp_path / "run")
    spent = {entry["round"]: entry["epsilon"] for entry in whole.results["rounds"] if "epsilon" in entry}
    assert booked == pytest.approx(spent[2]) and spent[1] < spent[2] < spent[3]
    assert told.epsilon == pytest.approx(spent[2]) and not told.complete
    monkeypatch.setattr(Broken, "first", 3)  # nobody any more
    resumed = run(method, tmp_path / "run", {**FAST, **settings, "resume": True}, clients=3)
    assert same(resumed.model, whole.model) and resumed.results["privacy"] == whole.results["privacy"]
    assert (tmp_path / "run" / "journal.jsonl").read_text().count('"privacy"') == 3


def test_a_stage_that_is_run_again_is_booked_for_who_is_new_in_it() -> None:
    from fedwarm.codecs.dp_rec.account import Account, terms_of
    from fedwarm.codecs.dp_rec.booking import Open
    from fedwarm.codecs.dp_rec.settings import DpRec

    settings = DpRec(sigma=2.0, mechanism="gaussian")
    account, stage = Account.of(settings, terms_of(settings, 4, 2, 3), (100,)), Open()
    release = account.release((100,))
    stage.book(account, release, "round 1", (0, 1))
    again = Open()
    again.restore(stage.state())
    again.book(account, release, "round 1", (1, 2))
    again.book(account, release, "round 2", (0, 2))
    once, twice = Account.of(settings, account.terms, (100,)), Account.of(settings, account.terms, (100,))
    once.book(release, (0,))
    for _ in range(2):
        twice.book(release, (0,))
    assert account.spent.epsilon(0) == account.spent.epsilon(2) == twice.spent.epsilon(0)
    assert account.spent.epsilon(1) == once.spent.epsilon(0)


def test_what_clients_told_is_stated_where_a_run_breaks(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, "privacy": "dp-sgd", "dp-sgd.entropy": "seeded", "data.max-examples": 40}
    with pytest.raises(FederationError, match="round 2"):
        run("fedavg", tmp_path / "run", {**settings, **broken("BrokenButFirst")}, clients=2)
    entries = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    first = max(entry["epsilon"] for entry in entries if entry["round"] == 1)
    told = read_run(tmp_path / "run").epsilon
    assert told is not None and told > first > 0
