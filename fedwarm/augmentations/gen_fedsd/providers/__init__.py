"""Image providers: the places where synthetic images come from.

Image i of a class of an owner (a client, or the pool that all draw from) is a function of (run, owner, class, i): of nothing
that is drawn with it, of no order, and not of who drew it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.drawn import Drawn, Owner
from fedwarm.data import Shard
from fedwarm.data.provenance import Source
from fedwarm.parts import Known
from fedwarm.settings.config import Config
from fedwarm.settings.kinds import PROVIDERS


class Provider:
    """Images of classes, by index; a provider says at least `take`, and `stock` where clients share what there is.

    Attributes:
        draws: whether a foundation draws the images, which takes time and is kept for later runs.
        fills: whether clients get any image at all.
        kept: where the images are, for people; empty: below the folder of drawn images.
        uses: keys of the settings that it takes: a tuple, or a function of `relevance.Run`.

    Args:
        config: the run's settings.
        classes: names of the classes.
        root: below which drawn images are kept.
        shard: the client's own images; None where they are not at hand.

    Raises:
        SettingError: it cannot be used.
    """

    draws: ClassVar[bool] = False
    fills: ClassVar[bool] = True
    kept: ClassVar[str] = ""
    uses: ClassVar[Any] = ()

    def __init__(self, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> None:
        self.config, self.classes, self.root, self.shard = config, tuple(classes), root, shard

    # Before a run, by its settings alone

    @classmethod
    def of(cls, config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> Provider | None:
        """The provider of a client; None where there is none without the client's own images, or none at all."""
        return cls(config, classes, root, shard)

    @classmethod
    def does(cls, run: Any) -> dict[str, bool]:
        """What a run with it does (see `relevance.FACTS`)."""
        return {"draws": cls.draws, "fills": cls.fills}

    @classmethod
    def check_settings(cls, settings: GenFedSD) -> None:
        """Refuse settings that do not go together.

        Raises:
            SettingError: why, and what to set.
        """

    @classmethod
    def check(cls, config: Config, known: Known) -> None:
        """Refuse before any work what cannot be had; a model of the Hub is not asked for.

        Raises:
            SettingError: why, and what to do.
        """

    @classmethod
    def offered(cls, missing: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Of the images that a client's classes lack, those that it can give, by class.

        Args:
            missing: images that each class lacks.
            counts: the client's own images of each class.
        """
        return list(missing)

    @classmethod
    def earlier(cls, config: Config) -> Iterator[tuple[str, str]]:
        """The settings that name files of earlier runs, and their values."""
        yield from ()

    @classmethod
    def sources(cls, config: Config) -> Iterator[Source]:
        """The data sets that its images come from."""
        yield from ()

    # Images

    def stock(self, label: int) -> int | None:
        """How many different images of a class all clients draw from; None: each client has as many of its own as it wants."""
        return None

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        """The images, in the order asked, and how many had to be drawn for it."""
        raise NotImplementedError

    def find(self, client: int, label: int, indices: Sequence[int]) -> Drawn:
        """Those of the images that are there without drawing any."""
        return self.take(client, label, indices)[0]

    def have(self, owner: Owner, label: int) -> set[int]:
        """The indices of an owner's images of a class that are drawn already."""
        return set()

    def refuse_own(self, images: Tensor, shard: Shard, client: int) -> None:
        """Refuse images (k, 3, S, S) that were taken for a client and must not be its own.

        Raises:
            SettingError: some are.
        """

    def make_room(self) -> None:
        """Called after images were drawn: what is kept of other runs may have to go."""

    def rest(self) -> None:
        """Called when a client has its images: what drew them may leave the device's memory to others."""

    # Costs

    @property
    def own_batch(self) -> int:
        """Images of a class that a client pays for together."""
        return 1

    @property
    def pool(self) -> int:
        """Images of a class that all clients draw from; 0: there is no pool."""
        return 0

    def cost(self, count: int) -> int:
        """How many images' seconds a client's share of a class costs."""
        return 0

    def speed(self, measure: bool = True) -> float:
        """Seconds an image; 0: nothing is drawn, or it is not known and `measure` is false."""
        return 0.0


def provider_type(config: Config) -> type[Provider]:
    """The run's provider, for what is asked of it without images."""
    found: type[Provider] = PROVIDERS.load(config.of(GenFedSD).provider)
    return found


def provider_of(config: Config, classes: Sequence[str], root: Path, shard: Shard | None = None) -> Provider | None:
    """The run's provider for a client; None where it has none, as for transforms without the client's own images.

    Raises:
        SettingError: it cannot be used.
    """
    return provider_type(config).of(config, classes, root, shard)
