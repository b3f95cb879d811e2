"""Scopes: which of a classifier's tensors a federation trains, by the setting `model.train`, whatever the architecture.

A component is a function (model, head) -> None, or with its settings behind, that is called once when a model is built; `head`
are the names of the tensors of its last layer. It says by `requires_grad` what is trained, and may add parameters to layers in
place: these draw from the seed of the run and leave the model's answers as they are. Facts beside it (`registry.component`):

- `whole`: running statistics and other buffers change in training; else they stay as they are
- `merge`: a function (state[, its settings]) -> state that works what was added into the architecture's own tensors, as a model
  is saved for others

What is not trained is the same for all clients and rounds, so that it travels once (see `rounds.fixed`): methods, codecs and
accounts of privacy know the rest alone. Parameters that an architecture itself freezes are such, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fedwarm.settings.fields import Group, SettingError
from fedwarm.settings.registry import own_of

State = Mapping[str, Tensor]
FIXED, ADDED, HEAD = "_fixed_tensors", "_added_tensors", "_fixed_head"  # where a model notes their names


def whole(scope: Any) -> bool:
    """Whether all of the architecture's tensors, buffers among them, change in training."""
    return bool(getattr(scope, "whole", False))


def adds(scope: Any) -> bool:
    """Whether it adds tensors to those of the architecture, which its `merge` works into these."""
    return getattr(scope, "merge", None) is not None


def fixed_in(model: nn.Module) -> frozenset[str]:
    """Names of the tensors in a built model's state that training leaves as they are."""
    found: frozenset[str] = getattr(model, FIXED, frozenset())
    return found


def head_fixed_in(model: nn.Module) -> frozenset[str]:
    """Those of them that follow from the kind of the model's head, whatever the rest is (see `fedwarm.heads`)."""
    found: frozenset[str] = getattr(model, HEAD, frozenset())
    return found


def added_in(model: nn.Module) -> frozenset[str]:
    """Names of the tensors in a built model's state that are not its architecture's own."""
    found: frozenset[str] = getattr(model, ADDED, frozenset())
    return found


def plain(model: nn.Module, state: State) -> dict[str, Tensor]:
    """Those of a built model's state that are its architecture's own."""
    return {name: tensor for name, tensor in state.items() if name not in added_in(model)}


def completed(state: State, model: nn.Module, drawn: bool) -> State:
    """A state of trained tensors, with the others as a model that was built anew has them.

    Args:
        drawn: whether they follow from the seed; else all but a fixed head must be in the state.

    Raises:
        SettingError: they must be there, and are not.
    """
    if not (missing := fixed_in(model) - state.keys()):
        return state
    if not drawn and missing - head_fixed_in(model):
        raise SettingError("this client does not hold the layers of model.weights that are not trained; they are sent again")
    own = model.state_dict()
    return {**state, **{name: own[name] for name in missing}}


def limit(model: nn.Module, scope: Any, head: tuple[str, ...], groups: tuple[Group, ...], head_fixed: bool = False) -> None:
    """Have a scope say what is trained, and note what is not, and what is new.

    Args:
        model: as it was built.
        scope: the component.
        head: names of the head's tensors.
        groups: the scope's own settings are among them.
        head_fixed: whether the head follows from its kind.

    Raises:
        SettingError: the scope finds nothing to train.
    """
    before = {*model.state_dict()}
    scope(model, () if whole(scope) else head, *own_of(scope, groups))
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if not whole(scope):
        still |= {name for name, _ in model.named_buffers()}
    names = model.state_dict().keys()
    for note, found in ((FIXED, still & names), (ADDED, names - before), (HEAD, still & {*head} if head_fixed else ())):
        if found:
            setattr(model, note, frozenset(found))


def train_only(model: nn.Module, wanted: Callable[[str], bool]) -> None:
    """Freeze every parameter but those of wanted names; what the architecture froze stays so."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and wanted(name))


def merged(scope: Any, state: State, groups: tuple[Group, ...]) -> State:
    """A state in the architecture's own tensors alone."""
    found: State = scope.merge(state, *own_of(scope, groups)) if adds(scope) else state
    return found
