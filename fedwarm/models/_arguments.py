"""What a factory of models is given before its settings, by what its parameters are called."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import signature

from torch import nn

from fedwarm.core.inputs import Form
from fedwarm.settings.fields import SettingError
from fedwarm.settings.registry import settings_of

KNOWN = frozenset({"classes", "outputs", "shape", "image_size", "vocabulary"})  # what parameters of factories may be called


def arguments(architecture: Callable[..., nn.Module], name: str, outputs: int, form: Form) -> list[object]:
    """What a factory is given before its settings, by the names of its parameters.

    Raises:
        SettingError: it takes other inputs.
    """
    known: dict[str, object] = {"classes": outputs, "outputs": outputs, "shape": form.shape}
    known |= {"image_size": form.side, "vocabulary": form.vocabulary}
    asked = asked_by(architecture)
    if not form.pictures and "image_size" in asked:
        raise SettingError(
            f"model.name = {name!r} takes pictures, and the data set has {form}; take another model, e.g. mlp of numbers, or "
            "module:attribute of a function of (outputs, shape)"
        )
    if "vocabulary" in asked and not form.vocabulary:
        raise SettingError(
            f"model.name = {name!r} reads texts of tokens, and the data set has {form}; take a model of such inputs, e.g. mlp"
        )
    return [known[name] for name in asked]


@lru_cache(maxsize=64)
def asked_by(architecture: Callable[..., nn.Module]) -> tuple[str, ...]:
    """What a factory's parameters before its settings ask for; one that is called otherwise, by its place."""
    places = ("classes", "image_size")
    try:
        parameters = [*signature(architecture).parameters.values()]
    except (TypeError, ValueError):
        return places
    if any(each.kind == each.VAR_POSITIONAL for each in parameters):
        return places
    given = [each.name for each in parameters[: len(parameters) - len(settings_of(architecture))]]
    return tuple(name if name in KNOWN else places[i] for i, name in enumerate(given) if name in KNOWN or i < len(places))
