"""Whether two versions of fedwarm make the same models, bit for bit: every method, codec and objective, on every engine.

    python benchmarks/same_models.py digest PATH/TO/fedwarm FOLDER [--only NAME]     runs all cases, prints and keeps digests
    python benchmarks/same_models.py table BEFORE AFTER                              the table of two such folders

Each case is a run of its own by the given command, so versions need not be importable side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FAST = "num-server-rounds=2 local-epochs=1 data.max-examples=40"
WARM = (
    "data.max-examples=40 diffusion.lora-steps=4 diffusion.lora-batch-size=8 diffusion.sample-steps=3 "
    "warmfed.synthetic-ratio=0.5 warmfed.min-per-class=3 warmfed.epochs-warm=2 warmfed.teacher-epochs=2 warmfed.distill-epochs=2"
)
SEEDED = "dp-rec.bits=3 dp-rec.entropy='seeded'"
LEARNED = "quantization-robust.variant='qat' quantization-robust.range='learned'"
DRAWN = "gen-fedsd.steps=2 gen-fedsd.cap=0.5"
CASES = {
    "fedavg": ("fedavg", f"{FAST} robust.rule='trimmed_mean' robust.clip-norm=2.0"),
    "fedprox": ("fedprox", FAST),
    "scaffold": ("scaffold", f"{FAST} fraction-train=0.5"),
    "quantization_robust": ("quantization_robust", f"{FAST} {LEARNED}"),
    "dp_rec": ("dp_rec", f"{FAST} dp-rec.bits=3 dp-rec.entropy='seeded' dp-rec.downlink='replay'"),
    "dp_rec central": ("dp_rec", f"{FAST} {SEEDED} dp-rec.view='central_certified' dp-rec.sigma=0.5"),
    "gen_fedsd": ("gen_fedsd", f"{FAST} {DRAWN}"),
    "local_only": ("local_only", FAST),
    "centralized": ("centralized", FAST),
    "warmfed": ("warmfed", WARM),
    "warmfed five": ("warmfed", f"{WARM} warmfed.protocol='five-round' num-server-rounds=2"),
    "warmfed hollowed": ("warmfed", f"{WARM} diffusion.trainer='hollowed'"),
    "codec dp-rec": ("fedavg", f"{FAST} codec='dp-rec' dp-rec.entropy='seeded' dp-rec.bits=3"),
    "codec stochastic-rounding": ("fedavg", f"{FAST} codec='stochastic-rounding'"),
    **{
        f"objective {name}": ("fedavg", f"{FAST} objective='{name}' evaluate.bit-widths='4,2'")
        for name in ("apqn", "qat", "mqat", "rq")
    },
    "objective kure": ("fedavg", f"{FAST} objective='kure' quantization-robust.kure-warmup=0"),
    "privacy dp-sgd": ("fedavg", f"{FAST} privacy='dp-sgd' dp-sgd.entropy='seeded'"),
    "augment gen-fedsd": ("fedprox", f"{FAST} {DRAWN} augment='gen-fedsd' data.partition='pathological'"),
    "krum": ("fedavg", f"{FAST} robust.rule='krum' robust.byzantine=0 data.partition='iid'"),
    "median": ("fedavg", f"{FAST} robust.rule='median' data.partition='dirichlet' model.name='lenet5'"),
}  # fmt: skip
ENGINES = {"local 1": ("local", 1), "local 2": ("local", 2), "ray": ("ray", 2)}


def digest(folder: Path) -> str:
    """One digest over all tensors that a run leaves outside its clients' folders, and its final figures."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        if "clients" not in path.relative_to(folder).parts:
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    results = json.loads((folder / "results.json").read_text())
    found.update(json.dumps([results["final"], results["totals"]["bytes_up"]], sort_keys=True).encode())
    return found.hexdigest()[:16]


def run(command: str, case: str, engine: str, folder: Path) -> str:
    """The digest of one case; the run's own last line where it failed."""
    method, settings = CASES[case]
    name, workers = ENGINES[engine]
    out = folder / f"{case} {engine}".replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    words = [command, "run", method, "--engine", name, "--clients", "3", "--workers", str(workers)]
    words += ["--out", str(out), "-c", settings]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0"})
    told = digest(out) if done.returncode == 0 else f"failed: {(done.stderr or done.stdout).strip().splitlines()[-1][:200]}"
    shutil.rmtree(out, ignore_errors=True)
    return told


def digests(command: str, folder: Path, only: str, engines: list[str]) -> None:
    """Run the cases; `digests.json` in the folder holds what is done so far."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "digests.json"
    found: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    for case in CASES:
        for engine in engines:
            if only in case:
                found[f"{case} | {engine}"] = run(command, case, engine, folder)
                kept.write_text(json.dumps(found, indent=1))
                print(f"{case:28} {engine:8} {found[f'{case} | {engine}']}", flush=True)


def table(before: Path, after: Path) -> int:
    """Print both folders' digests side by side; 1 where one differs or is missing."""
    old, new = (json.loads((folder / "digests.json").read_text()) for folder in (before, after))
    wrong = 0
    for name in old:
        same = old[name] == new.get(name)
        wrong += not same
        print(f"{name:40} {old[name]:16} {new.get(name, '-'):16} {'same' if same else 'DIFFERENT'}")
    print(f"{len(old) - wrong} of {len(old)} the same")
    return int(wrong > 0)


def main() -> int:
    """The two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digest", "table"))
    parser.add_argument("first", help="the command `fedwarm` of a version; or the folder of the version before")
    parser.add_argument("second", help="where digests are kept; or the folder of the version after", type=Path)
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--engines", default="local 1,local 2,ray", help="names with commas")
    chosen = parser.parse_args()
    if chosen.what == "table":
        return table(Path(chosen.first), chosen.second)
    digests(str(Path(chosen.first).absolute()), chosen.second.absolute(), chosen.only, chosen.engines.split(","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
