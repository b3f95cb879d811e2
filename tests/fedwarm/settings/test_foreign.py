"""Components of somebody's own that fail, or are something else, are told in one line before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError, Value

MODULE = """
from fedwarm.methods import Method
from fedwarm.settings.fields import Group

class Own(Group, prefix="odd"):
    pass

COMPONENT = Method("Own", "a method", None)

def broken(classes, image_size):
    raise KeyError("width")

def nothing(classes, image_size):
    return None

def narrow(classes, image_size):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, 7))

def square(classes, image_size):
    from torch import nn

    return nn.Linear(5, classes)

def two(table, data, seed, partitions):
    return [range(0, 9), range(9, 20)]

def beyond(table, data, seed, partitions):
    return [range(i, i + 9) for i in (0, 9, 5000)]

def fails(table, data, seed, partitions):
    return [][1]
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "odd_parts:Own"}, r"method 'odd_parts:Own' is .* without 'presets'.*; did you mean odd_parts:COMPONENT\?"),
        ({"codec": "json:loads"}, "codec 'json:loads' is function without 'encode', and so none; see docs/components.md"),
        ({"model.name": "odd_parts:broken"}, "model.name = 'odd_parts:broken' fails: KeyError: 'width'; correct that function"),
        ({"model.name": "odd_parts:nothing"}, "model.name = 'odd_parts:nothing' gives NoneType; return the torch module"),
        (
            {"model.name": "odd_parts:narrow"},
            r"gives outputs of shape \(2, 7\) for two inputs; the task wants 10 outputs for each",
        ),
        ({"model.name": "odd_parts:square"}, "model.name = 'odd_parts:square' fails: RuntimeError: .*; correct that function"),
        ({"data.partition": "odd_parts:two"}, "data.partition = 'odd_parts:two' deals to 2 clients, and there are 3"),
        ({"data.partition": "odd_parts:beyond"}, "deals rows that are none of the 1797; number them from 0"),
        ({"data.partition": "odd_parts:fails"}, "data.partition = 'odd_parts:fails' fails: IndexError: list index out of range"),
    ],
)
def test_it_is_told_in_a_line(settings: dict[str, Value], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match=said) as caught:
        check_run({"method": "fedavg", **settings}, 3)
    assert len(str(caught.value).splitlines()) == 1
