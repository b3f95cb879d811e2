"""Install fedwarm into a fresh environment, with the lowest or the newest versions that its bounds allow, and see that it works.

    python3 .ci/smoke.py FOLDER PYTHON lowest|newest

The lowest are exactly the bounds in pyproject.toml: one that cannot be installed, or does not work, is not true.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("onnx", "mlflow", "wandb")
BOUND = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9.]+)")
SMALL = "data.max-examples=160 data.image-size=16"
TINY = (
    f"{SMALL} diffusion.lora-steps=2 diffusion.sample-steps=2 warmfed.synthetic-ratio=0.05 warmfed.min-per-class=1 "
    "warmfed.epochs-warm=1 warmfed.distill-epochs=1 warmfed.teacher-epochs=1"
)
IMPORTS = """
import importlib, pkgutil
for name in ("fedwarm", "strategies", "clients"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
"""
PARQUET = """
import sys, datasets, numpy, PIL.Image
rows = [PIL.Image.fromarray(numpy.full((8, 8, 3), 5 * i, numpy.uint8)) for i in range(48)]
told = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
datasets.Dataset.from_dict({"image": rows, "label": [i // 24 for i in range(48)]}, features=told).to_parquet(sys.argv[1])
"""
ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
assert session.run(None, {"images": numpy.zeros((3, 3, 16, 16), numpy.uint8)})[0].shape == (3, 10)
"""


def bounds() -> list[str]:
    """Every direct dependency at its lower bound; SystemExit names one without."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*told["dependencies"], *(name for extra in EXTRAS for name in told["optional-dependencies"][extra])]
    pins = []
    for requirement in wanted:
        found = BOUND.match(requirement)
        if found is None:
            raise SystemExit(f"{requirement!r} in pyproject.toml has no lower bound")
        pins.append(f"{found[1]}=={found[2]}")
    return pins


def install(folder: Path, python: str, lowest: bool) -> Path:
    """A new environment with fedwarm and its extras; its Python."""
    uv = str(ROOT / ".venv" / "bin" / "uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, str(folder)], check=True)
    pins = folder / "bounds.txt"
    pins.write_text("\n".join(bounds()) if lowest else "")
    own = folder / "bin" / "python"
    what = ["--constraint", str(pins), "--editable", f"{ROOT}[{','.join(EXTRAS)}]"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(own), *what], check=True)
    return own


def smoke(python: Path, place: Path) -> int:
    """Imports, runs of each kind, a page and exports; the number of steps, all of which worked."""
    fedwarm, data = str(python.parent / "fedwarm"), place / "set"
    data.mkdir(parents=True)
    page, model = str(place / "page.html"), str(place / "model.onnx")
    runs = {name: str(place / name) for name in ("fedavg", "warmfed", "private", "coded", "parquet")}
    one = [fedwarm, "run", "fedavg", "--rounds", "1", "--clients", "2"]
    quick = "data.partition='iid' model.name='logistic'"
    steps = [
        [str(python), "-c", IMPORTS],
        [fedwarm, "settings"],
        [*one, "--out", runs["fedavg"], "-c", f"{SMALL} tracker='tensorboard' evaluate.bit-widths='4'"],
        [fedwarm, "run", "warmfed", "--clients", "2", "--out", runs["warmfed"], "-c", TINY],
        [*one, "--out", runs["private"], "-c", f"{SMALL} privacy='dp-sgd' tracker='mlflow'"],
        [*one, "--out", runs["coded"], "-c", f"{SMALL} codec='dp-rec' tracker='wandb'"],
        [str(python), "-c", PARQUET, str(data / "train.parquet")],
        [*one, "--out", runs["parquet"], "-c", f"data.name='{data}' data.image-size=8 {quick}"],
        [fedwarm, "report", runs["fedavg"], runs["warmfed"], "--out", page],
        [fedwarm, "list", str(place)],
        [fedwarm, "export", runs["fedavg"], "--bits", "4", "--format", "torch"],
        [fedwarm, "export", runs["fedavg"], "--bits", "2", "--format", "onnx", "--out", model],
        [str(python), "-c", ONNX, model],
    ]
    calm = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "XDG_CACHE_HOME": str(place / "cache")}
    for step in steps:
        print("+", " ".join(step).strip().replace("\n", ";")[:150], flush=True)
        subprocess.run(step, check=True, cwd=ROOT, env=calm, stdout=subprocess.DEVNULL, stderr=None)
    return len(steps)


def main() -> None:
    """Install, try, and print the count."""
    folder, python, which = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    own = install(folder, python, which == "lowest")
    print(f"{smoke(own, folder / 'smoke')} passed, 0 failed")


if __name__ == "__main__":
    main()
