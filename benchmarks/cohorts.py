"""How well the cohorts of a study's runs are its planted groups: client i is of group i modulo their number (docs/data.md).

    python benchmarks/cohorts.py runs/study-ocfl --groups 3

Of each run with cohorts its seed, the round after which clients were divided, how many cohorts there are, and the adjusted Rand
index: 1 where the groups are recovered, 0 as by chance. With `--groups 1` nothing is planted, and the index says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from sklearn.metrics import adjusted_rand_score


def found(folder: Path, groups: int) -> Iterator[tuple[str, int | None, int, float]]:
    """(run, round, cohorts, index) of each complete run below a folder; clients without a cohort are in one of their own."""
    for path in sorted(folder.rglob("results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        told = (results.get("measures") or {}).get("cohorts")
        if told and results["complete"]:
            codes = [-1 if k is None else k for k in told["clients"]]
            index = float(adjusted_rand_score([client % groups for client in range(len(codes))], codes))
            yield path.parent.name, told["round"], len({*codes}), index


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--groups", type=int, default=3, help="how many were planted")
    given = options.parse_args()
    rows = list(found(given.folder, given.groups))
    for name, number, count, index in rows:
        when = "never divided" if number is None else f"divided after round {number}"
        print(f"{name}: {when}, {count} cohorts, index {index:.3f}")
    print(f"mean index {statistics.mean(row[-1] for row in rows):.3f} of {len(rows)} runs" if rows else "no run has cohorts")


if __name__ == "__main__":
    main()
