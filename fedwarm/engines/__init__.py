"""Engines that run a federation, behind one interface: this machine, Flower's simulation, or real nodes.

An engine is told settings and how many clients there shall be, and returns when the run is done. The same settings and seed give
the same model on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedwarm.settings.fields import SettingError, Value

FEDERATION = "default"


@dataclass(frozen=True)
class Asked:
    """Options of a run for its engine.

    Attributes:
        clients: how many there are; 0: as many as the engine has, or as the data set suggests.
        workers: processes for clients; 0: as many as cores and memory allow.
        federation: where real nodes are found.
        keep_going: a run that fails is started again from its checkpoint.
        again: the command that goes on with the run.
    """

    clients: int = 0
    workers: int = 0
    federation: str = FEDERATION
    keep_going: bool = False
    again: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """Given options that only some engines support, as on the command line."""
        return ("--keep-going",) * self.keep_going + ("--federation",) * (self.federation != FEDERATION)


class Engine:
    """An engine.

    Attributes:
        needs: packages that must be installed.
        real: whether clients are real nodes, with data, folders and lives of their own.
        takes: options of `fedwarm run` that others do not take.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    real: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()

    def clients(self, asked: Asked) -> int:
        """Number of clients that the engine determines; 0: as many as the data set suggests.

        Raises:
            SettingError: there cannot be as many as are asked for.
        """
        return asked.clients

    def words(self, asked: Asked) -> str:
        """Further options for the command line, each with a blank before it."""
        return ""

    def here(self, asked: Asked) -> bool:
        """Whether clients run on this machine, so that they can keep their state in the run's folder."""
        return True

    def title(self, asked: Asked) -> str:
        """Heading of the progress display; empty if the engine has its own display."""
        return ""

    def run(self, settings: Mapping[str, Value], asked: Asked) -> None:
        """Run this project's own app.

        Args:
            settings: all that are not at their default, `out` among them.
            asked: with the number of clients.

        Raises:
            SettingError: the engine cannot run it.
            RunError: the run failed.
        """
        raise NotImplementedError

    def run_app(self, folder: Path, overrides: Mapping[str, Value], asked: Asked) -> None:
        """Run any Flower app's folder.

        Args:
            folder: holds its pyproject.toml.
            overrides: settings of it to replace; all are the app's.
            asked: with the number of clients.

        Raises:
            SettingError: the engine cannot run it.
            RunError: the run failed.
        """
        raise NotImplementedError


def refuse(engine: Engine, asked: Asked, takers: Mapping[str, Engine]) -> None:
    """Refuse options that the engine does not support.

    Args:
        takers: the engines by name, of which those that take an option are named where this one does not.

    Raises:
        SettingError: it does not.
    """
    for option in asked.given:
        if option not in engine.takes:
            named = " or ".join(name for name, each in takers.items() if option in each.takes)
            raise SettingError(f"{option} works only with --engine {named}; add that, or leave {option} out")
