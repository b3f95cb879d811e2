"""Settings of what the clients hold."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

from fedwarm.settings.fields import CHOSEN, Group, SettingError, setting
from fedwarm.settings.kinds import PARTITIONS, SETS

G = TypeVar("G", bound="Group")
READING = (
    "name", "image_column", "label_column", "background", "bits", "missing_labels", "skip_broken", "image_size", "targets",
    "feature_columns", "partition_by", "group_column", "missing_values", "length", "alphabet", "own_settings",
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
        "data set: `digits` (embedded), a Hub name, a file or folder (pictures, tables, texts), or module:attribute; own: "
        "each node reads its own folder",
        choices=SETS,
        path=True,
    )
    partition: str = setting(
        "domain",
        "rule that deals the examples to simulated clients; `fedwarm components partition` describes each",
        choices=PARTITIONS,
        when=lambda r: r["data.name"] != OWN,
    )
    alpha: float = setting(
        0.5, "concentration of the Dirichlet partition; the smaller, the more clients differ", low=1e-6, when=CHOSEN
    )
    classes_per_client: int = setting(
        2, "number of classes that each client holds, in the pathological partition", low=1, when=CHOSEN
    )
    partition_by: str = setting(
        "",
        "column whose values say which client holds a row, e.g. `writer_id`, in the natural partition; empty: detected by "
        "its name",
        when=CHOSEN,
    )
    classes: str = setting(
        "",
        "names of all classes in the run's order, separated by commas, for data.name = own; empty: all that nodes hold, sorted",
        when=lambda r: r["data.name"] == OWN,
    )
    image_column: str = setting("", "column of the images; empty: detected", when=_read)
    label_column: str = setting(
        "", "column of the labels or other targets; several are separated by commas; empty: detected by its name", when=_read
    )
    feature_columns: str = setting(
        "", "input columns of a table, separated by commas; empty: all numeric columns but targets and ids", when=_read
    )
    standardise: str = setting(
        "auto",
        "scaling of a table's input columns to mean 0 and standard deviation 1; train, auto: by statistics of the "
        "training examples; none: no scaling; or a CSV file (column, mean, std)",
        path=True, when=_columns,
    )  # fmt: skip
    missing_values: str = setting(
        "refuse",
        "missing values among a table's inputs; refuse: an error; drop: such rows are left out; mean: filled with the "
        "column's mean in training",
        choices=("refuse", "drop", "mean"),
        when=_read,
    )
    length: int = setting(32, "characters in each example of text", low=1, high=4096, when=_texts)
    alphabet: str = setting(
        "",
        "characters of texts that the model distinguishes, as one string; empty: line end and the 95 printable ASCII characters",
        when=_texts,
    )
    background: str = setting("white", "colour behind transparent pictures: a name, e.g. white, or #rrggbb", when=_read)
    bits: int = setting(
        0,
        "bits per channel of pictures that have more than 8, e.g. 12; 1: floats from 0 to 1; 0: detected",
        low=0,
        high=32,
        when=_read,
    )
    missing_labels: str = setting(
        "refuse",
        "rows without a label (null, NaN, empty, or -1 beside labels from 0); refuse: an error; drop: left out; keep: -1 "
        "is a class of its own",
        choices=("refuse", "drop", "keep"),
        when=_read,
    )
    skip_broken: bool = setting(
        False,
        "true: leave out pictures that cannot be read, and say so in the record; false: refuse to run with them",
        when=_read,
    )
    max_examples: int = setting(0, "limit on a client's training examples, a random subset by the seed; 0: no limit", low=0)
    test: str = setting(
        "held-out",
        "test examples; held-out: a part of each client's own (data.test-fraction); split: the data set's test split, "
        "dealt to clients; central: that split, at the server",
        choices=("held-out", "split", "central"),
    )  # fmt: skip
    test_split: str = setting(
        "test",
        "name of the data set's split to test on, with data.test = split or central",
        when=lambda r: r["data.test"] != "held-out",
    )
    test_fraction: float = setting(
        0.25,
        "fraction of a client's images that is held out for testing",
        low=0.01,
        high=0.9,
        when=lambda r: r["data.test"] == "held-out",
    )
    validation_fraction: float = setting(
        0.0,
        "fraction of a client's training examples held back for validation, by which `watch`, `patience`, `target` and "
        "the best model go; 0: none, they go by test examples", low=0.0, high=0.9,
    )  # fmt: skip
    group_column: str = setting(
        "",
        "column whose equal values keep rows together, e.g. `patient_id`: a client tests, validates or trains on all of them; "
        "empty: rows are held out one by one",
        when=lambda r: r["data.test"] == "held-out" or r["data.validation-fraction"] > 0,
    )
    public_share: float = setting(
        0.0,
        "fraction of every class that no client holds, the same in all runs, e.g. to train a foundation on; 0: none",
        low=0.0,
        high=0.9,
    )
    public_where: str = setting(
        "",
        "rows that no client holds, in the place of a share of each class: column=value, e.g. domain=photo; several with commas",
    )
    image_size: int = setting(32, "height and width in pixels to which images are resized", low=8)
    rotation: float = setting(
        0.0,
        "each client's images, for training and testing, are turned by one random angle of its own from 0 up to so many "
        "degrees; 0: not turned",
        low=0.0, high=360.0, when=lambda r: r["data.name"] != OWN,
    )  # fmt: skip
    rotation_bins: int = setting(
        0, "number of equally spaced angles to draw from, each half as likely as the one before; 0: any angle, uniformly",
        low=0, high=64,
        when=lambda r: r["data.name"] != OWN and r["data.rotation"] > 0,
    )  # fmt: skip
    share_class_counts: bool = setting(
        True,
        "true: clients tell the server their number of images of each class; false: only which classes they hold",
        when=lambda r: r.counts,
    )

    targets: str = field(default=CLASSES, repr=False)  # what the task wants (see `tasks.Task`)
    own_settings: tuple[Group, ...] = field(default=(), repr=False)

    @property
    def own(self) -> bool:
        """Whether nothing is dealt: each node brings a data set of its own."""
        return self.name == OWN

    @property
    def public(self) -> bool:
        """Whether a part of the data set is public."""
        return bool(self.public_share or self.public_where)

    @property
    def reading(self) -> Data:
        """The settings by which a data set is read; all others have their defaults."""
        return _reading(self)

    def at(self, folder: str) -> Data:
        """The settings of a folder that one client holds whole."""
        return replace(self, name=folder, partition=WHOLE, rotation=0.0)

    def of(self, group: type[G]) -> G:
        """The settings of the chosen data set or partition; their defaults where it is chosen without a run."""
        return next((found for found in self.own_settings if isinstance(found, group)), None) or group()


@lru_cache(maxsize=8)
def _reading(data: Data) -> Data:
    others: dict[str, Any] = {f.name: f.default for f in fields(data) if f.name not in READING}
    return replace(data, **others)
