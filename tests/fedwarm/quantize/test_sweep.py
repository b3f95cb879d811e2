"""One model at many widths: against quantizing by hand, without touching the model."""

from __future__ import annotations

import hashlib
from math import log

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.models import to_input
from fedwarm.models.cnn import cnn
from fedwarm.models.resnet18 import resnet18
from fedwarm.quantize.learned import Learned, input_name, weight_name
from fedwarm.quantize.ranges import grid_of, spread, weight_grid
from fedwarm.quantize.surgery import RoundedInput, Width, attached, layers
from fedwarm.quantize.sweep import SAMPLED, bit_width_sweep, calibrate, quantized, right_answers
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.fields import SettingError
from fedwarm.training.evaluate import correct, predict
from fedwarm.training.loop import Plan, fit

WIDTHS = (32, 8, 6, 4, 3, 2)


def data(n: int = 60) -> tuple[Tensor, Tensor]:
    """Pictures whose brightest third is their class."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, 8, 8), generator=draws)
    for i, label in enumerate(labels.tolist()):
        images[i, label] += 100
    return images.to(torch.uint8), labels


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = cnn(3, 8)
    fit(model, *data(), Plan(epochs=15, batch_size=12, learning_rate=0.05, momentum=0.9), generator(0))
    return model


def digest(model: nn.Module) -> str:
    parts = [name.encode() + t.numpy().tobytes() for name, t in model.state_dict().items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_sweep_leaves_the_weights_and_32_bits_is_float(trained: nn.Module) -> None:
    images, labels = data()
    before, training = digest(trained), trained.training
    found = bit_width_sweep(trained, WIDTHS, images, labels, images[:30])
    assert digest(trained) == before and trained.training == training
    assert not any(m._forward_pre_hooks for m in trained.modules())
    assert list(found) == [f"w{b}" for b in WIDTHS] + [f"w{b}a{b}" for b in WIDTHS]
    float_accuracy = correct(trained, images, labels) / len(labels)
    assert found["w32"] == found["w32a32"] == float_accuracy == 1.0
    assert found["w8"] == found["w8a8"] == 1.0
    assert set(bit_width_sweep(trained, [4], images, labels, activations=False)) == {"w4"}
    counts = right_answers(trained, [3], images, labels)
    assert counts == {"w3": round(found["w3"] * len(labels))}


@pytest.mark.parametrize("scheme", [Scheme(), Scheme("minmax", True, True, True)], ids=["default", "all switches"])
def test_weights_are_quantized_as_by_hand(trained: nn.Module, scheme: Scheme) -> None:
    model = quantized(trained, 3, scheme)
    chosen = {f"{name}.weight" for name in layers(trained, scheme.skip_first_last)}
    assert chosen == ({"3.weight"} if scheme.skip_first_last else {"0.weight", "3.weight", "7.weight"})
    for name, tensor in trained.state_dict().items():
        expected = weight_grid(tensor, 3, scheme).nearest(tensor) if name in chosen else tensor
        assert torch.equal(model.state_dict()[name], expected)


def test_activations_are_quantized_as_by_hand(trained: nn.Module) -> None:
    """Layer by layer; the picture itself is left as it is."""
    images, _ = data()
    x = to_input(images)
    parts = list(trained)  # type: ignore[call-overload]
    weights = quantized(trained, 4)
    samples = calibrate(trained, images)
    assert list(samples) == ["3", "7"]
    with torch.no_grad():
        hidden, clean = x, x
        for i, part in enumerate(parts):
            if str(i) in samples:
                assert torch.equal(samples[str(i)], spread(spread(clean, SAMPLED), SAMPLED))
                hidden = grid_of(samples[str(i)], 4, affine=True).nearest(hidden)
            hidden, clean = weights.get_submodule(str(i))(hidden), part(clean)
    assert torch.equal(predict(quantized(trained, 4, samples=samples), images), hidden)


def test_calibration_covers_every_batch(trained: nn.Module) -> None:
    images = torch.full((600, 3, 8, 8), 127, dtype=torch.uint8)
    images[550] = 255
    sample = calibrate(trained, images)["3"]
    with torch.no_grad():
        whole = nn.Sequential(*list(trained)[:3])(to_input(images))  # type: ignore[call-overload]
    assert float(sample.max()) == float(whole.max()) and len(sample) <= SAMPLED


def test_learned_steps_are_taken_at_their_width_alone(trained: nn.Module) -> None:
    images, _ = data()
    steps = {weight_name("3"): torch.tensor([log(0.05)]), input_name("7"): torch.tensor([log(0.4)])}
    learned, samples = Learned(3, steps), calibrate(trained, images)
    weight = trained.get_parameter("3.weight").detach()
    own = quantized(trained, 3, samples=samples, learned=learned)
    torch.testing.assert_close(own.state_dict()["3.weight"], (weight / 0.05).round().clamp(-3, 3) * 0.05)
    assert torch.equal(own.state_dict()["0.weight"], quantized(trained, 3).state_dict()["0.weight"])
    hook = next(iter(own.get_submodule("7")._forward_pre_hooks.values()))
    torch.testing.assert_close(hook(None, (torch.tensor([0.3, 99.0, -1.0]),), {})[0][0], torch.tensor([0.4, 2.8, 0.0]))  # type: ignore[call-arg, arg-type]
    other = quantized(trained, 4, learned=learned)
    assert torch.equal(other.state_dict()["3.weight"], quantized(trained, 4).state_dict()["3.weight"])


@pytest.mark.long
def test_a_residual_network_with_group_norm() -> None:
    torch.manual_seed(0)
    model, (images, labels) = resnet18(3, 8), data(12)
    found = bit_width_sweep(model, [32, 8], images, labels, images)
    before = predict(model, images)
    torch.testing.assert_close(predict(quantized(model, 8), images), before, rtol=0.1, atol=0.1 * float(before.abs().max()))
    assert set(found) == {"w32", "w8", "w32a32", "w8a8"}


def test_refusals(trained: nn.Module) -> None:
    images, labels = data(6)
    with pytest.raises(SettingError, match="bits = 1"):
        bit_width_sweep(trained, [4, 1], images, labels, images)
    with pytest.raises(ValueError, match="calibration"):
        bit_width_sweep(trained, [4], images, labels)


def test_a_layer_may_be_called_by_keyword(trained: nn.Module) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = trained[:7], trained[7]  # type: ignore[index]

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(input=self.body(x))
            return logits

    images, labels = data()
    found, expected = (bit_width_sweep(model, [3, 2], images, labels, images[:30]) for model in (Named(), trained))
    assert found == expected
    net = Named().train()
    width = Width(4)
    with attached(net, {}, {"head": RoundedInput(width, Scheme())}):
        net(to_input(images))
