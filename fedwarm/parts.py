"""Parts of a run that have a half at the server and a half at each client: augmentations, privacy mechanisms, measures.

The round loop and the base client know these halves alone, and no part by its name. What a half leaves as it is costs nothing: a
part overrides what it needs. A stage that a part yields names its `owner`, and is instructed, absorbed and finished by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.data import Shard
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group
from fedwarm.training.private import Mechanism, Receipt

Planned = Callable[[], Sequence[tuple[int, int, int]]]


def _silent(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Known:
    """What is known before a run.

    Attributes:
        clients: how many there are.
        classes: their names; empty where only the nodes know them.
        say: tells whoever started the run.
    """

    clients: int
    classes: tuple[str, ...] = ()
    say: Callable[[str], None] = field(default=_silent)


class Trainer(Protocol):
    """What a client's half may ask of its client."""

    @property
    def real(self) -> Shard:
        """What it holds."""

    def model(self, payload: Payload | None = None) -> Any:
        """The classifier with the payload's weights."""


class Noted(Protocol):
    """What a server's half may put into the run's record."""

    def note(self, text: str) -> None:
        """A sentence for readers."""

    def remark(self, text: str) -> None:
        """One that is said once."""

    def augment(self, told: Mapping[str, Any]) -> None:
        """The `augment` of results.json."""

    def widths(self, accuracies: Mapping[str, float]) -> None:
        """The accuracies by width of results.json."""

    def found(self, name: str, values: Mapping[str, Any]) -> None:
        """The entry `name` among the `measures` of results.json."""


class ServerPart:
    """The half at the server."""

    def before(self, everyone: tuple[int, ...]) -> Iterator[Stage]:
        """Stages before the first round."""
        yield from ()

    def after(self, everyone: tuple[int, ...], number: int, arrays: Arrays) -> Iterator[Stage]:
        """Stages after the last round, which was `number` and came to the model `arrays`."""
        yield from ()

    def able(self, clients: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the clients that can train."""
        return clients

    def late(self, labels: Mapping[int, str]) -> Iterator[str]:
        """What the record should say of those clients, by what they are called, that cannot."""
        yield from ()

    def instruct(self, stage: Stage, client: int, arrays: Arrays) -> Payload:
        """What a client is sent in a stage of this part; `arrays` are the model."""
        return Payload(metrics={"round": stage.round})

    def absorb(self, stage: Stage, client: int, payload: Payload, classes: int) -> None:
        """Take a reply, in the order of the clients.

        Raises:
            PayloadError: it cannot be used.
        """

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        """All replies of a stage of this part are in; `counts` are each client's own images by class, where it tells them."""

    def statement(self, epsilon: float) -> dict[str, Any] | None:
        """What is said of examples' privacy where clients told this epsilon; None where this part has nothing to say."""
        return None

    def promised(self) -> float:
        """An example's epsilon by settings alone, for runs in which clients cannot tell theirs; 0 where these promise none."""
        return 0.0

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take up what `facts` gave."""


class ClientPart:
    """The half at a client.

    Attributes:
        actions: what a server may ask this half for.
    """

    actions: ClassVar[tuple[str, ...]] = ()

    def tells(self, level: Level) -> Reasons:
        """What this half has a client send that may leave in a private run, by name and with the reason (see `rounds.gate`)."""
        return {}

    def withholds(self, level: Level) -> frozenset[str]:
        """What of it is left out there."""
        return frozenset()

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        """Do one of the actions."""
        raise NotImplementedError(action)

    def data(self, real: Shard) -> Shard:
        """What the client trains on, out of what it holds."""
        return real

    def weight(self, real: Shard, held: Shard) -> int | None:
        """What the client counts for in an average, in images; None: as many as it trains on."""
        return None

    def mechanism(self, planned: Planned, purpose: str, number: int) -> Mechanism | None:
        """What makes the steps of a training private; None: nothing.

        Args:
            planned: all that the client trains and sends of in a run, at most: (examples, batch size, steps) each.
            purpose: what the training is for.
            number: the round.
        """
        return None

    def spend(self, receipt: Receipt, number: int) -> None:
        """Book what a training took."""

    def spent(self) -> dict[str, float]:
        """Metrics that tell what was spent so far."""
        return {}


class Part:
    """A component with two halves, and with a say before the run.

    Attributes:
        settings: its group of settings.
    """

    settings: ClassVar[type[Group] | tuple[type[Group], ...] | None] = None

    def check(self, config: Config, known: Known) -> None:
        """Refuse before any work starts what cannot be.

        Raises:
            SettingError: why.
        """

    def uncovered(self, run: Any, level: Level) -> str:
        """What it would have clients tell that the account of a private run does not cover, and what to do; empty: nothing.

        Args:
            run: the `relevance.Run`, which gives settings by key.
            level: what the account covers.
        """
        return ""

    def fixed_rounds(self, config: Config) -> str:
        """Why the number of rounds cannot be another once a run has begun; empty where it can."""
        return ""

    def outlook(self, config: Config, clients: int) -> Iterator[str]:
        """Lines before the run: what it will take."""
        yield from ()

    def server(self, config: Config) -> ServerPart:
        """The half at the server.

        Raises:
            SettingError: settings do not go together.
        """
        return ServerPart()

    def client(self, config: Config, node: Any) -> ClientPart:
        """The half at the client of `rounds.node.Node`."""
        return ClientPart()
