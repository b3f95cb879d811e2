"""dp-rec.mechanism = 'poisson' in whole runs: its messages, its account beside the Gaussian mechanism's, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients import trainer_class
from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.account import Account, terms_of
from fedwarm.codecs.dp_rec.plan import codec_of, run_number
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.layout import Layout
from fedwarm.coding.poisson import PoissonCodec
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import from_module
from fedwarm.core.payload import Payload
from fedwarm.core.refusals import RefusalError
from fedwarm.core.seeds import derive
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.models import Model, build_model
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.events import Gaussian, Sampled, Simulated
from fedwarm.privacy.views import TOLERATED, Terms
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import SettingError, Value
from tests.runs import Outcome, run

SIGMA, CLIENTS = 0.3, 6
SETTINGS: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 8, "server-threads": 1,
    "model.name": "logistic", "dp-rec.clip": 1.0, "dp-rec.sigma": SIGMA,
    "dp-rec.mechanism": "poisson", "dp-rec.view": "central_certified",
    "dp-rec.entropy": "seeded", "fraction-train": 0.5, "min-replies": 1,
}  # fmt: skip
TERMS = Terms("central_certified", 1e-5, 1000, 100, 50)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("dp_rec", tmp_path_factory.mktemp("poisson") / "run", SETTINGS, clients=CLIENTS)


def test_the_account_is_that_of_the_gaussian_mechanism_at_a_little_less_delta() -> None:
    """Sum of the slots' noises; what is set aside for laws that are only nearly so is a hundredth of delta."""
    release = Simulated(4.0)
    wanted = Accountant(TERMS.delta * (1 - TOLERATED), reserve=TERMS.slots.overflow)
    wanted.spend(Sampled(Gaussian(4.0 / TERMS.slots.count), TERMS.rate), times=TERMS.rounds)
    assert TERMS.epsilon(release) == pytest.approx(wanted.epsilon(), rel=1e-9)
    assert 1 < TERMS.epsilon(release) / TERMS.epsilon(Gaussian(4.0)) < 1.002


def test_what_all_messages_may_differ_by_is_paid_for() -> None:
    """(1 + e^epsilon) n T tolerances are the share of delta that is set aside for them."""
    release = Simulated(4.0)
    paid = (1 + np.exp(TERMS.epsilon(release))) * TERMS.slots.count * TERMS.rounds * TERMS.tolerance(release)
    assert paid == pytest.approx(TOLERATED * TERMS.delta)
    assert TERMS.tolerance(Gaussian(4.0)) == 0


def test_an_epsilon_that_messages_are_not_exact_enough_for_is_not_promised() -> None:
    """Beyond epsilon 40 (1 + e^epsilon) n T tolerances would be more of delta than is set aside."""
    assert 28 < TERMS.epsilon(Simulated(600.0)) < 40 and TERMS.epsilon(Simulated(700.0)) == np.inf
    with pytest.raises(SettingError, match="proven epsilon up to 40 alone"):
        TERMS.tolerance(Simulated(700.0))
    assert 41 < TERMS.epsilon(Gaussian(700.0)) < np.inf


def test_against_those_who_know_the_candidates_it_has_no_price() -> None:
    account = Accountant(1e-5)
    account.spend(Simulated(1e-3))
    assert account.epsilon() == np.inf == Accountant.from_state(account.state()).epsilon()
    assert Terms("local", 1e-5, 10, 10, 1).epsilon(Simulated(1e-3)) == np.inf


@pytest.mark.parametrize(("method", "settings"), [("dp_rec", {}), ("fedavg", {"codec": "dp-rec"})])
def test_the_local_view_is_refused_by_name(tmp_path: Path, method: str, settings: dict[str, Value]) -> None:
    with pytest.raises(SettingError, match=r"dp-rec\.mechanism = 'poisson' .*central_certified|needs method = 'dp_rec'"):
        run(method, tmp_path / "run", {**settings, "dp-rec.mechanism": "poisson", "dp-rec.view": "local"}, clients=2)


def test_blocks_that_take_too_long_are_refused_before_the_run(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SETTINGS, "dp-rec.block-rule": "per_tensor"}
    with pytest.raises(SettingError, match=r"takes more than 1048576 candidates; .*dp-rec\.block-norm"):
        run("dp_rec", tmp_path / "run", settings, clients=CLIENTS)


def test_all_messages_are_equally_long_and_short(outcome: Outcome) -> None:
    words = [from_records(reply.content).arrays["words"] for reply in outcome.answered("round")]
    assert len(words) > CLIENTS and len({w.size for w in words}) == 1
    size = Layout.of(outcome.model).total
    assert words[0].size < size / 8, "32 times shorter than the update at least"
    assert {tuple(from_records(r.content).metrics) for r in outcome.answered("round")} == {()}


def test_the_model_moves_by_what_the_words_say(outcome: Outcome) -> None:
    """Two rounds' difference by hand: the cohort's vectors and nobody's, over the planned cohort."""
    sent = [from_records(message.content) for message in outcome.asked("round")]
    rows = [row for row in outcome.ledger if row["stage"] == "round"]
    answers = zip(rows, outcome.answered("round"), strict=True)
    first = {r["client"]: from_records(a.content).arrays["words"].tobytes() for r, a in answers if r["round"] == 1}
    own = replace(DpRec(), mechanism="poisson", view="central_certified", sigma=SIGMA, entropy="seeded")
    account = Account.of(own, terms_of(own, CLIENTS, 3, 3), ())
    assert sent[0].metrics["tolerance"] == account.tolerance > 0
    before = sent[0].arrays
    after = next(p.arrays for p, r in zip(sent, rows, strict=True) if r["round"] == 2)
    layout = Layout.of(before)
    codec = codec_of(own, layout.sizes, SIGMA, None, account.tolerance)
    assert isinstance(codec, PoissonCodec)
    master = derive(0, "dp-rec", "secret").to_bytes(16, "little")
    slots = account.terms.slots.count
    messages = {**first, **{CLIENTS + i: codec.absent() for i in range(slots - len(first))}}
    total = sum(codec.decode(words, Stream.under(master, run_number(0), 1, client)) for client, words in messages.items())
    np.testing.assert_allclose(layout.difference(after, before), total / 3, atol=1e-5)


def test_what_a_run_says_of_its_privacy(outcome: Outcome) -> None:
    told = outcome.results["privacy"]
    assert told["mechanism"] == "poisson" and told["view"] == "central_certified" and told["adjacency"] == "zero_out"
    assert told["certified"] is False, "its draws are seeded"
    gaussian = Terms("central_certified", 1e-5, CLIENTS, 3, 3).epsilon(Gaussian(SIGMA**-2))
    assert gaussian < told["epsilon"] < 1.002 * gaussian


@pytest.mark.parametrize("told", [{}, {"tolerance": 0.5}, {"tolerance": -1.0}])
def test_a_tolerance_that_delta_does_not_allow_is_refused_by_the_client(tmp_path: Path, told: dict[str, float]) -> None:
    config = parse({**SETTINGS, "method": "dp_rec"})
    client = trainer_class("dp_rec")(config, Node(0, CLIENTS, Store(tmp_path, "a1", 0)))
    weights = from_module(build_model(config.of(Model), 10, config.of(Data).image_size, 0))
    with pytest.raises(RefusalError, match="allows a tolerance of 3.33e-08 at most, the server names"):
        client.answer("round", Payload("weights", weights, {"round": 1, "sigma": SIGMA, **told}, {"secret": "", "rotation": ""}))


def test_a_node_that_counts_over_all_runs_refuses_what_has_no_price(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="need messages with a price of their own, not poisson"):
        run("dp_rec", tmp_path / "run", {**SETTINGS, "dp-rec.entropy": "system", "limits.most-epsilon": 50.0}, clients=CLIENTS)
