"""Models: each a function that gives a module by how many outputs it is to have and what its inputs look like.

A factory is given what its parameters are called after, and its settings behind: `classes` or `outputs`, the outputs of its last
layer; `image_size`, the side of RGB pictures (b, 3, S, S); `shape`, one input's shape, e.g. (3, S, S) or (30,); `vocabulary`, the
number of different tokens of a text (b, T) of int64. Who asks for `image_size` takes pictures alone, and who asks for
`vocabulary` texts alone: other inputs are refused before the run. First parameters with other names are given the outputs and
the image size in that order.

The settings `model.norm` and `model.head` change how any of them is normalised, and its head (see `fedwarm.norms`,
`fedwarm.heads`). The head is the last layer with parameters, or the one that the component names as its fact `head`; its first
axis counts classes. Its facts `mean` and `deviation` (by channel, of pixels in [0, 1]) say which input its weights expect, where
that is not [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.core import placement
from fedwarm.core.inputs import Form
from fedwarm.core.placement import on_gpu as on_gpu
from fedwarm.core.seeds import initialisation
from fedwarm.heads import fixed
from fedwarm.models._arguments import arguments, asked_by
from fedwarm.models._own import check_own
from fedwarm.models._twins import copies, forms, twin
from fedwarm.norms import AVERAGED, FROZEN, floored, prepare
from fedwarm.pretrained.fitting import DRAWN, Say, fitting
from fedwarm.pretrained.inputs import colours, expect
from fedwarm.pretrained.reading import tensors_of
from fedwarm.scopes import completed, fixed_in, head_fixed_in, limit, merged, plain, whole
from fedwarm.settings.fields import Group, SettingError, Value, keys, read, setting
from fedwarm.settings.foreign import outcome
from fedwarm.settings.kinds import HEADS, MODELS, NORMS, SCOPES
from fedwarm.settings.registry import own_of, settings_of

PIXEL_MEAN, PIXEL_STD = 127.5, 127.5
APART = ("model.name", "model.norm", "model.weights", "model.train")  # told by themselves, or of no matter to what it predicts


@dataclass(frozen=True)
class Model(Group, prefix="model"):
    """The classifier."""

    name: str = setting(
        "cnn", "the classifier's architecture: a component's name, LIBRARY:NAME (e.g. torchvision:resnet18), or module:attribute",
        choices=MODELS,
    )  # fmt: skip
    norm: str = setting(
        "own",
        "normalisation layers; own: the architecture's; group, batch: replaced by such layers; none: removed; "
        "standardised-weights: removed, and convolutions with standardised weights",
        choices=NORMS,
    )  # fmt: skip
    head: str = setting(
        "own",
        "the last layer; own: the architecture's; simplex: fixed vectors of classes, all equally far apart, which nobody trains",
        choices=HEADS,
    )
    statistics: str = setting(
        "averaged", "running statistics of batch normalisation; averaged: clients update them, and the server averages them like "
        "weights; frozen: training normalises by those of model.weights and leaves them as they are",
        choices=(AVERAGED, FROZEN), when=lambda r: r["model.train"] == "all",
    )  # fmt: skip
    weights: str = setting(
        "",
        "initial weights shared by all clients: a file of safetensors or of torch.save, or hub:OWNER/NAME[/FILE], read at "
        "the server; a head for another number of classes is left out; empty: random from the seed",
        path=True,
    )
    mean: str = setting(
        "", "mean of red, green, blue in [0, 1] that the weights expect, e.g. 0.485,0.456,0.406; empty: the model's own"
    )
    std: str = setting(
        "", "standard deviations of red, green, blue that the weights expect, e.g. 0.229,0.224,0.225; empty: the model's own"
    )
    input_size: int = setting(0, "pixels to which pictures are resized before the model; 0: data.image-size", low=0, high=4096)
    train: str = setting(
        "all", "what is trained, and travels; all: every layer; head: the last layer; bias: biases and the last layer; lora: "
        "adapters of low rank and the last layer; what is not travels once, and running statistics stay as they are",
        choices=SCOPES,
    )  # fmt: skip
    own_settings: tuple[Group, ...] = field(default=(), repr=False)


def model_of(flat: Mapping[str, Value]) -> Model:
    """The architecture that a flat run config says, with its own settings; nothing of weights, or of what is trained.

    Raises:
        SettingError: a setting of it has another type or is out of its range.
    """
    known = read(Model, flat)
    chosen = (MODELS.load(known.name), NORMS.load(known.norm), HEADS.load(known.head))
    groups = [group for found in chosen for group in settings_of(found)]
    return replace(known, weights="", train=Model.train, own_settings=tuple(read(group, flat) for group in groups))


def own_settings_of(settings: Model) -> dict[str, Value]:
    """What else the architecture hangs on: settings that are not at their default, by their keys, as `model_of` takes them."""
    apart = settings_of(SCOPES.load(settings.train))
    groups = (settings, *(group for group in settings.own_settings if not isinstance(group, apart)))
    found = ((key, getattr(group, f.name), f.default) for group in groups for key, _, f in keys((type(group),)))
    return {key: value for key, value, default in found if value != default and key not in APART}


def merged_state(settings: Model, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state of a model that was built by these settings, in its architecture's own tensors alone."""
    return merged(SCOPES.load(settings.train), state, settings.own_settings)


def to_input(images: Tensor) -> Tensor:
    """Inputs (n, *shape) as a model takes them: uint8, as pictures are, as floats in [-1, 1]; others as they are."""
    if images.dtype != torch.uint8:
        return images
    return (images.float() - PIXEL_MEAN) / PIXEL_STD


def build_model(
    settings: Model,
    classes: int,
    inputs: Form | int,
    seed: int,
    state: Mapping[str, Tensor] | None = None,
    say: Say | None = None,
) -> nn.Module:
    """The model of a run with its shared initialisation: the same weights for the same settings and seed.

    Args:
        classes: its outputs.
        inputs: what one input looks like; a number: RGB pictures of that side.
        state: weights to take instead, in the dtypes of the model's own; tensors that are not trained may be missing where they
            follow from the seed.
        say: is told where `model.weights` has a head for another number of classes: then the head stays as drawn, and all else
            is taken. None: such a file is refused.

    Raises:
        SettingError: the architecture takes other inputs, or `model.weights` names no file, or one that does not fit.
        RuntimeError: `state` does not fit.
    """
    form = Form.at(inputs)
    if state is not None:
        state = floored(state)
        if (empty := _empty(settings, classes, form)) is not None:
            missing = (head_fixed_in if settings.weights else fixed_in)(empty[0]) - state.keys()
            drawn = _drawn(replace(settings, weights=""), classes, form, seed) if missing else {}
            state = {**{name: tensor.clone() for name, tensor in drawn.items() if name in missing}, **state}
            if forms(state) == empty[1]:
                return twin(empty[0], state)
    with initialisation(seed, "model"):
        model = _built(settings, classes, form)
    if state is not None:
        model.load_state_dict(completed(state, model, drawn=not settings.weights))  # says what does not fit
    elif settings.weights:
        own, still = model.state_dict(), head_fixed_in(model)
        fate = f"stay as model.head = {settings.head!r} has them" if still else DRAWN
        found = weights_in(settings.weights, "model.weights", plain(model, own), head_of(settings, model), say, fate)
        model.load_state_dict({**own, **found, **{name: own[name] for name in still}})
    return model


def head_of(settings: Model, model: nn.Module) -> tuple[str, ...]:
    """Names of the head's tensors in the state of a model that was built by these settings.

    Raises:
        SettingError: the component names a head that has none.
    """
    told = getattr(MODELS.load(settings.name), "head", "")
    layer = told or [name for name, part in model.named_modules() if any(True for _ in part.parameters(recurse=False))][-1]
    found = tuple(name for name in model.state_dict() if not layer or name.startswith(f"{layer}."))
    if not found:
        raise SettingError(
            f"model.name = {settings.name!r} says that its head is {layer!r}, which has no tensors; name another layer"
        )
    return found


def head_layer(settings: Model, model: nn.Module) -> str:
    """The name of the layer that is the head of a model that was built by these settings.

    Raises:
        SettingError: it is no layer of its own.
    """
    layer = head_of(settings, model)[0].rpartition(".")[0]
    if not layer:
        raise SettingError(f"model.name = {settings.name!r} has no layer that is its head; put its last weights in one")
    return layer


def behead(settings: Model, model: nn.Module) -> tuple[str, nn.Module]:
    """Take the head off a model that was built by these settings: (the layer's name, the layer).

    What remains gives the head's inputs, the features (n, d), under the same names of tensors.

    Raises:
        SettingError: it is no layer of its own.
    """
    layer = head_layer(settings, model)
    head = model.get_submodule(layer)
    model.set_submodule(layer, nn.Identity())
    return layer, head


def _built(settings: Model, classes: int, form: Form) -> nn.Module:
    architecture, norm = MODELS.load(settings.name), NORMS.load(settings.norm)
    resized = Form.at(settings.input_size) if settings.input_size and form.pictures else form
    asked, own = arguments(architecture, settings.name, classes, resized), own_of(architecture, settings.own_settings)
    module: nn.Module = outcome(where := f"model.name = {settings.name!r}", lambda: architecture(*asked, *own))
    check_own(where, module)
    norm(module, *own_of(norm, settings.own_settings))
    if settings.head != Model.head:
        head = HEADS.load(settings.head)
        head(module.get_submodule(head_layer(settings, module)), *own_of(head, settings.own_settings))
    scope = SCOPES.load(settings.train)
    prepare(module, settings.statistics if whole(scope) else FROZEN)
    _expect(settings, module, architecture, form)
    fixed_head = fixed(HEADS.load(settings.head))
    head_names = () if whole(scope) and not fixed_head else head_of(settings, module)
    limit(module, scope, head_names, settings.own_settings, fixed_head)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        below = f" below model.head = {settings.head!r}" if settings.head != Model.head else ""
        raise SettingError(
            f"{where} has no parameter that requires a gradient{below}, so nothing is trained; free some of them, or take another"
        )
    return module


def _expect(settings: Model, module: nn.Module, architecture: Any, form: Form) -> None:
    """Have pictures brought to what the weights expect."""
    if form.pictures:
        mean = colours("model.mean", settings.mean, getattr(architecture, "mean", None))
        deviation = colours("model.std", settings.std, getattr(architecture, "deviation", None))
        expect(module, mean, deviation, settings.input_size)
    elif settings.mean or settings.std or settings.input_size:
        raise SettingError(
            f"model.mean, model.std and model.input-size are of pictures, and the data set has {form}; leave them out"
        )


def takes_pictures(settings: Model) -> bool:
    """Whether an architecture is made for a given size of pictures."""
    return "image_size" in asked_by(MODELS.load(settings.name))


@lru_cache(maxsize=4)
def _empty(settings: Model, classes: int, form: Form) -> tuple[nn.Module, Mapping[str, Any]] | None:
    """The classifier without numbers, to take twins of, and its state's forms; None where twins would not be as built anew."""
    try:
        with torch.device("meta"):
            model = _built(settings, classes, form)
    except SettingError:  # it computes with its numbers
        return None
    return (model, forms(model.state_dict())) if copies(model) else None


@lru_cache(maxsize=1)
def _drawn(settings: Model, classes: int, form: Form, seed: int) -> Mapping[str, Tensor]:
    """What is not trained of a run's model, where it follows from the seed; drawing it takes far longer than a twin."""
    model = build_model(settings, classes, form, seed)
    return {name: tensor for name, tensor in model.state_dict().items() if name in fixed_in(model)}


def weights_in(
    path: str, key: str, state: Mapping[str, Tensor], head: tuple[str, ...] = (), say: Say | None = None, fate: str = DRAWN
) -> dict[str, Tensor]:
    """The weights that a file holds of a model with this state.

    Args:
        path: of the file.
        key: the setting that names it, for errors.
        state: the model's own, which has the names and shapes that are wanted.
        head: names of the head's tensors, which may be those of another number of classes where `say` is given: they stay then.
        say: is told that they do.
        fate: what becomes of the head's own tensors then, which `say` is told, too.

    Raises:
        SettingError: there is no such file, or it does not fit.
    """
    try:
        return fitting(tensors_of(path), state, head, say, fate)
    except SettingError as error:
        raise SettingError(f"{key} = {path!r} {error}") from error


def device_of(name: str) -> torch.device:
    """The device of the setting `device` for this process (see `core.placement`).

    Raises:
        SettingError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not placement.cards():
        raise SettingError("device = 'cuda', but torch finds no CUDA device here; use device = 'auto' or 'cpu'")
    return placement.placed(name)
