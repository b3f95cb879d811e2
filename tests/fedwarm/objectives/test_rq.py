"""Relaxed quantization on a model and in the training loop: what it adds, leaves alone, sends, and how that is averaged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import WeightedMean, from_module, from_tensors, payload_bytes, to_tensors
from fedwarm.core.seeds import generator
from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.models import to_input
from fedwarm.models.cnn import cnn
from fedwarm.models.lenet5 import lenet5
from fedwarm.models.resnet18 import resnet18
from fedwarm.objectives.qat import Qat
from fedwarm.objectives.rq import RelaxedObjective, RelaxedQuantization, quantized, steps
from fedwarm.quantize import sweep
from fedwarm.quantize.relaxed import bounds, rounded
from fedwarm.quantize.relaxed_model import load_quantizer_state, near, quantizer_state, quantizers
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.fields import SettingError, keys
from fedwarm.training.loop import Hook, Plan, fit

N, CLASSES, SIZE = 40, 3, 8
PLAN = Plan(epochs=2, batch_size=8, learning_rate=0.05, momentum=0.9)
NAMES = ["0.weight", "3.weight", "3.input", "7.weight", "7.input"]


def data() -> tuple[Tensor, Tensor]:
    """Pictures of three shades with noise."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (N,), generator=draws)
    noise = torch.randint(0, 60, (N, 3, SIZE, SIZE), generator=draws)
    return (noise + 90 * labels[:, None, None, None]).to(torch.uint8), labels


def model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cnn(CLASSES, SIZE)


def settings(**changes: Any) -> RelaxedQuantization:
    return RelaxedQuantization(**changes)


def trained(chosen: RelaxedQuantization, start: dict[str, Tensor] | None = None, plan: Plan = PLAN, *more: Hook) -> Any:
    """(model, hook) after training."""
    net, hook = model(), RelaxedObjective(chosen, generator(1, "noise"), start)
    fit(net, *data(), plan, generator(2, "order"), [hook, *more])
    return net, hook


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


def test_settings_have_the_defaults_that_are_stated() -> None:
    found = {key: getattr(settings(), f.name) for key, _, f in keys((RelaxedQuantization,))}
    assert all(key.startswith("relaxed-quantization.") for key in found)
    rule = settings().rule(4)
    assert rule is not None and (rule.variant, rule.temperature, rule.delta_w, rule.local_grid) == ("rq_st", 1.0, 3.0, True)
    relaxed = settings(variant="rq").rule(4)
    assert relaxed is not None and relaxed.temperature == 2 / 3
    assert settings().rule(0) is None


# On a model


@pytest.mark.parametrize("build", [cnn, lenet5, pytest.param(resnet18, marks=pytest.mark.long)])
def test_a_model_is_as_it_was_when_they_are_off(build: Any) -> None:
    net = build(CLASSES, 32)
    before, kinds = copy.deepcopy(net), [type(part) for part in net.modules()]
    order = [name for name, _ in net.named_parameters()]
    relaxed = settings().on(generator(0)).attach
    hook = settings().on(generator(0))
    hook.attach(net)
    layers = [part for part in before.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert len(quantizers(net)) == 2 * len(layers) - 1, "each weight, and each input but the picture"
    with pytest.raises(SettingError, match="has a parametrization already"):
        relaxed(net)
    noisy = net(torch.rand(2, 3, 32, 32))
    hook.detach()
    assert same(net, before) and [type(part) for part in net.modules()] == kinds and not quantizers(net)
    assert [name for name, _ in net.named_parameters()] == order
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(net(x), before(x)) and torch.isfinite(noisy).all()


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, NAMES),
        ({"bits_activations": 0}, ["0.weight", "3.weight", "7.weight"]),
        ({"bits_weights": 0}, ["3.input", "7.input"]),
        ({"layers": "skip_first_last"}, ["3.weight", "3.input"]),
        ({"bits_weights": 0, "bits_activations": 0}, []),
    ],
)
def test_which_tensors_are_quantized(chosen: dict[str, Any], names: list[str]) -> None:
    net = model()
    settings(**chosen).on(generator(0)).attach(net)
    assert list(quantizers(net)) == names


def test_quantizers_work_on_a_single_layer() -> None:
    layer = nn.Linear(4, 2)
    settings().on(generator(0)).attach(layer)
    assert list(quantizer_state(layer)) == ["quantizer/weight.log_alpha", "quantizer/weight.log_sigma"]


def test_weights_and_inputs_are_on_their_grids() -> None:
    net, chosen = model(), settings(bits_weights=3, bits_activations=2)
    chosen.on(generator(0)).attach(net)
    net(to_input(data()[0]))
    found = quantizers(net)
    assert all(found[name].grid == bounds(3, True) for name in NAMES if "weight" in name)
    assert all(found[name].grid == (0, 3) for name in NAMES if "input" in name), "behind a ReLU the grid starts at 0"
    layer: Any = net[3]  # type: ignore[index]
    for held in (layer.weight, net.eval()[3].weight):  # type: ignore[index]
        assert len(held.unique()) <= 8
    original = layer.parametrizations.weight.original
    assert torch.equal(layer.weight, rounded(original, found["3.weight"].logs[0].exp(), (-4, 3)))


# In the loop


@pytest.mark.parametrize("variant", ["rq_st", "rq", "sr"])
def test_it_trains_weights_and_scales(variant: str) -> None:
    net, hook = trained(settings(variant=variant))
    assert sorted(hook.state) == sorted(f"quantizer/{name}.log_{scale}" for name in NAMES for scale in ("alpha", "sigma"))
    assert all(torch.isfinite(value).all() and value.shape == (1,) for value in hook.state.values())
    fresh = RelaxedObjective(settings(variant=variant), generator(1))
    start = model()
    fresh.prepare(start)
    moved = [name for name, value in quantizer_state_of_weights(start).items() if not torch.equal(value, hook.state[name])]
    assert {name.rsplit(".")[-1] for name in moved} == ({"log_alpha"} if variant == "sr" else {"log_alpha", "log_sigma"})
    assert not same(net, model())


def quantizer_state_of_weights(net: nn.Module) -> dict[str, Tensor]:
    net(to_input(data()[0][:8]))
    return {name: value for name, value in quantizer_state(net).items() if "weight" in name}


@pytest.mark.long
def test_it_learns_what_the_quantized_model_needs() -> None:
    images, labels = data()
    net, hook = trained(settings(bits_weights=3, bits_activations=3), plan=Plan(25, 8, 0.05, 0.9))
    with quantized(net, settings(bits_weights=3, bits_activations=3), hook.state):
        assert (net(to_input(images)).argmax(1) == labels).float().mean() > 0.9
    assert net.training and not quantizers(net)


def test_without_widths_it_is_training_bit_for_bit() -> None:
    net, hook = trained(settings(bits_weights=0, bits_activations=0))
    plain = model()
    fit(plain, *data(), PLAN, generator(2, "order"))
    assert same(net, plain) and hook.state == {}


def test_replays_are_equal_and_other_noise_is_not() -> None:
    (one, first), (again, second) = trained(settings()), trained(settings())
    assert same(one, again) and all(torch.equal(first.state[n], second.state[n]) for n in first.state)
    other = model()
    fit(other, *data(), PLAN, generator(2, "order"), [RelaxedObjective(settings(), generator(9, "noise"))])
    assert not same(one, other)


def test_the_scales_have_a_learning_rate_of_their_own() -> None:
    """One step of plain SGD: they move in proportion to the factor, and not at all without it."""
    plan, moves = Plan(1, N, 0.01), {}
    for factor in (0.0, 0.1, 0.2):
        hook = trained(settings(lr_factor=factor), plan=plan)[1]
        moves[factor] = torch.cat([hook.state[name] for name in sorted(hook.state)])
    still, one, two = (moves[factor] for factor in (0.0, 0.1, 0.2))
    assert (one != still).any()
    torch.testing.assert_close(two - still, 2 * (one - still), rtol=1e-2, atol=1e-6)


def test_a_proximal_term_goes_along() -> None:
    net, hook = trained(settings(), None, PLAN, ProximalTerm(FedProx(0.1)))
    assert hook.state and not quantizers(net)


# What travels


def test_logs_are_averaged_as_geometric_means() -> None:
    mean = WeightedMean()
    for alpha in (1.0, 4.0):
        mean.add(from_tensors({"quantizer/0.weight.log_alpha": torch.tensor([alpha]).log()}), 1.0)
    result = to_tensors(mean.result())["quantizer/0.weight.log_alpha"]
    assert result.exp().item() == 2.0


def test_bytes_are_those_of_the_weights_and_two_numbers_a_quantizer() -> None:
    net, hook = trained(settings())
    message = {**from_module(net), **from_tensors(hook.state)}
    parameters = sum(p.numel() for p in net.parameters())
    assert payload_bytes(message) == 4 * (parameters + 2 * len(NAMES))


def test_what_was_learned_comes_back() -> None:
    _, hook = trained(settings())
    net = model()
    settings().on(generator(0)).attach(net)
    load_quantizer_state(net, {**hook.state, "0.bias": torch.zeros(16)})
    assert all(torch.equal(hook.state[name], value) for name, value in quantizer_state(net).items())
    net(to_input(data()[0]))
    assert quantizers(net)["3.input"].grid == (0, 15), "the sign is seen, the scales are those that were given"
    assert torch.equal(quantizer_state(net)["quantizer/3.input.log_alpha"], hook.state["quantizer/3.input.log_alpha"])


def test_a_second_round_begins_where_the_first_ended() -> None:
    _, hook = trained(settings())
    _, still = trained(settings(lr_factor=0.0), hook.state)
    assert all(torch.equal(hook.state[name], still.state[name]) for name in hook.state)


def test_foreign_states_are_refused() -> None:
    _, hook = trained(settings())
    net = model()
    settings().on(generator(0)).attach(net)
    missing = {name: value for name, value in hook.state.items() if "7.input" not in name}
    with pytest.raises(SettingError, match=r"quantizers differ from the model's by \['quantizer/7.input.log_alpha'"):
        load_quantizer_state(net, missing)
    for bad in (torch.tensor([float("nan")]), torch.tensor([-61.0]), torch.zeros(2)):
        with pytest.raises(SettingError, match="quantizer/7.input.log_alpha = .* must be one number from -60 to 60"):
            load_quantizer_state(net, {**hook.state, "quantizer/7.input.log_alpha": bad})


def test_a_dead_layer_does_not_drag_the_mean() -> None:
    server = {"a": torch.tensor([1.0])}
    found = near({"a": torch.tensor([-40.0]), "b": torch.tensor([-40.0])}, server)
    assert (found["a"].item(), found["b"].item()) == (-2.0, -40.0)
    assert near({"a": torch.tensor([3.5])}, server)["a"].item() == 3.5
    _, hook = trained(settings())
    apart = {name: value + 10 for name, value in hook.state.items()}
    _, far = trained(settings(lr_factor=0.0), apart)
    assert all(torch.equal(far.state[name], apart[name]) for name in apart), "near where the round began, wherever that is"


def test_a_client_sends_no_logs_that_left_the_servers_by_more_than_three() -> None:
    start = trained(settings())[1].state
    sent = trained(settings(lr_factor=1e3), start, Plan(1, 8, 0.05))[1].state
    apart = torch.cat([sent[name] - start[name] for name in start])
    assert apart.abs().max() <= 3 + 1e-5 and (apart.abs() > 3 - 1e-5).any()


def test_a_steep_loss_moves_logs_by_no_more_than_a_gradient_of_one() -> None:
    net, hook = model(), RelaxedObjective(settings(), generator(1, "noise"))
    hook.prepare(net)
    for q in quantizers(net).values():
        q.moved.grad = torch.tensor([50.0, -0.5])
    hook.gradient(net)
    for q in quantizers(net).values():
        torch.testing.assert_close(q.moved.grad, torch.tensor([0.1, -0.05]))


def test_the_sweep_knows_the_learned_grids() -> None:
    images, _ = data()
    net, hook = trained(settings())
    with quantized(net, settings(), hook.state):
        wanted = net(to_input(images))
    scheme = Scheme(full_range=True)
    samples = sweep.calibrate(net, images, scheme)
    twin = sweep.quantized(net, 4, scheme, samples, steps(settings(), hook.state))
    torch.testing.assert_close(twin(to_input(images)), wanted)
    assert list(steps(settings(bits_activations=2), hook.state).steps) == [f"quantizer/{n}.log_step" for n in NAMES if "w" in n]


class Unused(nn.Module):
    """A layer whose weight alone is used, as attention does, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3 * SIZE**2, 6), nn.Linear(6, CLASSES)
        self.inner, self.aside = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(self.first(x.flatten(1)), self.inner.weight, self.inner.bias)
        logits: Tensor = self.last(inner.relu())
        return logits


def test_an_input_that_never_comes_has_no_grid() -> None:
    states, net = list[dict[str, Tensor]](), Unused()
    for number in range(2):
        hook = RelaxedObjective(settings(), generator(number, "noise"), states[-1] if states else None)
        fit(net, *data(), PLAN, generator(2, "order"), [hook])
        states.append(hook.state)
    names = {name.removeprefix("quantizer/").removesuffix(".log_alpha") for name in states[1] if name.endswith(".log_alpha")}
    assert names == {"first.weight", "inner.weight", "aside.weight", "last.weight", "last.input"}
    assert states[0].keys() == states[1].keys()
    with quantized(net, settings(), states[1]) as small:
        assert small(to_input(data()[0])).shape == (N, CLASSES)
    learned = QuantizationRobust(bits=4, range="learned", quantize_activations=True)
    for start in ({}, {"quantizer/last.input.log_step": torch.zeros(1)}):
        qat = Qat(learned, generator(0, "draws"), start)
        fit(net, *data(), PLAN, generator(2, "order"), [qat])
        assert {name for name in qat.state if ".input" in name} == {"quantizer/last.input.log_step"}
