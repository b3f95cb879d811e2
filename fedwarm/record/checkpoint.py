"""Checkpoints: all that a run needs to go on to the same numbers, written after every stage, as safetensors and JSON.

`checkpoint/checkpoint.json` names the files that belong to it with their digests, and is replaced last: a run that is killed
while it writes leaves the checkpoint before. Random draws need no state, since each has its own generator (`fedwarm.core.seeds`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.files import make_folder, replacing, writing
from fedwarm.record.pieces import is_piece
from fedwarm.settings.fields import SettingError, Value

SCHEMA = 1
FOLDER, INDEX = "checkpoint", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run after some of its stages.

    Attributes:
        done: stages that are done.
        complete: nothing is left to do.
        key: the run's key, which its clients keep their states under.
        clients: how many there are.
        seconds: how long the run took so far.
        settings: the run's settings, flat.
        versions: of the packages that decide the numbers.
        lengths: bytes of the append-only files (ledger, journal) that belong to it.
        facts: the method's own, as JSON.
        parts: the method's own arrays; a part with the same arrays as before is not written again.
    """

    done: int
    complete: bool
    key: str
    clients: int
    seconds: float
    settings: dict[str, Value]
    versions: dict[str, str]
    lengths: dict[str, int]
    facts: dict[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Arrays] = field(default_factory=dict)


class Keeper:
    """Writes a run's checkpoints below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._written: dict[str, tuple[Arrays, dict[str, str]]] = {}

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint before by this one."""
        make_folder(self.folder)
        files = {name: self._part(name, arrays) for name, arrays in checkpoint.parts.items()}
        document = {"schema": SCHEMA, **asdict(_without_parts(checkpoint)), "parts": files}
        with replacing(self.folder / INDEX, durable=True) as temporary:
            temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
        kept = {INDEX, *(entry["file"] for entry in files.values())}
        for path in self.folder.iterdir():
            if path.name not in kept and not is_piece(path, checkpoint.done):
                path.unlink(missing_ok=True)

    def _part(self, name: str, arrays: Arrays) -> dict[str, str]:
        from safetensors.numpy import save_file

        before = self._written.get(name)
        if before is not None and before[0].keys() == arrays.keys() and all(before[0][n] is a for n, a in arrays.items()):
            return before[1]
        fresh = self.folder / f".{name}.new"
        try:
            with writing(self.folder / f"{name}.safetensors"):
                save_file({n: np.asarray(a, order="C") for n, a in arrays.items()}, fresh)  # it writes memory as it lies
            digest = _digest(fresh)
            entry = {"file": f"{name}.{digest[:16]}.safetensors", "sha256": digest}
            with replacing(self.folder / entry["file"], private=True, durable=True) as temporary:
                fresh.rename(temporary)
        finally:
            fresh.unlink(missing_ok=True)
        self._written[name] = dict(arrays), entry
        return entry


def _without_parts(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint(**{**vars(checkpoint), "parts": {}})


def exists(folder: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    return (folder / FOLDER / INDEX).is_file()


def load(folder: Path) -> Checkpoint:
    """The checkpoint of a run folder, every file of it checked.

    Raises:
        SettingError: there is none, it is truncated or changed, or no checkpoint of this schema; the message names the file.
    """
    index = folder / FOLDER / INDEX
    if not index.is_file():
        raise SettingError(f"{folder} holds no checkpoint to resume from; run without --resume to begin")
    while True:
        said = index.read_bytes()
        try:
            return _read(index, said)
        except (SettingError, FileNotFoundError):
            if index.read_bytes() == said:
                raise  # else a run that goes on has replaced it meanwhile


def _read(index: Path, said: bytes) -> Checkpoint:
    try:
        document = json.loads(said)
        schema = document.pop("schema")
        files: dict[str, dict[str, str]] = document.pop("parts")
        if schema != SCHEMA:
            raise SettingError(
                f"{index} has schema {schema!r}; this version of fedwarm reads schema {SCHEMA}: resume with the "
                "version that wrote it, or start over with --fresh"
            )
        parts = {str(name): _read_part(index.parent, entry) for name, entry in files.items()}
        return _checked(Checkpoint(**document, parts=parts))
    except SettingError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingError(f"{index} is truncated or not a checkpoint of fedwarm; start over with --fresh") from error


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    kinds = {"done": int, "complete": bool, "key": str, "clients": int, "settings": dict, "lengths": dict, "facts": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(checkpoint, name), kind)]
    if wrong:
        raise ValueError(wrong[0])
    return checkpoint


def _read_part(folder: Path, entry: Mapping[str, str]) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise SettingError(f"{path} is missing; the checkpoint cannot be used; start over with --fresh")
    if _digest(path) != entry["sha256"]:
        raise SettingError(f"{path} is truncated or changed; the checkpoint cannot be used; start over with --fresh")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise SettingError(f"{path} is not a safetensors file: {error}; start over with --fresh") from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
