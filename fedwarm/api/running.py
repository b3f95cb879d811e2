"""`run` and `load`: from settings to a result, and from a run folder to a result."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedwarm.api.given import Given, in_python, reference, settings_of
from fedwarm.api.result import Result
from fedwarm.core.failures import Interrupted, RunError
from fedwarm.core.forking import imports_its_starter
from fedwarm.launch.request import Request
from fedwarm.launch.run import completed
from fedwarm.settings.fields import SettingError


def run(
    method: Any = "",
    settings: Given | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    engine: str = "local",
    seed: int | None = None,
    rounds: int | None = None,
    clients: int = 0,
    workers: int = 0,
    fresh: bool = False,
    resume: bool = False,
    federation: str = "default",
    keep_going: bool = False,
    progress: bool = True,
) -> Result:
    """Run a method and return its result; the same run as by `fedwarm run`, with the same numbers.

    Args:
        method: its name (`fedwarm methods` lists them), or `module:attribute`. Empty with `resume=True`: the folder's own.
        settings: by key as `fedwarm settings` lists them, flat (`{"data.alpha": 0.1}`) or nested (`{"data": {"alpha": 0.1}}`). A
            model, data set or other component of your own is a name, `module:attribute`, or the function or class itself.
        out: the run folder. Default: `runs/METHOD-seed-N`.
        engine: `local` (this machine), `ray` (Flower's simulation), `deployment` (a federation of real nodes), or
            `module:attribute`.
        seed: every random draw derives from it. Default 0.
        rounds: rounds of training; sets `num-server-rounds`.
        clients: number of clients. 0: what the data set suggests.
        workers: processes that clients run in. 0: what cores and memory allow; 1: none, clients run in this process.
        fresh: replace the run that the folder holds.
        resume: continue the run that the folder holds, by its own settings; with `rounds` for longer.
        federation: name of the federation, for the engine `deployment`.
        keep_going: restart a failed run from its checkpoint, for the engine `deployment`.
        progress: show progress: bars on a terminal, lines on standard error elsewhere, e.g. in a notebook.

    Returns:
        the finished run: accuracies, history by round, ledger, plots, and the model, ready to predict.

    Raises:
        SettingError: a setting, the data or the folder cannot be used; nothing was started.
        RunError: the run started and failed; `resume=True` continues it from its last checkpoint.
        KeyboardInterrupt: the run was interrupted; its message says how to continue.
    """
    _refuse_import()
    request = Request(
        method if isinstance(method, str) else reference(method, "method"), engine, None if out is None else Path(out), seed,
        rounds, clients, workers, fresh, resume, (), federation, keep_going, settings_of(settings), progress,
    )  # fmt: skip
    if not request.method and not (resume and out is not None):
        raise SettingError("no method is named; give one of `fedwarm methods`, or resume=True with out=FOLDER")
    with _as_caller_expects():
        return Result(completed(request))


def load(folder: str | os.PathLike[str]) -> Result:
    """Open the run in a folder, finished or not, from whichever engine or command it comes.

    Args:
        folder: the run folder.

    Raises:
        SettingError: it holds no run, or one that cannot be read.
    """
    return Result(Path(folder))


@contextmanager
def _as_caller_expects() -> Iterator[None]:
    """Put back the number of torch's threads; turn the command line's words and Ctrl-C's error into Python's."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    except (SettingError, RunError) as error:
        error.args = (in_python(str(error)), *error.args[1:])
        raise
    except Interrupted as error:
        if error.number != signal.SIGINT:
            raise
        raise KeyboardInterrupt(str(error)) from error
    finally:
        torch.set_num_threads(threads)


def _refuse_import() -> None:
    """Refuse a run that begins because a worker process imports the script that asked for it.

    Raises:
        RunError: the script lacks its guard.
    """
    if imports_its_starter():
        raise RunError(
            'fedwarm.run was called while a worker process imported this script; put it below `if __name__ == "__main__":`, '
            "or give workers=1"
        )
