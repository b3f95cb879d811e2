"""Weights of a file brought to the names of a model, and told by name where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from fedwarm.norms import COUNTER
from fedwarm.settings.fields import SettingError

Say = Callable[[str], object]
SHOWN = 5
DRAWN = "start at random"


def fitting(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], head: tuple[str, ...], say: Say | None, fate: str = DRAWN
) -> dict[str, Tensor]:
    """A state of the model with the file's tensors, and with its own head where the file's is for other classes or missing.

    Prefixes that all of the file's names have, and none of the model's, are left out (`module.` of a parallel wrapper, `model.`
    of a trainer), and so are counters of steps and what an objective learned beside a model (`quantizer/..`).

    Args:
        found: the file's tensors.
        own: the model's state.
        head: names of the head's tensors in it.
        say: is told where the head or what was learned beside is left out; None: a file without the head is refused.
        fate: what becomes of the model's own head then.

    Raises:
        SettingError: which tensors are missing, left over, or of another shape.
    """
    kept = {name: tensor for name, tensor in found.items() if "/" not in name or name in own}
    if len(kept) < len(found) and say is not None:
        beside = _some(name for name in found if name not in kept)
        say(f"model.weights also has {beside}, learned beside the model; this run begins without")
    state = renamed({name: tensor for name, tensor in kept.items() if not name.endswith(COUNTER)}, own)
    state = _with_own_head(state, own, head, say, fate)
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    shapes = [
        f"{name} has shape {_shape(state[name])}, and the classifier's is {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    wrong = [
        *([f"it lacks {_some(name for name in own if name in missing)}"] if missing else []),
        *([f"it has {_some(name for name in state if name in extra)}, which the classifier has not"] if extra else []),
        *shapes[:SHOWN],
        *([f"and {len(shapes) - SHOWN} more shapes differ"] if len(shapes) > SHOWN else []),
    ]
    if wrong:
        raise SettingError(
            f"does not fit the classifier: {'; '.join(wrong)}; take the model.name (and model.norm, model.input-size, "
            "data.image-size) that these weights are of"
        )
    return state


def renamed(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that all of their names have in common while none of them is a name of the model."""
    state = dict(found)
    while state and not state.keys() & own.keys():
        first = {name.partition(".")[0] for name in state}
        if len(first) != 1 or any("." not in name for name in state):
            return dict(found)
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def _with_own_head(
    state: dict[str, Tensor], own: Mapping[str, Tensor], head: tuple[str, ...], say: Say | None, fate: str
) -> dict[str, Tensor]:
    if say is None or not head:
        return state
    names, kept = " and ".join(head), {name: own[name] for name in head}
    rest = own.keys() - {*head}
    if not any(name in state for name in head) and rest and rest <= state.keys():
        say(f"model.weights has no head: all is taken from it but {names}, which {fate}")
        return {**{name: tensor for name, tensor in state.items() if name in rest}, **kept}
    if not all(name in state and state[name].shape[1:] == own[name].shape[1:] for name in head):
        return state
    many, wanted = ({tensors[name].shape[:1] for name in head} for tensors in (state, own))
    if many == wanted or len(many) > 1:
        return state
    say(
        f"model.weights has a head for {many.pop()[0]} classes, and this run has {wanted.pop()[0]}: "
        f"all is taken from it but {names}, which {fate}"
    )
    return {**state, **kept}


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
