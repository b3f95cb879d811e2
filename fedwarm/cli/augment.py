"""`fedwarm augment`: what filling the clients' class gaps will take, and by option the work itself, ahead of any run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm.core.terminal import columns
from fedwarm.data.settings import Data
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

MOST_SAMPLED, GEN_FEDSD = 20, "gen_fedsd"
UNDRAWN = "nothing has been drawn yet; `fedwarm augment --fill` does"


@dataclass(frozen=True)
class Work:
    """What `fedwarm augment` was asked.

    Attributes:
        client: one of them; -1: all.
        fill: draw what is missing, and keep it for runs.
        audit: train two small classifiers that say whether the images show their classes, and what they teach.
        page: where a page of gaps and samples is written; None: nowhere.
    """

    seed: int | None = None
    clients: int = 0
    client: int = -1
    fill: bool = False
    audit: bool = False
    page: Path | None = None
    run_config: tuple[str, ...] = ()


def augment(work: Work) -> str:
    """Print the plan; draw, and write a page, where that is asked for. Returns the last line for the user.

    Raises:
        SettingError: something asked for cannot be; nothing was drawn.
    """
    from fedwarm.augmentations.gen_fedsd.amounts import global_target
    from fedwarm.augmentations.gen_fedsd.audit import audit
    from fedwarm.augmentations.gen_fedsd.checks import shelf_root
    from fedwarm.augmentations.gen_fedsd.plan import plan_of
    from fedwarm.augmentations.gen_fedsd.providers import provider_type
    from fedwarm.data import partition_table
    from fedwarm.report.gaps import augment_page
    from fedwarm.report.sections.augmentation import samples

    config, count = _settings(work)
    if work.client >= count:
        raise SettingError(f"--client {work.client} is out of range; {count} clients have the numbers 0 to {count - 1}")
    root, chosen = shelf_root(config), range(count) if work.client < 0 else [work.client]
    announced = global_target(partition_table(config.of(Data), config.run.seed, count))
    plans = plan_of(config, count, root, chosen, announced=announced)
    print(plans.text(columns()))
    told: Any = plans
    if work.fill:
        told = _fill(config, count, chosen, root, announced)
    kept = provider_type(config).kept or (f"images lie in {root}" if work.fill else UNDRAWN)
    if work.audit:
        gap = audit(config, count, chosen, root, announced=announced)
        print(f"nothing to audit: {kept}" if gap is None else gap.text())
    if work.page is None:
        return kept if work.fill else "--fill draws them, --page FILE shows them, --audit says what they are worth"
    shown = samples(config, list(chosen)[:MOST_SAMPLED], count, [root], announced)
    note = "" if shown else (f"{kept[0].upper()}{kept[1:]}." if plans.images else "No class of these clients lacks anything.")
    page = augment_page(told, shown, work.page, classes=plans.classes, note=note, planned=not work.fill)
    return f"page   {page.resolve()}"


def _settings(work: Work) -> tuple[Config, int]:
    from fedwarm.launch.preflight import check_run
    from fedwarm.launch.request import Request, asked

    flat = asked(Request("", seed=work.seed, clients=work.clients, run_config=work.run_config))
    if flat.setdefault("method", GEN_FEDSD) != GEN_FEDSD and flat.get("augment", "none") == "none":
        flat["augment"] = "gen-fedsd"  # any method's run, as if it filled the gaps first
    return check_run(flat, work.clients)


def _fill(config: Config, count: int, chosen: Sequence[int], root: Path, announced: int) -> list[dict[str, Any]]:
    from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
    from fedwarm.augmentations.gen_fedsd.fill import fill
    from fedwarm.core.progress import current, listening, tick
    from fedwarm.data import load_shard
    from fedwarm.launch.display import shown

    entries = []
    with shown(f"{len(chosen)} clients: synthesis"):
        for k in chosen:
            with listening(current(), f"client {k}"):
                filled = fill(config, load_shard(config.of(Data), config.run.seed, k, count), k, root, announced)
            entries.append({"partition": k, **filled.report.facts()})
            tick("clients", len(entries), len(chosen))
    total = {name: sum(entry[name] for entry in entries) for name in ("made", "reused", "bytes", "seconds", "below_judge")}
    print(f"{total['made']:,} images drawn, {total['reused']:,} found, {total['bytes'] / 1e6:,.1f} MB, {total['seconds']:,.0f} s")
    if total["below_judge"]:
        print(f"{total['below_judge']:,} are blank or refused by the judge; gen-fedsd.refused = {config.of(GenFedSD).refused!r}")
    return entries
