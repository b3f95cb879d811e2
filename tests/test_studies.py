"""The studies of `benchmarks/studies`: each can be read, and its settings go together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedwarm.launch.study import LEAST_SEEDS
from fedwarm.launch.study_file import read_study
from fedwarm.settings.text import parse_overrides

STUDIES = sorted((Path(__file__).parents[1] / "benchmarks" / "studies").glob("*.toml"))
DECIDES = ("warmfed_steps",)  # what defaults become: at seeds of its own


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_read(path: Path) -> None:
    """With what its first lines say has to be given; enough seeds, none of them one that settings were chosen at."""
    text = path.read_text()
    assert f"fedwarm study benchmarks/studies/{path.name}" in text
    needs = re.findall(r"-c \"(data\.name|united\.of)='([^\"]*?)'", text)
    study = read_study(path, parse_overrides([f'{key}="{value}"' for key, value in dict(needs).items()]))
    assert len(study.seeds) >= LEAST_SEEDS and not {*study.seeds} & {*study.tuning}
    assert study.arm(study.baseline) and min(study.seeds) > (10 if path.stem in DECIDES else 20)
    chosen = [arm for arm in study.arms if arm.grid]
    assert all(len(choice) for arm in chosen for choice in arm.choices())


@pytest.mark.parametrize("name", DECIDES)
def test_what_decides_a_default_is_run_at_seeds_of_its_own(name: str) -> None:
    """At none that another study makes a table of."""
    seeds = {path.stem: {*tomllib.loads(path.read_text())["seeds"]} for path in STUDIES}
    others = set().union(*(found for stem, found in seeds.items() if stem != name))
    assert seeds[name] and not seeds[name] & others
