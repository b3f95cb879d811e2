"""The benchmark of families at full size, with a narrow SDXL: its pipeline is loaded, its adapter read by diffusers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benches import loaded


@pytest.mark.long
def test_a_narrow_pipeline_goes_all_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    families: Any = loaded(monkeypatch, "families")
    given = families.arguments(["--image-size", "64", "--precision", "fp32"])
    given.layout, given.work = "tiny", str(tmp_path)
    wrote, ours, plain = (part(given) for part in families.PARTS.values())
    assert wrote["bytes on disk"] >= 4 * sum(wrote["parameters"].values())
    assert ours["class"] == "StableDiffusionXLPipeline" and ours["adapter bytes"] > 4 * ours["adapter numbers"]
    assert plain["together"]["most"] <= 1 and plain["alone"]["most"] <= 1 and plain["without"]["most"] > 3
