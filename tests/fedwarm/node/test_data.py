"""What a site is told of its folder of pictures before it joins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedwarm.data.settings import Data
from fedwarm.node.checks import Site, look
from fedwarm.node.data import look_at_data
from fedwarm.node.finding import FAULT, OK, WARNING

DATA = Data(partition="iid", image_size=8)


def folder(root: Path, count: int = 4, mode: str = "RGB", top: int = 255) -> Path:
    """Pictures of two classes, `count` each, with noise up to `top`."""
    draws = np.random.default_rng(3)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            if mode == "I;16":
                picture = Image.fromarray(draws.integers(0, top + 1, (9, 12)).astype(np.uint16))
            else:
                picture = Image.fromarray(draws.integers(0, 256, (9, 12, len(mode))).astype(np.uint8))
            picture.save(root / label / f"{number}.png")
    return root


def told(root: Path, data: Data = DATA) -> list[tuple[str, str]]:
    return [(each.level, each.text) for each in look_at_data(replace(data, name=str(root)))]


def test_a_good_folder(tmp_path: Path) -> None:
    assert told(folder(tmp_path)) == [
        (OK, "8 pictures of 2 classes: cat 4, dog 4"),
        (OK, "sides of 9 to 12 pixels, brought to 8 x 8"),
    ]


def test_a_class_that_the_run_does_not_have(tmp_path: Path) -> None:
    """`-c "data.name='own' data.classes='cat,fox'"`: what the run would refuse is told before."""
    ((level, text),) = told(folder(tmp_path), replace(DATA, classes="cat,fox"))
    assert level == FAULT and "holds images of class 'dog', which data.classes = 'cat,fox' lacks" in text
    assert told(tmp_path, replace(DATA, classes="dog,cat"))[0] == (OK, "8 pictures of 2 classes: cat 4, dog 4")


def test_all_broken_pictures_are_named_at_once(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    (tmp_path / "dog" / "2.png").write_bytes(b"nonsense")
    ((level, text),) = told(tmp_path)
    assert (
        level == FAULT
        and "2 pictures" in text
        and "cat/1.png" in text
        and "dog/2.png" in text
        and "data.skip-broken=true" in text
    )
    found = told(tmp_path, replace(DATA, skip_broken=True))
    assert (OK, "broken pictures left out: 2") in found and found[0] == (OK, "6 pictures of 2 classes: cat 3, dog 3")


def test_deep_and_transparent_pictures_are_noted(tmp_path: Path) -> None:
    assert any(level == OK and "4095 is white" in text for level, text in told(folder(tmp_path / "deep", mode="I;16", top=4095)))
    found = told(folder(tmp_path / "clear", mode="RGBA"))
    assert (OK, "8 of 8 pictures looked at have transparency; they are laid on data.background = 'white'") in found


def test_pictures_that_show_nothing_and_classes_with_one(tmp_path: Path) -> None:
    folder(tmp_path, count=3)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (9, 9), "grey").save(path)
    (tmp_path / "owl").mkdir()
    Image.new("RGB", (9, 9), "grey").save(tmp_path / "owl" / "1.png")
    found = told(tmp_path)
    assert (WARNING, "fewer than 2 pictures of 'owl': one is trained or tested on, never both") in found
    assert sum(level == WARNING and "all the same" in text for level, text in found) == 1


@pytest.mark.parametrize("names", [(), ("1.png", "2.png")])
def test_a_folder_that_cannot_be_read_is_a_fault(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    assert [level for level, _ in told(tmp_path)] == [FAULT]
    assert told(tmp_path / "none") == [(FAULT, f"{tmp_path / 'none'} is no folder here; in a container, see that it is mounted")]


def test_the_runs_settings_say_how_it_is_read(tmp_path: Path) -> None:
    folder(tmp_path, mode="RGBA")
    found = [each.text for each in look(Site(data=tmp_path, reading=Data(background="black", image_size=16)))]
    assert any("data.background = 'black'" in text for text in found) and any("brought to 16 x 16" in text for text in found)


def test_a_table_and_a_text_are_told_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    rows = "".join(f"{i},{i % 3},{i / 2},{'ab'[i % 2]}\n" for i in range(12))
    (tmp_path / "table" / "rows.csv").write_text("age,stage,price,kind\n" + rows)
    found = told(tmp_path / "table", Data(label_column="price", targets="numbers"))
    assert (OK, "12 rows of 2 columns: age, stage") in found and (OK, "to answer: price 0 to 5.5") in found
    assert (OK, "columns of text are no inputs: kind") in found
    assert (OK, "2 classes: a 6, b 6") in told(tmp_path / "table", Data(label_column="kind"))
    (tmp_path / "gaps").mkdir()
    (tmp_path / "gaps" / "rows.csv").write_text("age,stage,price,kind\n" + rows.replace("3,0,", "3,,", 1))
    ((level, text),) = told(tmp_path / "gaps", Data(label_column="kind"))
    assert level == FAULT and "rows.csv, line 5, column 'stage'; fill them in" in text
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "log.txt").write_text("a short text of some words " * 5)
    assert told(tmp_path / "texts", Data(targets="tokens"))[0] == (OK, "4 texts of 32 characters")
