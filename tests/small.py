"""A small run of each method, and whether runs on several engines are the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fedwarm.settings import kinds
from fedwarm.settings.fields import Value
from tests.runs import SMALL_WARMFED

FAST: dict[str, Value] = {
    "num-server-rounds": 2,
    "local-epochs": 1,
    "data.max-examples": 40,
    "data.image-size": 16,
    "server-threads": 1,
}


def text(settings: dict[str, Value]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


OWN: dict[str, dict[str, Value]] = {
    "partitioned_hpo": {**FAST, "partitioned-hpo.chunks": 2},  # one client each
    "fedavg": {**FAST, "robust.rule": "trimmed_mean", "robust.clip-norm": 2.0},
    "scaffold": {**FAST, "fraction-train": 0.5},
    "quantization_robust": {**FAST, "quantization-robust.variant": "qat", "quantization-robust.range": "learned"},
    "dp_rec": {**FAST, "dp-rec.bits": 3, "dp-rec.entropy": "seeded", "dp-rec.downlink": "replay"},
    "gen_fedsd": {**FAST, "gen-fedsd.steps": 1, "gen-fedsd.cap": 0.5},
    "warmfed": SMALL_WARMFED,
}
METHODS: dict[str, dict[str, Value]] = {name: OWN.get(name, FAST) for name in kinds.METHODS}


def kept(folder: Path) -> dict[str, str]:
    """A digest of each file of tensors that a run leaves: models, adapters, pictures, its checkpoint; not what clients keep."""
    found = (path for path in folder.rglob("*.safetensors") if "clients" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def alike(folders: list[Path]) -> bool:
    """Whether runs left the same files, and the same accuracies."""
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert all(r["final"] == results[0]["final"] for r in results)
    assert all(r["totals"]["bytes_up"] == results[0]["totals"]["bytes_up"] for r in results)
    return all(kept(folder) == kept(folders[0]) for folder in folders)
