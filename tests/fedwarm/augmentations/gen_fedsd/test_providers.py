"""Images by owner, class and index: the same whatever is drawn with them, and the best of several draws where one is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedwarm.augmentations.gen_fedsd.drawn import POOL, Drawn
from fedwarm.augmentations.gen_fedsd.identity import sampler
from fedwarm.augmentations.gen_fedsd.judge import Judge, scores
from fedwarm.augmentations.gen_fedsd.providers import provider_of
from fedwarm.augmentations.gen_fedsd.providers.foundation import Generated, kept_together
from fedwarm.augmentations.gen_fedsd.wanted import indices
from fedwarm.core.progress import listening
from fedwarm.core.seeds import derive
from fedwarm.diffusion import sizes
from fedwarm.diffusion.foundation import asset_folder, load_foundation
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.sentences import GLYPHS, WORDS
from fedwarm.models import Model, build_model
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

Configure = Callable[..., Config]


def bytes_of(drawn: Drawn) -> list[bytes]:
    return [image.numpy().tobytes() for image in drawn.images]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> str:
    """A classifier with opinions of its own, as it knows nothing."""
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    state = build_model(configure().of(Model), 10, 32, 5).state_dict()
    save_file({name: 4 * tensor for name, tensor in state.items()}, path)
    return str(path)


def test_an_image_is_a_function_of_run_owner_class_and_index(configure: Configure, tmp_path: Path) -> None:
    source = Generated(configure(), WORDS, tmp_path)
    first = source.draw(4, 3, range(20))
    assert len(set(bytes_of(first))) == 20 and first.images.dtype == torch.uint8
    alone, turned = source.draw(4, 3, [17]), source.draw(4, 3, [9, 2])
    assert bytes_of(alone) == bytes_of(first)[17:18]
    assert bytes_of(turned) == [bytes_of(first)[9], bytes_of(first)[2]]
    other_batches = Generated(configure(diffusion__sample_batch_size=3), WORDS, tmp_path).draw(4, 3, [0, 1, 2, 3, 4])
    assert bytes_of(other_batches) == bytes_of(first)[:5]
    others = [
        source.draw(5, 3, [0, 1]),
        source.draw(POOL, 3, [0, 1]),
        source.draw(4, 2, [0, 1]),
        Generated(configure(seed=1), WORDS, tmp_path).draw(4, 3, [0, 1]),
    ]
    for other in others:
        assert not set(other.seeds.tolist()) & set(first.seeds.tolist()) and not set(bytes_of(other)) & set(bytes_of(first))


def test_what_is_told_of_an_image_draws_it_again(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    drawn = Generated(config, WORDS, tmp_path).draw(2, 7, [3, 21, 24])
    assert drawn.seeds.tolist() == [derive(0, "synthesis", 2, 7, i, 0) for i in (3, 21, 24)]
    assert drawn.prompts.tolist() == [3, 0, 3] and drawn.tries.tolist() == [1, 1, 1]
    asked = [GLYPHS[p].replace("{class}", "seven") for p in drawn.prompts.tolist()]
    again = sample(load_foundation(sampler(config), "cpu"), asked, drawn.seeds.tolist(), sampler(config), 32)
    assert torch.equal(again, drawn.images)
    assert (drawn.seconds > 0).all()


def test_the_size_of_the_data_set(configure: Configure, tmp_path: Path) -> None:
    assert Generated(configure(data__image_size=16), WORDS, tmp_path).draw(0, 0, [0]).images.shape == (1, 3, 16, 16)


def test_the_shelf_hands_out_what_was_drawn(configure: Configure, tmp_path: Path) -> None:
    source = Generated(configure(), WORDS, tmp_path)
    fresh = source.draw(1, 5, [0, 1, 2])
    first, made = source.take(1, 5, [2, 0])
    second, more = Generated(configure(rule="client_mean"), WORDS, tmp_path).take(1, 5, [0, 1, 2])
    assert (made, more) == (2, 1)
    assert bytes_of(second) == bytes_of(fresh) and bytes_of(first) == [bytes_of(fresh)[2], bytes_of(fresh)[0]]
    assert bytes_of(source.find(1, 5, [1, 9])) == bytes_of(fresh)[1:2]


@pytest.mark.parametrize(("batch", "kept"), [(64, 256), (8, 64), (4, 32), (3, 48), (300, 1200)])
def test_a_crash_costs_some_batches_of_drawn_images(batch: int, kept: int) -> None:
    """Of whole ones, so that no bit hangs on it; of a foundation of full size, which draws few together, as few again."""
    assert kept_together(batch) == kept


def test_a_cpu_draws_a_large_foundation_one_at_a_time_and_keeps_each(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Generated(configure(), WORDS, tmp_path)
    monkeypatch.setattr(sizes, "SMALL_NUMBERS", 0)
    large = Generated(configure(), WORDS, tmp_path)
    assert (large.batch, large.shelf.chunk, large.cost(3)) == (1, 1, 3)
    assert large.shelf.folder != usual.shelf.folder, "its images differ from those that were drawn sixteen at a time"
    large.take(1, 5, [0, 1])
    assert len(list(large.shelf.folder.rglob("*.safetensors"))) == 2


def test_a_pool_belongs_to_nobody_and_fills_its_batches(configure: Configure, tmp_path: Path) -> None:
    source = Generated(configure(pool=20), WORDS, tmp_path)
    got, made = source.take(3, 1, [19, 4])
    assert made == 2 and bytes_of(got) == bytes_of(source.draw(POOL, 1, [19, 4]))
    assert source.shelf.have(POOL, 1) == {*range(15), 19}
    assert source.take(8, 1, [0, 4, 19])[1] == 0
    assert (source.cost(1), Generated(configure(), WORDS, tmp_path).cost(17)) == (1, 32)


def test_a_judges_refusal_draws_anew_and_the_best_draw_stays(configure: Configure, tmp_path: Path, judge: str) -> None:
    config, label, n = configure(judge=judge), 6, 24
    foundation, opinion = load_foundation(sampler(config), "cpu"), Judge.of(config, 10)
    asked = [GLYPHS[i % len(GLYPHS)].replace("{class}", "six") for i in range(n)]
    draws = [
        sample(foundation, asked, [derive(0, "synthesis", 0, label, i, t) for i in range(n)], sampler(config), 32)
        for t in range(3)
    ]  # fmt: skip
    found = torch.stack([opinion.probability(images, label) for images in draws])
    least = float(found.double().quantile(0.6))
    passed = found >= least
    source = Generated(configure(judge=judge, judge_least=least, judge_tries=3), WORDS, tmp_path)
    drawn = source.draw(0, label, range(n))
    assert {1, 2, 3} <= set(drawn.tries.tolist())
    for i in range(n):
        ends = next((t for t in range(3) if passed[t, i]), 2)
        best = int(found[: ends + 1, i].argmax())
        assert drawn.tries[i] == ends + 1 and drawn.scores[i] == found[best, i]
        assert torch.equal(drawn.images[i], draws[best][i]) and drawn.seeds[i] == derive(0, "synthesis", 0, label, i, best)
    assert bytes_of(source.draw(0, label, [5, 11])) == [bytes_of(drawn)[5], bytes_of(drawn)[11]]
    never = Generated(configure(judge=judge, judge_least=0.0), WORDS, tmp_path).draw(0, label, range(n))
    assert set(never.tries.tolist()) == {1} and torch.equal(never.images, draws[0])


def test_a_judges_number_does_not_depend_on_the_company(configure: Configure, judge: str) -> None:
    opinion = Judge.of(configure(judge=judge), 10)
    images = torch.randint(256, (37, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = opinion.probability(images, 2)
    assert whole.shape == (37,) and all(
        torch.equal(opinion.probability(images[i : i + 1], 2), whole[i : i + 1]) for i in range(37)
    )


def test_pictures_of_one_colour_are_blank() -> None:
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1], images[3] = 0, 200
    assert scores(None, images, 0).tolist() == [1, -1, 1, -1] and scores(None, images[:0], 0).shape == (0,)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded foundation with an autoencoder that decodes everything to grey."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("grey")
    pipe: Any = StableDiffusionPipeline.from_pretrained(asset_folder("glyph"), local_files_only=True)
    for parameter in pipe.vae.decoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    pipe.save_pretrained(folder)
    return folder


def test_blank_pictures_are_drawn_anew_and_counted(configure: Configure, tmp_path: Path, grey: Path) -> None:
    drawn = Generated(configure(diffusion__foundation=str(grey), judge_tries=2), WORDS, tmp_path).draw(0, 0, [0, 1])
    assert drawn.tries.tolist() == [2, 2] and drawn.scores.tolist() == [-1, -1] and (drawn.images == 128).all()
    assert drawn.seeds.tolist() == [derive(0, "synthesis", 0, 0, i, 0) for i in (0, 1)]


def test_speed_is_measured_once(configure: Configure, tmp_path: Path) -> None:
    class Tired(Generated):
        def draw(self, *given: Any) -> Any:
            pytest.fail("images were drawn again")

    measured = Generated(configure(), WORDS, tmp_path).speed()
    assert 1e-4 < measured < 10
    assert Tired(configure(), WORDS, tmp_path).speed() == measured


def test_images_are_drawn_with_a_clients_threads_whoever_draws_them(configure: Configure, tmp_path: Path) -> None:
    seen: list[int] = []
    with listening(lambda event: seen.append(torch.get_num_threads())):
        Generated(configure(client_threads=2), WORDS, tmp_path).draw(0, 0, [0])
    assert set(seen) == {2} and torch.get_num_threads() == 1


# Which images of a pool a client takes


def test_a_client_takes_no_image_twice_while_there_are_others() -> None:
    for stock in (1, 7, 30):
        taken = indices(0, 2, 5, stock, stock, allow_repeat=False)
        assert sorted(taken) == list(range(stock))
        assert taken[: stock // 2] == indices(0, 2, 5, stock // 2, stock, allow_repeat=False), (
            "a larger gap adds to a smaller one"
        )


def test_clients_and_classes_take_others() -> None:
    taken = [tuple(indices(*keys, 20, 1000, False)) for keys in ((0, 2, 5), (1, 2, 5), (0, 3, 5), (0, 2, 6))]
    assert len(set(taken)) == 4
    repeats = [len(set(a) & set(b)) for a in taken for b in taken if a != b]
    assert max(repeats) < 5


def test_a_pool_that_is_exhausted() -> None:
    with pytest.raises(
        SettingError, match="client 2 lacks 8 images of class 'five' and there are 7; raise gen-fedsd.pool"
    ) as error:
        indices(0, 2, 5, 8, 7, False, "five")
    assert "\n" not in str(error.value)
    again = indices(0, 2, 5, 17, 7, True)
    assert sorted(again[:7]) == sorted(again[7:14]) == list(range(7)) and len(again) == 17 and len(set(again[14:])) == 3
    assert again[:7] != again[7:14]
    with pytest.raises(SettingError, match="there are 0"):
        indices(0, 2, 5, 1, 0, True)
    assert indices(0, 2, 5, 0, 0, False) == []


def test_without_a_pool_they_are_the_clients_own() -> None:
    assert indices(9, 1, 1, 4, None, False) == [0, 1, 2, 3]


def test_nothing_to_provide(configure: Configure, tmp_path: Path) -> None:
    assert provider_of(configure(provider="none"), WORDS, tmp_path) is None
    assert provider_of(configure(provider="transforms"), WORDS, tmp_path) is None
    assert isinstance(provider_of(configure(), WORDS, tmp_path), Generated)
