"""What a run may go on with: its own settings, or more rounds, another patience or target, where its plan allows it.

The first rounds of a longer run are those of the shorter one, bit for bit, where nothing in them depends on how many follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedwarm.catalogue import all_groups, explicit, flagged, parse, presets
from fedwarm.record.checkpoint import Checkpoint
from fedwarm.record.folder import JOURNAL
from fedwarm.record.ledger import Ledger
from fedwarm.record.record import Record
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value, defaults

ROUNDS = "num-server-rounds"
STOPPING = ("patience", "target")
CHANGEABLE = (ROUNDS, *STOPPING)


def changed(checkpoint: Checkpoint, settings: Mapping[str, Value], where: Path) -> dict[str, tuple[Value, Value]]:
    """The settings that a run would go on with other values of, each with the old and the new one; none where all are its own.

    Args:
        checkpoint: of the run.
        settings: those to go on with, flat; what they do not name stays.
        where: the run's folder.

    Raises:
        SettingError: the first setting that would change what is done already, or that the method's plan fixed.
    """
    found: dict[str, tuple[Value, Value]] = {}
    own, free = _whole(checkpoint.settings), flagged("free")
    for key in sorted(settings):
        old, new = own.get(key), settings[key]
        if key in free or old is None or new in (old, checkpoint.settings.get(key)):
            continue
        if key not in CHANGEABLE:
            raise SettingError(
                f"{key} = {new!r}, but the run in {where} has {old!r}; resume it with its own settings, or name a new folder"
            )
        found[key] = (old, new)
    if found:
        _check(checkpoint, parse({**own, **{key: new for key, (_, new) in found.items()}}), found, where)
    return found


def _whole(own: Mapping[str, Value]) -> dict[str, Value]:
    """The run's settings as they are in force.

    What was no setting yet when it was begun has its default, and what is preset now has what the run's method presets.
    """
    usual = defaults(all_groups())
    found = {**usual, **own}
    preset, given = presets(str(found["method"]), found.__getitem__, filled=True), explicit(found)
    return {**found, **{key: value for key, value in preset.items() if found[key] == usual[key] and key not in given}}


def _check(checkpoint: Checkpoint, config: Config, found: Mapping[str, tuple[Value, Value]], where: Path) -> None:
    record = _record(checkpoint, config, where)
    done, rounds = max((int(stage["round"]) for stage in record.stages), default=0), config.run.num_server_rounds
    if ROUNDS in found:
        old, new = found[ROUNDS]
        if why := planned(config):
            raise SettingError(f"{ROUNDS} = {new}, but the run in {where} has {old}: {why}; begin a new run in a new folder")
        if rounds < done:
            raise SettingError(f"{ROUNDS} = {new}, but the run in {where} has done {done}; name {done} or more, or a new folder")
    run = Run.of(config)
    lag = int(run.late)
    stop = next((n for n in sorted(record.measures) if record.enough(n)), None)
    names = " and ".join(f"{key} = {new:g}" for key, (_, new) in found.items())
    if stop is not None and stop + lag < done:
        raise SettingError(
            f"with {names} the run in {where} would have ended at round {stop + lag} ({record.enough(stop)}); {done} are done, "
            "name a new folder"
        )
    rounds = rounds if run.rounds else done
    over = f": {record.enough(stop)}" if stop is not None else ""
    if checkpoint.complete and (rounds == done or stop is not None):
        raise SettingError(
            f"{names} leaves nothing to do: the run in {where} is complete after round {done}{over}; "
            + (f"set another {' or '.join(STOPPING)}, too" if over else f"raise {ROUNDS}")
        )


def planned(config: Config) -> str:
    """Reason why the number of rounds cannot change once a run has started; empty if it can."""
    asked = (getattr(component, "fixed_rounds", None) for component in Run.of(config).chosen)
    return next((why for ask in asked if ask is not None and (why := ask(config))), "")


def _record(checkpoint: Checkpoint, config: Config, where: Path) -> Record:
    """What the run noted up to its checkpoint."""
    record = Record(config, Ledger())
    try:
        text = (where / JOURNAL).read_bytes()[: checkpoint.lengths.get(JOURNAL, 0)].decode()
        record.replay([json.loads(line) for line in text.splitlines()])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"the journal in {where} is damaged; start over with --fresh") from error
    return record
