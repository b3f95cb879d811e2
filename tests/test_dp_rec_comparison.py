"""The federated comparison: its arms differ in what leaves a client alone, its figures are the runs', and none is run twice."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.account import terms_of
from fedwarm.codecs.dp_rec.plan import codec_of, release_of, sigma_of
from fedwarm.codecs.dp_rec.settings import BLOCKWISE, DpRec, validated
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model
from fedwarm.settings.fields import SettingError

PATH = Path(__file__).parents[1] / "benchmarks" / "dp_rec.py"
CLASSES = {"mnist": 10, "femnist": 62}
HEADER_BYTES = 128


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    found = importlib.util.spec_from_file_location("dp_rec_comparison", PATH)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def plans(comparison: ModuleType) -> list[tuple[str, str, str]]:
    return [
        (name, view, arm)
        for name, trials in comparison.TRIALS.items()
        for view, trial in trials.items()
        for arm in comparison.ARMS
        if trial.has(arm)
    ]


@pytest.mark.long
def test_arms_have_equal_epsilon_and_the_code_words_a_hundredth_of_the_bytes(comparison: ModuleType) -> None:
    for name, view, arm in plans(comparison):
        trial = comparison.TRIALS[name][view]
        config = parse({**trial.of(arm), "method": "dp_rec"})
        settings, run = validated(config.of(DpRec)), config.run
        size = sum(p.numel() for p in build_model(config.of(Model), CLASSES[name], config.of(Data).image_size, 0).parameters())
        terms = terms_of(settings, trial.clients, round(run.fraction_train * trial.clients), trial.rounds)
        if settings.mechanism == "none":
            continue
        sigma = sigma_of(settings, [size], terms)
        reached = terms.epsilon(release_of(settings, [size], sigma))
        assert reached <= settings.target_epsilon, (name, view, arm)
        assert terms.epsilon(release_of(settings, [size], 0.995 * sigma)) > settings.target_epsilon, "no more noise than it takes"
        assert terms.certified
        if settings.mechanism in BLOCKWISE:
            tolerance = terms.tolerance(release_of(settings, [size], sigma))
            up = codec_of(settings, [size], sigma, None, tolerance).words_bytes + HEADER_BYTES
            assert 100 * up <= 4 * size, (name, view, arm, up, size)


@pytest.mark.long
def test_runs_are_made_once_and_read_as_they_are(comparison: ModuleType, tmp_path: Path) -> None:
    settings = {"model.name": "logistic", "data.image-size": 8, "local-epochs": 1, "dp-rec.target-epsilon": 5.0}
    settings |= {"dp-rec.entropy": "seeded"}  # a cohort drawn by the system may be empty
    trial = comparison.Trial(4, 1, {**settings, "fraction-train": 0.5})
    arms = comparison.jobs_of(trial, tmp_path, [0])
    chosen = {name: arms[comparison.NAMES[name]] for name in ("none", "gaussian", "4", "poisson", "server-3")}
    folders = {name: comparison.run(jobs[0]) for name, jobs in chosen.items()}
    rows = {name: comparison.row(name, [folder], 7848.0)[2:-2].split(" | ") for name, folder in folders.items()}
    cells = {name: dict(zip(comparison.HEADINGS, row, strict=True)) for name, row in rows.items()}
    bits = {name: int(row["bits of an update"].replace(",", "")) for name, row in cells.items()}
    assert bits["none"] == bits["gaussian"] == 32 * 1930 and bits["server-3"] == 8 * (-(-2048 * 3 // 8) + 4)
    assert max(bits["4"], bits["poisson"]) < 1930
    assert cells["none"]["epsilon"] == "-" and {cells[n]["epsilon"] for n in ("gaussian", "poisson", "server-3")} == {"5.000"}
    assert 4.8 < float(cells["4"]["epsilon"]) <= 5, "blocks are whole, so that it moves in steps"
    sigmas = {name: float(row["sigma"]) for name, row in cells.items() if name != "none"}
    assert sigmas["gaussian"] == sigmas["server-3"] <= sigmas["poisson"] < sigmas["4"], "what certainty costs"
    found = comparison.results_of(folders["4"])
    assert found["totals"]["parameters"] == 1930 and found["privacy"]["view"] == "central_certified"

    job = chosen["none"][0]
    before = (job.folder / "results.json").stat().st_mtime_ns
    assert comparison.run(job) == job.folder and (job.folder / "results.json").stat().st_mtime_ns == before
    with pytest.raises(SettingError, match=r"holds a run with local-epochs = 1, not 2"):
        comparison.run(replace(job, settings={**job.settings, "local-epochs": 2}))
