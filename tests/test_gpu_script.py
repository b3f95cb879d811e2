"""The script of GPU measurements, tried on the CPU at sizes that mean nothing: where a GPU is, minutes are short."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benches import loaded


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(monkeypatch, "gpu")


def asked(**more: Any) -> argparse.Namespace:
    given = {"device": "cpu", "toy": True, "pairs": 1, "layouts": ["tiny"], "precision": "fp32", "clients": 4, "data": "digits"}
    return argparse.Namespace(**given | more)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_of_an_adapter_are_timed_beside_those_of_before(gpu: Any, precision: str) -> None:
    found = gpu.STEPS["lora"][0](asked(precision=precision))
    assert list(found) == ["tiny, batch 1", "tiny, batch 4"]
    for row in found.values():
        assert row["seconds a step"] > 0 and all(row[f"{name} / now"][0] > 0 for name in ("plain AdamW", "as it was"))


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1), ("bf16", 16)])
def test_drawing_is_timed_beside_the_same_images_of_diffusers(gpu: Any, precision: str, apart: int) -> None:
    """Diffusers rounds latents between steps in half precision."""
    found = gpu.STEPS["drawing"][0](asked(precision=precision))["tiny"]
    assert found["most grey levels apart"] <= apart
    middle, least, most = found["ours / theirs"]
    assert 0 < least <= middle <= most and len(found["seconds"]["theirs"]) == 1


@pytest.mark.long
def test_each_step_has_a_line_versions_and_an_end(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is done, the other is not done in its time: the command goes on, and says so."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setitem(gpu.STEPS, "optimiser", (gpu.optimiser, 0.01))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "optimiser", "coder", "--device", "cpu", "--toy", "--pairs", "1"])
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["card"] == "cpu" and {"python", "torch", "cuda", "diffusers", "flwr"} <= set(found)
    assert found["optimiser"] == {"failed": "not done in 0.01 s"}
    assert all(math.isfinite(found["coder"][name]) for name in ("encode / draw K d", "decode / draw d", "decode / draw K d"))


def test_an_unknown_step_is_refused_with_those_that_there_are(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "lorra", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "there is no step 'lorra'; choose some of loop, stack, lora, drawing" in capsys.readouterr().err
