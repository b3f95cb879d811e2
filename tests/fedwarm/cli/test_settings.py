"""Settings for people and for pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.catalogue import ROOMS, all_groups, common_groups, groups_of
from fedwarm.cli.settings import chosen, literal, settings_table, settings_text, settings_toml
from fedwarm.core.text import cells
from fedwarm.methods.warmfed import WarmFed
from fedwarm.settings.fields import SettingError, Value, allowed, keys
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.text import flat

ROOT = Path(__file__).parents[3]
PLAIN = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]))
DEFAULTS = {key: f.default for key, _, f in keys(all_groups())}


def test_the_toml_holds_exactly_the_defaults_of_what_every_run_has() -> None:
    """Components' settings go into the one key `set`, so that one more component changes no shared file."""
    table = tomllib.loads(settings_toml().replace("[tool.flwr.app.config.", "["))
    found = flat(table, "the settings")
    wanted = {key: f.default for key, _, f in keys(ROOMS)}
    assert found == wanted and list(found) == list(wanted) and found["set"] == ""
    assert [type(v) for v in found.values()] == [type(v) for v in wanted.values()]


def test_the_projects_own_toml_is_this_one() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    after = text.split("[tool.flwr.app.config]\n# BEGIN SETTINGS", 1)[1].split("\n", 1)[1]
    assert after.split("# END SETTINGS")[0] == settings_toml()


def printed(method: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    settings_table(method)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("method", [*METHODS, ""])
def test_every_key_is_printed(
    method: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    first = [line.split()[0] for line in printed(method, capsys) if line.strip() and not line.startswith(" ")]
    groups = (*common_groups(), *groups_of(METHODS, method)) if method else all_groups()
    assert [word for word in first if word != "setting"] == [key for key, _, _ in keys(groups)]


def test_default_range_and_meaning_stand_in_the_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "700")
    lines = printed("warmfed", capsys)
    for key, _, f in keys((*common_groups(), WarmFed)):
        (line,) = [line for line in lines if line.split()[:1] == [key]]
        assert literal(f.default) in line and f.metadata["text"] in line  # type: ignore[arg-type]
        assert all(choice in line for choice in f.metadata["choices"] or ())


@pytest.mark.parametrize("width", [80, 40, 20])
def test_no_width_cuts_a_word(width: int) -> None:
    rows = chosen("")
    lines = settings_text(rows, width).split("\n")
    assert max(map(cells, lines)) <= width
    told = iter(lines)
    for key, _, f in rows:
        whole = f"{key} = {literal(f.default)}  ({allowed(f)}) {f.metadata['text']}"  # type: ignore[arg-type]
        found = ""
        while len(found) < len("".join(whole.split())):
            found += "".join(next(told).split())
        assert found == "".join(whole.split())
    assert next(told, None) is None


def test_one_setting_reads_like_this() -> None:
    assert settings_text(chosen("data.alpha"), 60) == (
        "data.alpha = 0.5  (at least 1e-06)\n"
        "    concentration of the Dirichlet partition; the smaller,\n    the more clients differ"
    )


def test_bounds_have_all_their_digits() -> None:
    assert "seed = 0  (0 to 9007199254740992)\n" in settings_text(chosen("seed"), 80)
    assert "e+" not in settings_text(chosen(""), None)


@pytest.mark.parametrize("name", ["data", "data.", "data.*"])
def test_a_part_is_printed_alone(name: str) -> None:
    assert [key for key, _, _ in chosen(name)] == [key for key in DEFAULTS if key.startswith("data.")]


def test_a_part_that_is_named_like_a_method() -> None:
    own = [key for key in DEFAULTS if key.startswith("dp-rec.")]
    assert [key for key, _, _ in chosen("dp-rec")] == own and chosen("warmfed.")[0][0] == "warmfed.protocol"
    assert [key for key, _, _ in chosen("dp_rec")] == [*(key for key, _, _ in keys(common_groups())), *own]
    assert [key for key, _, _ in chosen("learning-rate")] == ["learning-rate"]
    with pytest.raises(SettingError, match=r"unknown method 'dta' \(did you mean data"):
        chosen("dta")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SettingError, match="unknown method 'warmfeed'.*warmfed"):
        settings_table("warmfeed")


@settings(deadline=None, derandomize=True)
@given(st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | PLAIN)
def test_literals_are_toml(value: Value) -> None:
    back = tomllib.loads(f"x = {literal(value)}")["x"]
    assert back == value and type(back) is type(value)
