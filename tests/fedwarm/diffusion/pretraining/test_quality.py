"""Judges of what the embedded foundation draws: what they are trained on, and that the recorded figures are what they read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedwarm.diffusion.foundation import locate
from fedwarm.diffusion.pretraining.glyphs import CANVAS
from fedwarm.diffusion.pretraining.quality import judged, scan_masks


def test_scans_are_on_the_canvas_and_none_is_in_both_parts() -> None:
    known, kept = scan_masks(0)
    assert known.shape == (130, 10, CANVAS, CANVAS) and kept.shape == (44, 10, CANVAS, CANVAS)
    assert known.min() >= 0 and known.max() <= 1 and (known > 0.5).float().mean() > 0.05
    edge = torch.cat([known[..., :8, :], known[..., -8:, :]])
    assert edge.max() < 0.5, "as high as fonts' digits are"
    seen = {mask.numpy().tobytes() for mask in known.flatten(0, 1)}
    assert not seen & {mask.numpy().tobytes() for mask in kept.flatten(0, 1)}
    assert torch.equal(scan_masks(0)[0], known) and not torch.equal(scan_masks(1)[0], known)


@pytest.mark.long
def test_the_recorded_agreement_is_what_judges_read() -> None:
    """Judges of fonts, of real scans and of the data set `digits`, each of fewer pictures than the record's, and of images of
    another seed: 200 images, of which a share has a standard error of up to .035."""
    folder = Path(locate("glyph"))
    record = json.loads((folder / "recipe.json").read_text())["quality"]
    found = judged(folder, 1, pictures=6000, per_class=20)
    assert found["judge_on_rendered"] > 0.6 and found["scans_judge_on_scans"] > 0.6, "judges that can read"
    assert found["digits_judge_on_digits"] > 0.9
    for name in ("judge_on_drawn", "scans_judge_on_drawn", "digits_judge_on_drawn"):
        assert abs(found[name] - record[name]) < 0.15, (name, found, record)
