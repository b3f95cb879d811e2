"""Settings for people and for pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.catalogue import ROOMS, all_groups, groups_of
from fedwarm.cli.settings import COMMON, chosen, settings_table, settings_text, settings_toml
from fedwarm.core.text import cells
from fedwarm.settings.fields import Row, SettingError, Value, allowed, keys
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.text import flat, literal

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


def rows_of(name: str) -> list[Row]:
    return [row for part in chosen(name) for row in part.rows]


def keys_of(name: str) -> list[str]:
    return [row[0] for row in rows_of(name)]


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("name", [*METHODS, ""])
def test_every_key_is_printed(
    name: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    first = [line.split()[0] for line in printed(name, capsys) if line.strip() and not line.startswith(" ")]
    groups = groups_of(METHODS, name) if name else all_groups()
    wanted = [key for key, _, _ in keys(groups)]
    assert [word for word in first if word in wanted] == wanted
    assert bool(wanted) or "It has no settings." in printed(name, capsys) or COMMON in printed(name, capsys)


def test_default_range_and_meaning_stand_in_the_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "700")
    lines = printed("", capsys)
    for key, _, f in keys(all_groups()):
        (line,) = [line for line in lines if line.split()[:1] == [key]]
        assert literal(f.default) in line and f.metadata["text"] in line  # type: ignore[arg-type]
        assert all(choice in line for choice in f.metadata["choices"] or ())


@pytest.mark.parametrize("width", [80, 40, 20])
def test_no_width_cuts_a_word(width: int) -> None:
    rows = rows_of("")
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
    assert settings_text(rows_of("data.alpha"), 60) == (
        "data.alpha = 0.5  (at least 1e-06)\n"
        "    concentration of the Dirichlet partition; the smaller,\n    the more clients differ"
    )


def test_bounds_have_all_their_digits() -> None:
    assert "seed = 0  (0 to 9007199254740992)\n" in settings_text(rows_of("seed"), 60)
    assert "e+" not in settings_text(rows_of(""), None)


@pytest.mark.parametrize("name", ["data", "data.", "data.*"])
def test_a_part_is_printed_alone(name: str) -> None:
    assert keys_of(name) == [key for key in DEFAULTS if key.startswith("data.")]


def test_a_name_of_several_kinds_stands_under_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    own = [key for key in DEFAULTS if key.startswith("dp-rec.")]
    for name in ("dp-rec", "dp_rec"):
        method, codec = chosen(name)
        assert [row[0] for row in method.rows] == own and method.heading.startswith("method dp_rec: ")
        assert not codec.rows and codec.heading.startswith("codec dp-rec: ")
        assert "Its settings are those above." in printed(name, capsys)


def test_a_methods_own_defaults_stand_below_its_settings() -> None:
    below = chosen("dp_rec")[0].below
    assert below.startswith("Where nobody says otherwise: ") and "dp-rec.view = 'central_certified'" in below.replace('"', "'")
    assert "--clients 200" in below and below.endswith(COMMON)


def test_a_component_has_its_own_settings_and_those_of_others_that_it_takes() -> None:
    assert keys_of("dirichlet") == ["data.alpha"] and keys_of("pathological") == ["data.classes-per-client"]
    assert keys_of("fedprox") == ["fedprox.mu"] and chosen("fedprox")[0].below == COMMON
    assert keys_of("quantization_robust") == [key for key in DEFAULTS if key.startswith("quantization-robust.")]
    assert (
        keys_of("fedwarm.codecs.stochastic_rounding:COMPONENT") == keys_of("stochastic-rounding") == ["stochastic-rounding.bits"]
    )
    assert keys_of("warmfed.")[0] == "warmfed.protocol" and keys_of("learning-rate") == ["learning-rate"]


def test_what_is_unknown_is_refused_with_what_is_near() -> None:
    with pytest.raises(SettingError, match=r"^no component, part or key of the settings is called 'dta' \(did you mean data"):
        chosen("dta")
    with pytest.raises(SettingError, match=r"'warmfeed' \(did you mean warmfed"):
        settings_table("warmfeed")
    with pytest.raises(SettingError, match=r"'gone:X' cannot be loaded: gone:X: ModuleNotFoundError"):
        chosen("gone:X")


@given(st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | PLAIN)
def test_literals_are_toml(value: Value) -> None:
    back = tomllib.loads(f"x = {literal(value)}")["x"]
    assert back == value and type(back) is type(value)
