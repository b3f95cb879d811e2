"""The settings of every run, and all settings of a run together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, TypeVar

from fedwarm.settings.fields import Group, SettingError, Value, checked, keys, near, setting
from fedwarm.settings.kinds import AUGMENTATIONS, CODECS, METHODS, OBJECTIVES, OPTIMISERS, PRIVACY, SCHEDULES, TASKS, TRACKERS

G = TypeVar("G", bound="Group")
T = TypeVar("T")
PERSONAL = ("personal", "worst")  # values of `watch` of the clients' own models: their mean, and the worst of them


@dataclass(frozen=True)
class General(Group):
    """Settings of every run."""

    method: str = setting("warmfed", "the method; `fedwarm methods` lists them", choices=METHODS)
    objective: str = setting(
        "plain",
        "local training objective; plain: the task's loss alone; `fedwarm components objective` lists all",
        choices=OBJECTIVES,
        when=lambda r: r.trains,
    )
    task: str = setting(
        "classification", "learning task of the model: its loss, the width of its head, and its measures",
        choices=TASKS,
    )  # fmt: skip
    metrics: str = setting(
        "", "metrics of test examples, by commas (`auroc,f1`), beside the task's main one; empty: the task's usual ones; "
        "`fedwarm components metric` lists them",
    )  # fmt: skip
    codec: str = setting(
        "dense",
        "compression of what clients upload; dense: none; dp-rec: private code words; stochastic-rounding: a few "
        "bits a number; top-k: the largest numbers",
        choices=CODECS,
        when=lambda r: r.uploads or r.hides,
    )
    privacy: str = setting(
        "none",
        "differential privacy of local training; none; dp-sgd: every training step is private for each example (dp-sgd.*)",
        choices=PRIVACY,
    )
    augment: str = setting(
        "none",
        "data that clients add before training; none; gen-fedsd: generated images of the classes that a client "
        "lacks (gen-fedsd.*)",
        choices=AUGMENTATIONS,
    )  # fmt: skip
    seed: int = setting(0, "seed of all random draws of the run", low=0, high=2**53)
    num_server_rounds: int = setting(5, "rounds of training", low=1, when=lambda r: r.rounds)
    fraction_train: float = setting(
        1.0, "fraction of the clients that train in each round; at least one client", low=1e-9, high=1.0, when=lambda r: r.samples
    )
    local_epochs: int = setting(2, "passes over a client's data in a round", low=1, when=lambda r: r.trains)
    optimiser: str = setting(
        "sgd",
        "optimiser of local training; sgd: with momentum; adamw: Adam with decoupled weight decay",
        choices=OPTIMISERS,
    )
    learning_rate: float = setting(0.01, "learning rate of local training", low=1e-12, when=lambda r: r.trains or r.steps)
    learning_rate_decay: float = setting(
        1.0,
        "factor of the learning rate from one round to the next; 1: constant",
        low=1e-6,
        high=1.0,
        when=lambda r: r.trains or r.steps,
    )
    schedule: str = setting(
        "constant",
        "change of the learning rate, besides learning-rate-decay; constant: none; cosine: falls along half a cosine "
        "(cosine.least); step: falls at regular intervals (step.every, step.factor)",
        choices=SCHEDULES, when=lambda r: r.trains or r.steps,
    )  # fmt: skip
    schedule_over: str = setting(
        "rounds",
        "unit of schedule and schedule-warmup; rounds: rounds of the run; steps: local steps, restarting in each round",
        choices=("rounds", "steps"),
        when=lambda r: (r.trains or r.steps) and (r["schedule"] != SCHEDULES.first or r["schedule-warmup"] > 0),
    )  # fmt: skip
    schedule_warmup: int = setting(
        0,
        "rounds or local steps (schedule-over) over which the learning rate rises linearly to its full value; 0: no "
        "warm-up",
        low=0, when=lambda r: r.trains or r.steps,
    )  # fmt: skip
    momentum: float = setting(0.9, "momentum of local training; with adamw its first beta", low=0.0, high=0.9999)
    weight_decay: float = setting(0.0, "weight decay of local training", low=0.0)
    batch_size: int = setting(32, "examples in a training step", low=1)
    device: str = setting(
        "auto",
        "device of computation; auto: a CUDA GPU if there is one, else the CPU",
        choices=("auto", "cpu", "cuda"),
        node=True,
    )
    deterministic: bool = setting(
        True,
        "true: use algorithms that give the same numbers in every run on a CUDA GPU, about a tenth slower; false: the "
        "fastest ones; a CPU repeats its numbers in any case",
        when=lambda r: r["device"] != "cpu",
    )
    cohort: int = setting(
        -1,
        "clients of a round that train together as one program over stacked weights, where method and model allow it "
        "(local engine); changes the last bits of the result; 0: one after another; -1: 50 on a GPU, 0 on a "
        "CPU",
        low=-1, high=10_000, when=lambda r: r.trains,
    )  # fmt: skip
    client_threads: int = setting(1, "torch threads of a client; changes the last bits of the result", low=1)
    server_threads: int = setting(2, "torch threads of the server; changes the last bits of the result", low=1)
    min_replies: int = setting(
        0,
        "least number of valid replies that a stage needs; 0: all clients, or on real nodes half of those asked",
        low=0,
        free=True,
    )
    stage_timeout: float = setting(
        0.0,
        "seconds that a stage waits for replies; 0: 12 hours; on real nodes 15 minutes, 2 hours to draw, tune adapters or distil",
        low=0.0,
        free=True,
    )
    resume: bool = setting(False, "continue from the checkpoint in `out`; `fedwarm run --resume` sets it", neutral=True)
    watch: str = setting(
        "accuracy", "metric that chooses the best model and stops early: of the global model by its name, e.g. `auroc`; "
        "personal, worst: mean and worst of the clients' own models by the main one",
    )  # fmt: skip
    patience: int = setting(
        0,
        "early stopping: rounds without a better value of `watch` after which training stops; 0: never",
        low=0,
        when=lambda r: r.rounds,
    )
    target: float = setting(
        0.0, "stop when `watch` reaches this value, e.g. an accuracy of 0.9; 0: never", low=0.0,
        when=lambda r: r.rounds,
    )  # fmt: skip
    tracker: str = setting(
        "none",
        "experiment tracker that receives each round's metrics, in addition to the run folder; none: the run folder only",
        choices=TRACKERS, neutral=True
    )  # fmt: skip
    client_state_mb: int = setting(
        4096,
        "limit in MB on the state that clients of all runs keep on a machine; the oldest runs are removed first",
        low=1,
        neutral=True,
    )
    out: str = setting("", "run folder, absolute; empty: <method>-<run id> below $FEDWARM_RUNS, else below ./runs", neutral=True)
    client_folder: str = setting(
        "",
        "folder for the private state of clients, with one folder for each run; empty: the user's cache folder",
        node=True,
        neutral=True,
    )
    set: str = setting(
        "",
        "settings as text, e.g. `fedprox.mu=0.3`, for `flwr run`, which cannot set those of components by key; "
        "they win over other settings and over a method's defaults",
    )
    save_pictures: bool = setting(
        True,
        "true: keep samples of generated images in the run folder; false: keep none",
        neutral=True,
        when=lambda r: r.generates,
    )
    own_settings: tuple[Group, ...] = field(default=(), repr=False)

    def may_end(self, number: int) -> bool:
        """Whether a round may be the last one."""
        return number >= self.num_server_rounds or bool(self.patience or self.target)


@dataclass(frozen=True)
class Config:
    """All settings of a run; `of` gives one group."""

    groups: Mapping[type[Group], Group]

    def of(self, group: type[G]) -> G:
        """The settings of one group."""
        found = self.groups[group]
        assert isinstance(found, group)
        return found

    @property
    def run(self) -> General:
        return self.of(General)

    def flat(self) -> dict[str, Value]:
        """The settings as Flower's flat run config."""
        return {**_flat(self)}

    @cached_property
    def kept(self) -> dict[Callable[[Config], Any], Any]:
        """What `once` keeps with these settings."""
        return {}

    def changed(self, given: Mapping[str, Value]) -> Config:
        """The same settings but for those given.

        Raises:
            SettingError: unknown key (with the near names), wrong type, or a value out of its range.
        """
        if not given:
            return self
        table = {key: (group, f) for key, group, f in keys(tuple(self.groups))}
        groups = dict(self.groups)
        for key, value in given.items():
            if key not in table:
                raise SettingError(f"unknown setting {key!r}{near(key, list(table))}; `fedwarm settings` lists them all")
            group, f = table[key]
            groups[group] = dataclasses.replace(groups[group], **{f.name: checked(key, value, f)})  # type: ignore[type-var]
        return Config(groups)


def once(make: Callable[[Config], T]) -> Callable[[Config], T]:
    """Have what a function works out of settings alone kept with them, as messages ask for it again and again."""

    @wraps(make)
    def found(config: Config) -> T:
        if make not in config.kept:
            config.kept[make] = make(config)
        known: T = config.kept[make]
        return known

    return found


@once
def _flat(config: Config) -> Mapping[str, Value]:
    return {key: getattr(config.groups[group], f.name) for key, group, f in keys(tuple(config.groups))}
