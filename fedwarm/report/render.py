"""From what the report shows to a page of HTML: its style, its number formats, and the template filled in.

The page needs no server, no script and no network; it follows the reader's light or dark scheme, a phone's width and the printer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from fedwarm.core.files import write_text
from fedwarm.core.text import visible
from fedwarm.report.plots import COLOURS, ID_PREFIX, byte_text, second_text
from fedwarm.report.template import GAP_PAGE, MACROS, PAGE, SECTION
from fedwarm.report.template_tables import TABLES
from fedwarm.settings.fields import SettingError

PARTS = {"pictures": "Pictures", "augment": "Augmentation", "widths": "Bit-widths", "rounds": "Rounds", "clients": "Clients"}
PARTS |= {"data": "Data", "stages": "Stages", "settings": "Settings", "record": "Record"}
DARK_COLOURS = ("#56b4e9", "#ff8a3c", "#2cc79a", "#e39ac4", "#f0b93a", "#a9b8ff")

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#59636d;--rule:#dce1e6;--page:#fff;--card:#f5f7f9;--accent:#0b5c8f;
--heat:0,114,178;LIGHT}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3adb7;--rule:#343b43;--page:#14171a;--card:#1d2226;
--accent:#7cc4f2;--heat:86,180,233;DARK}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--rule:#ccc;--page:#fff;--card:#fff;--accent:#0b5c8f;
--heat:0,114,178;LIGHT}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:72rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .25rem}
h2{font-size:1.25rem;margin:2.75rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule)}
h3{font-size:1.05rem;margin:2rem 0 .4rem}
p{margin:.4rem 0;max-width:46rem}
.soft,caption,figcaption{color:var(--soft)}
a{color:var(--accent)}
code{font:.88em/1.4 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
code,th,td,li,dd,summary,small{unicode-bidi:isolate}
nav{margin:1rem 0 0;font-size:.9rem}nav a{margin-right:1rem;white-space:nowrap}
.tag{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:0 .6rem;font-size:.85rem;vertical-align:middle}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.5rem 0 0;padding:0}
.facts div{background:var(--card);border:1px solid var(--rule);border-radius:.6rem;padding:.7rem .9rem;break-inside:avoid}
.facts dt{font-size:.82rem;color:var(--soft)}
.facts dd{margin:.1rem 0 0;font-size:1.35rem;font-weight:650;line-height:1.3;white-space:nowrap;font-variant-numeric:tabular-nums}
.facts small{display:block;white-space:normal;font-size:.82rem;font-weight:400;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem 2rem;margin-top:1rem}
.charts.wide{grid-template-columns:minmax(0,1fr)}.charts.wide figure{max-width:none;overflow-x:auto}
.charts.wide svg{min-width:44rem}.facts.gaps{grid-template-columns:repeat(auto-fit,minmax(11rem,1fr))}
.charts.three{grid-template-columns:repeat(auto-fit,minmax(min(100%,20.5rem),1fr))}
figure{margin:0;break-inside:avoid;max-width:34rem}
figure svg{display:block;width:100%;height:auto}
svg text{font-family:inherit}
figcaption,caption{font-size:.88rem;text-align:left}
caption{padding-bottom:.4rem}
.scroll{overflow-x:auto;margin:.75rem 0;max-width:100%}
.tall{max-height:34rem;overflow-y:auto}.tall thead th{position:sticky;top:0;z-index:1;background:var(--page)}
:is(.scroll,figure,summary,a):focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--rule);vertical-align:baseline}
td{white-space:nowrap}.settings td{white-space:normal}
thead th{vertical-align:bottom;font-weight:600}
th:first-child,td:first-child{padding-left:.2rem}
th small{display:block;font-weight:400;color:var(--soft);max-width:20rem}
th[scope=row],th.text,td.text{text-align:left}
tbody th{font-weight:500}tr.sum th,tr.sum td{font-weight:650}
td small{color:var(--soft)}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 2rem}
tr.sum td small{display:block}.wide{min-width:15rem}
tr.one th,tr.one td{color:var(--soft)}tr.one th[scope=row]{padding-left:1.5rem}
.heat td.cell{min-width:2.9rem;text-align:center;border:1px solid var(--page);background:rgba(var(--heat),calc(var(--v)*.55));
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.heat td.cell small{color:inherit}.heat td.cell b{font-weight:650}
.pictures td,.pictures thead th{padding:.2rem;text-align:center;vertical-align:middle;border:0}
.pictures th[scope=row],.pictures th[scope=rowgroup]{border:0;vertical-align:middle;text-align:left;padding-right:.6rem}
.pictures tbody{border-top:1px solid var(--rule);break-inside:avoid}
.pictures tbody tr:first-child>*{padding-top:.5rem}.pictures tbody tr:last-child>*{padding-bottom:.5rem}
.pictures img{display:block;width:5.25rem;min-width:4rem;height:auto;image-rendering:auto}
.settings td,.settings th{text-align:left}.settings tr.default th,.settings tr.default td{color:var(--soft)}
.settings th code{white-space:nowrap}.settings td.value{font-weight:600}.settings tr.default td.value{font-weight:400}
.run{border:1px solid var(--rule);border-radius:.6rem;padding:0 1rem;margin:.75rem 0}
summary{cursor:pointer;padding:.6rem 0;font-weight:600}summary small{font-weight:400;color:var(--soft)}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;margin-right:.5rem;vertical-align:-.08rem;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
footer{margin-top:3rem;padding-top:.75rem;border-top:1px solid var(--rule);font-size:.85rem;color:var(--soft)}
@media (max-width:40rem){body{padding:1.25rem .9rem 3rem}h1{font-size:1.5rem}.facts{grid-template-columns:1fr 1fr}
.facts dd{font-size:1.25rem}th,td{padding:.3rem .45rem}}
@media print{body{padding:0;font-size:10pt;max-width:none}.facts{grid-template-columns:repeat(6,1fr);gap:.3rem}
.facts div{padding:.4rem .5rem}.facts dd{font-size:1rem}figcaption,caption{font-size:8pt}
nav{display:none}.scroll,.tall{overflow:visible;max-height:none}
.tall thead th{position:static}table{font-size:8pt}th,td{padding:.15rem .35rem}.pictures img{width:3.4rem;min-width:0}
.charts{grid-template-columns:1fr 1fr}details::details-content{content-visibility:visible;block-size:auto}h2,h3{break-after:avoid}
tr{break-inside:avoid}}
"""


def style_sheet() -> str:
    """The page's CSS."""
    light, dark = (";".join(f"--c{i}:{c}" for i, c in enumerate(row)) for row in (COLOURS, DARK_COLOURS))
    return STYLE.replace("LIGHT", light).replace("DARK", dark)


def percent(value: float | None) -> str:
    """`78.3 %`, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def _time(value: float | None) -> str:
    return "–" if value is None else _solid(second_text(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bytes(value: float | None) -> str:
    return "–" if value is None else _solid(byte_text(value))


def _solid(text: str) -> str:
    return text.replace(" ", "\u00a0")


FORMS: dict[str, Callable[[float | None], str]] = {"percent": percent, "time": _time, "number": _number, "bytes": _bytes}


def _setting(value: object) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


def _many(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"


def _whole(value: object) -> object:
    """What is put on the page, its control characters visible; markup is ours and stays."""
    return visible(str(value)) if isinstance(value, (str, Path)) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_whole)
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


def render(sections: Sequence[dict[str, Any]], comparison: dict[str, Any] | None) -> str:
    """The whole page as HTML: one run's, or a comparison with each run folded below it."""
    return _filled(PAGE, sections=sections, comparison=comparison, colours=len(COLOURS), parts=list(PARTS.items()))


def render_gaps(title: str, text: str, gaps: dict[str, Any]) -> str:
    """A page about augmentation alone, as HTML; `gaps` as `fedwarm.report.sections.augmentation.shown` makes them."""
    return _filled(GAP_PAGE, title=title, text=text, gaps=gaps)


def _filled(page: str, **facts: Any) -> str:
    template = _environment().from_string(MACROS + TABLES + SECTION + page)
    return (
        template.render(**facts, style=Markup(style_sheet())).strip().encode("utf-8", "backslashreplace").decode("utf-8") + "\n"
    )


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
