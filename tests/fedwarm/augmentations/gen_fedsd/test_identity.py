"""What decides an image has a name of its own, found without loading the foundation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedwarm.augmentations.gen_fedsd.identity import foundation_folder, identity, key_of, pipeline_digest, provenance, sampler
from fedwarm.augmentations.gen_fedsd.judge import Judge
from fedwarm.diffusion.foundation import asset_folder
from fedwarm.diffusion.sentences import WORDS
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import Model, build_model
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value

Configure = Callable[..., Config]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The embedded foundation elsewhere, writable."""
    source = asset_folder("glyph")
    assert source is not None
    return Path(shutil.copytree(source, tmp_path / "copy"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    save_file(build_model(configure().of(Model), 10, 32, 5).state_dict(), path)
    return path


def name(config: Config) -> str:
    return key_of(identity(config, WORDS))


def test_the_name_is_hexadecimal_and_stays(configure: Configure) -> None:
    assert name(configure()) == name(configure()) and len(name(configure())) == 32
    int(name(configure()), 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"steps": 3},
        {"guidance": 3.0},
        {"diffusion__scheduler": "ddim"},
        {"diffusion__resize": "area"},
        {"diffusion__precision": "bf16"},
        {"data__image_size": 16},
        {"client_threads": 2},
        {"prompt_mode": "single"},
        {"phrases": "zero=nought"},
        {"judge_tries": 2},
    ],
)
def test_what_decides_an_image_decides_the_name(configure: Configure, changes: dict[str, Value]) -> None:
    assert name(configure(**changes)) != name(configure())


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "client_mean"},
        {"pool": 50},
        {"cap": 2.0},
        {"weight_by": "real"},
        {"judge_least": 0.9},
        {"diffusion__sample_batch_size": 3},
        {"diffusion__rank": 2},
        {"data__alpha": 5.0},
        {"learning_rate": 0.5},
        {"diffusion__precision": "fp32"},
    ],
)
def test_what_does_not_leaves_it(configure: Configure, changes: dict[str, Value]) -> None:
    assert name(configure(**changes)) == name(configure())


def test_a_judge_is_known_by_its_numbers(configure: Configure, judge: Path, tmp_path: Path) -> None:
    with_judge = name(configure(judge=str(judge)))
    assert with_judge != name(configure())
    assert with_judge != name(configure(judge=str(judge), judge_least=0.9))
    assert with_judge != name(configure(judge=str(judge), model__norm="group")), "its layers are normalised in another way"
    assert name(configure(model__norm="group")) == name(configure()), "without a judge no classifier looks at images"
    assert with_judge == name(configure(judge=str(shutil.copy(judge, tmp_path / "other.safetensors"))))
    other = tmp_path / "changed.safetensors"
    save_file({key: tensor + 1e-3 for key, tensor in load_file(judge).items()}, other)
    assert with_judge != name(configure(judge=str(other)))
    with pytest.raises(SettingError, match=r"gen-fedsd.judge = '.*none.safetensors' is no file; give a safetensors file"):
        name(configure(judge=str(tmp_path / "none.safetensors")))


def test_a_judge_is_found_wherever_weights_are(
    configure: Configure, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all names that the check before a run takes: below the home folder, and on the Hub."""
    monkeypatch.setenv("HOME", str(judge.parent))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: str(judge))
    for place in (f"~/{judge.name}", "hub:someone/judge"):
        assert name(configure(judge=place)) == name(configure(judge=str(judge)))
        assert Judge.of(configure(judge=place), 10).model


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_foundation_is_known_by_its_numbers(copy: Path, part: str) -> None:
    glyph = asset_folder("glyph")
    assert glyph is not None and pipeline_digest(copy) == pipeline_digest(glyph)
    (path,) = (copy / part).glob("*.safetensors")
    state = load_file(path)
    last = max(state, key=lambda key: (state[key].ndim > 1, key))
    state[last] = state[last].clone()
    state[last].flatten()[0] += 1
    save_file(state, path)
    assert pipeline_digest(copy) != pipeline_digest(glyph)


@pytest.mark.parametrize(("part", "old", "new"), [("scheduler", "0.012", "0.013"), ("tokenizer", '"zero</w>"', '"zeros</w>"')])
def test_a_foundation_is_known_by_its_noise_and_its_words(copy: Path, part: str, old: str, new: str) -> None:
    before = pipeline_digest(copy)
    changed = [path for path in (copy / part).iterdir() if old in path.read_text()]
    for path in changed:
        path.write_text(path.read_text().replace(old, new))
    assert changed and pipeline_digest(copy) != before


def test_where_it_lies_says_nothing(configure: Configure, copy: Path) -> None:
    moved = configure(diffusion__foundation=str(copy), phrases="zero=nought")
    again = configure(diffusion__foundation=str(copy.rename(copy.with_name("moved"))), phrases="zero=nought")
    with pytest.raises(SettingError, match="is neither a folder nor a Hub name"):
        name(moved)
    assert name(again) and identity(again, WORDS)["foundation"] == identity(configure(), WORDS)["foundation"]


def test_a_file_that_is_cut_short_is_said(copy: Path) -> None:
    (path,) = (copy / "vae").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SettingError, match="is not a safetensors file"):
        pipeline_digest(copy)


def test_a_model_of_the_hub_is_found_in_its_cache(
    configure: Configure, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub" / "models--owner--tiny"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("c0ffee")
    (hub / "snapshots").mkdir()
    snapshot = copy.rename(hub / "snapshots" / "c0ffee")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert foundation_folder(Diffusion(foundation="owner/tiny"), "cpu") == snapshot
    facts = identity(configure(diffusion__foundation="owner/tiny"), WORDS)
    assert facts["foundation"] == identity(configure(), WORDS)["foundation"]


def test_the_sampler_takes_what_is_set(configure: Configure) -> None:
    assert (sampler(configure()).sample_steps, sampler(configure()).guidance) == (1, 1.5)
    chosen = sampler(configure(steps=0, guidance=3.0, diffusion__sample_steps=9))
    assert (chosen.sample_steps, chosen.guidance) == (9, 3.0)


def test_provenance_is_for_one_class_and_for_people(configure: Configure) -> None:
    facts = identity(configure(), WORDS)
    told = provenance(facts, configure(), WORDS, 3)
    assert told["name"] == "three" and told["prompts"] == facts["prompts"][3] and told["model"] == "glyph"
    assert torch.__version__.startswith(told["versions"]["torch"].partition("+")[0])
