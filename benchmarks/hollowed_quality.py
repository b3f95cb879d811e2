"""How well a hollowed net is personalised: every depth against full LoRA by the same metrics, with no tuning beside them.

    python benchmarks/hollowed_quality.py [--out runs/hollowed-quality] [--seeds 4] [--jobs 2]                # digits domains
    python benchmarks/hollowed_quality.py --dreambooth DATA --foundation PIPELINE --clip FOLDER --dino FOLDER   # subjects

Digits: the embedded foundation is tuned on each domain's own training images by what WarmFed's clients run, in fewer steps, at
every depth; what is measured says `hollowed_digits`. Subjects: what `hollowed_subjects` says. Figures are means over domains or
subjects, then mean and sample deviation over seeds. A held-out loss is also told over full LoRA's of the same domain and seed,
and as the share that is left of full LoRA's gain over no tuning. A row of one seed and domain that has its file in --out is not
run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fedwarm.core.files import write_text
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

FULL, NONE, REAL = "full", "none", "real"
NAMES = {REAL: "real training images", NONE: "no tuning", FULL: "full LoRA"}
BAR = 1.05
Unit = tuple[int, str]
Found = dict[str, dict[Unit, dict[str, Any]]]


def settings_of(given: argparse.Namespace) -> Diffusion:
    return Diffusion(
        foundation=given.foundation, rank=given.rank, alpha=float(given.rank), sample_steps=given.sample_steps,
        guidance=given.guidance, lora_steps=given.steps, lora_batch_size=given.batch, lora_learning_rate=given.rate,
        gradient_checkpointing=given.checkpoints,
    )  # fmt: skip


def stated(given: argparse.Namespace) -> dict[str, Any]:
    """What a file of figures was made with."""
    names = () if given.dreambooth is None else ("dreambooth", "clip", "dino", "prompts")
    return {**asdict(settings_of(given)), "per_class": given.per_class, **{name: str(vars(given)[name]) for name in names}}


def path_of(given: argparse.Namespace, unit: Unit, row: str) -> Path:
    return Path(given.out) / f"{unit[1]}-seed-{unit[0]}-{row if row in NAMES else f'depth-{row}'}.json"


def read(given: argparse.Namespace, unit: Unit, row: str) -> dict[str, Any] | None:
    """A row's figures, if they are there; SettingError where they were made otherwise."""
    path = path_of(given, unit, row)
    if not path.is_file():
        return None
    held = json.loads(path.read_text())
    if other := sorted(name for name, value in stated(given).items() if held["settings"].get(name, value) != value):
        raise SettingError(f"{path} was made with other values of {', '.join(other)}; choose another --out")
    figures: dict[str, Any] = held["figures"]
    return figures


def work(given: argparse.Namespace, unit: Unit) -> None:
    """All rows of a seed and a domain that have no file yet."""
    import torch

    torch.set_num_threads(given.threads)
    missing = [row for row in given.rows if read(given, unit, row) is None]
    if not missing:
        return
    if given.dreambooth is None:
        from hollowed_digits import rows_of

        found = rows_of(settings_of(given), given.per_class, *unit, missing)
    else:
        from hollowed_subjects import rows_of as subject_rows

        found = subject_rows(settings_of(given), given, *unit, missing)
    begun = time.process_time()
    for row, figures in found:
        now = time.process_time()
        told = {"seed": unit[0], "place": unit[1], "row": row, "settings": stated(given), "cpu_seconds": round(now - begun, 1)}
        write_text(path_of(given, unit, row), json.dumps({**told, "figures": figures}, indent=1) + "\n")
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{unit[1]}, seed {unit[0]}, {row}: {shown}; {now - begun:.0f} s", file=sys.stderr, flush=True)
        begun = now


# The table


def related(found: Found) -> None:
    """Add what a loss is beside those of full LoRA and of no tuning for the same seed and place, where they are there."""
    for cells in found.values():
        for unit, figures in cells.items():
            full, bare = (found.get(row, {}).get(unit, {}).get("loss") for row in (FULL, NONE))
            if full is not None and "loss" in figures:
                figures["ratio"] = figures["loss"] / full
                if bare is not None and bare > full:
                    figures["gain"] = (bare - figures["loss"]) / (bare - full)


def over(found: Found, row: str, figure: str) -> tuple[float, float] | None:
    """Mean and deviation over seeds of the mean over places."""
    by_seed: dict[int, list[float]] = {}
    for (seed, _), figures in found.get(row, {}).items():
        if figure in figures:
            by_seed.setdefault(seed, []).append(figures[figure])
    means = [statistics.mean(values) for values in by_seed.values()]
    return (statistics.mean(means), statistics.stdev(means) if len(means) > 1 else 0.0) if means else None


def cell(value: tuple[float, float] | None, scale: float = 1.0, digits: int = 1) -> str:
    return "-" if value is None else f"{scale * value[0]:.{digits}f} ± {scale * value[1]:.{digits}f}"


COLUMNS: dict[str, tuple[tuple[str, str, float, int], ...]] = {
    "digits": (
        ("judge reads them, %", "judge", 100, 1),
        ("learned from them, %", "learned", 100, 1),
        ("distance", "distance", 1, 0),
        ("held-out loss", "loss", 1, 4),
        ("over full LoRA's", "ratio", 1, 3),
        ("of its gain, %", "gain", 100, 0),
    ),
    "subjects": (
        ("DINO", "dino", 1, 3),
        ("CLIP-I", "clip_image", 1, 3),
        ("CLIP-T", "clip_text", 1, 3),
    ),
}


def counted(given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Of each tuned row: the share of weights that is out, and bytes of training by count."""
    from fedwarm.diffusion.foundation import load_foundation
    from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, removed_weights
    from fedwarm.diffusion.tuners.hollowed.memory import footprint

    settings = settings_of(given)
    foundation = load_foundation(settings, given.device)
    unet, tokens = foundation.pipe.unet, foundation.embed([""]).shape[1]
    total, out = sum(p.numel() for p in unet.parameters()), {}
    for row in given.rows:
        if row not in (REAL, NONE):
            cut = None if row == FULL else cut_at(unet, int(row))
            share = removed_weights(unet, cut) / total if cut else 0.0
            out[row] = (share, float(footprint(unet, settings, cut, foundation.dtype, tokens=tokens).total))
    return out


def table(given: argparse.Namespace, found: Found) -> str:
    """The figures as Markdown."""
    columns, sizes = COLUMNS["digits" if given.dreambooth is None else "subjects"], counted(given)
    heads = ["", "weights out, %", "training, MB by count", "uplink, kB", *(column[0] for column in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in given.rows:
        up, size = over(found, row, "uplink_bytes"), sizes.get(row)
        cells = [NAMES.get(row, f"hollowed, depth {row}")]
        cells += [f"{100 * size[0]:.1f}", f"{size[1] / 1e6:.1f}"] if size else ["-", "-"]
        cells += [f"{up[0] / 1000:.1f}" if up else "-"]
        cells += [cell(over(found, row, figure), scale, digits) for _, figure, scale, digits in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(verdicts(given, found, sizes) if given.dreambooth is None else [])])


def verdicts(given: argparse.Namespace, found: Found, sizes: dict[str, tuple[float, float]]) -> list[str]:
    """What becomes of the expectation: the loss within 5 % of full LoRA's, and memory down by at least the weights' share."""
    lines = []
    for row in (row for row in given.rows if row in sizes and row != FULL):
        ratio = over(found, row, "ratio")
        if ratio is None or FULL not in sizes:
            continue
        fall = 1 - sizes[row][1] / sizes[FULL][1]
        near, light = ("yes" if holds else "no" for holds in (ratio[0] <= BAR, fall >= sizes[row][0]))
        lines.append(
            f"- depth {row}: loss at most {BAR} of full LoRA's: {near} ({ratio[0]:.3f}); memory down by the weights' share of "
            f"{100 * sizes[row][0]:.1f} % at least: {light} ({100 * fall:.1f} %)"
        )
    return lines


# The command


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/hollowed-quality"), help="folder of the figures")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--places", default="", help="domains or subjects, e.g. chalk,ink; empty: all")
    parser.add_argument("--rows", default="", help="e.g. none,full,0,1; empty: every depth and what stands beside them")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of an adapter")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-2, help="step size of the adapter's AdamW")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--per-class", type=int, default=10, help="images drawn of a class or prompt")
    parser.add_argument("--sample-steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--foundation", default="glyph")
    parser.add_argument("--checkpoints", action="store_true", help="gradient checkpointing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a process")
    parser.add_argument("--dreambooth", type=Path, help="folder of parquet files with columns image and subject")
    parser.add_argument("--clip", type=Path, help="folder of CLIP's weights and tokenizer")
    parser.add_argument("--dino", type=Path, help="folder of DINO's weights")
    parser.add_argument("--prompts", type=Path, help="sentences with {subject}, one a line")
    return parser.parse_args(argv)


def planned(given: argparse.Namespace) -> list[Unit]:
    """The units, after `places` and `rows` became lists; SettingError where there is none such, or weights are missing."""
    from fedwarm.data.sets.digits import DOMAINS
    from fedwarm.diffusion.foundation import load_foundation
    from fedwarm.diffusion.tuners.hollowed.cuts import cuts

    if given.dreambooth is None:
        known = list(DOMAINS)
    else:
        from hollowed_subjects import Eyes, subjects

        Eyes.of(given.clip, given.dino)
        known = list(subjects(given.dreambooth, 64).label.names)
    unet = load_foundation(settings_of(given), given.device).pipe.unet
    beside = [REAL, NONE] if given.dreambooth is None else [NONE]
    rows = [*beside, FULL, *(str(cut.depth) for cut in cuts(unet, settings_of(given).targets))]
    for name, chosen, all_ in (("places", given.places, known), ("rows", given.rows, rows)):
        picked = chosen.split(",") if chosen else all_
        if strange := [one for one in picked if one not in all_]:
            raise SettingError(f"--{name}: no {strange[0]!r}; there are {', '.join(all_)}")
        setattr(given, name, picked)
    return [(seed, place) for seed in range(given.seeds) for place in given.places]


def main(argv: list[str] | None = None) -> int:
    given = arguments(argv)
    try:
        units = planned(given)
        missing = [unit for unit in units if any(read(given, unit, row) is None for row in given.rows)]
        with ProcessPoolExecutor(max(1, given.jobs), multiprocessing.get_context("spawn")) as pool:
            list(pool.map(partial(work, given), missing))
        found = {row: {unit: f for unit in units if (f := read(given, unit, row)) is not None} for row in given.rows}
        related(found)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.steps} steps of {given.batch}, rank {given.rank}, {given.per_class} images a class, seeds {given.seeds}\n")
    print(table(given, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
