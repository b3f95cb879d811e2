"""What is told before the stages of a run: what comes next, and how long all of it takes as far as that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.inputs import Form
from fedwarm.core.progress import STAGES, Pace, Tick, heard, listening, tick
from fedwarm.core.stages import Effort, Stage
from fedwarm.data.settings import Data
from fedwarm.data.shards import partition_table
from fedwarm.diffusion.hours import hands_of
from fedwarm.rounds.outline import Outlook, durations, foreseeable, rough, told
from fedwarm.settings.fields import Value
from strategies.foreseen import efforts
from tests.runs import SMALL_WARMFED, run

SMALL: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8, "model.name": "logistic"}


class Clock:
    """A clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


FORESEEN = {"adapt": Effort(100.0, "adapter"), "generate": Effort(50.0, "images"), "distill": Effort(10.0)}
THREE = [Stage(0, "adapt", "train", (0, 1)), Stage(0, "generate"), Stage(0, "distill", "train", (0, 1))]


def strategy(stages: Sequence[Stage], foreseen: Mapping[str, Effort] | None) -> Any:
    """As much of a strategy as is looked at, with a plan that foresees this."""

    class Planned:
        hidden, done, config, fleet = False, 0, None, SimpleNamespace(members=(), form=Form((4,), "float32"))

        @foreseeable(None if foreseen is None else lambda *_: foreseen)
        def plan(self) -> Iterator[Stage]:
            yield from stages

        def before(self) -> Iterator[Stage]:
            yield from ()

        def new_model(self) -> torch.nn.Module:
            return torch.nn.Linear(4, 2)

    planned: Any = Planned()
    planned.record = SimpleNamespace(stages=[])
    return planned


def lines(events: Sequence[Tick]) -> list[str]:
    return [event.text for event in events if event.stage == STAGES]


def test_time_is_foreseen_and_becomes_what_is_measured() -> None:
    """The first line is by what was foreseen, those after it by what the stages take here."""
    clock, seen, planned = Clock(), list[Tick](), strategy(THREE, FORESEEN)
    with listening(seen.append), Outlook(planned, clock) as ahead:
        stages = ahead.of(iter(THREE))
        next(stages)
        assert lines(seen) == ["adapt, then generate, distill; about 3 min left for all"]  # 160 s
        clock.seconds = 30.0  # workers were begun; that says nothing of how fast they are
        for step in (1, 3, 5, 7):  # two seconds for a hundredth at one of two clients: the whole takes 400 s, not 100
            tick("adapter", step, 100)
            clock.seconds += 4.0
        assert lines(seen)[-1] == "adapt, then generate, distill; about 10 min left for all"  # 386 + 4 * (50 + 10) s
        planned.record.stages.append({"name": "adapt", "seconds": 200.0})
        clock.seconds = 200.0
        next(stages)
        assert lines(seen)[-1] == "generate, then distill; about 2 min left for all"  # 2 * (50 + 10) s
        said, clock.seconds = len(lines(seen)), 205.0
        tick("images", 1, 50)
        assert len(lines(seen)) == said, "at most every ten seconds"
        clock.seconds = 225.0
        tick("images", 11, 50)  # 2 s each: 78 s; and by 300 s of 150 that were foreseen 20 s for the last
        assert lines(seen)[-1] == "generate, then distill; about 2 min left for all"
        planned.record.stages.append({"name": "generate", "seconds": 300.0})
        next(stages)
        assert lines(seen)[-1] == "distill, the last one; about 35 s left for all"  # 10 * 500 / 150 s


def test_time_is_told_as_far_as_it_is_known() -> None:
    """Of stages that nothing foresees it is known from the second on; what was not there yet is left out of it."""
    names = ["adapt", "round", "distill", "adapt", "round"]
    clock, seen, planned = Clock(), list[Tick](), strategy([Stage(0, name) for name in names], None)
    with listening(seen.append), Outlook(planned, clock) as ahead:
        for index, stage in ahead.of(planned.plan()):
            clock.seconds += 20.0 + index
            planned.record.stages.append({"name": stage.name, "seconds": 20.0 + index})
    assert lines(seen) == [
        "adapt, then round, distill, adapt",
        "round, then distill, adapt, round; at least 20 s left for all",
        "distill, then adapt, round; at least 40 s left for all",
        "adapt, then round; about 40 s left for all",
        "round, the last one; about 20 s left for all",
    ]


def test_text() -> None:
    assert durations([{"name": "a", "seconds": 10.0}, {"name": "b", "seconds": 2.0}, {"name": "b", "seconds": 4.0}]) == {
        "a": 10.0, "b": 3.0,
    }  # fmt: skip
    assert told("a", list("bcdef"), 0.0, False) == "a, then b, c, d .."
    assert [rough(seconds) for seconds in (0.3, 41, 58, 250, 3590, 7190, 7500)] == [
        "5 s", "40 s", "1 min", "4 min", "1 h 00 min", "2 h 00 min", "2 h 00 min",
    ]  # fmt: skip


def test_the_main_job_is_foreseen_as_it_was_measured() -> None:
    """`make run` on two idle cores took 180 s of work (benchmarks/RESULTS.md): foreseen is that within a factor of two."""
    config = parse({"method": "warmfed"})
    held = [(sum(row), sum(map(bool, row))) for row in partition_table(config.of(Data), 0, 4)]
    found = efforts(config, held, 9.05e6)
    waits = hands_of(config, 4) / 2  # of this machine's cores
    assert 90 < sum(found[name].seconds * waits for name in ("adapt", "generate", "distill")) + found["warm start"].seconds < 360
    alone = efforts(config.changed({"warmfed.adapt": False}), held, 9.05e6)
    assert alone["adapt"].seconds == 0 and alone["generate"] == found["generate"]
    half = efforts(config.changed({"diffusion.lora-steps": 300, "diffusion.sample-steps": 6}), held, 9.05e6)
    assert [half[n].seconds / found[n].seconds for n in ("adapt", "generate", "distill")] == pytest.approx([0.5, 0.5, 1.0])


def test_a_run_says_what_comes_next(tmp_path: Path) -> None:
    """All stages of a one-shot run, each with the time that is left; of plain rounds nothing, as each of these has its line."""
    seen: list[Tick] = []
    with listening(seen.append):
        run("warmfed", tmp_path / "warm", SMALL_WARMFED, clients=2)
    said = [(event.step, event.of, *event.text.split("; ")) for event in seen if event.stage == STAGES]
    assert [each[:3] for each in dict.fromkeys(each[:3] for each in said)] == [
        (1, 4, "adapt, then generate, warm start, distill"),
        (2, 4, "generate, then warm start, distill"),
        (3, 4, "warm start, then distill"),
        (4, 4, "distill, the last one"),
    ]
    assert {event.who for event in seen if event.stage == STAGES} == {"server"}
    assert all(re.fullmatch(r"about \d+ (s|min) left for all", str(time)) for *_, time in said)
    seen.clear()
    with listening(seen.append):
        run("fedavg", tmp_path / "plain", SMALL, clients=2)
    assert not [event for event in seen if event.stage == STAGES]


def test_every_stage_has_its_line() -> None:
    pace = Pace(60.0)
    lines = [pace.line(Tick("server", STAGES, step, 3, f"stage {step}")) for step in (1, 2, 3)]
    assert lines == [f"server: stages {step}/3 stage {step}" for step in (1, 2, 3)]
    assert heard(str(lines[1])) == Tick("server", STAGES, 2, 3, "stage 2")
