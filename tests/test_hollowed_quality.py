"""The quality benchmark: its measures on what is known, its table on figures that were kept, and what it refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fedwarm.settings.fields import SettingError
from tests.benches import FOLDER, loaded


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded(monkeypatch, "hollowed_quality")


@pytest.fixture
def digits(bench: ModuleType) -> ModuleType:
    return importlib.import_module("hollowed_digits")


def test_the_distance_of_known_clouds(digits: ModuleType) -> None:
    """Same cloud: 0; moved by v: |v|^2; stretched by s along all axes: (s - 1)^2 tr C."""
    cloud = np.random.default_rng(0).normal(size=(300, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    centred, move = cloud - cloud.mean(0), np.arange(5.0)
    assert digits.frechet(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert digits.frechet(cloud, cloud + move) == pytest.approx(30, rel=1e-6)
    assert digits.frechet(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(cloud, rowvar=False)), rel=1e-6)
    assert digits.frechet(cloud, centred[:40] * 2) == pytest.approx(digits.frechet(centred[:40] * 2, cloud), rel=1e-6)


@pytest.mark.long
def test_a_judge_reads_its_own_domain_and_its_features_are_84(digits: ModuleType) -> None:
    from fedwarm.data import load_shard
    from fedwarm.data.settings import Data
    from fedwarm.training.evaluate import correct

    shard = load_shard(Data(), 0, 0, 4)
    judge = digits.classifier(shard.train_images, shard.train_labels, 0)
    assert correct(judge, shard.test_images, shard.test_labels) / len(shard.test_labels) > 0.85
    assert digits.features(judge, shard.test_images).shape == (len(shard.test_labels), 84)
    images, labels = digits.some(shard, 10, 0)
    assert len(images) == 100 and set(torch.bincount(labels).tolist()) <= {8, 9, 10, 11, 12}


def test_kept_figures_make_the_table_and_are_not_run_again(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--out", str(tmp_path), "--seeds", "2", "--places", "ink,neon", "--rows", "none,full,0", "--steps", "3"]
    given = bench.arguments(argv)
    losses = {"none": 0.1, "full": 0.05, "0": 0.06}
    for seed in (0, 1):
        for place in ("ink", "neon"):
            for row, loss in losses.items():
                figures = {"judge": 0.5 + 0.2 * seed, "loss": loss * (1 + seed), "uplink_bytes": 1000.0}
                path = bench.path_of(given, (seed, place), row)
                path.write_text(json.dumps({"settings": bench.stated(given), "figures": figures}))
    assert bench.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    (hollowed,) = (line for line in lines if line.startswith("| hollowed, depth 0"))
    assert "| 60.0 ± 14.1 |" in hollowed and "| 1.200 ± 0.000 |" in hollowed and "| 80 ± 0 |" in hollowed
    assert any(line.startswith("- depth 0: loss at most 1.05 of full LoRA's: no (1.200)") for line in lines)
    assert bench.main([*argv[:-1], "4"]) == 2
    assert "made with other values of lora_steps; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--places", "snow"], "--places: no 'snow'; there are chalk, ink, neon, tilt"),
        (["--rows", "full,7"], "--rows: no '7'; there are real, none, full, 0, 1, 2, 3"),
        (["--dreambooth", "nowhere"], "--dreambooth needs --clip with the folder of its weights"),
        (["--foundation", "/no/such/folder"], "is neither a folder nor a Hub name"),
    ],
)
def test_refused_in_one_line(bench: ModuleType, argv: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(argv) == 2
    assert why in capsys.readouterr().err.strip().splitlines()[-1]


def test_weights_that_are_not_all_there_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    subjects = importlib.import_module("hollowed_subjects")
    model = ViTModel(ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16))
    short = {name: t for name, t in model.state_dict().items() if not name.startswith("embeddings.cls")}
    model.save_pretrained(tmp_path, state_dict=short)
    with pytest.raises(SettingError, match="--dino = .* lacks weights of a ViTModel, e.g. embeddings.cls_token"):
        subjects.whole(ViTModel, tmp_path, "--dino")


@pytest.mark.long
def test_the_memory_benchmark_counts_every_case() -> None:
    """Of the embedded net at batch 1: hollowed at depth 0 takes little more than its weights, and the order is the paper's."""
    command = [sys.executable, str(FOLDER / "hollowed_memory.py"), "--batch", "1", "--part", "count"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert list(told) == ["inference", "full", "lora-1", "lora-4", "lora-128", *(f"hollowed-{depth}" for depth in range(4))]
    assert told["hollowed-0"] <= 1.1 * told["inference"]
    assert told["hollowed-0"] < told["lora-1"] <= told["lora-4"] <= told["lora-128"] < told["full"]
