"""Benchmarks take up runs from before only where these are what is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benches import loaded


def test_a_kept_run_is_taken_refused_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Any = loaded(monkeypatch, "kept").kept
    results = {"complete": True, "settings": {"seed": 1, "momentum": 0.9, "data.name": "/a"}, "partition": {"clients": 4}}
    asked = {"seed": 1, "momentum": 0.9, "data.name": "/b"}
    assert kept(tmp_path, asked, 4) is None
    (tmp_path / "results.json").write_text(json.dumps({**results, "complete": False}))
    assert kept(tmp_path, {**asked, "seed": 2}, 4) is None
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert kept(tmp_path, asked, 4) == kept(tmp_path, asked, 0) == results
    with pytest.raises(SystemExit, match=r"holds a run with momentum = 0.9, not 0.0; give another --runs"):
        kept(tmp_path, {**asked, "momentum": 0.0}, 4)
    with pytest.raises(SystemExit, match="clients = 4, not 10"):
        kept(tmp_path, asked, 10)
