"""The settings of every run, and all settings of a run together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fedwarm.settings.fields import Group, SettingError, Value, checked, keys, near, setting
from fedwarm.settings.kinds import AUGMENTATIONS, CODECS, METHODS, OBJECTIVES, OPTIMISERS, PRIVACY, TASKS, TRACKERS

G = TypeVar("G", bound="Group")


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
        "classification", "what a classifier is trained and measured for: its loss, its head, and what counts as right",
        choices=TASKS,
    )  # fmt: skip
    codec: str = setting(
        "dense",
        "how updates travel: as they are; as private code words (dp-rec.*); rounded at random to a few bits",
        choices=CODECS,
        when=lambda r: r.uploads or r.hides,
    )
    privacy: str = setting(
        "none",
        "dp-sgd: each training step of a client is private at the level of examples (dp-sgd.*)",
        choices=PRIVACY,
    )
    augment: str = setting(
        "none", "what clients add to their data before training; gen-fedsd: images of the classes that they lack (gen-fedsd.*)",
        choices=AUGMENTATIONS,
    )  # fmt: skip
    seed: int = setting(0, "every random draw of the run derives from it", low=0, high=2**53)
    num_server_rounds: int = setting(5, "rounds of training", low=1, when=lambda r: r.rounds)
    fraction_train: float = setting(
        1.0, "share of the clients that train in a round (at least one)", low=1e-9, high=1.0, when=lambda r: r.samples
    )
    local_epochs: int = setting(2, "passes over a client's data in a round", low=1, when=lambda r: r.trains)
    optimiser: str = setting(
        "sgd",
        "how a classifier steps along its gradient; sgd: with momentum; adamw: Adam with decoupled weight decay",
        choices=OPTIMISERS,
    )
    learning_rate: float = setting(0.01, "step size of the classifier's optimiser", low=1e-12, when=lambda r: r.trains or r.steps)
    learning_rate_decay: float = setting(
        1.0,
        "factor of the step size from each round to the next; 1: it stays",
        low=1e-6,
        high=1.0,
        when=lambda r: r.trains or r.steps,
    )
    momentum: float = setting(0.9, "momentum of the classifier's optimiser; adamw: its first beta", low=0.0, high=0.9999)
    weight_decay: float = setting(0.0, "weight decay of the classifier's optimiser", low=0.0)
    batch_size: int = setting(32, "examples in a step of the classifier", low=1)
    device: str = setting(
        "auto", "where tensors are computed; auto: CUDA if there is one", choices=("auto", "cpu", "cuda"), node=True
    )
    client_threads: int = setting(1, "torch threads of a client; part of the result, as sums depend on it", low=1)
    server_threads: int = setting(2, "torch threads of the server; part of the result, as sums depend on it", low=1)
    min_replies: int = setting(
        0, "fewest valid replies a stage may end with; 0: all, on real nodes half of those asked", low=0, free=True
    )
    stage_timeout: float = setting(
        0.0, "seconds a stage waits for replies; 0: 12 h, on real nodes 15 min (drawing 2 h)", low=0.0, free=True
    )
    resume: bool = setting(False, "go on from the checkpoint in `out`; `fedwarm run --resume` sets it", neutral=True)
    watch: str = setting(
        "accuracy", "measure that chooses the best model and stops early: global, mean personal or worst personal accuracy",
        choices=("accuracy", "personal", "worst"),
    )  # fmt: skip
    patience: int = setting(
        0, "stop after so many measured rounds without a better value of `watch`; 0: never", low=0, when=lambda r: r.rounds
    )
    target: float = setting(
        0.0, "stop when `watch` reaches this share of right answers; 0: never", low=0.0, high=1.0, when=lambda r: r.rounds
    )
    tracker: str = setting(
        "none", "where a round's measures are sent, besides the run folder", choices=TRACKERS, neutral=True
    )  # fmt: skip
    client_state_mb: int = setting(
        4096, "most MB that clients of all runs keep on a machine; oldest runs go first", low=1, neutral=True
    )
    out: str = setting("", "run folder, absolute; empty: <method>-<run id> below $FEDWARM_RUNS, else below ./runs", neutral=True)
    client_folder: str = setting(
        "", "where clients keep their private state, one folder a run; empty: the user's cache folder", node=True, neutral=True
    )
    set: str = setting(
        "",
        "settings as on a command line (`fedprox.mu=0.3`), of components, too; they go before others and a method's own defaults",
    )
    save_pictures: bool = setting(
        True, "keep sample pictures of a generative run in the run folder", neutral=True, when=lambda r: r.generates
    )
    own_settings: tuple[Group, ...] = field(default=(), repr=False)


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
        return {key: getattr(self.groups[group], f.name) for key, group, f in keys(tuple(self.groups))}

    def changed(self, given: Mapping[str, Value]) -> Config:
        """The same settings but for those given.

        Raises:
            SettingError: unknown key (with the near names), wrong type, or a value out of its range.
        """
        table = {key: (group, f) for key, group, f in keys(tuple(self.groups))}
        groups = dict(self.groups)
        for key, value in given.items():
            if key not in table:
                raise SettingError(f"unknown setting {key!r}{near(key, list(table))}; `fedwarm settings` lists them all")
            group, f = table[key]
            groups[group] = dataclasses.replace(groups[group], **{f.name: checked(key, value, f)})  # type: ignore[type-var]
        return Config(groups)
