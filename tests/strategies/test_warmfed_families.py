"""WarmFed whole, with a tiny foundation of each family that is not the usual one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.families import PIPELINES, write_pipeline
from tests.runs import SMALL_WARMFED, run


@pytest.mark.long
@pytest.mark.parametrize("name", PIPELINES[1:])
def test_a_run_draws_from_adapters_of_its_family(name: str, tmp_path: Path) -> None:
    folder = write_pipeline(name, tmp_path / "foundation")
    given = {**SMALL_WARMFED, "data.max-examples": 12, "diffusion.foundation": str(folder)}
    done = run("warmfed", tmp_path / "run", given, clients=2)
    assert done.results["complete"] and not any(entry["failure"] for entry in done.ledger)
    pool = load_file(tmp_path / "run" / "pool" / "pool-0.safetensors")
    assert set(pool["clients"].tolist()) == {0, 1} and pool["images"].float().std() > 1
    net = "unet." if "XL" in name else "transformer."
    for client in range(2):
        saved = load_file(tmp_path / "run" / "adapters" / f"client-{client}" / "pytorch_lora_weights.safetensors")
        assert saved and all(key.startswith(net) for key in saved)
    again = run("warmfed", tmp_path / "again", {**given, "warmfed.adapters": str(tmp_path / "run" / "adapters")}, clients=2)
    drawn = load_file(again.folder / "pool" / "pool-0.safetensors")
    assert all(torch.equal(drawn[part], pool[part]) for part in pool)
