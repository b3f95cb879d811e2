"""FedGELA's scale by hand, a client's own head, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fedwarm.heads.simplex import frame
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedgela import FedGela, scaled, shares_of
from fedwarm.relevance import idle
from fedwarm.settings.fields import SettingError, Value

HEAD = ("w", "b")


def test_shares_by_hand() -> None:
    assert shares_of(torch.tensor([0] * 6 + [1] * 2), 4).tolist() == [3, 1, 0, 0]
    assert shares_of(torch.arange(21) % 7, 7).tolist() == [1.0] * 7, "to the last bit, so that nothing is scaled"
    for seed in range(5):
        labels = torch.randint(10, (37,), generator=torch.Generator().manual_seed(seed))
        assert abs(float(shares_of(labels, 10).sum()) - 10) < 1e-12
    assert shares_of(torch.tensor([], dtype=torch.int64), 3).tolist() == [0, 0, 0]


def test_a_missing_class_has_output_0_and_teaches_nothing_along_its_vector() -> None:
    m = torch.from_numpy(frame(4, 8))
    shares, h = shares_of(torch.tensor([0] * 6 + [1] * 2), 4), torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    logits = F.normalize(h, dim=1) @ scaled(m / 0.1, shares).T
    assert not logits[:, 2:].any()
    (found,) = torch.autograd.grad(logits[:, 2:].sum(), h)
    assert not found.any()


@pytest.mark.parametrize("absent", ["kept", "masked"])
def test_a_client_s_own_model_is_a_plain_state(absent: str) -> None:
    state = {"x": torch.ones(1), "w": torch.ones(3, 2), "b": torch.zeros(3)}
    found = FedGela(absent=absent).own(state, HEAD, torch.tensor([2.0, 0.0, 1.0]))
    assert found["x"] is state["x"] and found["w"].tolist() == [[2, 2], [0, 0], [1, 1]]
    assert found["b"].tolist() == ([0, -1e4, 0] if absent == "masked" else [0, 0, 0]) and not state["b"].any()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"model.head": "own"}, "needs a head that is never trained, and model.head = 'own' is not such"),
        ({"privacy": "dp-sgd"}, "does not cover; take fedgela.local = false"),
        (
            {"fedgela.absent": "masked", "model.name": "tests.fedwarm.methods.test_fedgela:unbiased"},
            "model's has none; take 'kept'",
        ),
        ({"task": "contrast"}, "works on a model's answers alone"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(given: dict[str, Value], why: str) -> None:
    with pytest.raises(SettingError, match=why) as error:
        check_run({"method": "fedgela", "data.image-size": 8, **given}, 2)
    assert "\n" not in str(error.value)


def unbiased(classes: int, image_size: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, 16), torch.nn.ReLU(), torch.nn.Linear(16, classes, bias=False)
    )


def test_private_steps_are_taken_without_the_scale() -> None:
    check_run({"method": "fedgela", "data.image-size": 8, "fedgela.local": False, "privacy": "dp-sgd"}, 2)


def test_settings_without_effect() -> None:
    assert idle(["fedgela.absent", "simplex.temperature"], {"fedgela.local": False}, "fedgela") == ["fedgela.absent"]
    assert idle(["simplex.temperature"], {}, "fedavg") == ["simplex.temperature"]
