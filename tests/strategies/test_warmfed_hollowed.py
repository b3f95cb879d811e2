"""WarmFed with hollowed tuning on real digits: what travels, what is drawn from it, what is refused, what is left behind."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from clients.warmfed import WarmFedClient
from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.plan import codec_of
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding import stochastic
from fedwarm.coding.layout import Layout
from fedwarm.core.arrays import Arrays, from_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.progress import Tick, listening
from fedwarm.core.store import Store
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import adapter_size, first_matrices
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, kept_layers, kept_size, table
from fedwarm.diffusion.tuners.hollowed.settings import aligned
from fedwarm.faults import Spoilt
from fedwarm.flower.wire import from_records
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import SettingError, Value
from strategies.warmfed import WarmFed
from tests.runs import SMALL_WARMFED, Outcome, run, same
from tests.strategies.test_resume import killed, personal, without_times

WARM: dict[str, Value] = {**SMALL_WARMFED, "data.max-examples": 10, "diffusion.sample-steps": 1, "diffusion.lora-steps": 2,
                          "warmfed.epochs-warm": 1, "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1,
                          "server-threads": 1}  # fmt: skip
HOLLOWED: dict[str, Value] = {**WARM, "diffusion.trainer": "hollowed"}
MIXED: dict[str, Value] = {**HOLLOWED, "hollowed.depths": "0,2,-2"}
Adapter = dict[str, np.ndarray[Any, Any]]


def foundation() -> Foundation:
    return load_foundation(parse({}).of(Diffusion), "cpu")


def targets() -> str:
    return parse({}).of(Diffusion).targets


def adapters(outcome: Outcome) -> list[Adapter]:
    """What each client sent, by partition."""
    return [dict(from_records(r.content).arrays) for r in outcome.answered("adapt")]


def pool(outcome: Outcome) -> Adapter:
    return load_file(outcome.folder / "pool" / "pool-0.safetensors")


def drawn(outcome: Outcome, client: int) -> np.ndarray[Any, Any]:
    found = pool(outcome)
    return found["images"][found["clients"] == client]


def saved(outcome: Outcome, client: int) -> tuple[Adapter, dict[str, str]]:
    """A client's adapter file: its matrices and what it says of them."""
    path = outcome.folder / "adapters" / f"client-{client}" / "pytorch_lora_weights.safetensors"
    with safe_open(path, "np") as file:
        return load_file(path), file.metadata()


@pytest.fixture(scope="module")
def seen() -> list[tuple[str, int, int]]:
    """(name, mode, clients that have a cache) of the first client's cache folder and its files, while it was tuned."""
    return []


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[str, int, int]]) -> Outcome:
    """All clients at depth 1, watched while they tune."""
    folder = tmp_path_factory.mktemp("shallow") / "run"

    def look(event: Tick) -> None:
        if event.stage == "adapter":
            caches = list((folder / "clients").glob("*/*/hollowed-*"))
            seen.extend((p.name, stat.S_IMODE(p.stat().st_mode), len(caches)) for c in caches for p in (c, *c.iterdir()))

    with listening(look):
        return run("warmfed", folder, {**HOLLOWED, "hollowed.depth": 1}, clients=2)


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("warmfed", tmp_path_factory.mktemp("union") / "run", MIXED)


# What travels


@pytest.mark.long
def test_the_uplink_is_the_kept_matrices_and_falls_by_their_share(shallow: Outcome) -> None:
    unet, first = foundation().pipe.unet, first_matrices(foundation(), parse({}).of(Diffusion), 0, 0)
    cut, whole = cut_at(unet, 1), adapter_size(unet, 8, targets())
    kept = {name: t for name, t in first.items() if not cut.holds(name)}
    size = sum(t.numel() for t in kept.values())
    assert size == kept_size(unet, cut, 8, targets()) == table(unet, 8, targets())[1].adapter
    for sent in adapters(shallow):
        assert {n: a.shape for n, a in sent.items()} == {n: tuple(t.shape) for n, t in kept.items()}
        assert all(a.dtype == np.float32 and not np.array_equal(a, first[n].numpy()) for n, a in sent.items())
    rows = [row for row in shallow.ledger if row["stage"] == "adapt"]
    assert [row["payload_bytes_up"] for row in rows] == [4 * size] * 2
    assert shallow.results["rounds"][0]["bytes_up"] == [4 * size + 128 * len(kept)] * 2
    gone = [layer for name, layer in kept_layers(unet, None, targets()).items() if cut.holds(name)]
    share = 8 * sum(layer.in_features + layer.out_features for layer in gone) / whole
    assert 1 - rows[0]["payload_bytes_up"] / (4 * whole) == pytest.approx(share, abs=1e-12) and share > 0.5
    assert shallow.results["totals"]["bits_per_parameter_up"] == 32


def test_adapter_files_hold_exactly_the_kept_keys_and_load(shallow: Outcome) -> None:
    from diffusers import StableDiffusionPipeline

    from fedwarm.diffusion.foundation import asset_folder

    cut = cut_at(foundation().pipe.unet, 1)
    pipe = StableDiffusionPipeline.from_pretrained(asset_folder("glyph"))
    for client, sent in enumerate(adapters(shallow)):
        path = shallow.folder / "adapters" / f"client-{client}"
        with safe_open(path / "pytorch_lora_weights.safetensors", "pt") as file:
            held = {name.removeprefix("unet.").partition(".lora")[0] for name in file.keys()}  # noqa: SIM118
        assert held == {name.partition(".lora_")[0] for name in sent} and not any(map(cut.holds, held))
    pipe.load_lora_weights(path, prefix="unet")
    assert {name.partition(".lora_")[0] for name, _ in pipe.unet.named_parameters() if ".lora_" in name} == held


def test_the_cache_is_private_while_it_is_there_and_gone_afterwards(shallow: Outcome, seen: list[tuple[str, int, int]]) -> None:
    modes = {(name, mode) for name, mode, _ in seen}
    assert modes == {
        ("hollowed-0", 0o700), ("hollowed-1", 0o700), ("core.safetensors", 0o600), ("latents.safetensors", 0o600),
        ("draws.safetensors", 0o600), ("weights.bin", 0o600),
        ("core.safetensors.rows", 0o600), ("latents.safetensors.rows", 0o600),
    }  # fmt: skip
    assert {count for *_, count in seen} == {1}
    assert not list((shallow.folder / "clients").rglob("hollowed-*"))
    assert {p.name for p in (shallow.folder / "clients").glob("*/*/*")} == {"adapted.0.safetensors", "personal.0.safetensors"}


def test_no_cut_is_plain_lora_bit_for_bit(tmp_path: Path) -> None:
    plain = run("warmfed", tmp_path / "plain", WARM, clients=2)
    none = run("warmfed", tmp_path / "none", {**HOLLOWED, "hollowed.depth": -2}, clients=2)
    assert all(same(a, b) for a, b in zip(adapters(none), adapters(plain), strict=True))
    assert same(none.model, plain.model) and same(pool(none), pool(plain))
    for client in range(2):
        (a, told), (b, wanted) = (saved(outcome, client) for outcome in (none, plain))
        assert same(a, b) and told == wanted
    assert none.results["final"] == plain.results["final"]


# Clients of different depths


def test_each_client_sends_the_keys_of_its_depth(union: Outcome) -> None:
    unet = foundation().pipe.unet
    sizes = [kept_size(unet, cut, 8, targets()) for cut in (cut_at(unet, 0), cut_at(unet, 2), None, cut_at(unet, 0))]
    assert [sum(a.size for a in sent.values()) for sent in adapters(union)] == sizes
    assert [row["payload_bytes_up"] for row in union.ledger if row["stage"] == "adapt"] == [4 * size for size in sizes]
    assert union.results["totals"]["bits_per_parameter_up"] == pytest.approx(32, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("rule", ["intersect", "zero_fill"])
def test_the_rule_decides_what_images_are_drawn_from(rule: str, union: Outcome, tmp_path: Path) -> None:
    """Zeros are the foundation's own layers, so the images are those of `union`; fewer matrices draw others."""
    other = run("warmfed", tmp_path / "run", {**MIXED, "hollowed.mixed": rule})
    sent = adapters(other)
    assert all(same(a, b) for a, b in zip(sent, adapters(union), strict=True))
    used = aligned(sent, rule)
    assert {len(a) for a in used} == {max(map(len, sent)) if rule == "zero_fill" else min(map(len, sent))}
    equal = [np.array_equal(drawn(other, client), drawn(union, client)) for client in range(4)]
    assert equal == ([True] * 4 if rule == "zero_fill" else [False, True, False, False])
    for client, adapter in enumerate(sent):
        assert len(saved(other, client)[0]) == len(adapter)
    kept = {"warmfed.adapters": str(union.folder / "adapters"), "hollowed.mixed": rule}
    again = run("warmfed", tmp_path / "again", {**MIXED, **kept})
    assert all(np.array_equal(drawn(again, client), drawn(other, client)) for client in range(4))


@pytest.mark.long
def test_images_are_drawn_from_each_client_s_own_matrices(union: Outcome) -> None:
    from fedwarm.core.arrays import to_tensors
    from fedwarm.diffusion.generate import Order, generate
    from fedwarm.diffusion.lora import targets_of

    found, labels = drawn(union, 1), pool(union)["labels"][pool(union)["clients"] == 1]
    sent, config = adapters(union)[1], parse({"method": "warmfed", **MIXED})
    settings = type(config.of(Diffusion))(**{**vars(config.of(Diffusion)), "targets": targets_of(sent)})
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    asked, most = [f"a photo of a {name}" for name in names], int(np.bincount(labels).max())
    order = Order(asked, np.unique(labels).tolist(), most, seed=0, client=1, size=32)
    again = generate(foundation(), to_tensors(sent), order, settings)
    assert np.array_equal(again.images.numpy(), found)


@pytest.mark.long
def test_a_client_finds_its_own_depth_within_a_budget(shallow: Outcome, tmp_path: Path) -> None:
    """The least depth that fits, with a classifier beside the adapter; the server takes whichever depth it is."""
    from fedwarm.diffusion.tuners.hollowed.memory import footprint

    config, unet = parse({"method": "warmfed", **HOLLOWED}), foundation().pipe.unet
    words = foundation().pipe.tokenizer.model_max_length
    sizes = [footprint(unet, config.of(Diffusion), cut_at(unet, d), foundation().dtype, tokens=words).total / 1e6 for d in (0, 1)]
    budget: dict[str, Value] = {"hollowed.memory-budget-mb": 10_000, "warmfed.local-model-source": "uploaded"}
    node: dict[str, Value] = {"hollowed.memory-budget-mb": int(sum(sizes) / 2)}  # the devices' own
    sent = adapters(run("warmfed", tmp_path / "run", {**HOLLOWED, **budget}, clients=2, node=node))
    told = [{n: a for n, a in one.items() if "classifier." not in n} for one in sent]
    assert all(same(a, b) for a, b in zip(told, adapters(shallow), strict=True))
    assert all(len(one) > len(a) for one, a in zip(sent, told, strict=True))


# Codecs


@pytest.mark.long
def test_stochastic_rounding_goes_with_mixed_depths(union: Outcome, tmp_path: Path) -> None:
    coded = run("warmfed", tmp_path / "run", {**MIXED, "codec": "stochastic-rounding"})
    config = parse({"method": "warmfed", **MIXED})
    for client, (words, sent) in enumerate(zip(adapters(coded), adapters(union), strict=True)):
        sizes = Layout.of(sent).sizes
        assert words["words"].size == sum(stochastic.packed_bytes(size, 4) for size in sizes)
        held = saved(coded, client)[0]
        assert sum(a.size for a in held.values()) == sum(sizes)
        first = from_tensors(first_matrices(foundation(), config.of(Diffusion), 0, client))
        names = sorted(sent)
        moved = np.concatenate([(sent[n] - first[n]).ravel() for n in names])
        kept = dict(zip(names, (held[n] for n in sorted(held)), strict=True))
        told = np.concatenate([(kept[n] - first[n]).ravel() for n in names])
        assert np.abs(told - moved).max() <= np.abs(moved).max() / 7 + 1e-7


@pytest.mark.long
def test_dp_rec_goes_with_one_depth(shallow: Outcome, tmp_path: Path) -> None:
    rec: dict[str, Value] = {"codec": "dp-rec", "dp-rec.sigma": 0.5, "dp-rec.bits": 4, "dp-rec.entropy": "seeded"}
    coded = run("warmfed", tmp_path / "run", {**HOLLOWED, **rec, "hollowed.depth": 1}, clients=2)
    layout = Layout.of(adapters(shallow)[0])
    wanted = codec_of(parse(rec).of(DpRec), layout.sizes, 0.5).words_bytes
    assert [words["words"].size for words in adapters(coded)] == [wanted] * 2
    assert coded.results["privacy"]["epsilon"] > 0


REFUSED: list[tuple[dict[str, Value], str]] = [
    ({"privacy": "dp-sgd"}, "privacy = 'dp-sgd' does not cover diffusion.trainer = 'hollowed'"),
    ({"codec": "dp-rec", "hollowed.depths": "0,2"}, "adapters of one size"),
    ({"codec": "dp-rec", "hollowed.memory-budget-mb": 40}, "leaves the depth to each client"),
    ({"codec": "stochastic-rounding", "hollowed.memory-budget-mb": 40}, "leaves the depth to each client"),
    ({"hollowed.depths": "0,x"}, "is not a list of depths"),
]


@pytest.mark.parametrize(("settings", "why"), REFUSED)
def test_what_does_not_go_together_is_refused_at_both_ends(settings: dict[str, Value], why: str, tmp_path: Path) -> None:
    from fedwarm.rounds.client import Node

    config = parse({"method": "warmfed", **HOLLOWED, **settings})
    with pytest.raises(SettingError, match=why) as caught:
        WarmFed(config)
    assert "\n" not in str(caught.value)
    client = WarmFedClient(config, Node(0, 4, Store(tmp_path, "a1", 0)))
    with pytest.raises(SettingError, match=why):
        client.adapt(Payload(facts={"fingerprint": foundation().fingerprint}))
    WarmFed(parse({"method": "warmfed", **WARM, **settings}))


# What goes wrong


class Deeper(Spoilt):
    """A client that leaves out of its adapter what one of depth 2 does not have."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays:
        cut = cut_at(foundation().pipe.unet, 2)
        return {name: array for name, array in arrays.items() if not cut.holds(name)}


def test_another_depth_is_refused_in_one_line(tmp_path: Path) -> None:
    deeper: dict[str, Value] = {"faults.kind": f"{__name__}:Deeper", "faults.rate": 1.0, "faults.clients": "1"}
    with pytest.raises(FederationError, match="its adapter is that of depth 2; client 1 has depth 0") as caught:
        run("warmfed", tmp_path / "run", {**HOLLOWED, **deeper, "hollowed.depth": 0}, clients=2)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_a_stopped_run_goes_on_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch, union: Outcome, tmp_path: Path) -> None:
    """Stopped while images are drawn: the uploads of all depths are in the checkpoint."""
    from fedwarm.diffusion import generate

    original, calls = generate.Studio.keep, []

    def stopping(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("stopped")
        return original(*given, **named)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped"):
        patched.setattr(generate.Studio, "keep", stopping)
        run("warmfed", tmp_path / "run", MIXED)
    done = run("warmfed", tmp_path / "run", {**MIXED, "resume": True})
    assert not adapters(done) and same(done.model, union.model) and same(pool(done), pool(union))
    assert without_times(done.folder) == without_times(union.folder)


@pytest.mark.long
def test_a_client_killed_while_its_core_is_asked_leaves_nothing_in_the_end(union: Outcome, tmp_path: Path) -> None:
    killed("fedwarm.diffusion.tuners.hollowed.tune.core_output", 4, "warmfed", tmp_path / "run", MIXED)
    assert len(list((tmp_path / "run" / "clients").rglob("hollowed-*"))) == 1
    done = run("warmfed", tmp_path / "run", {**MIXED, "resume": True})
    assert not list((tmp_path / "run" / "clients").rglob("hollowed-*"))
    assert same(done.model, union.model) and same(pool(done), pool(union))
    assert same(personal(done.folder), personal(union.folder))
    assert without_times(done.folder) == without_times(union.folder)
