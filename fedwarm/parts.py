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
    """Facts that are known before a run.

    Attributes:
        clients: how many there are.
        classes: their names; empty where only the nodes know them.
        say: tells whoever started the run.
    """

    clients: int
    classes: tuple[str, ...] = ()
    say: Callable[[str], None] = field(default=_silent)


class Trainer(Protocol):
    """The client as its halves of parts see it."""

    @property
    def real(self) -> Shard:
        """The client's own data."""

    def model(self, payload: Payload | None = None, plain: bool = False) -> Any:
        """The classifier with the payload's weights; `plain`: in its architecture's own tensors, whatever `model.train` added."""


class Noted(Protocol):
    """The run's record as the server halves of parts see it."""

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
        """Notes for the record about clients that cannot train, by their names."""
        yield from ()

    def instruct(self, stage: Stage, client: int, arrays: Arrays) -> Payload:
        """The message to a client in a stage of this part; `arrays` are the model."""
        return Payload(metrics={"round": stage.round})

    def absorb(self, stage: Stage, client: int, payload: Payload, classes: int) -> None:
        """Take a reply, in the order of the clients.

        Raises:
            PayloadError: it cannot be used.
        """

    def finish(self, stage: Stage, replies: Mapping[int, Payload], counts: Sequence[Sequence[int] | None], record: Noted) -> None:
        """All replies of a stage of this part are in; `counts` are each client's own images by class, where it tells them."""

    def statement(self, epsilon: float) -> dict[str, Any] | None:
        """The privacy statement for examples at the epsilon that clients reported; None if this part makes none."""
        return None

    def promised(self) -> float:
        """An example's epsilon by settings alone, for runs in which clients cannot tell theirs; 0 where these promise none."""
        return 0.0

    def facts(self) -> dict[str, Any]:
        """State for the checkpoint, as JSON."""
        return {}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore what `facts` returned."""


class ClientPart:
    """The half at a client.

    Attributes:
        actions: what a server may ask this half for.
    """

    actions: ClassVar[tuple[str, ...]] = ()

    def tells(self, level: Level) -> Reasons:
        """Names sent by this half that may leave a client in a private run, each with its reason (see `rounds.gate`)."""
        return {}

    def withholds(self, level: Level) -> frozenset[str]:
        """Names of it that are removed from replies in a private run."""
        return frozenset()

    def answer(self, action: str, payload: Payload, client: Trainer) -> Payload:
        """Do one of the actions."""
        raise NotImplementedError(action)

    def data(self, real: Shard) -> Shard:
        """The data that the client trains on, made from its own."""
        return real

    def weight(self, real: Shard, held: Shard) -> int | None:
        """The weight of the client in an average, in images; None: the number that it trains on."""
        return None

    def mechanism(self, planned: Planned, purpose: str, number: int) -> Mechanism | None:
        """The privacy mechanism of a training's steps; None without one.

        Args:
            planned: all that the client trains and sends of in a run, at most: (examples, batch size, steps) each.
            purpose: what the training is for.
            number: the round.
        """
        return None

    def spend(self, receipt: Receipt, number: int) -> None:
        """Enter the cost of a training into the account."""

    def spent(self) -> dict[str, float]:
        """The privacy spent so far, as metrics."""
        return {}


class Part:
    """A component with two halves, and with a say before the run.

    Attributes:
        settings: its group of settings.
    """

    settings: ClassVar[type[Group] | tuple[type[Group], ...] | None] = None

    def check(self, config: Config, known: Known) -> None:
        """Refuse impossible runs before any work starts.

        Raises:
            SettingError: why.
        """

    def uncovered(self, run: Any, level: Level) -> str:
        """Information that clients would reveal without cover by a private run's account, and what to do; empty: none.

        Args:
            run: the `relevance.Run`, which gives settings by key.
            level: what the account covers.
        """
        return ""

    def fixed_rounds(self, config: Config) -> str:
        """Reason why the number of rounds cannot change once a run has started; empty if it can."""
        return ""

    def outlook(self, config: Config, clients: int) -> Iterator[str]:
        """Lines to print before the run, e.g. about its cost."""
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
