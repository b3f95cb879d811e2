"""Images that a foundation draws from sentences, through the shelf."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from math import lcm
from pathlib import Path
from typing import Any

import torch

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.drawn import DRAWS, POOL, Drawn, Owner
from fedwarm.augmentations.gen_fedsd.identity import identity, key_of, provenance, sampler, wording
from fedwarm.augmentations.gen_fedsd.judge import ASKED, Judge, scores
from fedwarm.augmentations.gen_fedsd.providers import Provider
from fedwarm.augmentations.gen_fedsd.shelf import CHUNK, Shelf
from fedwarm.augmentations.gen_fedsd.wanted import check_room, check_stock
from fedwarm.core.compute import torch_threads
from fedwarm.core.seeds import derive
from fedwarm.core.store import make_room
from fedwarm.data import Shard
from fedwarm.data.settings import Data
from fedwarm.diffusion.foundation import load_foundation, locate
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.sentences import PLACE, sentences
from fedwarm.diffusion.sizes import EXACT_ROWS
from fedwarm.parts import Known
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

SPEED_IMAGES = 16
BATCHES = 8  # between two saves: on a GPU less than two minutes, even of a foundation that takes three seconds an image
USED = ("pool", "prompt-mode", "phrases", "guidance", "steps", "judge", "judge-tries", "refused", "budget-seconds")
SENTENCES = {"single": "prompt", "pool": "prompts-file"}


def uses(run: Any) -> list[str]:
    """The settings that it takes, by the values of others."""
    more = [SENTENCES[run["gen-fedsd.prompt-mode"]]]
    more += ["judge-least"] if run["gen-fedsd.judge"] else []
    more += ["allow-repeat"] if run["gen-fedsd.pool"] > 0 else []
    found = [f"gen-fedsd.{name}" for name in (*USED, *more)]
    found += [] if run["gen-fedsd.guidance"] else ["diffusion.guidance"]
    return found + ([] if run["gen-fedsd.steps"] else ["diffusion.sample-steps"])


def kept_together(batch: int) -> int:
    """How many images are drawn between two saves: whole batches of a GPU's and of a CPU's, so that no bit hangs on it."""
    whole = lcm(EXACT_ROWS, batch)
    return whole * max(1, min(CHUNK, BATCHES * batch) // whole)


class Generated(Provider):
    """Images that a foundation generates from prompts, cached for later runs."""

    draws = True
    uses = staticmethod(uses)

    def __init__(self, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        super().__init__(config, classes, root, shard)
        self.settings = config.of(GenFedSD)
        self.facts: Mapping[str, Any] = identity(config, classes)
        self.size, self.awake = config.of(Data).image_size, False
        tell = partial(provenance, self.facts, config, self.classes)
        few = self.exact_rows is not None and self.exact_rows < EXACT_ROWS
        chunk = self.batch if few else kept_together(sampler(config).sample_batch_size)
        self.shelf = Shelf(root, key_of(self.facts), self.size, tell, config.run.client_state_mb, chunk)

    @classmethod
    def check_settings(cls, settings: GenFedSD) -> None:
        if settings.prompt_mode == "single" and PLACE not in settings.prompt:
            raise SettingError(f"gen-fedsd.prompt = {settings.prompt!r} does not say where the class stands; write {PLACE} there")

    @classmethod
    def check(cls, config: Config, known: Known) -> None:
        diffusion = sampler(config)
        if known.classes:
            folder = Path(locate(diffusion.foundation))
            sentences(wording(config), diffusion.foundation, folder if folder.is_dir() else None, known.classes)
            if config.of(GenFedSD).judge:
                Judge.of(config, len(known.classes))
        if not config.of(Data).own:
            check_room(config, known.clients)
            pool = config.of(GenFedSD).pool
            if pool and known.classes:
                check_stock(config, known.clients, known.classes, [pool] * len(known.classes))

    @classmethod
    def earlier(cls, config: Config) -> Iterator[tuple[str, str]]:
        if config.of(GenFedSD).judge:
            yield "gen-fedsd.judge", config.of(GenFedSD).judge

    @cached_property
    def judge(self) -> Judge | None:
        """The classifier that looks at what is drawn."""
        return Judge.of(self.config, len(self.classes)) if self.settings.judge else None

    def owner(self, client: int) -> Owner:
        """Whose images a client takes."""
        return POOL if self.settings.pool else client

    def stock(self, label: int) -> int | None:
        return self.settings.pool or None

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        owner = self.owner(client)
        return self.shelf.take(owner, label, indices, partial(self.draw, owner, label), self.batch, self.settings.pool)

    @property
    def exact_rows(self) -> int | None:
        """How many images a CPU always draws together; None: a GPU draws."""
        return int(self.facts.get("rows", EXACT_ROWS)) if self.facts["device"] == "cpu" else None

    @property
    def batch(self) -> int:
        """Images that cost as much as one: a CPU always draws sixteen of a small foundation, one of others."""
        return self.exact_rows or 1

    @property
    def pool(self) -> int:
        return self.settings.pool

    @property
    def own_batch(self) -> int:
        """Of the images of a class, how many a client pays for together; what a pool draws beside its own serves others."""
        return 1 if self.settings.pool else self.batch

    def cost(self, count: int) -> int:
        """How many images a client's share of a class costs."""
        return -(-count // self.own_batch) * self.own_batch

    def have(self, owner: Owner, label: int) -> set[int]:
        return self.shelf.have(owner, label)

    def make_room(self) -> None:
        make_room(self.root, self.shelf.folder, self.shelf.limit_bytes)

    def rest(self) -> None:
        if self.awake:
            load_foundation(sampler(self.config), self.config.run.device, awake=False).rest()
            self.awake = False

    def find(self, client: int, label: int, indices: Sequence[int]) -> Drawn:
        """Those of the images that are there already."""
        return self.shelf.find(self.owner(client), label, indices)

    def draw(self, owner: Owner, label: int, indices: Sequence[int]) -> Drawn:
        """Draw images, and draw anew those that are blank or that the judge refuses; the best draw of each stays."""
        with torch_threads(self.config.run.client_threads):  # part of an image, whoever draws it
            return self._drawn(owner, label, indices)

    def _drawn(self, owner: Owner, label: int, indices: Sequence[int]) -> Drawn:
        known, n = self.facts["prompts"][label], len(indices)
        prompts = [i % len(known) for i in indices]
        images = torch.empty(n, 3, self.size, self.size, dtype=torch.uint8)
        seeds, tries, best = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.full((n,), -2.0)
        seconds, rows = torch.zeros(n), list(range(n))
        foundation, self.awake = load_foundation(sampler(self.config), self.config.run.device), True
        for attempt in range(self.settings.judge_tries if n else 0):
            begun = time.monotonic()
            own = [derive(self.config.run.seed, DRAWS, owner, label, indices[row], attempt) for row in rows]
            asked = [known[prompts[row]] for row in rows]
            stage = DRAWS if attempt == 0 else f"{DRAWS} again"
            drawn = sample(foundation, asked, own, sampler(self.config), self.size, stage)
            got, chosen = scores(self.judge, drawn, label), torch.tensor(rows)
            better = got > best[chosen]
            kept = chosen[better]
            images[kept], best[kept], seeds[kept] = drawn[better], got[better], torch.tensor(own)[better]
            tries[chosen] += 1
            seconds[chosen] += (time.monotonic() - begun) / len(rows)
            rows = [row for row in rows if best[row] < self.least]
            if not rows:
                break
        return Drawn(images, torch.tensor(indices), seeds, torch.tensor(prompts), tries, best, seconds)

    @property
    def least(self) -> float:
        """The score below which an image is drawn anew."""
        return self.settings.judge_least if self.settings.judge else ASKED

    def speed(self, measure: bool = True) -> float:
        """Seconds an image, measured once on this machine by some that are thrown away, and kept on the shelf.

        Without `measure` nothing is drawn for it: 0 where it is not known.
        """
        return self.shelf.measured(self._measure) if measure else self.shelf.speed() or 0.0

    def _measure(self) -> float:
        load_foundation(sampler(self.config), self.config.run.device)
        begun, count = time.monotonic(), self.exact_rows or SPEED_IMAGES
        self.draw("speed", 0, range(count))
        return (time.monotonic() - begun) / count


COMPONENT = Generated
