"""Texts: pieces of characters, what comes next, who wrote them; from files, folders, columns, and the embedded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import default_clients, load_shard
from fedwarm.data.texts import PRINTABLE, alphabet
from fedwarm.settings.fields import SettingError

ROWS = np.array([0, 1])


def text_of(codes: torch.Tensor, signs: tuple[str, ...] = ("?", *PRINTABLE)) -> str:
    return "".join(signs[code] for code in codes.tolist())


def test_pieces_of_a_file_and_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / "song.txt").write_text("to be or not to be\ud7ff!", encoding="utf-8")
    found = read_table(Data(name=str(tmp_path / "song.txt"), length=6, targets="tokens"))
    assert found.form_at(0).vocabulary == len(PRINTABLE) + 1 == 97 == len(found.label.names)
    assert [text_of(piece) for piece in found.images(np.arange(3))] == ["to be ", "or not", " to be"]
    assert [text_of(piece) for piece in found.answers(np.arange(3))] == ["o be o", "r not ", "to be?"]


def test_a_folder_by_author_and_who_wrote_a_piece(tmp_path: Path) -> None:
    for author, file in (("ann", "one"), ("ann", "two"), ("bob", "three")):
        (tmp_path / author).mkdir(exist_ok=True)
        (tmp_path / author / f"{file}.txt").write_text(f"{author} wrote {file} for this test. " * 4)
    data = Data(name=str(tmp_path), length=8)
    found = read_table(data)
    assert found.label.names == ("ann", "bob") == found.column("author").names and default_clients(data) == 2
    shard = load_shard(data, 0, 1, 2)
    assert shard.form.vocabulary == 97 and set(shard.train_labels.tolist()) == {1}
    with pytest.raises(SettingError, match="the task wants numbers, and .* is text; take task = 'language'"):
        read_table(Data(name=str(tmp_path), targets="numbers"))


def test_files_side_by_side_are_authors(tmp_path: Path) -> None:
    for author in ("ann", "bob"):
        (tmp_path / f"{author}.txt").write_text(f"a text by {author} " * 9)
    assert read_table(Data(name=str(tmp_path))).label.names == ("ann", "bob")


def test_a_column_of_text(tmp_path: Path) -> None:
    pandas.DataFrame({"text": ["good good day", "bad bad night"] * 3, "label": ["up", "down"] * 3}).to_csv(tmp_path / "t.csv")
    found = read_table(Data(name=str(tmp_path / "t.csv"), length=4))
    assert found.label.names == ("down", "up") and len(found) == 6
    assert text_of(found.images(ROWS)[0]) == "good" and found.label.codes[0] == 1


def test_an_alphabet_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "dna.txt").write_text("acgtnacgtacgt")
    found = read_table(Data(name=str(tmp_path / "dna.txt"), length=4, alphabet="acgt", targets="tokens"))
    assert found.images(ROWS).tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]] and found.form_at(0).vocabulary == 5
    with pytest.raises(SettingError, match="data.alphabet has 'a' twice; name each character once"):
        alphabet(Data(alphabet="acga"))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(
        SettingError, match="holds less than two pieces of data.length = 32 characters; lower it, or give more text"
    ):
        read_table(Data(name=str(tmp_path / "a.txt")))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingError, match="a.txt cannot be read: .*; save it as text in UTF-8"):
        read_table(Data(name=str(tmp_path / "a.txt")))


def test_the_embedded_texts_are_three_styles_of_a_few_kilobytes() -> None:
    found = read_table(Data(name="styles", length=32, targets="tokens"))
    codes = found.images(np.arange(len(found)))
    assert found.column("author").names == ("cook", "letters", "log") and not (codes == 0).any()
    assert np.bincount(found.column("domain").codes).min() > 70 and default_clients(Data(name="styles")) == 3
