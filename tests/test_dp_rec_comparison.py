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
from fedwarm.codecs.dp_rec.settings import DpRec, validated
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model
from fedwarm.privacy.views import Terms
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
    return [(name, view, arm) for name, trials in comparison.TRIALS.items() for view in trials for arm in comparison.ARMS]


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
        assert 0.999 * settings.target_epsilon <= reached <= settings.target_epsilon, (name, view, arm)
        assert terms.certified == (view == "local" or arm == comparison.GAUSSIAN)
        if settings.mechanism == "coding":
            up = codec_of(settings, [size], sigma).words_bytes + HEADER_BYTES
            assert 100 * up <= 4 * size, (name, view, arm, up, size)


def test_runs_are_made_once_and_read_as_they_are(comparison: ModuleType, tmp_path: Path) -> None:
    settings = {"model.name": "logistic", "data.image-size": 8, "local-epochs": 1, "dp-rec.target-epsilon": 5.0}
    settings |= {"dp-rec.entropy": "seeded"}  # a cohort drawn by the system may be empty
    trial = comparison.Trial(4, 1, {**settings, "fraction-train": 0.5})
    arms = comparison.jobs_of(trial, tmp_path, [0])
    chosen = {arm: arms[arm] for arm in (comparison.NONE, comparison.GAUSSIAN, "DP-REC, b = 4")}
    folders = {arm: comparison.run(jobs[0]) for arm, jobs in chosen.items()}
    rows = {arm: comparison.row(arm, [folder], 7848.0).split(" | ") for arm, folder in folders.items()}
    none, gaussian, coded = (dict(zip(comparison.HEADINGS, rows[arm], strict=True)) for arm in chosen)
    assert none["bits a parameter up"] == gaussian["bits a parameter up"] == "32" and float(coded["bits a parameter up"]) < 1
    assert [cells["down"] for cells in (none, gaussian, coded)] == ["32"] * 3
    assert [cells["view"] for cells in (none, gaussian, coded)] == ["-", "central_certified", "central_limit, an estimate"]
    assert gaussian["epsilon"] == coded["epsilon"] == "5.000" and gaussian["certified epsilon"] == "5"
    assert gaussian["sigma"] == coded["sigma"]
    found = comparison.results_of(folders["DP-REC, b = 4"])
    release = release_of(parse(found["settings"]).of(DpRec), [1930], found["privacy"]["sigma"])
    certified = Terms("central_certified", 1e-5, 4, 2, 1).epsilon(release)
    assert found["totals"]["parameters"] == 1930
    assert coded["certified epsilon"] == f"{certified:.4g}" and certified > 5.0

    job = chosen[comparison.NONE][0]
    before = (job.folder / "results.json").stat().st_mtime_ns
    assert comparison.run(job) == job.folder and (job.folder / "results.json").stat().st_mtime_ns == before
    with pytest.raises(SettingError, match=r"holds a run with local-epochs = 1, not 2"):
        comparison.run(replace(job, settings={**job.settings, "local-epochs": 2}))
