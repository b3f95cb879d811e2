"""`fedwarm augment`: what filling the clients' class gaps will take, and by option the work itself, ahead of any run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm.config import Config, SettingError

MOST_SAMPLED, GEN_FEDSD = 20, "gen_fedsd"


@dataclass(frozen=True)
class Work:
    """What `fedwarm augment` was asked.

    Attributes:
        client: one of them; -1: all.
        fill: draw what is missing, and keep it for runs.
        page: where a page of gaps and samples is written; None: nowhere.
    """

    seed: int | None = None
    clients: int = 0
    client: int = -1
    fill: bool = False
    page: Path | None = None
    run_config: tuple[str, ...] = ()


def augment(work: Work) -> str:
    """Print the plan; draw, and write a page, where that is asked for. Returns the last line for the user.

    Raises:
        SettingError: something asked for cannot be; nothing was drawn.
    """
    from fedwarm.augment.plan import plan_of
    from fedwarm.augment.settings import shelf_root
    from fedwarm.run.gap_page import augment_page
    from fedwarm.run.pictures import samples

    config, count = _settings(work)
    if work.client >= count:
        raise SettingError(f"--client {work.client} is out of range; {count} clients have the numbers 0 to {count - 1}")
    root, chosen = shelf_root(config), range(count) if work.client < 0 else [work.client]
    plans = plan_of(config, count, root, chosen)
    print(plans.text())
    told: Any = plans
    if work.fill:
        told = _fill(config, count, chosen, root)
    if work.page is None:
        return f"images lie in {root}" if work.fill else "--fill draws them, --page FILE shows them"
    shown = samples(config, list(chosen)[:MOST_SAMPLED], count, [root])
    note = "" if shown else "Nothing has been drawn yet: `fedwarm augment --fill` does."
    page = augment_page(told, shown, work.page, classes=plans.classes, note=note, planned=not work.fill)
    return f"page   {page.resolve()}"


def _settings(work: Work) -> tuple[Config, int]:
    from fedwarm.run.launch import Request, asked
    from fedwarm.run.preflight import check_run

    flat = asked(Request("", seed=work.seed, clients=work.clients, run_config=work.run_config))
    if flat.setdefault("method", GEN_FEDSD) != GEN_FEDSD and flat.get("augment", "none") == "none":
        flat["augment"] = "gen-fedsd"  # any method's run, as if it filled the gaps first
    return check_run(flat, work.clients)


def _fill(config: Config, count: int, chosen: Sequence[int], root: Path) -> list[dict[str, Any]]:
    from fedwarm.augment.fill import fill
    from fedwarm.data import load_shard, partition_table
    from fedwarm.methods.gen_fedsd import global_target
    from fedwarm.run.display import shown

    announced = global_target(partition_table(config.data, config.run.seed, count))
    entries = []
    with shown(f"{len(chosen)} clients: synthesis"):
        for k in chosen:
            filled = fill(config, load_shard(config.data, config.run.seed, k, count), k, root, announced)
            entries.append({"partition": k, **filled.report.facts()})
    total = {name: sum(entry[name] for entry in entries) for name in ("made", "reused", "bytes", "seconds")}
    print(f"{total['made']:,} images drawn, {total['reused']:,} found, {total['bytes'] / 1e6:,.1f} MB, {total['seconds']:,.0f} s")
    return entries
