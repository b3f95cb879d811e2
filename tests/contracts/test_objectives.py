"""What every objective keeps to, an installed package's own among them; each check can be called for any objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.catalogue import all_groups, groups_of, parse
from fedwarm.core.arrays import from_module
from fedwarm.core.seeds import generator
from fedwarm.models import Model, build_model
from fedwarm.objectives import hooks_of, is_learned, learned_state, objective_of
from fedwarm.quantize.sweep import quantized
from fedwarm.relevance import Run
from fedwarm.rounds.objectives import check_objective, learned_template
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value, keys
from fedwarm.settings.kinds import OBJECTIVES
from fedwarm.settings.registry import Kind, summary
from fedwarm.training.loop import Hook, Plan, fit
from tests.runs import same

Check = Callable[[Kind[Any], str], None]
ROUNDS, CLASSES, SIZE = 9, 3, 8
VARIED: Mapping[str, tuple[dict[str, Value], ...]] = {
    "qat": ({"quantization-robust.range": "learned", "quantization-robust.quantize-activations": True},),
    "rq": ({"relaxed-quantization.bits-activations": 0, "relaxed-quantization.layers": "skip_first_last"},),
}  # settings under which an objective does something else, beside its defaults


def configs(name: str, **more: Value) -> list[Config]:
    given = {"method": "fedavg", "objective": name, "num-server-rounds": ROUNDS, "model.name": "cnn", **more}
    return [parse({**given, **varied}) for varied in ({}, *VARIED.get(name, ()))]


def model(config: Config) -> nn.Module:
    return build_model(config.of(Model), CLASSES, SIZE, 0)


def trained(config: Config, start: Mapping[str, Tensor] | None = None) -> tuple[nn.Module, list[Hook]]:
    """A model after four steps of the last round, and the hooks that it was trained with."""
    net, hooks = model(config), hooks_of(config, ROUNDS, generator(1), start)
    images = torch.randint(0, 256, (12, 3, SIZE, SIZE), generator=generator(2)).to(torch.uint8)
    fit(net, images, torch.arange(12) % CLASSES, Plan(2, 6, 0.01), generator(3), hooks)
    return net, hooks


def check_training(kind: Kind[Any], name: str) -> None:
    """Hooks leave a model of the same names and shapes, its own modules and finite numbers, by their own draws alone."""
    for config in configs(name):
        before, modules = from_module(model(config)), [type(part) for part in model(config).modules()]
        drawn = torch.get_rng_state()
        net, _ = trained(config)
        assert torch.equal(torch.get_rng_state(), drawn)
        after = from_module(net)
        assert [(n, a.shape, a.dtype) for n, a in after.items()] == [(n, a.shape, a.dtype) for n, a in before.items()]
        assert [type(part) for part in net.modules()] == modules
        assert not any(part._forward_pre_hooks or part._forward_hooks for part in net.modules())
        assert all(bool(torch.isfinite(p).all()) for p in net.parameters()) and not same(after, before)
        assert same(from_module(trained(config)[0]), after)


def check_nothing(kind: Kind[Any], name: str) -> None:
    """The neutral objective has no hook, and any other that works has one."""
    for config in configs(name):
        assert bool(hooks_of(config, ROUNDS, generator(0))) == (name != kind.first)


def check_beginning(kind: Kind[Any], name: str) -> None:
    """Before its first round there is no hook; a run that ends before it is refused with the settings that put it off."""
    (config, *_), objective = configs(name), kind.load(name)
    begins = objective.begins(config)
    assert 1 <= begins <= ROUNDS and hooks_of(config, begins - 1, generator(0)) == []
    known = {key for key, _, _ in keys((*all_groups(), *groups_of(kind, name)))}
    assert {*objective.delays, *objective.scheme_uses} <= known
    for key in objective.delays:
        late = parse({**config.flat(), key: ROUNDS + 1})
        assert objective.begins(late) > ROUNDS
        with pytest.raises(SettingError, match=f"{key}.*raise num-server-rounds"):
            check_objective(late)
    check_objective(config)


def check_learned(kind: Kind[Any], name: str) -> None:
    """What is learned has the template's names and shapes, is taken up again, and is refused where nobody averages it."""
    for config in configs(name):
        learns, (net, hooks) = objective_of(config).learns(config), trained(config)
        state, template = learned_state(hooks), learned_template(config, model(config), SIZE)
        assert bool(state) is learns and all(map(is_learned, state)) and not any(map(is_learned, net.state_dict()))
        assert {n: (a.shape, a.dtype) for n, a in state.items()} == {n: (a.shape, a.dtype) for n, a in template.items()}
        assert learned_state(trained(config, state)[1]).keys() == state.keys()
        if learns:
            with pytest.raises(SettingError, match="does not average them: take one of fedavg"):
                check_objective(parse({**config.flat(), "method": "local_only"}))


def check_quantized(kind: Kind[Any], name: str) -> None:
    """The model can be quantized by the objective's scheme, with the steps that it learned."""
    for config in configs(name):
        objective, (net, hooks) = objective_of(config), trained(config)
        found = quantized(net, 4, objective.scheme(config), learned=objective.learned(config, learned_state(hooks)))
        assert found.state_dict().keys() == net.state_dict().keys() and not same(from_module(found), from_module(net))


def check_settings(kind: Kind[Any], name: str) -> None:
    """Its own groups are found and used, and what it takes beside them exists; it says what it is in a line."""
    (config, *_) = configs(name)
    groups, run = groups_of(kind, name), Run.of(config)
    assert all(config.of(group) is not None and run.has(group) for group in groups)
    assert run.taken <= {key for key, _, _ in keys((*all_groups(), *groups))}
    assert summary(kind.load(name)) and isinstance(kind.load(name).seen(run.__getitem__, True), frozenset)
    assert kind.load(name).seen(run.__getitem__, True) <= kind.load(name).seen(run.__getitem__, False)


def check_private(kind: Kind[Any], name: str) -> None:
    """Private training steps are refused before the run where they do not cover a hook, and else taken."""
    for config in configs(name, privacy="dp-sgd"):
        covered = all(hook.uses in ("weights", "example") for hook in hooks_of(config, ROUNDS, generator(0)))
        if covered:
            check_objective(config)
        else:
            with pytest.raises(SettingError, match="privacy = 'dp-sgd' does not cover.*it covers plain"):
                check_objective(config)


CHECKS: tuple[Check, ...] = (
    check_training,
    check_nothing,
    check_beginning,
    check_learned,
    check_quantized,
    check_settings,
    check_private,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_contract(name: str, check: Check) -> None:
    check(OBJECTIVES, name)
