"""dp-rec.mechanism = 'server': rounded updates, whose noise a trusted server adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedwarm.codecs.dp_rec.plan import codec_of, run_number
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.layout import Layout
from fedwarm.coding.replay import Sum
from fedwarm.coding.streams import Stream
from fedwarm.core.seeds import derive
from fedwarm.flower.wire import from_records
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.events import AtServer, Gaussian
from fedwarm.privacy.views import Terms
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import SettingError, Value
from tests.runs import Outcome, run

SIGMA, CLIENTS, BITS = 0.3, 6, 3
SETTINGS: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 8, "server-threads": 1,
    "model.name": "logistic", "dp-rec.clip": 1.0, "dp-rec.sigma": SIGMA,
    "dp-rec.mechanism": "server", "dp-rec.bits": BITS,
    "dp-rec.view": "central_certified", "dp-rec.entropy": "seeded", "fraction-train": 0.5, "min-replies": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("dp_rec", tmp_path_factory.mktemp("server") / "run", SETTINGS, clients=CLIENTS)


def test_its_account_is_that_of_the_gaussian_mechanism_and_without_the_server_there_is_none() -> None:
    terms = Terms("central_certified", 1e-5, 1000, 100, 50)
    assert terms.epsilon(AtServer(4.0)) == terms.epsilon(Gaussian(4.0))
    account = Accountant(1e-5)
    account.spend(AtServer(1e-3))
    assert account.epsilon() == np.inf == Accountant.from_state(account.state()).epsilon()


def test_the_model_moves_by_the_clipped_sum_and_the_noise_of_all_slots(outcome: Outcome) -> None:
    sent = [from_records(message.content) for message in outcome.asked("round")]
    rows = [row for row in outcome.ledger if row["stage"] == "round"]
    own = replace(DpRec(), mechanism="server", view="central_certified", sigma=SIGMA, bits=BITS)
    layout = Layout.of(sent[0].arrays)
    codec = codec_of(own, layout.sizes, SIGMA)
    master = derive(0, "dp-rec", "secret").to_bytes(16, "little")
    total = np.zeros(layout.total)
    for row, answer in zip(rows, outcome.answered("round"), strict=True):
        if row["round"] == 1:
            words = from_records(answer.content).arrays["words"].tobytes()
            assert len(words) == codec.words_bytes
            decoded = codec.decode(words, Stream.under(master, run_number(0), 1, row["client"]))
            assert np.linalg.norm(decoded) <= 1 + 1e-6
            total += decoded
    after = next(p.arrays for p, r in zip(sent, rows, strict=True) if r["round"] == 2)
    noise = 3 * layout.difference(after, sent[0].arrays) - total
    slots = Terms("central_certified", 1e-5, CLIENTS, 3, 2).slots.count
    assert noise.std() == pytest.approx(SIGMA * np.sqrt(slots), rel=4 / np.sqrt(2 * layout.total))


def test_noise_that_is_added_is_that_of_so_many_updates() -> None:
    own = replace(DpRec(), mechanism="server", view="central_certified", sigma=SIGMA, bits=BITS)
    total = Sum(codec_of(own, (4000,), SIGMA), 0, 1, b"secret of a run.")
    total.add_noise(9, np.random.default_rng(0).bytes)
    assert total.mean(1).std() == pytest.approx(3 * SIGMA, rel=0.05)


def test_where_it_hides_nothing_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="'server' hides nothing from the server, which adds the noise; set dp-rec.view"):
        run("dp_rec", tmp_path / "local", {**SETTINGS, "dp-rec.view": "local"}, clients=CLIENTS)
    with pytest.raises(SettingError, match="'server' takes 2 to 16"):
        run("dp_rec", tmp_path / "bits", {**SETTINGS, "dp-rec.bits": 1}, clients=CLIENTS)
    with pytest.raises(FederationError, match="need messages with a price of their own, not server"):
        run("dp_rec", tmp_path / "x", {**SETTINGS, "dp-rec.entropy": "system", "limits.least-noise": 0.1}, clients=CLIENTS)
