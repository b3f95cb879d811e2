"""Runs that lie there from before: taken where they are what is asked for, refused where they are something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedwarm.settings.fields import Value

PLACES = ("data.name", "diffusion.foundation", "model.weights")


def kept(folder: Path, asked: Mapping[str, Value], clients: int) -> dict[str, Any] | None:
    """The results of the run in a folder; None where it is not complete.

    Args:
        folder: of the run.
        asked: the settings that it should have; those that name files are not compared, as files may have moved.
        clients: how many it should have; 0: as many as the data set's own number, whatever that was.

    Raises:
        SystemExit: it is complete, and has others.
    """
    path = folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if not results.get("complete"):
        return None
    found = {**results["settings"], "clients": results["partition"]["clients"]}
    for key, value in {**asked, **({"clients": clients} if clients else {})}.items():
        if key not in PLACES and found.get(key) != value:
            raise SystemExit(f"{folder} holds a run with {key} = {found.get(key)!r}, not {value!r}; give another --runs")
    return results
