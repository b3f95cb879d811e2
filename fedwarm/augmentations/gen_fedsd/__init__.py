"""Gen-FedSD: clients have images drawn of the classes that they lack (Morafah et al., arXiv 2405.07925)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.parts import ClientPart, Known, Part, ServerPart
from fedwarm.settings.config import Config


class GenFedSdPart(Part):
    """Generated images of the classes that a client lacks (Morafah et al., 2024)."""

    settings = GenFedSD
    pictures = True
    classed = True

    @staticmethod
    def does(run: Any) -> dict[str, bool]:
        """Whether clients' histograms have noise; whether a foundation draws, the provider says."""
        return {"accounted": run["gen-fedsd.histogram-epsilon"] > 0}

    def check(self, config: Config, known: Known) -> None:
        from fedwarm.augmentations.gen_fedsd.checks import check_before

        check_before(config)

    def outlook(self, config: Config, clients: int) -> Iterator[str]:
        from fedwarm.augmentations.gen_fedsd.plan import outlook

        yield from outlook(config, clients)

    def understood(self, config: Config, folder: Path, classes: Sequence[str], words: set[str]) -> list[bool]:
        """Of each class, whether the foundation was trained on the words that it is asked for in."""
        from fedwarm.augmentations.gen_fedsd.words import understood

        return understood(config, folder, classes, words)

    def server(self, config: Config) -> ServerPart:
        from fedwarm.augmentations.gen_fedsd.server import GenFedSdServer

        return GenFedSdServer(config)

    def client(self, config: Config, node: Any) -> ClientPart:
        from fedwarm.augmentations.gen_fedsd.client import GenFedSdClient

        return GenFedSdClient(config, node)


COMPONENT = GenFedSdPart()
