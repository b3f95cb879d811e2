"""The README's worked example, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_worked_example_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == [f"{p}/smoothed.py" for p in ("fedwarm/methods", "clients", "strategies")]
    for package in ("fedwarm", "strategies", "clients"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    lines = dict(re.findall(r'`("Smoothed\w+": "smoothed"|"smoothed": Entry\(.*?\))` in\s+`?\[?([\w/\\]+)', text))
    assert len(lines) == 3
    for line, where in lines.items():
        path = tmp_path / where.replace("\\", "")
        path = path if path.suffix == ".py" else path.with_name("__init__.py") if path.name == "__init__" else path
        source = path.read_text()
        path.write_text(re.sub(r"\n}\n", f"\n    {line},\n}}\n", source, count=1))
    script = "import sys; sys.argv[0] = 'fedwarm'; from fedwarm.run.cli import main; main()"
    settings = "smoothed.share=0.2 data.max-examples=40 local-epochs=1"
    out = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-c", script, "run", "smoothed", "--rounds", "1", "--out", str(out), "-c", settings],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    results = json.loads((out / "results.json").read_text())
    assert results["method"] == "smoothed" and results["complete"] and results["settings"]["smoothed.share"] == 0.2
