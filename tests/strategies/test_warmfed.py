"""WarmFed end to end on real digits and the embedded foundation, and what its messages may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from fedwarm.catalogue import parse
from fedwarm.diffusion.foundation import load_foundation
from fedwarm.diffusion.lora import adapter_size, targeted
from fedwarm.diffusion.settings import Diffusion
from tests.runs import SMALL_WARMFED, run, same


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory):
    return run("warmfed", tmp_path_factory.mktemp("warmfed") / "run", SMALL_WARMFED)


def unet():
    return load_foundation(parse({}).of(Diffusion), "cpu").pipe.unet


def test_one_upload_and_one_download(one_shot) -> None:
    rows = {(r["stage"], r["client"]): r for r in one_shot.ledger}
    model = sum(a.nbytes for a in one_shot.model.values())
    settings = parse({}).of(Diffusion)
    numbers = adapter_size(unet(), settings.rank, settings.targets)
    for client in range(4):
        adapt, distill = rows["adapt", client], rows["distill", client]
        assert adapt["payload_bytes_up"] == 4 * numbers and adapt["payload_bytes_down"] == 0
        assert distill["payload_bytes_up"] == 0 and distill["payload_bytes_down"] == model
    assert len(rows) == 8


def test_uplink_is_a_small_part_of_the_foundation(one_shot) -> None:
    parts = load_foundation(parse({}).of(Diffusion), "cpu").pipe
    foundation = sum(2 * p.numel() for m in (parts.unet, parts.vae, parts.text_encoder) for p in m.parameters())
    arrays = 2 * len(targeted(parts.unet, "to_q,to_k,to_v,to_out.0"))
    formula = 4 * adapter_size(parts.unet, 8, "to_q,to_k,to_v,to_out.0") + 128 * arrays
    for up in one_shot.results["rounds"][0]["bytes_up"]:
        assert up == formula < foundation / 10


def test_nothing_private_leaves(one_shot) -> None:
    """Up: adapters by name, or no tensor at all. Down: the classifier. Never an image, a base weight, a personal model."""
    classifier = {n: a.shape for n, a in one_shot.model.items()}
    adapters = {n for r in one_shot.answered("adapt") for n in r.content["arrays"]}
    assert adapters and all("lora_A" in n or "lora_B" in n for n in adapters)
    adapting = {id(reply) for reply in one_shot.answered("adapt")}
    for reply in one_shot.replies:
        names = set(reply.content["arrays"])
        assert names == (adapters if id(reply) in adapting else set())
        assert set(reply.content) == {"arrays", "metrics", "facts"}
        assert all(not isinstance(v, bytes) for v in reply.content["facts"].values())
    for message in one_shot.messages:
        arrays = message.content["arrays"]
        assert not arrays or {n: tuple(a.shape) for n, a in arrays.items()} == classifier
        assert set(message.content["facts"]) <= {"kind", "run", "ticket", "fingerprint", "action"}


def test_personal_models_stay_with_their_clients(one_shot) -> None:
    kept = [load_file(next((one_shot.folder / "clients").glob(f"*/{i}/personal.0.safetensors"))) for i in range(4)]
    assert all(not same({n: t.numpy() for n, t in k.items()}, one_shot.model) for k in kept)


def test_pool_has_provenance(one_shot) -> None:
    pool = load_file(one_shot.folder / "pool" / "pool-0.safetensors")
    counts = np.array(one_shot.results["partition"]["counts"])
    for client in range(4):
        labels = pool["labels"][pool["clients"] == client].numpy()
        per_class = max(1, round(0.25 * counts[client].sum() / (counts[client] > 0).sum()))
        assert np.array_equal(np.bincount(labels, minlength=10), per_class * (counts[client] > 0))
    assert len(pool["seeds"].unique()) == len(pool["seeds"])


def test_record_holds_both_accuracies(one_shot) -> None:
    results = one_shot.results
    (only,) = results["rounds"]
    assert only["round"] == 0 and len(only["personal"]["per_client"]) == 4
    assert results["final"]["personal"]["worst"] == min(only["personal"]["per_client"])
    tests = [r.content["metrics"]["num-test"] for r in one_shot.answered("distill")]
    right = [r.content["metrics"]["correct-global"] for r in one_shot.answered("distill")]
    assert only["global"]["accuracy"] == sum(right) / sum(tests)


def test_adapters_load_into_a_plain_pipeline(one_shot) -> None:
    from diffusers import StableDiffusionPipeline

    from fedwarm.diffusion.foundation import asset_folder

    pipe = StableDiffusionPipeline.from_pretrained(asset_folder("glyph"))
    pipe.load_lora_weights(one_shot.folder / "adapters" / "client-2", prefix="unet")
    sent = next(r for r in one_shot.answered("adapt"))
    assert sum("lora_" in n for n in pipe.unet.state_dict()) == len(sent.content["arrays"])


def test_workers_give_the_same_model(one_shot, tmp_path: Path) -> None:
    again = run("warmfed", tmp_path / "run", SMALL_WARMFED, workers=2)
    assert same(again.model, one_shot.model)
    assert again.results["final"] == one_shot.results["final"]


def test_five_rounds_without_images_are_fedavg_bit_for_bit(tmp_path: Path) -> None:
    settings = {"num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 40}
    warm = {"warmfed.protocol": "five-round", "warmfed.synthetic-ratio": 0.0, "warmfed.distill-epochs": 1}
    five = run("warmfed", tmp_path / "warmfed", {**settings, **warm})
    assert same(five.model, run("fedavg", tmp_path / "fedavg", settings).model)


def test_five_rounds_record_each_model(tmp_path: Path) -> None:
    settings = {**SMALL_WARMFED, "warmfed.protocol": "five-round", "num-server-rounds": 2, "local-epochs": 1}
    outcome = run("warmfed", tmp_path / "run", settings)
    rounds = outcome.results["rounds"]
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert all(r["global"]["accuracy"] is not None and None not in r["personal"]["per_client"] for r in rounds)
    wire = sum(a.nbytes + 128 for a in outcome.model.values())
    assert [r["bytes_down"][0] for r in rounds] == [0, wire, 2 * wire]
    assert [r["bytes_up"][0] for r in rounds[1:]] == [wire, wire]


def test_prompts_alone_send_nothing_up(tmp_path: Path) -> None:
    outcome = run("warmfed", tmp_path / "run", {**SMALL_WARMFED, "warmfed.adapt": False})
    assert outcome.results["totals"]["bytes_up"] == 0
    assert [r["stage"] for r in outcome.ledger] == ["distill"] * 4


def test_local_models_may_be_uploaded_with_the_adapter(one_shot, tmp_path: Path) -> None:
    outcome = run("warmfed", tmp_path / "run", {**SMALL_WARMFED, "warmfed.local-model-source": "uploaded"})
    classifier = sum(a.nbytes + 128 for a in one_shot.model.values())
    pairs = zip(one_shot.results["rounds"][0]["bytes_up"], outcome.results["rounds"][0]["bytes_up"], strict=True)
    more = [b - a for a, b in pairs]
    assert more == [classifier] * 4
    assert not same(outcome.model, one_shot.model)


@pytest.mark.parametrize("rule", ["sample_correct", "class_better", "model_best", "always", "never"])
def test_every_selection_rule_runs(rule: str, tmp_path: Path) -> None:
    settings = {**SMALL_WARMFED, "warmfed.selection": rule, "warmfed.synthetic-ratio": 0.0}
    assert run("warmfed", tmp_path / "run", settings, clients=2).results["final"]["personal"]["mean"] > 0
