"""What a run's files say of what they were trained on, and what is refused because it has seen a run's test images.

A model's file carries it as JSON in its one metadata entry; `results.json` beside it says the same, and of runs that were written
before it did, the settings say it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fedwarm.data.provenance import PUBLIC, TRAIN, Marks, Source, data_of, marks, seen, source_of
from fedwarm.data.sets import data_set
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests
from fedwarm.diffusion.foundation import locate
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import Model
from fedwarm.privacy.levels import Level
from fedwarm.relevance import Run
from fedwarm.rounds.gate import level_of
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.registry import is_reference

HEADER, KEY = "fedwarm", "trained_on"


def trained_on(config: Config, clients: int) -> list[Source]:
    """Everything that a run's models are trained on: its clients' images, and what its other inputs had been trained on."""
    run, found = Run.of(config), [source_of(TRAIN, config.of(Data), config.run.seed, clients)]
    for _, path in used(config):
        found += sources(Path(path)) or []
    for component in run.chosen:
        if hasattr(component, "sources"):
            found += component.sources(config)
    if run.draws or run.generates:
        found += _of_foundation(config)
    return list(dict.fromkeys(_kept(config, found)))


def _kept(config: Config, found: Sequence[Source]) -> list[Source]:
    """Sources as they may be told: a hash of private images or labels would tell of them; fedwarm's own sets are public."""
    data = config.of(Data)
    if level_of(Run.of(config)) == Level.OPEN or (data_set(data.name) is not None and not is_reference(data.name)):
        return list(found)
    own = marks(data)
    return [replace(source, marks=Marks()) if source.marks == own else source for source in found]


def _of_foundation(config: Config) -> Iterator[Source]:
    """The public images that a foundation of `fedwarm foundation train` knows, by its recipe; nothing where it is not here."""
    try:
        folder = Path(locate(config.of(Diffusion).foundation))
        told = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["data"]
        name, share, mark = str(told["name"]), float(told["public_share"]), str(told["labels_sha256"])
        where = str(told.get("public_where", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return
    yield Source(
        PUBLIC, replace(config.of(Data), name=os.path.basename(name), public_share=share, public_where=where), marks=Marks(mark)
    )


def header(found: Sequence[Source]) -> dict[str, str]:
    """The metadata of a model's file; one entry, as several are written in any order."""
    told = {KEY: [source.told() for source in found]}
    return {HEADER: json.dumps(told, sort_keys=True, separators=(",", ":"))}


def sources(path: Path) -> list[Source] | None:
    """What a model's file says, or the results of the run folder that it or a folder lies in; None where nobody says."""
    from safetensors import SafetensorError, safe_open

    path = path.expanduser()
    if path.is_dir():
        return _of_run(path.parent)
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        if KEY in header:
            return [Source.read(entry) for entry in header[KEY]]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return next((found for folder in (path.parent, path.parent.parent) if (found := _of_run(folder)) is not None), None)


def _of_run(folder: Path) -> list[Source] | None:
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if KEY in results:
            return [Source.read(entry) for entry in results[KEY]]
        data = data_of(results["settings"])
        clients = int(results["partition"]["clients"])
        return [source_of(TRAIN, data, int(results["seed"]), clients)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingError):
        return None


def used(config: Config) -> Iterator[tuple[str, str]]:
    """The settings of a run that name what an earlier one trained or drew, and their values."""
    if config.of(Model).weights:
        yield "model.weights", config.of(Model).weights
    for component in Run.of(config).chosen:
        if hasattr(component, "earlier"):
            yield from component.earlier(config)


def refuse_seen_tests(config: Config, clients: int) -> None:
    """Refuse a file of an earlier run that was trained on images which this run tests on.

    Where the run's data are not on this machine nothing can be said, and nothing is.

    Raises:
        SettingError: it was.
    """
    for key, path in used(config):
        found = sources(Path(path)) or []
        if not found or marks(config.of(Data)) is None:
            continue
        data, seed = config.of(Data), config.run.seed
        for source in found:
            if count := seen(source, data, seed, clients):
                of = f"of {len(all_tests(data, seed, clients)[1]):,} test images of this run"
                raise SettingError(f"{key} = {path!r} was trained on {count:,} {of}, {_why(source)}")


def _why(source: Source) -> str:
    if source.part != TRAIN:
        return "as a part of what its run drew from; take one that was not, or raise data.public-share"
    return (
        f"in a run with seed {source.seed}, {source.clients} clients and test-fraction {source.data.test_fraction:g}; take one "
        "of a run with this one's seed, clients and data.*, or set data.test = 'split' or 'central', which no run trains on"
    )


def unknown(config: Config) -> list[str]:
    """A line for each file of an earlier run that does not say what it was trained on."""
    return [
        f"{key} = {path!r} does not say what it was trained on; with this run's test images among it, accuracies are too high"
        for key, path in used(config)
        if sources(Path(path)) is None
    ]
