"""What only a CUDA GPU can show: the same bits twice by deterministic algorithms, clients that train together, half precision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.compute import repeatable
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.hours import pace_of
from fedwarm.diffusion.needs import plan
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuning import Tuning, tune_adapter
from fedwarm.settings.fields import Value
from tests.families import PIPELINES, SENTENCES, write_pipeline
from tests.runs import SMALL_WARMFED, Outcome, run, same

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
SMALL: dict[str, Value] = {
    "device": "cuda", "data.partition": "iid", "data.max-examples": 12, "batch-size": 8, "num-server-rounds": 5,
    "local-epochs": 1, "cnn.channels": 4,
}  # fmt: skip


def apart(one: Outcome, other: Outcome) -> float:
    """Relative distance of two models."""
    pairs = [(one.model[name].astype(float), other.model[name].astype(float)) for name in one.model]
    return math.sqrt(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


def test_clients_that_train_together_are_those_that_train_alone(tmp_path: Path) -> None:
    alone, first, second = (
        run("fedavg", tmp_path / name, {**SMALL, "cohort": size}, clients=10)
        for name, size in (("alone", 0), ("first", 5), ("second", 5))
    )
    assert apart(alone, first) < 1e-5
    assert same(first.model, second.model)
    assert first.results["device"]["cohort"] == 5 and first.results["device"]["repeats"]
    two = run("fedavg", tmp_path / "workers", {**SMALL, "cohort": 5}, clients=10, workers=2)
    assert same(first.model, two.model)


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fedsparse"])
def test_a_run_has_the_same_bits_twice(tmp_path: Path, method: str) -> None:
    first, second = (run(method, tmp_path / name, {**SMALL, "num-server-rounds": 2}) for name in ("first", "second"))
    assert same(first.model, second.model)


def test_warmfed_has_the_same_adapters_images_and_models_twice(tmp_path: Path) -> None:
    first, second = (run("warmfed", tmp_path / name, {**SMALL_WARMFED, "device": "cuda"}) for name in ("first", "second"))
    assert same(first.model, second.model)
    for name in ("pool/pool-0.safetensors", "adapters/client-0/pytorch_lora_weights.safetensors"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


@pytest.mark.parametrize("kind", PIPELINES)
def test_every_family_is_tuned_and_draws_in_its_own_precision(tmp_path: Path, kind: str) -> None:
    """bf16 where the card has it, else fp16; net and autoencoder are back on the card; twice the same bits."""
    folder = write_pipeline(kind, tmp_path / kind)
    settings = Diffusion(
        foundation=str(folder), scheduler="foundation", lora_steps=4, lora_batch_size=2, sample_steps=2, lora_learning_rate=1e-4
    )
    foundation = load_foundation(settings, "cuda")
    assert foundation.dtype in (torch.bfloat16, torch.float16)
    pictures = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tuning = Tuning(foundation, pictures, torch.arange(6) % 3, SENTENCES, settings, 0, 0)
    with repeatable(True):
        first, second = (tune_adapter(tuning) for _ in range(2))
        drawn = [sample(foundation, SENTENCES, [1, 2, 3], settings, 32) for _ in range(2)]
    assert same({n: t.numpy() for n, t in first.items()}, {n: t.numpy() for n, t in second.items()})
    assert torch.equal(*drawn)
    encoders = [getattr(foundation.pipe, name) for name in foundation.family.encoders]
    assert all(p.device.type == "cuda" for model in (foundation.net, foundation.pipe.vae) for p in model.parameters())
    assert all(p.device.type == "cpu" for model in encoders for p in model.parameters())


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_plan_is_counted_and_timed_on_the_card(tmp_path: Path, kind: str) -> None:
    folder = write_pipeline(kind, tmp_path / kind)
    config = parse(
        {"method": "warmfed", "device": "cuda", "diffusion.foundation": str(folder), "diffusion.scheduler": "foundation"}
    )
    found = pace_of(config)
    assert found is not None and found.step > 0 and found.image > 0
    assert "GB of cuda" in plan(config, CUDA, 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_cards_draw_what_one_draws(tmp_path: Path) -> None:
    """Of one model of card, each client's images are the same wherever they are drawn."""
    both = run("warmfed", tmp_path / "both", {**SMALL_WARMFED, "device": "cuda"}, workers=2)
    one = run("warmfed", tmp_path / "one", {**SMALL_WARMFED, "device": "cuda"})
    assert same(both.model, one.model)
