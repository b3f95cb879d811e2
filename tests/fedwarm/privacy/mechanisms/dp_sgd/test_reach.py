"""What a run with DP-SGD can come to is said before it starts, at the price that its clients will tell."""

from __future__ import annotations

from fedwarm.catalogue import parse
from fedwarm.launch.outlook import outlook
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
from fedwarm.settings.fields import Value

SMALL: dict[str, Value] = {"privacy": "dp-sgd", "data.image-size": 8, "data.max-examples": 12, "batch-size": 6}


def test_it_says_what_an_image_pays() -> None:
    first, second = outlook(parse({"method": "fedavg", **SMALL}), 4)
    epsilon = example_epsilon([Steps(0.5, 1.0, 20)], 1e-5)
    promise = f"epsilon {epsilon:.4g} at delta 1e-05 of one image of a client with the fewest, 12"
    assert first == f"{promise}, over 20 steps: view example, certified"
    assert f"signal to noise {6 / 15338**0.5:.2g} a step" in second and "dp-sgd.clip" in second


def test_a_target_is_what_it_comes_to() -> None:
    first, _ = outlook(parse({"method": "fedavg", **SMALL, "dp-sgd.target-epsilon": 2.0, "dp-sgd.entropy": "seeded"}), 4)
    assert first.startswith("epsilon 2 at delta 1e-05") and first.endswith("seeded, for experiments")


def test_adapters_are_left_to_the_run() -> None:
    assert not [line for line in outlook(parse({"method": "warmfed", **SMALL}), 4) if "epsilon" in line]
