"""Widths are measured on test images, and know nothing of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import generator, initialisation
from fedwarm.core.stages import Stage
from fedwarm.data import Shard
from fedwarm.measures._final import FinalServer
from fedwarm.measures.densities import DensitiesServer
from fedwarm.measures.widths import NAME, WidthsClient, WidthsServer
from fedwarm.quantize.sweep import right_answers
from fedwarm.training.evaluate import predict

CONFIG = parse({"method": "fedavg", "evaluate.bit-widths": "3"})


@dataclass
class Holder:
    """A client, as far as the measure asks for one."""

    real: Shard
    net: nn.Module

    def model(self, payload: Payload | None = None, plain: bool = False) -> Any:
        return self.net


@pytest.fixture(scope="module")
def holder() -> Holder:
    """A client whose training images are dim and whose test images are bright; the labels are what the model sees in them."""
    draws = generator(0, "widths")
    dim, bright = (torch.randint(0, top, (60, 3, 8, 8), generator=draws, dtype=torch.uint8) for top in (40, 256))
    with initialisation(0, "widths"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    labels = predict(net, bright).argmax(1)
    return Holder(Shard(dim, torch.zeros(60, dtype=torch.long), bright, labels, tuple("0123456789")), net)


def told(holder: Holder, tests: slice) -> dict[str, int | float]:
    shard = holder.real
    some = replace(shard, test_images=shard.test_images[tests], test_labels=shard.test_labels[tests])
    return WidthsClient(CONFIG).answer(NAME, Payload(metrics={"round": 1}), Holder(some, holder.net)).metrics


def test_activations_have_the_ranges_of_training_images(holder: Holder) -> None:
    shard = holder.real
    wanted, peeked = (
        right_answers(holder.net, [3], shard.test_images, shard.test_labels, images)
        for images in (shard.train_images, shard.test_images)
    )
    found = told(holder, slice(None))
    assert {name.removeprefix("correct-"): n for name, n in found.items() if name.startswith("correct-")} == wanted != peeked


def test_each_test_image_is_answered_whatever_the_others_are(holder: Holder) -> None:
    whole, parts = told(holder, slice(None)), [told(holder, slice(i, i + 10)) for i in range(0, 60, 10)]
    assert whole == {name: sum(part[name] for part in parts) for name in whole}


@pytest.mark.parametrize("server", [WidthsServer(["w4"]), DensitiesServer(["density-.5"])])
def test_that_nobody_answered_is_noted(server: FinalServer) -> None:
    record = Mock()
    server.finish(Stage(1, server.name, clients=(0, 1)), {}, [None, None], record)
    record.note.assert_called_once_with(f"{server.name} were not measured: none of 2 clients answered; the log says why")
    answered = Mock()
    server.finish(Stage(1, server.name, clients=(0, 1)), {0: Payload(metrics={"num-test": 0})}, [None, None], answered)
    answered.note.assert_not_called()
