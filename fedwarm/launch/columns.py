"""How a finished run's model takes a table's columns."""

from __future__ import annotations

from fedwarm.catalogue import groups_of, parse
from fedwarm.data.scaling import MEAN, NONE, Scale
from fedwarm.data.settings import OWN, Data
from fedwarm.data.shards import shared_scale
from fedwarm.record.reading import Run
from fedwarm.settings.fields import Group, SettingError, Value, keys
from fedwarm.settings.kinds import SETS


def scale_of_run(run: Run) -> tuple[Scale | None, str]:
    """How the run's columns were scaled, worked out of its data set; or in words what it takes, where that is not known."""
    name, said, missing = (str(run.settings.get(f"data.{key}", "")) for key in ("name", "standardise", "missing-values"))
    if not run.inputs.columns or (said == NONE and missing != MEAN):
        return None, ""
    try:
        if name != OWN:
            own = groups_of(SETS, name) if SETS.takes(name) else ()
            return shared_scale(parse(settings_of_run(run, (Data, *own))).of(Data), run.seed, run.clients), ""
        why = "at each site"
    except SettingError:
        why = f"by {name}, which is not here"
    return None, f"the model takes columns as data.standardise = {said!r} scaled them {why}"


def settings_of_run(run: Run, groups: tuple[type[Group], ...]) -> dict[str, Value]:
    """The run's settings of some groups."""
    wanted = {key for key, _, _ in keys(groups)}
    return {key: value for key, value in run.settings.items() if key in wanted}
