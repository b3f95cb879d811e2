"""How long a run's tuning and drawing take: counted, timed on a net without numbers, told, and refused where it is too long."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.diffusion.families import usual_family
from fedwarm.diffusion.hours import Pace, Trial, Work, counted, pace_of, told
from fedwarm.diffusion.pipeline import folder_family
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at
from fedwarm.launch.outlook import outlook
from fedwarm.launch.preflight import check_run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from tests.families import PIPELINES, write_pipeline


def config(folder: Path, **more: Value) -> Config:
    flat: dict[str, Value] = {"method": "warmfed", "device": "cpu", "diffusion.scheduler": "foundation"}
    return parse({**flat, "diffusion.foundation": str(folder), **more})


@pytest.fixture(scope="module", params=PIPELINES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(request.param, tmp_path_factory.mktemp("hours") / request.param)


def test_operations_are_counted_without_numbers() -> None:
    layer = torch.nn.Linear(30, 20, device="meta")
    assert counted(lambda: layer(torch.empty(7, 30, device="meta"))) == 2 * 7 * 30 * 20


def test_every_family_is_timed(folder: Path) -> None:
    found = pace_of(config(folder))
    assert found is not None and all(seconds > 0 for seconds in (found.step, found.original, found.image))
    assert pace_of(config(folder)) is found, "once in a process"


def test_what_is_too_much_for_a_trial_on_a_cpu_is_timed_on_smaller_images(folder: Path) -> None:
    trial = Trial(folder, folder_family(folder), config(folder), torch.device("cpu"), most=0.0)
    assert trial.pace().step > 0
    assert min(trial.operations) < trial.side and trial.operations[min(trial.operations)] < trial.operations[trial.side]


def test_a_net_without_its_core_is_timed_as_it_is_tuned(folder: Path) -> None:
    """The whole net is asked, then the part that is kept takes steps: core and core alone leaves memory between."""
    more: dict[str, Value] = {"diffusion.trainer": "hollowed", "hollowed.depth": 1, "hollowed.tuples": 4800}
    if folder_family(folder) is not usual_family():
        assert pace_of(config(folder, **more)) is None, "left to its check, which says why it cannot be cut"
        return
    trial = Trial(folder, folder_family(folder), config(folder, **more), torch.device("cpu"))
    assert trial.pace().step > 0 and trial.steps.asked == 0.5
    left = {name for name, parameter in trial.net.named_parameters() if parameter.device.type == "meta"}
    cut = cut_at(trial.net, 1)
    assert left == {name for name, _ in trial.net.named_parameters() if cut.holds(name)}
    assert pace_of(config(folder, **more)) is not pace_of(config(folder))


def test_a_line_says_what_there_is_to_do(folder: Path, tmp_path: Path) -> None:
    given = config(folder, **{"data.partition": "iid", "data.max-examples": 40, "diffusion.lora-steps": 7})
    lines = [line for line in outlook(given, 4) if "by a step that was timed here" in line]
    assert len(lines) == 1 and lines[0].startswith("4 adapters (") and " and 800 images (" in lines[0]  # 20 of each of 10 classes
    alone = config(folder, **{"warmfed.adapt": False})
    assert told(alone, Work((), 1234)).startswith("1,234 images (")


def test_an_adapter_that_outlasts_its_stage_is_refused_before_the_run(folder: Path) -> None:
    flat: dict[str, Value] = {
        "method": "warmfed", "device": "cpu", "diffusion.foundation": str(folder), "diffusion.scheduler": "foundation",
        "stage-timeout": 1e-6,
    }  # fmt: skip
    with pytest.raises(
        SettingError, match="an adapter of 600 steps takes about .* and a stage waits .*; lower diffusion.lora-st"
    ):
        check_run(flat, 4)


def test_one_that_may_outlast_its_stage_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is good to a factor of two: less than that refuses no run."""
    monkeypatch.setattr("fedwarm.diffusion.hours.pace_of", lambda _: Pace(1.0, 0.0, 0.0))
    given = config(folder, **{"diffusion.lora-steps": 90, "stage-timeout": 60.0})
    assert told(given, Work((5,), 0)).endswith(
        "takes about 1 min 30 s here, and a stage waits 1 min 00 s: raise stage-timeout to be sure"
    )
    assert "stage waits" not in told(given.changed({"stage-timeout": 90.0}), Work((5,), 0))
    with pytest.raises(SettingError, match="an adapter of 121 steps takes about .*; lower diffusion.lora-steps"):
        told(given.changed({"diffusion.lora-steps": 121}), Work((5,), 0))


def test_the_embedded_one_and_one_elsewhere_are_not_timed(tmp_path: Path) -> None:
    assert pace_of(parse({"method": "warmfed"})) is None
    assert told(parse({"method": "warmfed", "diffusion.foundation": "owner/model"}), Work((3,), 5)) == ""
