"""From what the report shows to a page of HTML: number formats, and the templates filled in.

The page needs no server, no script and no network; it follows the reader's light or dark scheme, a phone's width and the printer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fedwarm.core.files import write_text
from fedwarm.core.forms import byte_text, percent, second_text
from fedwarm.core.text import visible
from fedwarm.report.plots import COLOURS, ID_PREFIX
from fedwarm.settings.fields import SettingError

DARK_COLOURS = ("#56b4e9", "#ff8a3c", "#2cc79a", "#e39ac4", "#f0b93a", "#a9b8ff")


def _variables(colours: Sequence[str]) -> str:
    """The colours of series as CSS variables."""
    return ";".join(f"--c{i}:{colour}" for i, colour in enumerate(colours))


def _time(value: float | None) -> str:
    return "–" if value is None else _solid(second_text(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bytes(value: float | None) -> str:
    return "–" if value is None else _solid(byte_text(value))


def _solid(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _percent(value: float | None) -> str:
    return _solid(percent(value))


FORMS: dict[str, Callable[[float | None], str]] = {"percent": _percent, "time": _time, "number": _number, "bytes": _bytes}


def _setting(value: object) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


def _many(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"


def _whole(value: object) -> object:
    """What is put on the page, its control characters visible; markup is ours and stays."""
    return visible(str(value)) if isinstance(value, (str, Path)) and not isinstance(value, Markup) else value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedwarm.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_whole,
    )  # fmt: skip
    environment.globals |= {"light": _variables(COLOURS), "dark": _variables(DARK_COLOURS), "colours": len(COLOURS)}
    environment.filters |= FORMS | {
        "apply": lambda value, form: FORMS[form](value),
        "many": _many,
        "least": lambda values: min((v for v in values if v is not None), default=None),
        "known": lambda value: "–" if value is None else f"{value:,}",
        "measured": lambda run, measure: measure.of(run),
        "setting": _setting,
        "placed": lambda svg, prefix: Markup(svg.replace(ID_PREFIX, prefix)),
        "distance": lambda value: "–" if value is None else f"{value:.2f}",
        "points": lambda value: "–" if value is None else f"{100 * value:.1f}",
        "marked": lambda text: Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))),
    }
    return environment


def filled(template: str, **facts: Any) -> str:
    """A page as HTML: a template of the folder `templates`, filled in."""
    page = _environment().get_template(template).render(**facts)
    return page.strip().encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def piece(template: str, **facts: Any) -> Markup:
    """A piece of a page as HTML: a template as text, filled in."""
    return Markup(_environment().from_string(template).render(**facts))


def write_page(path: Path, page: str) -> None:
    """The page under a temporary name beside its place, then renamed: readers see the old page or the new one.

    Raises:
        SettingError: the path is a folder or cannot be written.
    """
    if path.is_dir():
        raise SettingError(f"{path} is a folder; the page needs the name of a file, e.g. {path / 'report.html'}")
    try:
        write_text(path, page)
    except OSError as error:
        raise SettingError(f"the page {path} cannot be written: {error.strerror}; choose another place") from error
