"""Who of a run's clients is there: in simulation all of them, on real nodes see `rollcall`."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedwarm.rounds.fleet import Fleet

SIMULATORS = ("InMemoryGrid",)


def on_real_nodes(grid: Grid) -> bool:
    """Whether clients are machines of their own; in simulation they are all there, and stay."""
    return not hasattr(grid, "stream") and not any(kind.__name__ in SIMULATORS for kind in type(grid).__mro__)


class Attendance:
    """The clients of a simulation: they are all there, and stay."""

    real = False

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.remarks: list[str] = []
        self.refusals: dict[int, tuple[str, str]] = {}
        """Clients that refused the run when they were asked who they are: their sites' names, and why."""

    @property
    def partitions(self) -> range:
        """All partitions, connected or not."""
        return range(len(self.fleet.members))

    def look(self) -> None:
        """Look up who is there, before a stage.

        Raises:
            FederationError: for too long too few.
        """

    def returned(self, client: int) -> bool:
        """Whether a client that was lost is back, after some waiting."""
        return True

    def lost(self, client: int, node: int) -> None:
        """A client's node went away over a message."""

    def silent(self, client: int, node: int) -> None:
        """A client's node let the time of a message go by."""

    def heard(self, client: int, node: int) -> None:
        """A client's node answered."""

    def arrived(self) -> dict[int, object]:
        """The nodes that are there now, and when each came."""
        return {}

    def bindings(self) -> dict[str, int]:
        """The partitions that belong to registered names."""
        return {}
