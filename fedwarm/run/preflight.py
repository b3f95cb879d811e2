"""What is checked before any work starts: settings, data, foundation and run folder, each refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedwarm.config import Config, SettingError, Value, parse
from fedwarm.files import DiskError
from fedwarm.run.folder import RunFolder
from fedwarm.run.terminal import say


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


def check_run(flat: Mapping[str, Value], clients: int) -> tuple[Config, int]:
    """The settings, and the number of clients they are good for (0: the data set's own number).

    Raises:
        SettingError: a setting, the data, the partition or the foundation cannot be used.
    """
    import torch

    torch.set_num_threads(1)  # what is checked is small, and nobody's numbers depend on it
    config = parse(flat)
    if clients < 0:
        raise SettingError(f"--clients {clients} is out of range; it must be at least 1")
    from fedwarm.augment.fill import check, check_room
    from fedwarm.augment.known import refuse_strangers
    from fedwarm.augment.overlap import refuse_held
    from fedwarm.augment.settings import augmenting, check_private
    from fedwarm.codecs import codec_for
    from fedwarm.data import default_clients, load_shard
    from fedwarm.data.checks import check_pictures
    from fedwarm.data.provenance import marks
    from fedwarm.data.shards import all_tests
    from fedwarm.faults import Faults, struck_clients
    from fedwarm.methods.dp_rec import DpRec, validated
    from fedwarm.methods.gen_fedsd import GenFedSD
    from fedwarm.models import build_model, device_of
    from fedwarm.nodes import Nodes, bound
    from fedwarm.run.artefacts import refuse_seen_tests
    from fedwarm.run.measure import check_measured
    from fedwarm.run.remarks import held, refuse_one_class
    from fedwarm.run.trackers import require
    from fedwarm.widths import check_objective, widths

    device_of(config.run.device)
    require(config.run.tracker)
    if config.run.method == "dp_rec":
        validated(config.of(DpRec))
    codec_for(config)
    widths(config)
    check_objective(config)
    struck_clients(config.of(Faults))
    count = clients or default_clients(config.data)
    bound(config.of(Nodes), count)
    _check_cohort(config, count)
    check_measured(config)
    for text in check_pictures(config.data, config.run.seed, count, _say):
        _say(text)
    shard = load_shard(config.data, config.run.seed, 0, count)
    refuse_one_class(held(config, count), shard.classes)
    all_tests(config.data, config.run.seed, count)
    marks(config.data, read=True)
    build_model(config.model, len(shard.classes), config.data.image_size, config.run.seed)
    refuse_seen_tests(config, count)
    if config.run.method == "warmfed":
        _check_warmfed(config, count)
    if augmenting(config):
        check_private(config)
        check(config, shard.classes)
        check_room(config, count)
        refuse_held(config, count)
        if config.of(GenFedSD).provider == "foundation":
            _check_foundation(config)
    refuse_strangers(config, shard.classes)
    return config, count


def _say(text: str) -> None:
    say(f"fedwarm: {text}")


def _check_cohort(config: Config, clients: int) -> None:
    """See that a round has as many clients as its aggregation rule needs."""
    from fedwarm.robust import Robust, needs

    robust, cohort = config.of(Robust), max(1, round(config.run.fraction_train * clients))
    if needs(robust) > cohort:
        raise SettingError(f"robust.rule = {robust.rule!r} needs {needs(robust)} clients in a round; there are {cohort}")


def _check_warmfed(config: Config, clients: int) -> None:
    from fedwarm.diffusion.prompts import prompts
    from fedwarm.methods.warmfed import WarmFed

    settings = config.of(WarmFed)
    prompts(settings.prompt, ["x"])
    if settings.synthetic_ratio > 0:
        _check_foundation(config)
    if settings.synthetic_ratio > 0 and settings.adapt and config.diffusion.trainer == "hollowed":
        from fedwarm.diffusion.hollow_plan import check_plan

        check_plan(config, clients)


def _check_foundation(config: Config) -> None:
    """See, without loading it, that the foundation can be had whole and has seen no client's images."""
    from fedwarm.diffusion.foundation import locate
    from fedwarm.diffusion.hub import require
    from fedwarm.diffusion.pipeline import MODELS, see_weights
    from fedwarm.diffusion.pretrain_data import refuse_seen

    name = locate(config.diffusion.foundation)
    folder = Path(name)
    if not folder.is_dir():
        return require(name)
    for part in MODELS:
        see_weights(folder, part, name)
    refuse_seen(folder, config.data)
