"""Settings of what the clients hold."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from fedwarm.settings.fields import CHOSEN, Group, SettingError, setting
from fedwarm.settings.kinds import PARTITIONS, SETS

G = TypeVar("G", bound="Group")
READING = (
    "name", "image_column", "label_column", "background", "bits", "missing_labels", "skip_broken", "image_size", "targets",
    "feature_columns", "missing_values", "length", "alphabet", "own_settings",
)  # fmt: skip
CLASSES, LABELS, NUMBERS, TOKENS = "classes", "labels", "numbers", "tokens"  # what targets can be
WHOLE = ""  # of `data.partition` at a node: nothing is dealt, and one client holds all
OWN, DATA_FOLDER = "own", "data-folder"  # of `data.name`; the key of a node's configuration that says where its own data are


def _read(run: Any) -> bool:
    """Whether pictures are read from a folder or the Hub."""
    return not SETS.takes(run["data.name"])


def _columns(run: Any) -> bool:
    """Whether the inputs may be columns of numbers."""
    return _read(run) or "data.standardise" in _uses(run)


def _texts(run: Any) -> bool:
    """Whether the inputs may be texts."""
    return _read(run) or "data.length" in _uses(run)


def _uses(run: Any) -> tuple[str, ...]:
    """The settings that the chosen data set says it takes."""
    with suppress(SettingError):  # one that cannot be loaded is refused where it is to be read
        found: tuple[str, ...] = getattr(SETS.load(run["data.name"]), "uses", ())
        return found
    return ()


@dataclass(frozen=True)
class Data(Group, prefix="data"):
    """What the clients hold."""

    name: str = setting(
        "digits",
        "`digits` (embedded), a Hub name, a file or folder (pictures, tables, texts), module:attribute; own: each node's own",
        choices=SETS,
        path=True,
    )
    partition: str = setting(
        "domain",
        "how examples are dealt to clients",
        choices=PARTITIONS,
        when=lambda r: r["data.name"] != OWN,
    )
    alpha: float = setting(
        0.5, "concentration of the Dirichlet partition; the smaller, the more clients differ", low=1e-6, when=CHOSEN
    )
    classes_per_client: int = setting(2, "classes a client holds in the pathological partition", low=1, when=CHOSEN)
    partition_by: str = setting("", "column of the natural partition (`writer_id`, `domain`, ..); empty: found", when=CHOSEN)
    classes: str = setting(
        "",
        "classes of data.name = own in the run's order, with commas; empty: all that nodes hold, sorted",
        when=lambda r: r["data.name"] == OWN,
    )
    image_column: str = setting("", "column of the images; empty: found", when=_read)
    label_column: str = setting(
        "", "column of the labels or other targets, with commas where a task has several; empty: found", when=_read
    )
    feature_columns: str = setting(
        "", "columns of a table that are the inputs, with commas; empty: all of numbers that are no target and no id", when=_read
    )
    standardise: str = setting(
        "auto",
        "columns of a table to mean 0 and deviation 1; train: by the training examples; none; a CSV file: column, mean, std; "
        "auto: train",
        path=True, when=_columns,
    )  # fmt: skip
    missing_values: str = setting(
        "refuse",
        "missing values of a table's inputs; drop: such rows are left out; mean: filled by the column's mean in training",
        choices=("refuse", "drop", "mean"),
        when=_read,
    )
    length: int = setting(32, "characters of an example of text", low=1, high=4096, when=_texts)
    alphabet: str = setting(
        "", "characters of a text that are told apart; empty: line end and the 95 printable ones of ASCII", when=_texts
    )
    background: str = setting("white", "what transparent pictures are laid on: a colour's name, or #rrggbb", when=_read)
    bits: int = setting(
        0,
        "bits of a value where pictures have more than 8 a channel; 1: floats from 0 to 1; 0: found in the data set",
        low=0,
        high=32,
        when=_read,
    )
    missing_labels: str = setting(
        "refuse",
        "rows whose label is missing (null, NaN, empty, -1 beside 0 and more); drop: left out; keep: -1 is a class",
        choices=("refuse", "drop", "keep"),
        when=_read,
    )
    skip_broken: bool = setting(
        False, "leave out pictures that cannot be read, and say so in the record; else they are refused", when=_read
    )
    max_examples: int = setting(0, "most training examples of a client, a seeded subset; 0: all", low=0)
    test: str = setting(
        "held-out",
        "what is tested on: images held out of each client's; the data set's test split, dealt to clients; that, at the server",
        choices=("held-out", "split", "central"),
    )  # fmt: skip
    test_split: str = setting(
        "test", "the data set's split that data.test = split or central tests on", when=lambda r: r["data.test"] != "held-out"
    )
    test_fraction: float = setting(
        0.25, "share of a client's images held out for testing", low=0.01, high=0.9, when=lambda r: r["data.test"] == "held-out"
    )
    validation_fraction: float = setting(
        0.0, "share of a client's training examples held back; `watch`, `patience`, `target` and the best model go by these; 0: "
        "none, they go by test examples", low=0.0, high=0.9,
    )  # fmt: skip
    public_share: float = setting(
        0.0, "share of every class that no client holds, the same in all runs: a foundation may learn from it", low=0.0, high=0.9
    )
    image_size: int = setting(32, "images are brought to this height and width", low=8)
    rotation: float = setting(
        0.0, "each client's images, those for testing too, are turned by one angle below so many degrees; 0: by none",
        low=0.0, high=360.0, when=lambda r: r["data.name"] != OWN,
    )  # fmt: skip
    rotation_bins: int = setting(
        0, "angles to choose from, each half as likely as the one before; 0: any angle, uniformly", low=0, high=64,
        when=lambda r: r["data.name"] != OWN and r["data.rotation"] > 0,
    )  # fmt: skip
    share_class_counts: bool = setting(
        True, "clients tell the server how many images of each class they hold", when=lambda r: r.counts
    )

    targets: str = field(default=CLASSES, repr=False)  # what the task wants (see `tasks.Task`)
    own_settings: tuple[Group, ...] = field(default=(), repr=False)

    @property
    def own(self) -> bool:
        """Whether nothing is dealt: each node brings a data set of its own."""
        return self.name == OWN

    @property
    def reading(self) -> Data:
        """The settings by which a data set is read; all others have their defaults."""
        others: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name not in READING}
        return replace(self, **others)

    def at(self, folder: str) -> Data:
        """The settings of a folder that one client holds whole."""
        return replace(self, name=folder, partition=WHOLE, rotation=0.0)

    def of(self, group: type[G]) -> G:
        """The settings of the chosen data set or partition; their defaults where it is chosen without a run."""
        return next((found for found in self.own_settings if isinstance(found, group)), None) or group()
