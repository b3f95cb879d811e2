"""Gen-FedSD: clients have images drawn of the classes that they lack (Morafah et al., arXiv 2405.07925)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.data.settings import Data
from fedwarm.parts import ClientPart, Known, Part, ServerPart
from fedwarm.settings.config import Config

if TYPE_CHECKING:
    from fedwarm.data.provenance import Source


class GenFedSdPart(Part):
    """Images of the classes that a client lacks, drawn before training (Morafah et al., 2024)."""

    settings = GenFedSD

    @staticmethod
    def does(run: Any) -> dict[str, bool]:
        """Whether clients draw images by a foundation, and whether their histograms have noise."""
        return {"draws": run["gen-fedsd.provider"] == "foundation", "accounted": run["gen-fedsd.histogram-epsilon"] > 0}

    def check(self, config: Config, known: Known) -> None:
        from fedwarm.augmentations.gen_fedsd.checks import check_before

        check_before(config, known)

    def outlook(self, config: Config, clients: int) -> Iterator[str]:
        from fedwarm.augmentations.gen_fedsd.plan import outlook

        yield from outlook(config, clients)

    def understood(self, config: Config, folder: Path, classes: Sequence[str], words: set[str]) -> list[bool]:
        """Of each class, whether the foundation was trained on the words that it is asked for in."""
        from fedwarm.augmentations.gen_fedsd.words import understood

        return understood(config, folder, classes, words)

    def classifiers(self, config: Config) -> Iterator[tuple[str, str]]:
        """The settings that name a trained classifier, and their values."""
        own = config.of(GenFedSD)
        if own.judge and own.provider == "foundation":
            yield "gen-fedsd.judge", own.judge

    def sources(self, config: Config) -> Iterator[Source]:
        """Which data set images are taken from."""
        from fedwarm.augmentations.gen_fedsd.checks import PUBLIC
        from fedwarm.data.provenance import PUBLIC as PART
        from fedwarm.data.provenance import WHOLE, source_of

        own, data = config.of(GenFedSD), config.of(Data)
        if own.provider == "file":
            public = own.file == PUBLIC
            yield source_of(PART if public else WHOLE, data if public else replace(data, name=own.file))

    def server(self, config: Config) -> ServerPart:
        from fedwarm.augmentations.gen_fedsd.server import GenFedSdServer

        return GenFedSdServer(config)

    def client(self, config: Config, node: Any) -> ClientPart:
        from fedwarm.augmentations.gen_fedsd.client import GenFedSdClient

        return GenFedSdClient(config, node)


COMPONENT = GenFedSdPart()
