"""Which units can go, what is left where they do, and the smaller network, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import from_module, to_tensors
from fedwarm.models import Model, build_model
from fedwarm.settings.kinds import MODELS
from fedwarm.sparse.gating import Gated
from fedwarm.sparse.groups import Groups, groups_of
from fedwarm.sparse.shrink import kept_of, multiply_adds, shrunk
from fedwarm.sparse.sites import Site, found

SIZE = 16


def made(name: str, norm: str = "own") -> nn.Module:
    model = build_model(Model(name=name, norm=norm), 10, SIZE, 0)
    draws = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=draws)
    return model.double()


def outputs(model: nn.Module) -> Tensor:
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        found: Tensor = model(images)
    return found


def test_units_of_lenet5() -> None:
    assert found(build_model(Model(name="lenet5"), 10, SIZE, 0)) == (
        Site("0", False, 6, reader="3"),
        Site("3", False, 16, reader="7"),
        Site("7", True, 16, source="3", spread=1),
        Site("9", True, 120, source="7"),
        Site("11", True, 84, source="9"),
    )


def test_maps_that_a_shortcut_adds_up_stay() -> None:
    """Of a residual block the maps between its convolutions go, as many together as are normalised together."""
    sites = found(build_model(Model(name="resnet8"), 10, SIZE, 0))
    assert [(s.layer, s.gates, s.units, s.norm, s.reader) for s in sites[:-1]] == [
        (f"{i}.conv1", 8, maps // 8, f"{i}.norm1", f"{i}.conv2") for i, maps in ((3, 16), (4, 32), (5, 64))
    ]
    assert sites[-1] == Site("8", True, 64)


def numbers(model: nn.Module) -> int:
    """Of a model's state: parameters and statistics."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", [n for n in MODELS.own() if n not in ("resnet18", "gru")])
def test_the_small_network_is_the_masked_one(name: str) -> None:
    """Gates in the forward pass, plain weights with them, and the network without their units; its size is what is left."""
    model = made(name)
    groups = Groups.of(model)
    mask = np.random.default_rng(0).random(groups.count) < 0.4
    gated = Gated(model, groups, lambda: torch.from_numpy(mask.astype(np.float64)))
    masked = outputs(model)
    gated.remove()
    plain = made(name)
    plain.load_state_dict(to_tensors(groups.switched(from_module(model), mask.astype(np.float64))))
    torch.testing.assert_close(outputs(plain), masked, rtol=0, atol=1e-12)
    small = shrunk(plain, kept_of(plain))
    torch.testing.assert_close(outputs(small), masked, rtol=0, atol=1e-6)
    left = sum(int(part.sum()) for part in groups.live(groups.closed(mask)).values())
    assert numbers(small) == left < numbers(model)
    assert multiply_adds(small.float(), SIZE) < multiply_adds(plain.float(), SIZE)


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_gates_between_0_and_1_are_plain_weights_too(name: str) -> None:
    model = made(name)
    groups = Groups.of(model)
    values = torch.rand(groups.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gated = Gated(model, groups, lambda: values)
    expected = outputs(model)
    gated.remove()
    model.load_state_dict(to_tensors(groups.switched(from_module(model), values.numpy())))
    torch.testing.assert_close(outputs(model), expected)


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_gates_of_single_weights_are_plain_weights_too(name: str) -> None:
    """All weights of all layers, behind shortcuts as well; biases and norms stay."""
    model = made(name)
    groups, arrays = Groups.of(model, single=True), from_module(model)
    assert groups.count == sum(array.size for array in arrays.values() if array.ndim > 1)
    values = torch.rand(groups.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gated = Gated(model, groups, lambda: values)
    expected = outputs(model)
    gated.remove()
    switched = groups.switched(arrays, values.numpy())
    assert all(switched[name] is arrays[name] for name in arrays.keys() - groups.places.keys())
    model.load_state_dict(to_tensors(switched))
    torch.testing.assert_close(outputs(model), expected)
    on = values.numpy() < 0.3
    live = groups.live(groups.closed(on))
    assert sum(int(live[name].sum()) for name in groups.places) == on.sum()
    assert all(live[name].all() for name in arrays.keys() - groups.places.keys())


def test_a_whole_network_stays() -> None:
    model = made("cnn")
    assert kept_of(model) == {}
    arrays = from_module(model)
    assert all(a is arrays[n] for n, a in Groups.of(model).switched(arrays, np.ones(560)).items())


def test_units_that_nothing_reaches_go_with_the_others() -> None:
    """A map with all its inputs of the linear layer, and the inputs with their map."""
    groups = groups_of(Model(name="cnn"), 10, 8)
    site, place = groups.places["7.weight"]
    alive = np.ones(groups.count, np.bool_)
    alive[place.start : place.start + site.spread] = False  # all of map 0
    alive[groups.places["3.weight"][1].start + 1] = False  # map 1
    closed = groups.closed(alive)
    maps, inputs = closed[groups.places["3.weight"][1]], closed[place].reshape(32, -1)
    assert not maps[:2].any() and maps[2:].all() and not inputs[:2].any() and inputs[2:].all()


def test_a_model_without_a_graph_has_its_linear_layers() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(x) if x.sum() > 0 else self.head(-x)
            return logits

    assert found(Branching()) == (Site("head", True, 4),)


def test_an_empty_layer_keeps_one_unit() -> None:
    model = made("lenet5")
    groups = Groups.of(model)
    model.load_state_dict(to_tensors(groups.switched(from_module(model), np.zeros(groups.count))))
    small = shrunk(model, kept_of(model))
    torch.testing.assert_close(outputs(small), outputs(model))
    assert small.get_submodule("0").get_parameter("weight").shape == (1, 3, 5, 5)


class OnMaps(nn.Module):
    """A linear layer on what remains of maps (b, 6, 4, 4) of which two axes were made one."""

    def __init__(self, axes: tuple[int, int], width: int) -> None:
        super().__init__()
        self.axes, self.conv, self.head = axes, nn.Conv2d(3, 6, 4, 4), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(torch.relu(self.conv(x)).flatten(*self.axes))
        return made


def other_axes() -> dict[str, nn.Module]:
    rows = (nn.Flatten(1, 2), nn.Linear(SIZE, 12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 3 * SIZE, 4))
    return {
        "a linear layer on rows, flattened": nn.Sequential(*rows),
        "a linear layer on the maps' last axis": nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.ReLU(), nn.Linear(4, 4)),
        "a linear layer on a map's pixels": OnMaps((2, -1), 16),
        "a linear layer on rows of all maps": OnMaps((1, 2), 4),
    }


@pytest.mark.parametrize("name", other_axes())
def test_units_of_another_axis_stay(name: str) -> None:
    """What a linear layer reads is no map of the convolution and no unit of the layer before; its own zero columns go."""
    torch.manual_seed(0)
    model = other_axes()[name].double()
    assert all(site.inputs and not site.source for site in found(model))
    assert kept_of(model) == {}
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data[:, 1] = 0
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data[1], layer.bias.data[1] = 0, 0  # type: ignore[union-attr]
    small = shrunk(model, kept_of(model))
    torch.testing.assert_close(outputs(small), outputs(model))
    assert numbers(small) < numbers(model)


def test_maps_that_are_flattened_by_a_call_go() -> None:
    assert found(OnMaps((1, -1), 96)) == (Site("conv", False, 6, reader="head"), Site("head", True, 96, source="conv", spread=16))


def test_maps_behind_a_normalisation_without_scale_stay() -> None:
    """A gate in (0, 1) behind it is in no weights."""
    norm = nn.GroupNorm(4, 8, affine=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), norm, nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    assert found(model) == (Site("4", True, 128),)
    assert kept_of(model) == {}


def test_gates_on_a_layer_that_is_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * SIZE**2, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(input=x.flatten(1))
            return logits

    model = Named().double()
    groups = Groups.of(model)
    Gated(model, groups, lambda: torch.zeros(groups.count, dtype=torch.float64))
    assert torch.equal(outputs(model), model.head.bias.expand(2, 2))
