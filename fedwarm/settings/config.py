"""Typed settings out of Flower's flat run config: each key is defined once, with default, meaning and range.

A group is a frozen dataclass whose fields are made by `setting`; its keys are `<prefix>.<field-in-kebab-case>`. Flower allows
str, int, float and bool values only, so there are no lists and no None: an empty string or 0 says "not set" where that is stated.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from fedwarm.settings.ranges import SettingError as SettingError
from fedwarm.settings.ranges import Value as Value
from fedwarm.settings.ranges import allowed as allowed
from fedwarm.settings.ranges import checked as checked
from fedwarm.settings.ranges import near as near

G = TypeVar("G", bound="Group")
OWN, DATA_FOLDER = "own", "data-folder"  # of `data.name`; the key of a node's configuration that says where its own data are


class Group:
    """Base of the dataclasses that hold settings; `prefix` is the part of the key before the dot."""

    prefix: ClassVar[str] = ""


def setting(
    default: Value, text: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A dataclass field that is a setting: `text` says what it means, the rest what is allowed (bounds included)."""
    return field(default=default, metadata={"text": text, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class General(Group):
    """Settings of every run."""

    method: str = setting("warmfed", "the method; `fedwarm methods` lists them")
    objective: str = setting(
        "plain", "what a classifier is trained for; all but plain: quantization-robust.*, relaxed-quantization.*",
        choices=("plain", "kure", "apqn", "qat", "mqat", "rq"),
    )  # fmt: skip
    codec: str = setting(
        "dense", "how updates travel: as they are; as private code words (dp-rec.*); rounded at random to a few bits",
        choices=("dense", "dp-rec", "stochastic-rounding"),
    )  # fmt: skip
    privacy: str = setting(
        "none", "dp-sgd: each training step of a client is private at the level of examples (dp-sgd.*)",
        choices=("none", "dp-sgd"),
    )  # fmt: skip
    augment: str = setting(
        "none", "what clients add to their data before training; gen-fedsd: images of the classes that they lack (gen-fedsd.*)",
        choices=("none", "gen-fedsd"),
    )  # fmt: skip
    seed: int = setting(0, "every random draw of the run derives from it", low=0, high=2**53)
    num_server_rounds: int = setting(5, "rounds of training", low=1)
    fraction_train: float = setting(1.0, "share of the clients that train in a round (at least one)", low=1e-9, high=1.0)
    local_epochs: int = setting(2, "passes over a client's data in a round", low=1)
    learning_rate: float = setting(0.01, "step size of the classifier's SGD", low=1e-12)
    momentum: float = setting(0.9, "momentum of the classifier's SGD", low=0.0, high=0.9999)
    weight_decay: float = setting(0.0, "weight decay of the classifier's SGD", low=0.0)
    batch_size: int = setting(32, "examples in a step of the classifier", low=1)
    device: str = setting("auto", "where tensors are computed; auto: CUDA if there is one", choices=("auto", "cpu", "cuda"))
    client_threads: int = setting(1, "torch threads of a client; part of the result, as sums depend on it", low=1)
    server_threads: int = setting(2, "torch threads of the server; part of the result, as sums depend on it", low=1)
    min_replies: int = setting(0, "fewest valid replies a stage may end with; 0: all, on real nodes half of those asked", low=0)
    stage_timeout: float = setting(0.0, "seconds a stage waits for replies; 0: 12 h, on real nodes 15 min (drawing 2 h)", low=0.0)
    resume: bool = setting(False, "go on from the checkpoint in `out`; `fedwarm run --resume` sets it")
    watch: str = setting(
        "accuracy", "measure that chooses the best model and stops early: global, mean personal or worst personal accuracy",
        choices=("accuracy", "personal", "worst"),
    )  # fmt: skip
    patience: int = setting(0, "stop after so many measured rounds without a better value of `watch`; 0: never", low=0)
    target: float = setting(0.0, "stop when `watch` reaches this share of right answers; 0: never", low=0.0, high=1.0)
    tracker: str = setting(
        "none", "where a round's measures are sent, besides the run folder", choices=("none", "tensorboard", "mlflow", "wandb")
    )  # fmt: skip
    client_state_mb: int = setting(4096, "most MB that clients of all runs keep on a machine; oldest runs go first", low=1)
    out: str = setting("", "run folder, absolute; empty: <method>-<run id> below $FEDWARM_RUNS, else below ./runs")
    client_folder: str = setting("", "where clients keep their private state, one folder a run; empty: the user's cache folder")
    save_pictures: bool = setting(True, "keep sample pictures of a generative run in the run folder")


@dataclass(frozen=True)
class Data(Group):
    """What the clients hold."""

    prefix: ClassVar[str] = "data"
    name: str = setting(
        "digits", "`digits` (embedded), a name on the Hub, a folder (parquet, CSV, one folder a class); own: each node's own"
    )  # fmt: skip
    partition: str = setting(
        "domain",
        "how examples are dealt to clients",
        choices=("domain", "iid", "dirichlet", "pathological", "natural"),
    )
    alpha: float = setting(0.5, "concentration of the Dirichlet partition; the smaller, the more clients differ", low=1e-6)
    classes_per_client: int = setting(2, "classes a client holds in the pathological partition", low=1)
    partition_by: str = setting("", "column of the natural partition (`writer_id`, `domain`, ..); empty: found")
    classes: str = setting("", "classes of data.name = own in the run's order, with commas; empty: all that nodes hold, sorted")
    image_column: str = setting("", "column of the images; empty: found")
    label_column: str = setting("", "column of the labels; empty: found")
    background: str = setting("white", "what transparent pictures are laid on: a colour's name, or #rrggbb")
    bits: int = setting(
        0, "bits of a value where pictures have more than 8 a channel; 1: floats from 0 to 1; 0: found in the data set",
        low=0, high=32,
    )  # fmt: skip
    missing_labels: str = setting(
        "refuse", "rows whose label is missing (null, NaN, empty, -1 beside 0 and more); drop: left out; keep: -1 is a class",
        choices=("refuse", "drop", "keep"),
    )  # fmt: skip
    skip_broken: bool = setting(False, "leave out pictures that cannot be read, and say so in the record; else they are refused")
    max_examples: int = setting(0, "most training examples of a client, a seeded subset; 0: all", low=0)
    test: str = setting(
        "held-out",
        "what is tested on: images held out of each client's; the data set's test split, dealt to clients; that, at the server",
        choices=("held-out", "split", "central"),
    )  # fmt: skip
    test_split: str = setting("test", "the data set's split that data.test = split or central tests on")
    test_fraction: float = setting(0.25, "share of a client's images held out for testing", low=0.01, high=0.9)
    public_share: float = setting(
        0.0, "share of every class that no client holds, the same in all runs: a foundation may learn from it", low=0.0, high=0.9
    )
    image_size: int = setting(32, "images are brought to this height and width", low=8)
    share_class_counts: bool = setting(True, "clients tell the server how many images of each class they hold")

    @property
    def own(self) -> bool:
        """Whether nothing is dealt: each node brings a data set of its own."""
        return self.name == OWN


@dataclass(frozen=True)
class Model(Group):
    """The classifier."""

    prefix: ClassVar[str] = "model"
    name: str = setting("cnn", "the classifier's architecture", choices=("cnn", "lenet5", "logistic", "resnet8", "resnet18"))
    weights: str = setting("", "safetensors file of a shared initialisation; empty: random from the seed")


@dataclass(frozen=True)
class Diffusion(Group):
    """The text-to-image foundation, its adapters and its sampler."""

    prefix: ClassVar[str] = "diffusion"
    foundation: str = setting("glyph", "`glyph` (embedded), a Stable Diffusion model's Hub name, or a pipeline's folder")
    trainer: str = setting(
        "lora", "how clients fine-tune the foundation: whole in memory, or with its core taken out (hollowed.*)",
        choices=("lora", "hollowed"),
    )  # fmt: skip
    rank: int = setting(8, "rank r of the LoRA matrices", low=1)
    alpha: float = setting(8.0, "LoRA scale; the product BA is multiplied by alpha / rank", low=1e-6)
    targets: str = setting("to_q,to_k,to_v,to_out.0", "U-Net layers that get an adapter, by the end of their names")
    lora_steps: int = setting(600, "optimiser steps of a client's adapter", low=1)
    lora_batch_size: int = setting(16, "images in a step of the adapter", low=1)
    lora_learning_rate: float = setting(1e-2, "step size of the adapter's AdamW", low=1e-12)
    lora_schedule: str = setting("cosine", "step size over the steps: falling to 0 as a cosine, or constant",
                                 choices=("cosine", "constant"))  # fmt: skip
    precision: str = setting("auto", "auto: fp16 on CUDA, else fp32", choices=("auto", "fp32", "fp16", "bf16"))
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory while tuning")
    scheduler: str = setting("dpm", "sampler of generated images", choices=("ddim", "dpm", "foundation"))
    sample_steps: int = setting(12, "denoising steps of a generated image", low=1)
    guidance: float = setting(1.5, "classifier-free guidance scale; 1: none", low=0.0)
    resize: str = setting(
        "bicubic", "how drawn images are brought to data.image-size: bicubic without aliasing, or the mean of areas",
        choices=("bicubic", "area"),
    )  # fmt: skip
    sample_batch_size: int = setting(64, "images denoised together on a GPU; it does not change them", low=1)


GROUPS: tuple[type[Group], ...] = (General, Data, Model, Diffusion)


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

    @property
    def data(self) -> Data:
        return self.of(Data)

    @property
    def model(self) -> Model:
        return self.of(Model)

    @property
    def diffusion(self) -> Diffusion:
        return self.of(Diffusion)

    def flat(self) -> dict[str, Value]:
        """The settings as Flower's flat run config."""
        return {key: getattr(self.groups[group], f.name) for key, group, f in keys(tuple(self.groups))}


def keys(groups: tuple[type[Group], ...]) -> Iterator[tuple[str, type[Group], dataclasses.Field[Value]]]:
    """Every setting of the groups as (key, group, field)."""
    for group in groups:
        for f in fields(group):  # type: ignore[arg-type]
            name = f.name.replace("_", "-")
            yield (f"{group.prefix}.{name}" if group.prefix else name), group, f


def all_groups() -> tuple[type[Group], ...]:
    """The common groups and one for each method that has settings of its own."""
    from fedwarm.methods import method_groups

    return common_groups() + method_groups()


def common_groups() -> tuple[type[Group], ...]:
    """The groups that every method knows."""
    from fedwarm.aggregators import Robust
    from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
    from fedwarm.codecs import StochasticRounding
    from fedwarm.core.faults import Faults
    from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
    from fedwarm.measures.widths import Evaluate
    from fedwarm.objectives.rq import RelaxedQuantization
    from fedwarm.privacy.mechanisms.dp_sgd.gradient import DpSgd
    from fedwarm.quantize.hooks import QuantizationRobust
    from fedwarm.rounds.nodes import Nodes

    return (
        *GROUPS, Evaluate, StochasticRounding, DpSgd, QuantizationRobust, RelaxedQuantization, Hollowed, GenFedSD, Robust, Faults,
        Nodes,
    )  # fmt: skip


def parse(flat: Mapping[str, Value]) -> Config:
    """Typed settings from a flat run config.

    Raises:
        SettingError: unknown key (with the near names), wrong type, or a value out of its range.
    """
    groups = all_groups()
    table = {key: (group, f) for key, group, f in keys(groups)}
    values: dict[type[Group], dict[str, Value]] = {group: {} for group in groups}
    for key, value in flat.items():
        if key not in table:
            raise SettingError(f"unknown setting {key!r}{near(key, list(table))}; `fedwarm settings` lists them all")
        group, f = table[key]
        values[group][f.name] = checked(key, value, f)
    config = Config({group: group(**values[group]) for group in groups})
    from fedwarm.methods import canonical

    name = canonical(config.run.method)
    for folder in ("out", "client-folder"):
        path = str(flat.get(folder, ""))
        if path and not os.path.isabs(path):
            raise SettingError(f"{folder} = {path!r} is relative; give an absolute path, as workers run in other folders")
    return dataclasses.replace(config, groups={**config.groups, General: dataclasses.replace(config.run, method=name)})
