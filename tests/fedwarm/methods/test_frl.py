"""FRL: which models it ranks, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from fedwarm.launch.preflight import check_run
from fedwarm.methods.frl import Frl
from fedwarm.models import Model, build_model
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run


class Table(nn.Module):
    """A model of one's own with a scale that is trained."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3 * 8 * 8, outputs), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.scale(self.layer(x.flatten(1)))
        return scaled


def own(outputs: int, image_size: int) -> nn.Module:
    return Table(outputs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.name": "resnet8", "model.norm": "batch"}, "keeps statistics beside its weights"),
        ({"model.name": f"{__name__}:own"}, "trains 'scale.weight', and scores are of weights of linear"),
        ({"model.norm": "standardised-weights", "ws.gain": True, "model.name": "resnet8"}, "trains '.*gain', and scores are"),
        ({"codec": "top-k"}, "sends rankings, which are packed already"),
        ({"privacy": "dp-sgd"}, "sends rankings, which no account covers"),
        ({"model.weights": "some.safetensors"}, "draws its weights from the seed"),
        ({"model.train": "head"}, "ranks the weights of all layers"),
        ({"frl.density": 0.0}, "frl.density"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_a_run(settings: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        check_run({"method": "frl", "data.image-size": 8, **settings}, 4)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "norm", "numbers"),
    [("cnn", "own", [1200, 12800, 20480]), ("resnet8", "group", None), ("resnet8", "standardised-weights", None),
     ("resnet8", "none", None), ("conv4", "own", None)],
)  # fmt: skip
def test_models_that_are_ranked(name: str, norm: str, numbers: list[int] | None) -> None:
    found = Frl().network(build_model(Model(name=name, norm=norm), 10, 32, 0), 0)
    if numbers:
        assert [theta.size for theta in found.weights.values()] == numbers and found.bytes == 62_450


def test_a_robust_rule_has_no_say(tmp_path: Path) -> None:
    """Votes are counted, whatever rule for means is chosen; and nobody takes the rule's word for what a round needs."""
    small: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 8}
    assert run("frl", tmp_path / "run", {**small, "robust.rule": "krum", "robust.byzantine": 3}, clients=2).results["complete"]
