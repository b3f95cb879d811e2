"""The stages before training in which clients fill their class gaps, by the setting `augment`; images stay where they are drawn.

Morafah et al., arXiv 2405.07925. Only with `gen-fedsd.rule = "global"` does a client tell its class histogram, with noise by
setting; else a reply holds counts of images and seconds, and its histograms where `data.share-class-counts` allows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, global_target
from fedwarm.augmentations.gen_fedsd.checks import check_private, global_rule
from fedwarm.augmentations.gen_fedsd.providers import provider_type
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Stage
from fedwarm.data.settings import Data
from fedwarm.data.testing import HELD_OUT
from fedwarm.parts import Noted, ServerPart
from fedwarm.settings.config import Config

GAPS, AUGMENT = "gaps", "augment"
SECONDS = ("seconds", "drawn_seconds")
NUMBERS = ("made", "reused", "repeated", "redrawn", "below_judge", "bytes")
MOST, MOST_REFUSED = 2**31, 0.1


class GenFedSdServer(ServerPart):
    """What the server knows of the images.

    Args:
        config: the run's settings.

    Raises:
        SettingError: they do not go together.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.target = config, 0
        self.filled: set[int] | None = None
        self.histograms: dict[int, list[int]] = {}
        self.reports: dict[int, dict[str, Any]] = {}
        check_private(config)

    def before(self, everyone: tuple[int, ...]) -> Iterator[Stage]:
        """All clients fill their gaps before the first round; first they tell their histograms, where the rule needs them."""
        if global_rule(self.config):
            yield self._stage(GAPS, everyone)
        yield self._stage(AUGMENT, everyone, long=True)

    def _stage(self, name: str, clients: tuple[int, ...], long: bool = False) -> Stage:
        """Training needs every client's images, so all must answer."""
        return Stage(0, name, "train", clients, long=long, action=name, owner="augment", all=True)

    def able(self, clients: tuple[int, ...]) -> tuple[int, ...]:
        """Not those who were away when images were drawn, or failed then."""
        return clients if self.filled is None else tuple(client for client in clients if client in self.filled)

    def late(self, labels: Mapping[int, str]) -> Iterator[str]:
        for client in labels.keys() - {*self.able(tuple(labels))}:
            yield f"{labels[client]} was away when images were drawn: it is measured, and does not train"

    def instruct(self, stage: Stage, client: int, arrays: Arrays) -> Payload:
        return Payload(metrics={"target": self.target} if stage.name == AUGMENT else {})

    def absorb(self, stage: Stage, client: int, payload: Payload, classes: int) -> None:
        """What a client tells.

        Raises:
            PayloadError: it is no histogram, or no report.
        """
        if stage.name == GAPS:
            self.histograms[client] = _counts(payload, "counts", classes, -MOST)
            return
        drawn = _counts(payload, "synthetic", classes) if "synthetic" in payload.facts else None
        numbers = {
            name: payload.number(name) if name in SECONDS else payload.count(name)
            for name in (*SECONDS, *NUMBERS)
            if name in payload.metrics
        }
        self.reports[client] = {"synthetic": drawn, **numbers}

    def remarks(self) -> Iterator[str]:
        """What the record should say of the images."""
        told = [report["synthetic"] for report in self.reports.values()]
        drawn = sum(sum(counts or ()) for counts in told)
        refused = sum(report.get("below_judge", 0) for report in self.reports.values())
        left_out = self.config.of(GenFedSD).refused == "drop"
        if told and None not in told and not drawn and not (refused and left_out) and provider_type(self.config).fills:
            yield (
                "nothing was drawn: by gen-fedsd.* no client's classes lack anything that its limits allow; see data.partition, "
                "data.alpha, gen-fedsd.cap and gen-fedsd.budget-*"
            )
        made = drawn + refused if left_out else drawn
        if made and refused > MOST_REFUSED * made:
            why = "refused by the judge or blank" if self.config.of(GenFedSD).judge else "blank"
            yield (
                f"{refused:,} of {made:,} synthetic images are {why}, and {'left out' if left_out else 'stay'}: the foundation "
                "may not know these classes; look at samples, set gen-fedsd.phrases or refused"
            )

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        """Settle the target that is announced, and after the images were drawn who can train."""
        self._settle(stage)
        record.augment(self.told(counts))
        for text in self.remarks():
            record.note(text)

    def _settle(self, stage: Stage) -> None:
        if stage.name == AUGMENT:
            self.filled = {*self.reports}
        if stage.name == GAPS:
            told = global_target([self.histograms[client] for client in sorted(self.histograms)])
            self.target = self._for_training(told, len(next(iter(self.histograms.values())))) if told else 0

    def _for_training(self, target: int, classes: int) -> int:
        """A target out of noisy histograms, which count all images, without those that are for testing, held back or left out."""
        if not self.config.of(GenFedSD).histogram_epsilon:
            return target
        data = self.config.of(Data)
        most, trained = data.max_examples, 1 - data.validation_fraction
        share = trained * (1 - data.test_fraction) if data.test == HELD_OUT else trained
        return min(round(target * share), ceil(most * trained / classes)) if most else round(target * share)

    def told(self, real: Sequence[Sequence[int] | None]) -> dict[str, Any]:
        """The `augment` of results.json.

        Args:
            real: each client's own images by class; None where it does not tell.
        """
        settings = self.config.of(GenFedSD)
        epsilon = settings.histogram_epsilon or None
        shared = {"epsilon": epsilon, "adjacency": "zero_out", "view": "example"} if global_rule(self.config) else None
        nothing = {"synthetic": None, "seconds": None}
        return {
            "method": "gen-fedsd",
            "target": self.target or None,
            "histogram": shared,
            "per_client": [
                {"real": None if counts is None else list(counts), **nothing, **self.reports.get(client, {})}
                for client, counts in enumerate(real)
            ],
        }

    def facts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"target": self.target, **({} if self.filled is None else {"filled": sorted(self.filled)})}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore what `facts` returned."""
        self.target = int(facts.get("target", 0))
        self.filled = {int(client) for client in facts["filled"]} if "filled" in facts else None


def _counts(payload: Payload, name: str, classes: int, least: int = 0) -> list[int]:
    found = payload.facts.get(name)
    if not isinstance(found, list) or len(found) != classes or not all(type(n) is int and least <= n < MOST for n in found):
        raise PayloadError(f"{name!r} must hold one number of images for each of {classes} classes")
    return [int(n) for n in found]
