"""SSFL: the scores of weights, the mask that all clients share, and its limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import clients.ssfl
from fedwarm.methods.ssfl import saliency
from fedwarm.settings.fields import Value
from fedwarm.sparse.magnitude import density_of, largest
from fedwarm.tasks import made
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "model.name": "lenet5",
    "fraction-train": 0.5,
}  # fmt: skip


def test_scores_are_what_the_loss_changes_by() -> None:
    """|dL/dc w| for w -> c w at c = 1, by differences."""

    class Double(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = super().forward(x.double())
            return found

    model = Double(nn.Flatten(), nn.Linear(12, 3)).double()
    images, labels = torch.randint(0, 256, (5, 3, 2, 2)).to(torch.uint8), torch.tensor([0, 1, 2, 0, 1])
    found = saliency(model, images, labels, made(), torch.Generator())
    weight = model.get_submodule("1").get_parameter("weight")

    def loss(factor: float) -> float:
        with torch.no_grad():
            old = weight[1, 3].item()
            weight[1, 3] = factor * old
            value = made().loss(model(images.float() / 127.5 - 1), labels).item()
            weight[1, 3] = old
        return value

    assert found["1.weight"][1, 3].item() == pytest.approx(abs(loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5, rel=1e-4)


def test_the_mask_has_the_largest_scores() -> None:
    scores = {"a": np.array([[4.0, 1.0], [3.0, 0.0]]), "b": np.array([0.0]), "c": np.array([[2.0, 5.0, 0.5]])}
    masks = largest(scores, 0.5)  # 4 of 8 numbers, one of them the vector's
    assert masks["a"].tolist() == [[True, False], [True, False]] and masks["b"].all()
    assert masks["c"].tolist() == [[False, True, False]]


def test_with_all_weights_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    ours = run("ssfl", tmp_path / "ours", {**SMALL, "ssfl.density": 1.0})
    assert same(ours.model, run("fedavg", tmp_path / "plain", SMALL).model)


def test_what_travels_and_what_is_left(tmp_path: Path) -> None:
    """Scores once, the mask in a client's first round, then the weights within it; a resumed run is the same."""
    settings: dict[str, Value] = {**SMALL, "ssfl.density": 0.3}
    whole = run("ssfl", tmp_path / "whole", settings)
    total, first = 15926, set()
    values = 4 * round(0.3 * total)
    for line in whole.ledger:
        if line.get("stage") == "saliency":
            assert line["payload_bytes_up"] == line["payload_bytes_down"] == 4 * total
        if line.get("stage") == "round":
            told = 0 if line["client"] in first else -(-total // 8)
            first.add(line["client"])
            assert (line["payload_bytes_up"], line["payload_bytes_down"]) == (values, values + told)
    assert density_of(whole.model) == pytest.approx(0.3, abs=0.001)
    run("ssfl", tmp_path / "part", {**settings, "num-server-rounds": 2})
    assert same(run("ssfl", tmp_path / "part", {**settings, "resume": True}).model, whole.model)


def test_scores_are_of_images_of_all_classes_and_of_no_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images of many that lie class by class; a model with dropout is scored alike, whatever the process drew before."""
    seen: list[torch.Tensor] = []
    true = clients.ssfl.saliency

    def watched(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *rest: Any) -> dict[str, torch.Tensor]:
        seen.append(labels)
        return true(model, images, labels, *rest)

    monkeypatch.setattr(clients.ssfl, "saliency", watched)
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "data.max-examples": 0, "model.name": "mlp"}
    settings |= {"ssfl.images": 40, "data.image-size": 8}
    run("ssfl", tmp_path / "run", settings, clients=2)
    for labels in seen:
        assert len(labels) == 40 and len(labels.unique()) == 10
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    images, labels = torch.randint(0, 256, (5, 3, 2, 2)).to(torch.uint8), torch.tensor([0, 1, 2, 0, 1])
    scores = []
    for _ in range(2):
        torch.rand(3)
        scores.append(saliency(model, images, labels, made(), torch.Generator().manual_seed(3))["2.weight"])
    assert torch.equal(*scores)


def test_a_client_that_lost_the_mask_is_sent_it_when_asked_again(tmp_path: Path) -> None:
    place, settings = tmp_path / "run", {**SMALL, "num-server-rounds": 1, "fraction-train": 1.0}
    run("ssfl", place, settings, clients=2)
    kept = sorted((place / "clients").glob("*/*/mask.*"))
    assert len(kept) == 2
    kept[0].unlink()
    again = run("ssfl", place, {**settings, "num-server-rounds": 2, "resume": True}, clients=2)
    asked = [(line["client"], line["failure"]) for line in again.ledger if line["stage"] == "round" and line["round"] == 2]
    refused, *valid = sorted(asked, key=lambda each: not each[1])
    assert refused[0] == 0 and "does not hold the mask" in refused[1] and sorted(valid) == [(0, ""), (1, "")]
