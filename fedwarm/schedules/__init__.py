"""Schedules of the step size: each a function (done, total) -> factor on it, or with its settings behind.

`done` of `total` units are over: rounds of the run, or local steps of a round, as the setting `schedule-over` says. A schedule
whose first rounds depend on how many follow says so by its fact `fixed_rounds`, a function of the settings.
"""

from __future__ import annotations

from fedwarm.settings.config import General
from fedwarm.settings.kinds import SCHEDULES
from fedwarm.settings.registry import own_of

ROUNDS, STEPS = "rounds", "steps"


def factor_of(run: General, over: str, done: int, total: int) -> float:
    """What the step size is multiplied by; 1 where the run's schedule counts something else than `over`.

    The first `schedule-warmup` units have 1 / (n + 1), 2 / (n + 1) and so on, and the schedule begins behind them.
    """
    warmup = run.schedule_warmup
    if (run.schedule == SCHEDULES.first and not warmup) or run.schedule_over != over:
        return 1.0
    if done < warmup:
        return (done + 1) / (warmup + 1)
    schedule = SCHEDULES.load(run.schedule)
    return float(schedule(done - warmup, max(1, total - warmup), *own_of(schedule, run.own_settings)))


def never_full(run: General) -> str:
    """That the rounds of a run end before its warm-up does, in a line; empty where they do not."""
    rounds, warmup = run.num_server_rounds, run.schedule_warmup
    if run.schedule_over != ROUNDS or not rounds or not warmup or warmup < rounds:
        return ""
    return (
        f"with schedule-warmup = {warmup} and num-server-rounds = {rounds} learning-rate is never reached: the last round has "
        f"{rounds / (warmup + 1):.3g} of it; lower schedule-warmup"
    )
