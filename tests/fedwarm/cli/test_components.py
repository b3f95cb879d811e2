"""`fedwarm components`: every component with whence it comes and what it needs, at any width, broken ones too."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.cli.components import components_table, kinds, needs
from fedwarm.core.text import cells
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import KINDS
from fedwarm.settings.registry import component, summary
from tests.outsiders import installed

CODE = """
from fedwarm.codecs import Codec

class Own(Codec):
    summary = "A codec of somebody else's."
    needs = ("torch", "no-such-package")
"""
POINTS = {"fedwarm.codecs": {"own": "outsider:Own", "gone": "nowhere:X", "dense": "outsider:Own"}}


@pytest.mark.parametrize("width", [80, 40])
def test_every_component_is_listed_and_no_word_is_cut(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    components_table("", width)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cells, lines)) <= width
    words = " ".join(lines).split()
    for kind in KINDS.values():
        assert f"{kind.name}:" in " ".join(words) and kind.group in "".join(words)
        assert all(name in words and summary(kind.load(name)).split()[0] in words for name in kind)


def test_whence_it_comes_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with installed(tmp_path, POINTS, CODE):
        components_table("codec", 200)
    out = capsys.readouterr().out
    assert "outsider:Own of package outsider; needs torch, no-such-package (not installed)" in out
    assert "A codec of somebody else's." in out and "fedwarm; settings dp-rec.*" in out
    assert "codec 'gone' cannot be loaded: nowhere:X of package outsider: ModuleNotFoundError" in out
    assert "two components are the codec 'dense': fedwarm.codecs.dense and outsider:Own of package outsider" in out


def test_a_kind_goes_by_its_name_its_folder_and_its_setting() -> None:
    assert [kind.name for kind in kinds("partition")] == [kind.name for kind in kinds("partitions")] == ["partition"]
    assert [kind.name for kind in kinds("data.partition")] == ["partition"] and len(kinds("")) == len(KINDS)
    with pytest.raises(SettingError, match=r"^'codek' is not a kind of component \(did you mean codec"):
        kinds("codek")


def test_what_a_component_needs() -> None:
    @component(needs=("pytest",))
    def ready() -> None: ...

    assert list(needs(ready)) == ["needs pytest"] and list(needs(object())) == []
