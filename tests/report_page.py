"""For tests of the report: a page read back with an HTML parser, and small run folders to make pages of."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedwarm.catalogue import all_groups
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.settings.fields import keys

VOID = {"meta", "img", "br", "path", "use", "rect", "link"}


class Page(HTMLParser):
    """What a page holds: tags with attributes, facts (`dt` to text of `dd`), tables by label as rows of cell texts, all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.facts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._region, self._cell, self._term = "", "", ""
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self._open.append(tag)
        if found.get("role") == "region":
            self._region = found["aria-label"] or ""
            self.tables.setdefault(self._region, [])
        if tag == "tr":
            self.tables[self._region].append([])
        if tag in ("td", "th", "dt", "dd"):
            self._cell = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        text = " ".join(self._cell.split())
        if tag in ("td", "th"):
            self.tables[self._region][-1].append(text)
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self.facts[self._term] = text

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self._cell += data
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


def assert_stands_alone(page: Page) -> None:
    """Nothing is fetched or run; pictures have a text; every id is there once and every reference has its target."""
    assert not re.search(r"https?:|file:/|<script|<link|@import|src=\"(?!data:image/png;base64,)", page.source)
    assert all(found["alt"] for found in page.all("img"))
    assert all(found["role"] == "img" and found["aria-label"] for found in page.all("svg"))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", page.source)) <= set(ids)
    assert all(found.get("scope") for found in page.all("th"))


def pixels(address: str | None) -> NDArray[np.uint8]:
    """The picture (height, width, 4) of an `img`."""
    assert address is not None and address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def settings(**changed: Any) -> dict[str, Any]:
    flat = {key: f.default for key, _, f in keys(all_groups()) if key not in ("out", "client-folder")}
    return flat | {key.replace("__", ".").replace("_", "-"): value for key, value in changed.items()}


def results(accuracies: Sequence[float | None], *, method: str = "fedavg", seed: int = 0, **changed: Any) -> dict[str, Any]:
    """Results of two clients with three classes, 1000 bytes up and 2000 down for each in each round."""
    rounds: list[dict[str, Any]] = [
        {
            "round": i,
            "global": {"accuracy": a, "per_client": [None if a is None else a - 0.1, None if a is None else a + 0.1]},
            "personal": None,
            "bytes_up": [1000, 1000],
            "bytes_down": [2000, 2000],
            "bytes_evaluation": 77,
            "seconds": 1.5,
        }
        for i, a in enumerate(accuracies)
    ]
    return {
        "schema": 1,
        "method": method,
        "seed": seed,
        "engine": "local",
        "settings": settings(method=method, seed=seed, **changed),
        "versions": {"python": "3.11.9", "fedwarm": "0.1.0"},
        "commit": "0123abcd",
        "partition": {"clients": 2, "classes": ["a", "b", "c"], "counts": [[5, 0, 7], [1, 2, 3]]},
        "rounds": rounds,
        "final": {"global": {"accuracy": accuracies[-1]}, "personal": None},
        "totals": {"bytes_up": 2000 * len(rounds), "bytes_down": 4000 * len(rounds), "seconds": 372.0},
        "privacy": None,
    }


def entry(stage: str, client: int, up: int, down: int) -> Entry:
    return Entry(
        0,
        stage,
        client,
        payload_bytes_down=down,
        wire_bytes_down=down + 10,
        payload_bytes_up=up,
        wire_bytes_up=up + 10,
        seconds=2.0,
    )


def write(folder: Path, document: dict[str, Any], ledger: Sequence[Entry] = ()) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(document))
    if ledger:
        (folder / "ledger.jsonl").write_text(Ledger(ledger).lines())
    return folder
