"""What runs a federation: everything in this process, Flower's simulation, or real nodes, behind one small interface.

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
    """What a run asks of its engine.

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
        """The options that only some engines take, as they are written on the command line."""
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
        """How many clients there are before the settings are looked at; 0: as many as the data set suggests.

        Raises:
            SettingError: there cannot be as many as are asked for.
        """
        return asked.clients

    def words(self, asked: Asked) -> str:
        """The options that the command line needs beside the engine's name, a blank before each."""
        return ""

    def here(self, asked: Asked) -> bool:
        """Whether clients may keep their states in the run's folder, as they run on this machine."""
        return True

    def title(self, asked: Asked) -> str:
        """What is shown above the progress of a run; empty where the engine shows it by itself."""
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
    """See that the engine takes all options that were given.

    Args:
        takers: the engines by name, of which those that take an option are named where this one does not.

    Raises:
        SettingError: it does not.
    """
    for option in asked.given:
        if option not in engine.takes:
            named = " or ".join(name for name, each in takers.items() if option in each.takes)
            raise SettingError(f"{option} works only with --engine {named}")
