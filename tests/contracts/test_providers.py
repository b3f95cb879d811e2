"""Every image provider: an image is a function of owner, class and index, and what a client is offered, it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD, validated
from fedwarm.augmentations.gen_fedsd.fill import fill, found
from fedwarm.augmentations.gen_fedsd.plan import plan_of
from fedwarm.augmentations.gen_fedsd.providers import provider_of, provider_type
from fedwarm.catalogue import parse
from fedwarm.data import Shard, load_shard
from fedwarm.data.settings import Data
from fedwarm.parts import Known
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import PROVIDERS
from fedwarm.settings.registry import summary

CLIENTS, MOST = 4, 2
WITH: dict[str, dict[str, Value]] = {
    "file": {"gen-fedsd.file": "public", "data.public-share": 0.3},
    "real": {"data.public-share": 0.3},
}
MINE = """
import torch

from fedwarm.augmentations.gen_fedsd.drawn import plain
from fedwarm.augmentations.gen_fedsd.providers import Provider


class Shades(Provider):
    summary = "one shade for each class and index"
    kept = "shades are nowhere"

    def take(self, client, label, indices):
        rows = [torch.full((3, 32, 32), 20 * label + i, dtype=torch.uint8) for i in indices]
        return plain(torch.stack(rows) if rows else torch.empty(0, 3, 32, 32, dtype=torch.uint8), indices), 0
"""


def config_of(name: str, **more: Value) -> Config:
    return parse({
        "method": "gen_fedsd", "augment": "gen-fedsd", "gen-fedsd.provider": name, "data.partition": "dirichlet",
        "data.alpha": 0.1, "data.max-examples": 40, "gen-fedsd.steps": 1, "gen-fedsd.budget-images": MOST,
        **WITH.get(name, {}), **more,
    })  # fmt: skip


def shard_of(config: Config, client: int = 1) -> Shard:
    return load_shard(config.of(Data), 0, client, CLIENTS)


@pytest.mark.parametrize("name", PROVIDERS.names())
def test_a_provider_says_what_it_is_and_can_be_used(name: str) -> None:
    config, kind = config_of(name), PROVIDERS.load(name)
    run = Run.of(config)
    validated(config.of(GenFedSD))
    kind.check(config, Known(CLIENTS, shard_of(config).classes))
    assert summary(kind) and kind in run.chosen and (run.draws, run.fills) == (kind.draws, kind.fills)
    assert bool(kind.kept) != kind.draws and list(kind.earlier(config)) == []
    assert kind not in Run.of(parse({"gen-fedsd.provider": name})).chosen  # nobody asks for it there
    assert len(kind.offered([3, 0, 2], [0, 5, 1])) == 3 and max(kind.offered([3, 0, 2], [0, 5, 1])) <= 3


@pytest.mark.parametrize("name", PROVIDERS.names())
def test_a_client_gets_what_its_plan_says(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    shard, [plan] = shard_of(config), plan_of(config, CLIENTS, tmp_path, [1], measure=False).clients
    filled, again = (fill(config, shard, 1, tmp_path) for _ in range(2))
    assert plan.synthetic == filled.report.synthetic and sum(plan.synthetic) == (MOST if provider_type(config).fills else 0)
    assert torch.equal(filled.images, again.images) and torch.equal(filled.labels, again.labels) and again.report.made == 0
    there = found(config, 1, CLIENTS, tmp_path)
    assert there is None or torch.equal(there.images, filled.images)


@pytest.mark.parametrize("name", [name for name in PROVIDERS.names() if PROVIDERS.load(name).fills])
def test_an_image_is_a_function_of_its_index(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    shard = shard_of(config)
    provider: Any = provider_of(config, shard.classes, tmp_path, shard)
    label = int(shard.train_labels[0])
    whole, part = provider.take(1, label, [0, 1, 2])[0], provider.take(1, label, [2, 0])[0]
    assert whole.images.shape == (3, 3, 32, 32) and whole.images.dtype == torch.uint8 and whole.indices.tolist() == [0, 1, 2]
    assert torch.equal(part.images, whole.images[[2, 0]]) and torch.equal(provider.find(1, label, [1]).images, whole.images[1:2])
    assert len(provider.take(1, label, [])[0]) == 0


def test_a_users_own_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "myproviders.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    config = config_of("myproviders:Shades")
    filled = fill(config, shard_of(config), 1, tmp_path)
    assert len(filled.labels) == MOST and not Run.of(config).draws
    for image, label in zip(filled.images, filled.labels.tolist(), strict=True):
        assert len(image.unique()) == 1 and 20 * label <= int(image[0, 0, 0]) < 20 * label + 20
    with pytest.raises(SettingError, match="is not a known image provider"):
        config_of("nowhere")
