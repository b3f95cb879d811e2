"""What is checked before any work starts: settings, data, foundation and run folder, each refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedwarm.catalogue import parse
from fedwarm.core.files import DiskError
from fedwarm.core.inputs import Form
from fedwarm.core.terminal import say
from fedwarm.data.settings import Data
from fedwarm.diffusion.hub import describe
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import Model
from fedwarm.parts import Known
from fedwarm.record.folder import RunFolder
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.registry import is_reference

if TYPE_CHECKING:
    from torch import nn

EACH = 4  # images of a client, at least, where a method is made for many of them


def prepare_folder(path: Path, fresh: bool) -> RunFolder:
    """The run's folder, empty or not there yet; `fresh` clears one that holds a run.

    Raises:
        SettingError: it holds another run (without `fresh`) or something that is no run at all, a process is at work in it, or it
            cannot be written to.
    """
    folder = RunFolder(path)
    try:
        fresh = fresh and (folder.path / "results.json").is_file()
        if not fresh:
            folder.refuse_other()
        with folder.lock.held():
            if fresh:
                folder.clear()
            folder.refuse_other()
    except DiskError as error:
        raise SettingError(f"--out {error}") from error
    return folder


def check_run(flat: Mapping[str, Value], clients: int, real: bool = False) -> tuple[Config, int]:
    """The settings, and the number of clients they are good for (0: the data set's own number).

    Args:
        flat: the settings.
        clients: how many there are.
        real: whether clients are real nodes. Where these bring their own data, settings are all that can be checked here.

    Raises:
        SettingError: a setting, the data, the partition or the foundation cannot be used.
    """
    import torch

    torch.set_num_threads(1)  # what is checked is small, and nobody's numbers depend on it
    describe(str(flat.get("diffusion.foundation", "")))
    config = parse(flat)
    if clients < 0:
        raise SettingError(f"--clients {clients} is out of range; it must be at least 1")
    from fedwarm.codecs import codec_for
    from fedwarm.core.nodes import Nodes, bound
    from fedwarm.data.shards import open_table
    from fedwarm.faults import Faults, struck_clients
    from fedwarm.methods import refuse
    from fedwarm.models import device_of
    from fedwarm.record.trackers import require
    from fedwarm.relevance import Run
    from fedwarm.rounds.central import check_measured
    from fedwarm.rounds.fits import refuse_unfit
    from fedwarm.rounds.gate import refuse_uncovered
    from fedwarm.rounds.home import check_own
    from fedwarm.rounds.measuring import check_metrics
    from fedwarm.rounds.objectives import check_objective
    from fedwarm.schedules import never_full

    device_of(config.run.device)
    require(config.run.tracker)
    refuse(config)
    codec_for(config)
    refuse_uncovered(config)
    for component in Run.of(config).chosen[1:]:  # what the method validates, `refuse` did
        if getattr(component, "validate", None) is not None:
            component.validate(config)
    check_objective(config)
    check_own(config)
    if config.of(Data).own and not real:
        open_table(config.of(Data))  # which says what to do
    count = clients or usual_clients(config)
    bound(config.of(Nodes), count)
    _check_cohort(config, count)
    struck = struck_clients(config.of(Faults)) or frozenset()
    if not real and max(struck, default=-1) >= count:
        raise SettingError(
            f"faults.clients = {config.of(Faults).clients!r} names client {max(struck)}; there are 0 to {count - 1}"
        )
    if text := never_full(config.run):
        _say(text)
    check_measured(config)
    refuse_unfit(config)
    check_metrics(config)
    classes = _classes_told(config) if config.of(Data).own else _check_data(config, count)
    _check_components(config, Known(count, classes, _say))
    return config, count


def usual_clients(config: Config) -> int:
    """How many clients there are where nobody says: as many as the method is made for and the data allow, else the data's own."""
    from fedwarm.data import default_clients
    from fedwarm.data.partitions import partition_of
    from fedwarm.data.shards import open_table
    from fedwarm.data.tables import private_part
    from fedwarm.methods import method_of

    data, wanted = config.of(Data), method_of(config).clients
    own = default_clients(data)
    if not wanted or not getattr(partition_of(data), "least", True):
        return own
    images = len(private_part(open_table(data), data.public_share)[0])
    return max(own, min(wanted, images // EACH))


def _classes_told(config: Config) -> tuple[str, ...]:
    """The classes that the settings name, where data are the nodes' own, of a model that can be built; none if they do not."""
    from fedwarm.data.classes import FEWEST, listed

    classes = listed(config.of(Data).classes)
    if classes or not config.of(Model).weights:
        _build(config, len(classes) or FEWEST)
    return classes


def _build(config: Config, classes: int) -> None:
    """See that the model can be built; where nodes bring their own data, one of pictures, as others' shapes are not known."""
    from fedwarm.data.shards import form_of
    from fedwarm.models import build_model
    from fedwarm.rounds.measuring import check_fitting
    from fedwarm.tasks import task_of
    from fedwarm.training.sizes import untold

    width, form = task_of(config.run).width(classes), form_of(config.of(Data))
    check_fitting(config, width)
    if untold(config):
        return
    model = build_model(config.of(Model), width, form, config.run.seed, say=_say)
    if is_reference(config.of(Model).name):
        _check_outputs(config.of(Model).name, model, form, width)


def _check_outputs(name: str, model: nn.Module, form: Form, width: int) -> None:
    """See that a model of somebody's own answers two inputs in the width that the task wants."""
    import torch

    from fedwarm.models import to_input
    from fedwarm.settings.foreign import outcome

    with torch.no_grad():
        found = outcome(where := f"model.name = {name!r}", lambda: model.eval()(to_input(form.empty(2))))
    shape = tuple(getattr(found, "shape", ()))
    if not shape or shape[0] != 2 or (shape[-1] != width and not (width == 1 and shape == (2,))):
        gives = f"outputs of shape {shape}" if shape else type(found).__name__
        raise SettingError(f"{where} gives {gives} for two inputs; the task wants {width} outputs for each, (2, {width})")


def _check_data(config: Config, count: int) -> tuple[str, ...]:
    """See that the data set can be read, dealt and trained on; its classes."""
    from fedwarm.data import load_shard
    from fedwarm.data.checks import check_pictures
    from fedwarm.data.provenance import marks
    from fedwarm.data.shards import all_tests
    from fedwarm.relevance import Run
    from fedwarm.rounds.artefacts import refuse_seen_tests
    from fedwarm.rounds.gate import level_of, refuse_fitted
    from fedwarm.rounds.odd import held, refuse_one_class

    for text in check_pictures(config.of(Data), config.run.seed, count, _say):
        _say(text)
    shard = load_shard(config.of(Data), config.run.seed, 0, count)
    refuse_one_class(held(config, count), shard.classes)
    all_tests(config.of(Data), config.run.seed, count)
    marks(config.of(Data), read=True)
    _check_pictures_alone(config, shard.form)
    refuse_fitted(shard.fitted, level_of(Run.of(config)))
    _build(config, len(shard.classes))
    refuse_seen_tests(config, count)
    return shard.classes


def _check_pictures_alone(config: Config, form: Form) -> None:
    """Refuse inputs that are no pictures where a chosen component works on those alone.

    Raises:
        SettingError: they are none.
    """
    from fedwarm.relevance import Run

    if not form.pictures and (found := Run.of(config).stating("pictures")):
        raise SettingError(f"{found[0]} works on pictures alone, and the data set has {form}; take another of either")


def _check_components(config: Config, known: Known) -> None:
    """Ask every component that the run chose; and see that a foundation that draws can be had, and knows the classes."""
    from fedwarm.data.classes import FEWEST
    from fedwarm.relevance import Run
    from fedwarm.rounds.foundation_words import refuse_strangers
    from fedwarm.rounds.objectives import check_private_model

    check_private_model(config, len(known.classes) or FEWEST)
    run = Run.of(config)
    if run.generates or run.draws:
        _check_foundation(config, max(1, known.clients) if run.adapts else 0)
    for component in run.chosen:
        if getattr(component, "check", None) is not None:
            component.check(config, known)
    if known.classes:
        refuse_strangers(config, known.classes)


def _say(text: str) -> None:
    say(f"fedwarm: {text}")


def _check_cohort(config: Config, clients: int) -> None:
    """See that a round has as many clients as its aggregation rule needs."""
    from fedwarm.aggregators import Robust, needs

    robust, cohort = config.of(Robust), max(1, round(config.run.fraction_train * clients))
    if config.run.min_replies > cohort:
        raise SettingError(f"min-replies = {config.run.min_replies} is more than the {cohort} clients of a round; lower it")
    if (least := needs(robust)) > cohort:
        raise SettingError(
            f"robust.rule = {robust.rule!r} needs {least} clients in a round; there are {cohort}; take more, or another rule"
        )


def _check_foundation(config: Config, tuned: int) -> None:
    """See, without loading it, that the foundation can be had whole and has seen no client's images; so many tune an adapter."""
    from fedwarm.diffusion.checks import check_kind
    from fedwarm.diffusion.foundation import locate
    from fedwarm.diffusion.hub import require
    from fedwarm.diffusion.needs import plan
    from fedwarm.diffusion.pipeline import see_weights
    from fedwarm.diffusion.presets import folder_of
    from fedwarm.diffusion.pretraining.captions import refuse_seen
    from fedwarm.models import device_of

    name = locate(config.of(Diffusion).foundation)
    folder = Path(name)
    if not folder.is_dir():
        require(name)
        if (kept := folder_of(name)) is not None:
            check_kind(kept, config.of(Diffusion))
        plan(config, device_of(config.run.device), tuned)
        return
    family = check_kind(folder, config.of(Diffusion))
    for part in family.models:
        see_weights(folder, part, name)
    plan(config, device_of(config.run.device), tuned)
    if not config.of(Data).own:
        refuse_seen(folder, config.of(Data))
