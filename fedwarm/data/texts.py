"""Texts as examples: pieces of so many characters, each a number; the next characters are the targets, or who wrote them.

A data set is one file of text, a folder of such files, or a column of text in a table. Of a folder, the first folder below it
names the author of a file, else the file itself does; a table says it in its label column. Who wrote a piece is the column
`author`. The alphabet is fixed by `data.alphabet`, so that sites agree on it without telling what they hold: number 0 stands for
any other character; a tab counts as a blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedwarm.data.broken import local
from fedwarm.data.folders import NAMED, TRAIN, listed
from fedwarm.data.frames import Rows as Read
from fedwarm.data.frames import row_values
from fedwarm.data.given import DOMAIN, tensor_table
from fedwarm.data.labels import labelled
from fedwarm.data.settings import CLASSES, TOKENS, Data
from fedwarm.data.tables import Column, Rows, Table, coded
from fedwarm.data.tabular import refuse_picture_settings, target_columns
from fedwarm.settings.fields import SettingError

ENDS, AUTHOR = (".txt",), "author"
COLUMNS = ("text", "sentence", "content", "document")
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
OTHER = "other"


@dataclass(frozen=True)
class Document:
    """One text, and who wrote it."""

    text: str
    author: str


def alphabet(data: Data) -> tuple[str, ...]:
    """The characters that are told apart, by their numbers; the first stands for all others."""
    own = data.alphabet or PRINTABLE
    if len(set(own)) < len(own):
        twice = next(c for i, c in enumerate(own) if c in own[:i])
        raise SettingError(f"data.alphabet has {twice!r} twice; name each character once")
    return (OTHER, *own)


def of_texts(name: str) -> bool:
    """Whether a data set is a file of text, or a folder that holds such files alone."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.suffix.lower() in ENDS
    files = [*listed(str(path))] if path.is_dir() else []
    return bool(files) and all(file.lower().endswith((*ENDS, ".md")) for file in files) and any(f.endswith(ENDS) for f in files)


def read_texts(name: str, data: Data, split: str = TRAIN) -> Table:
    """The pieces of a file's text, or of a folder's files.

    Raises:
        SettingError: a file is no text, there is too little of it, or no such split.
    """
    path = Path(name).expanduser()
    files = [path.name] if path.is_file() else [file for file in sorted(listed(str(path))) if file.lower().endswith(ENDS)]
    base = path.parent if path.is_file() else path
    splits: dict[str, list[str]] = {}
    for file in files:
        splits.setdefault(NAMED.get(Path(file).parts[0].lower(), TRAIN) if len(Path(file).parts) > 1 else TRAIN, []).append(file)
    if split not in splits:
        raise SettingError(f"{name} has no split {split!r}; put its files in a folder so called, or set data.test = 'held-out'")
    return text_table([_document(base, file) for file in splits[split]], name, data)


def _document(base: Path, file: str) -> Document:
    try:
        text = (base / file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = local(f"{file} cannot be read: {error}", "a file cannot be read")
        raise SettingError(f"{what}; save it as text in UTF-8") from error
    parts = [part for part in Path(file).parts[:-1] if part.lower() not in NAMED]
    return Document(text, parts[0] if parts else Path(file).stem)


def of_column(read: Read, column: str, name: str, data: Data) -> Table:
    """The texts in a column: each row's pieces, or one example a row where the task wants classes, its first characters.

    So no text is in training and in testing, and none is lost for being short: it is filled up with number 0.
    """
    refuse_picture_settings(data, name)
    values, columns = row_values(read.rows, column), tuple(map(str, read.rows.column_names))
    if AUTHOR in columns and data.targets != CLASSES:
        authors, kept = list(map(str, row_values(read.rows, AUTHOR))), np.arange(len(values))
    elif data.targets == CLASSES:
        label, kept = labelled(read.rows, target_columns(columns, name, data)[0], name, data.missing_labels)
        authors = [label.names[code] for code in label.codes]
    else:
        authors, kept = ["all"] * len(values), np.arange(len(values))
    texts = [values.iloc[int(row)] for row in kept]
    empty = next((int(row) for row, text in zip(kept, texts, strict=True) if not isinstance(text, str) or not text), None)
    if empty is not None:
        raise SettingError(f"{name}: {read.place(empty)}, column {column!r} holds no text; fill it in or remove the row")
    documents = [Document(text, author) for text, author in zip(texts, authors, strict=True)]
    return text_table(documents, name, data, begun=data.targets == CLASSES)


def text_table(documents: Sequence[Document], name: str, data: Data, begun: bool = False) -> Table:
    """The pieces of texts as a table.

    Args:
        documents: in their order.
        name: as the user gave it.
        data: length of a piece, alphabet, and what the task wants: TOKENS, or CLASSES, which are the authors.
        begun: one example a document, its beginning, in place of all its pieces.

    Raises:
        SettingError: no text is as long as a piece, or the task wants neither.
    """
    if data.targets not in (CLASSES, TOKENS):
        raise SettingError(f"the task wants {data.targets}, and {name} is text; take task = 'language' or 'classification'")
    signs, length = alphabet(data), data.length
    numbers = {sign: number for number, sign in enumerate(signs) if number}
    cut_up = _beginning if begun else _pieces
    found = [(cut, i) for i, document in enumerate(documents) for cut in cut_up(document.text, length, numbers)]
    if len(found) < 2:
        raise SettingError(f"{name} holds less than two pieces of data.length = {length} characters; lower it, or give more text")
    pieces = torch.from_numpy(np.stack([cut for cut, _ in found]))
    whose = np.array([i for _, i in found])
    short, long = len(documents) - len({*whose.tolist()}), sum(len(document.text) > length for document in documents)
    lost = sorted({document.author for document in documents} - {documents[i].author for i in whose})
    if lost and data.targets == CLASSES:
        raise SettingError(
            f"{name}: no text of {local(repr(lost[0]), 'a class')} is longer than data.length = {length} characters; lower it"
        )
    authors = _repeated([document.author for document in documents], whose)
    columns = {AUTHOR: authors, DOMAIN: authors}
    told = [f"texts of at most data.length = {length} characters left out: {short:,} of {len(documents):,}"] if short else []
    told += [f"texts cut to data.length = {length} characters: {long:,} of {len(documents):,}"] if long and begun else []
    if data.targets == CLASSES:
        table = tensor_table(name, pieces[:, :-1].contiguous(), authors, None, columns, len(signs))
    else:
        nothing = Column(np.zeros(len(pieces), dtype=np.int64), tuple(f"{number}: {sign!r}" for number, sign in enumerate(signs)))
        table = tensor_table(name, pieces[:, :-1].contiguous(), nothing, pieces[:, 1:].contiguous(), columns, len(signs))
    return replace(table, remarks=lambda: told)


def _pieces(text: str, length: int, numbers: Mapping[str, int]) -> Iterator[Rows]:
    """Pieces of length + 1 characters, the last of each the first of the next; what is left over at the end is dropped."""
    codes = _numbered(text, numbers)
    for start in range(0, len(codes) - length, length):
        yield codes[start : start + length + 1]


def _beginning(text: str, length: int, numbers: Mapping[str, int]) -> Iterator[Rows]:
    """The first `length` characters and one that nobody reads; 0 where there are fewer."""
    codes = _numbered(text, numbers)[:length]
    yield np.pad(codes, (0, length + 1 - len(codes)))


def _numbered(text: str, numbers: Mapping[str, int]) -> Rows:
    return np.array([numbers.get(sign, 0) for sign in text.replace("\r\n", "\n").replace("\t", " ")], dtype=np.int64)


def _repeated(values: Sequence[str], whose: Rows) -> Column:
    column = coded(list(values))
    return Column(column.codes[whose], column.names)
