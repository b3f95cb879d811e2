"""What is told before the stages of a run: what comes next, and how long all of it takes as far as that is known."""

from __future__ import annotations

from pathlib import Path

from fedwarm.core.progress import STAGES, Pace, Tick, heard, listening
from fedwarm.rounds.outline import durations, told
from fedwarm.settings.fields import Value
from tests.runs import SMALL_WARMFED, run

SMALL: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8, "model.name": "logistic"}


def test_time_is_told_as_far_as_it_is_known() -> None:
    known = durations([{"name": "adapt", "seconds": 10.0}, {"name": "round", "seconds": 2.0}, {"name": "round", "seconds": 4.0}])
    assert known == {"adapt": 10.0, "round": 3.0}
    assert told("round", ["round", "round"], known) == "round, then round; about 9.00 s left for all"
    assert told("round", ["round", "distill"], known) == "round, then round, distill; at least 6.00 s left for all"
    assert told("generate", ["warm start"], {}) == "generate, then warm start"
    assert told("distill", [], {"distill": 60.0}) == "distill, the last one; about 1 min 00 s left for all"
    assert told("a", list("bcdef"), {}) == "a, then b, c, d .."


def test_a_run_says_what_comes_next(tmp_path: Path) -> None:
    """All stages of a one-shot run; of plain rounds nothing, as each of these has its own line."""
    seen: list[Tick] = []
    with listening(seen.append):
        run("warmfed", tmp_path / "warm", SMALL_WARMFED, clients=2)
    steps = [(event.step, event.of, event.text.partition(";")[0]) for event in seen if event.stage == STAGES]
    assert steps == [
        (1, 4, "adapt, then generate, warm start, distill"),
        (2, 4, "generate, then warm start, distill"),
        (3, 4, "warm start, then distill"),
        (4, 4, "distill, the last one"),
    ]
    seen.clear()
    with listening(seen.append):
        run("fedavg", tmp_path / "plain", SMALL, clients=2)
    assert not [event for event in seen if event.stage == STAGES]


def test_every_stage_has_its_line() -> None:
    pace = Pace(60.0)
    lines = [pace.line(Tick("server", STAGES, step, 3, f"stage {step}")) for step in (1, 2, 3)]
    assert lines == [f"server: stages {step}/3 stage {step}" for step in (1, 2, 3)]
    assert heard(str(lines[1])) == Tick("server", STAGES, 2, 3, "stage 2")
