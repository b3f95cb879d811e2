"""What is measured of a round's models beside right answers: sums at the clients, and metrics of them at the server.

A reply's `sums-<whose>-<sum>` are a client's sums over its own test examples; whose is `global` (the model that was sent) or
`personal`. Those of all clients add up to the sums over all test examples (see `fedwarm.metrics`). Where clients hold a part of
their training examples back (`data.validation-fraction`), the same of these has `validation-` before whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.data import Shard
from fedwarm.data.settings import Data
from fedwarm.metrics import Metric, Numbers, metrics_of
from fedwarm.models import Model, behead
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.relevance import Run
from fedwarm.rounds.gate import HELD, SUMS, TESTS, VALIDATION
from fedwarm.settings.config import Config, once
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import Task, task_of
from fedwarm.training.evaluate import Found, Measuring
from fedwarm.training.frozen import right_by_neighbours

GLOBAL, PERSONAL = WHOSE = ("global", "personal")
TABLES_AT_MOST = 20_000  # numbers of clients' tables that a round's record keeps
OUTSIDE = "sums over examples that nothing trains on, which are outside the account"


def measuring(config: Config, width: int) -> Measuring:
    """What measures a model of a run, whose head has this width."""
    return Measuring(task_of(config.run), metrics_of(config.run), width)


def found_at(config: Config, model: nn.Module, shard: Shard, examples: tuple[Tensor, Tensor]) -> Found:
    """What a model comes to on some examples and their targets at the client that holds a shard, see `tasks.Task.answers`."""
    task, classes = task_of(config.run), len(shard.classes)
    if task.answers:
        part = measuring(config, task.width(classes))
        part.add(model, *examples)
        return part.done()
    layer, head = behead(config.of(Model), model)
    right = right_by_features(config, model, shard, examples)
    model.set_submodule(layer, head)
    return Found(len(examples[1]), right)


def right_by_features(config: Config, encoder: nn.Module, shard: Shard, examples: tuple[Tensor, Tensor]) -> int:
    """Right answers about some examples by the features of an encoder, at the client that holds a shard."""
    known, neighbours = (shard.train_images, shard.train_labels), task_of(config.run).neighbours
    return right_by_neighbours(encoder, known, examples, len(shard.classes), neighbours)


def told(found: Found, whose: str) -> Payload:
    """What a client tells of a model on its own examples; `whose` has VALIDATION before it for those held back."""
    metrics: dict[str, int | float] = {} if found.right is None else {f"correct-{whose}": found.right}
    facts: dict[str, Fact] = {f"{SUMS}{whose}-{name}": total.tolist() for name, total in found.sums.items()}
    return Payload(metrics=metrics, facts=facts)


def together(*parts: Payload) -> Payload:
    """Several answers without arrays as one."""
    metrics, facts = ({k: v for part in parts for k, v in getattr(part, name).items()} for name in ("metrics", "facts"))
    return Payload(metrics=metrics, facts=facts)


def names_of(config: Config, whose: str) -> tuple[str, ...]:
    """The names of what clients tell of a model beside `correct-<whose>`."""
    sums = [f"{SUMS}{before}{whose}-{name}" for name in _parts(config) for before in ("", VALIDATION)]
    return (*sums, f"correct-{VALIDATION}{whose}")


@dataclass(frozen=True)
class Measures:
    """What clients tell of models on their own examples, as the gate knows it: of the global one, as that was released."""

    config: Config

    def tells(self, level: Level) -> Reasons:
        return reasons(self.config, GLOBAL) if level >= Level.EXAMPLE else {**reasons(self.config, GLOBAL), **self.own}

    def withholds(self, level: Level) -> frozenset[str]:
        return frozenset(self.own) if level >= Level.EXAMPLE else frozenset()

    @property
    def own(self) -> Reasons:
        return reasons(self.config, PERSONAL)


def reasons(config: Config, whose: str) -> Reasons:
    """Why these may leave in a private run, as right answers may."""
    return dict.fromkeys(names_of(config, whose), OUTSIDE)


def own_reasons(config: Config) -> Reasons:
    """Why right answers of a client's own model, which private steps trained, may leave, and what else is told of it."""
    trained = {f"correct-{PERSONAL}": "of a model trained by private steps, on test images, which are outside the account"}
    return {**trained, **reasons(config, PERSONAL)}


def check_found(config: Config, payload: Payload, width: int) -> None:
    """Refuse counts that cannot be, and sums that cannot be added.

    Raises:
        PayloadError: more answers are right than there are examples, there are other sums than the run's, or one is not of
            numbers, of another length, or not finite.
    """
    tests = payload.count(TESTS)
    held = payload.count(HELD) if HELD in payload.metrics else 0
    for whose in WHOSE:
        for name, most in ((f"correct-{whose}", tests), (f"correct-{VALIDATION}{whose}", held)):
            if name in payload.metrics:
                payload.count(name, 0, most)
    parts = _parts(config)
    for name, values in payload.facts.items():
        if not name.startswith(SUMS):
            continue
        whose, _, part = name.removeprefix(SUMS).removeprefix(VALIDATION).partition("-")
        if whose not in WHOSE or part not in parts:
            raise PayloadError(f"{name!r} are no sums of this run")
        size = parts[part].size(width)
        sound = isinstance(values, list) and len(values) == size and all(isinstance(v, (int, float)) for v in values)
        if not sound or not all(map(math.isfinite, values)):  # type: ignore[arg-type]
            raise PayloadError(f"{name} must be {size} finite numbers")


def check_metrics(config: Config) -> None:
    """Refuse metrics that the run's task has not, and a target that is none.

    Raises:
        SettingError: they are.
    """
    found, run = metrics_of(config.run), config.run
    watched = found.get(run.watch)
    shares = watched.share if watched is not None else task_of(run).counted or next(iter(found.values())).share
    if shares and run.target > 1:
        raise SettingError(f"target = {run.target:g} is out of range: watch = {run.watch!r} lies between 0 and 1")


def check_fitting(config: Config, width: int) -> None:
    """Refuse metrics that cannot measure models of this width.

    Raises:
        SettingError: one cannot.
    """
    for metric in metrics_of(config.run).values():
        if metric.check is not None:
            metric.check(task_of(config.run).targets, width)


def remark(config: Config) -> str:
    """That the end of a run is chosen by test examples, where it is."""
    run = config.run
    if not (run.patience or run.target) or config.of(Data).validation_fraction or not Run.of(config).rounds:
        return ""
    by = "patience" if run.patience else "target"
    return (
        f"the last round is chosen by test examples ({by} with data.validation-fraction = 0), so "
        "that what is measured on them is a little too good"
    )


def measured(
    config: Config, width: int, replies: Mapping[int, Payload], clients: int, central: Found | None = None, before: str = ""
) -> dict[str, Any]:
    """The metrics of a round's models: of all examples, by client, and of personal models by client; tables likewise.

    Args:
        config, width: of the run and of its models' heads.
        replies: by client.
        clients: how many there are.
        central: what the server found on test examples of its own, if it keeps these.
        before: VALIDATION for the examples that clients hold back.
    """
    return dict(_measured(config, width, [replies.get(client) for client in range(clients)], central, before))


def _measured(
    config: Config, width: int, replies: Sequence[Payload | None], central: Found | None, before: str
) -> Iterator[tuple[str, Any]]:
    task = task_of(config.run)
    for name, metric in metrics_of(config.run).items():
        shared, own = (_columns(metric, task, before + whose, replies) for whose in WHOSE)
        pooled = _pooled(shared) if central is None else central.sums.get(_part(metric, task))
        entry: dict[str, Any] = {"lower": True} if metric.lower else {} if metric.ranks else {"ranks": False}
        if metric.value is not None:
            entry["global"] = _value(metric, pooled, width)
            entry["per_client"] = [_value(metric, total, width) for total in shared]
            if any(total is not None for total in own):
                entry["personal"] = [_value(metric, total, width) for total in own]
        if metric.table is not None:
            totals = shared if pooled is not None else own
            all_of = pooled if pooled is not None else _pooled(own)
            entry["table"] = None if all_of is None else metric.table(all_of, width)
            if sum(total.size for total in totals if total is not None) <= TABLES_AT_MOST:
                entry["tables"] = [None if total is None else metric.table(total, width) for total in totals]
        yield name, entry


def _part(metric: Metric, task: Task) -> str:
    part = metric.sum_of(task.targets)
    assert part is not None
    return part.name


@once
def _parts(config: Config) -> dict[str, Any]:
    form = task_of(config.run).targets
    found = [metric.sum_of(form) for metric in metrics_of(config.run).values()]
    return {part.name: part for part in found if part is not None}


def _columns(metric: Metric, task: Task, whose: str, replies: Sequence[Payload | None]) -> list[Numbers | None]:
    name = f"{SUMS}{whose}-{_part(metric, task)}"
    found = [None if reply is None else reply.facts.get(name) for reply in replies]
    return [np.array(values, dtype=np.float64) if isinstance(values, list) else None for values in found]


def _pooled(totals: Sequence[Numbers | None]) -> Numbers | None:
    known = [total for total in totals if total is not None]
    return np.sum(known, axis=0) if known else None


def _value(metric: Metric, total: Numbers | None, width: int) -> float | None:
    value = None if total is None or metric.value is None else metric.value(total, width)
    return value if value is not None and math.isfinite(value) else None
