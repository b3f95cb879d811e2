"""Federated SimCLR's rounds: whose row is whose, what travels, what is measured, and what follows from its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload
from fedwarm.settings.fields import Value
from strategies.fed_simclr import FedSimClr
from tests.runs import Outcome, action_of, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 8, "model.name": "cnn",
    "learning-rate": 0.05, "batch-size": 8, "server-threads": 1, "contrast.width": 16, "data.test-fraction": 0.05,
}  # fmt: skip
HALF: dict[str, Value] = {**SMALL, "fraction-train": 0.5}
Array = NDArray[Any]
FEATURES, WIDTH, CLIENTS = 32 * 2 * 2, 16, 4


def arrays(message: Any) -> dict[str, Array]:
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def rounds(outcome: Outcome, number: int) -> list[tuple[int, dict[str, Array], dict[str, Array]]]:
    """(row, what it was sent, what it answered) of each client of a round, in the order of the rows."""
    asked = [m for m in outcome.messages if action_of(m) == "round" and m.content["metrics"]["round"] == number]
    answers = {reply.metadata.reply_to_message_id: reply for reply in outcome.replies}
    return sorted(
        ((int(m.content["metrics"]["place"]), arrays(m), arrays(answers[m.metadata.message_id])) for m in asked),
        key=lambda t: t[0],
    )


def payload(found: dict[str, Array]) -> int:
    return sum(array.nbytes for array in found.values())


@pytest.mark.parametrize("rows", ["own_row", "full"])
def test_a_row_is_its_clients_upload_and_rows_of_the_absent_stay(rows: str, tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**HALF, "fed-simclr.rows": rows}, clients=CLIENTS)
    first, after = rounds(outcome, 1), rounds(outcome, 2)[0][1]["heads/rows"]
    before = first[0][1]["heads/rows"]
    for client, _, answer in first:
        uploaded = answer["heads/rows"]
        assert uploaded.shape == ((1, FEATURES) if rows == "own_row" else (CLIENTS, FEATURES))
        assert np.array_equal(after[client], uploaded[0 if rows == "own_row" else client])
        assert not np.array_equal(after[client], before[client])
    absent = [k for k in range(CLIENTS) if k not in [client for client, _, _ in first]]
    assert len(absent) == 2 and np.array_equal(after[absent], before[absent])


def test_averaged_rows_are_fedavgs(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**HALF, "fed-simclr.rows": "average"}, clients=CLIENTS)
    told = [answer["heads/rows"].astype(np.float64) for _, _, answer in rounds(outcome, 1)]
    mean = (sum(12.0 * rows for rows in told) / 24.0).astype(np.float32)
    assert np.array_equal(rounds(outcome, 2)[0][1]["heads/rows"], mean)


def test_sampled_rows_are_those_of_the_round(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**HALF, "fed-simclr.rows": "sampled"}, clients=CLIENTS)
    asked = rounds(outcome, 1)
    assert [place for place, _, _ in asked] == [0, 1]
    assert all((down["heads/rows"].shape, up["heads/rows"].shape) == ((2, FEATURES), (1, FEATURES)) for _, down, up in asked)
    assert "bound" not in outcome.results["measures"]["bound"]["rounds"][-1]


def test_with_codes_nothing_of_the_rows_travels_and_the_bound_is_measured(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**SMALL, "fed-simclr.rows": "codes"}, clients=CLIENTS)
    assert not [m for m in (*outcome.messages, *outcome.replies) if "heads/rows" in arrays(m)]
    assert "bound" in outcome.results["measures"]["bound"]["rounds"][-1]


@pytest.mark.parametrize("labelled", [0.0, 0.5])
def test_the_bytes_are_those_of_the_formula(labelled: float, tmp_path: Path) -> None:
    """4 (encoder + projector + S d + C d) down; with labels a row is longer by the classes; up it is the client's own."""
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "fed-simclr.labelled": labelled}
    outcome = run("fed_simclr", tmp_path / "run", settings, clients=CLIENTS)
    encoder = 3 * 16 * 25 + 16 + 16 * 32 * 25 + 32
    projector = FEATURES * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
    row, label = (FEATURES + 10, 10 * FEATURES) if labelled else (FEATURES, 0)
    for _, down, up in rounds(outcome, 1):
        assert payload(down) == 4 * (encoder + projector + CLIENTS * row + label)
        assert payload(up) == 4 * (encoder + projector + row + label)


def test_what_is_measured_by_round(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", SMALL, clients=CLIENTS)
    found = outcome.results["measures"]["bound"]["rounds"]
    assert [entry["round"] for entry in found] == [1, 2]
    for entry in found:
        assert entry["bound"] == pytest.approx(entry["within"] + entry["first"] + entry["second"])
        assert 0 <= entry["client_accuracy"] <= 1 and entry["first"] <= np.log(CLIENTS) and entry["second"] <= 0
        assert entry["within"] <= np.log(15) and entry["uniformity"] <= 0 <= entry["alignment"]
    assert 0 < outcome.results["final"]["global"]["accuracy"] <= 1


def test_the_bound_takes_clients_by_their_images() -> None:
    """Three images here and one there: means weigh so, and H(s) is the entropy of 3/4 and 1/4."""
    server = FedSimClr(parse({"method": "fed_simclr"}))
    parts = {"alignment": 0.0, "uniformity": 0.0, "correct-client": 1}
    for client, (images, within, first, second) in enumerate(((3, 1.0, -0.2, -0.4), (1, 2.0, -0.6, -1.2))):
        told = {"num-test": images, "bound-images": images, "within": within, "first": first, "second": second}
        server.told[client] = Payload(metrics={**told, **parts})
    found, entropy = server.measured(), 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    assert found["within"] == pytest.approx(1.25) and found["client_accuracy"] == 0.5
    assert found["bound"] == pytest.approx(1.25 + entropy - 0.3 - 0.6)


def test_alone_nothing_is_shared_and_each_client_has_an_encoder(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**SMALL, "fed-simclr.alone": True}, clients=2)
    assert not [m for m in (*outcome.messages, *outcome.replies) if arrays(m)]
    assert outcome.results["final"]["personal"] is not None and outcome.results["totals"]["bytes_up"] == 0


def test_its_encoder_starts_another_method(tmp_path: Path) -> None:
    learned = run("fed_simclr", tmp_path / "learned", SMALL, clients=2)
    start = str(tmp_path / "learned" / "model.safetensors")
    for train in ("all", "head"):
        given: dict[str, Value] = {**SMALL, "model.weights": start, "model.train": train, "num-server-rounds": 1}
        after = run("fedavg", tmp_path / train, given, clients=2)
        begun, ended = arrays(next(m for m in after.messages if action_of(m) == "round")), after.model
        begun = {name.removeprefix("fixed/"): array for name, array in begun.items()}
        head = {name for name in begun if begun[name].shape != learned.model[name].shape}
        assert len(head) == 2 and all(np.array_equal(begun[n], learned.model[n]) for n in begun.keys() - head)
        assert same({n: ended[n] for n in begun.keys() - head}, {n: begun[n] for n in begun.keys() - head}) is (train == "head")


@pytest.mark.long
@pytest.mark.parametrize(
    "more", [{}, {"fed-simclr.alone": True}, {"codec": "stochastic-rounding", "fed-simclr.rows": "average"}], ids=str
)
def test_a_longer_run_goes_on_to_the_same_end(more: dict[str, Value], tmp_path: Path) -> None:
    whole = run("fed_simclr", tmp_path / "whole", {**HALF, **more}, clients=3)
    for number in (1, 2):
        given = {**HALF, **more, "num-server-rounds": number, "resume": number == 2}
        parts = run("fed_simclr", tmp_path / "parts", given, clients=3)
    if "fed-simclr.alone" not in more:
        assert same(parts.model, whole.model)
    assert parts.results["final"] == whole.results["final"] and parts.results["measures"] == whole.results["measures"]


@pytest.mark.parametrize("codec", ["stochastic-rounding", "top-k"])
def test_replies_without_arrays_are_not_coded(codec: str, tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**HALF, "num-server-rounds": 1, "codec": codec}, clients=CLIENTS)
    assert not [line["failure"] for line in outcome.ledger if line["failure"]]
    assert outcome.results["final"]["global"]["accuracy"] > 0


def test_what_top_k_keeps_of_rows_is_of_the_clients_own(tmp_path: Path) -> None:
    """Cohorts of a client differ by round, and so do the rows beside its own."""
    run("fed_simclr", tmp_path / "run", {**HALF, "fed-simclr.rows": "sampled", "codec": "top-k"}, clients=CLIENTS)
    kept = sorted((tmp_path / "run" / "clients").glob("*/*/top-k-residual-round.*.safetensors"))
    assert kept and all(load_file(path)["heads/rows"].shape == (FEATURES,) for path in kept)


def test_rounded_rows_travel(tmp_path: Path) -> None:
    outcome = run("fed_simclr", tmp_path / "run", {**HALF, "codec": "stochastic-rounding"}, clients=CLIENTS)
    assert outcome.results["complete"] and outcome.results["totals"]["bytes_up"] < outcome.results["totals"]["bytes_down"]


def test_workers_give_the_same_model(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "fed-simclr.labelled": 0.5, "contrast.loss": "infonce"}
    one, two = (run("fed_simclr", tmp_path / str(n), settings, clients=2, workers=n) for n in (1, 2))
    assert same(one.model, two.model)
