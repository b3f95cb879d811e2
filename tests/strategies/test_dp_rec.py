"""DP-REC end to end on real digits: what travels, what it decodes to, and what the account says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file, save_file

from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.plan import codec_of, run_number
from fedwarm.codecs.dp_rec.settings import DpRec as Settings
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import unpack
from fedwarm.coding.replay import Round, Sum, replay_bytes
from fedwarm.coding.rotation import restore
from fedwarm.coding.shrinkage import shrinkage
from fedwarm.coding.streams import Stream, normals
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.models import Model, build_model
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.events import RandomCoding
from fedwarm.privacy.sampling import Slots, slots
from fedwarm.record.checkpoint import load
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from strategies.dp_rec import DpRec
from tests.runs import LOCAL, Outcome, run, same

ROUNDS, CLIENTS, SIGMA, BITS, NONCE = 3, 4, 0.5, 5, 16
FAST: dict[str, Value] = {
    **LOCAL,
    "num-server-rounds": ROUNDS,
    "local-epochs": 1,
    "data.max-examples": 12,
    "data.image-size": 8,
    "server-threads": 1,
    "dp-rec.bits": BITS,
    "dp-rec.sigma": SIGMA,
    "dp-rec.entropy": "seeded",
}
HALF: dict[str, Value] = {**FAST, "fraction-train": 0.5, "num-server-rounds": 5}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("dp_rec", tmp_path_factory.mktemp("usual") / "run", FAST)


def start(config: Config) -> tuple[Arrays, Layout]:
    model = build_model(config.of(Model), 10, config.of(Data).image_size, config.run.seed)
    arrays = from_module(model)
    return arrays, Layout.of(arrays, [name for name, _ in model.named_parameters()])


def codec(config: Config) -> RandomCodec:
    return codec_of(config.of(Settings), start(config)[1].sizes, SIGMA)


def trained(outcome: Outcome) -> list[Message]:
    return [reply for reply in outcome.replies if reply.metadata.message_type == "train"]


def sent(outcome: Outcome) -> list[bytes]:
    """The code words of all training replies, in the order of rounds and partitions."""
    return [from_records(reply.content).arrays["words"].tobytes() for reply in trained(outcome)]


def test_a_client_sends_so_many_bits_a_block_and_no_more(usual: Outcome) -> None:
    coder = codec(parse({"method": "dp_rec", **FAST}))
    blocks = len(coder.blocks)
    assert blocks == 4 and coder.words_bytes == NONCE + -(-blocks * BITS // 8) == 19
    rows = [row for row in usual.ledger if row["stage"] == "round"]
    assert len(rows) == ROUNDS * CLIENTS
    assert {(row["payload_bytes_up"], row["wire_bytes_up"]) for row in rows} == {(19, 147)}
    dense = sum(a.nbytes + 128 for a in usual.model.values())
    assert {row["wire_bytes_down"] for row in rows} == {dense} and dense > 100 * 147
    totals = usual.results["totals"]
    assert totals["parameters"] == sum(a.size for a in usual.model.values())
    assert totals["bits_per_parameter_up"] == pytest.approx(8 * 19 / totals["parameters"])


def test_nothing_that_depends_on_data_leaves_but_code_words(usual: Outcome) -> None:
    for reply in trained(usual):
        said = from_records(reply.content)
        assert (said.kind, list(said.arrays), said.metrics, list(said.facts)) == ("words", ["words"], {}, ["ticket"])
        assert said.arrays["words"].dtype == np.uint8 and said.arrays["words"].shape == (19,)
    described = [from_records(reply.content) for reply in usual.replies if reply.metadata.message_type == "query"]
    assert len(described) == CLIENTS
    for i, told in enumerate(sorted(described, key=lambda p: p.count("partition"))):
        assert told.metrics == {"partition": i, "partitions": CLIENTS, "num-examples": 1, "num-test": 0, "image-size": 8}
        assert list(told.facts) == ["classes", "present"] and told.facts["present"] == list(range(10)), "whatever it holds"
    results = usual.results
    assert results["partition"]["counts"] is None and all(r["train_loss"] is None for r in results["rounds"])


def slowly(words: bytes, coder: RandomCodec, stream: Stream) -> np.ndarray[Any, Any]:
    """One client's decoded update, bit by bit and block by block, under its nonce."""
    stream, words = replace(stream, nonce=words[:NONCE]), words[NONCE:]
    bits = [words[i // 8] >> (i % 8) & 1 for i in range(len(words) * 8)]
    indices = [sum(bits[j * BITS + i] << i for i in range(BITS)) for j in range(len(coder.blocks))]
    assert indices == unpack(words, len(coder.blocks), BITS).tolist()
    parts = [
        SIGMA * normals(stream.key(j), k, size).astype(np.float64) / shrinkage(BITS, sqrt(coder.energy * share))
        for j, (k, size, share) in enumerate(zip(indices, coder.blocks.sizes, coder.blocks.shares, strict=True))
    ]
    return restore(np.concatenate(parts), coder.rotation, stream.rotation(), coder.size)


def test_the_model_moves_by_the_decoded_mean(usual: Outcome) -> None:
    """Decoded slowly, client by client; and by the functions of replay, bit for bit."""
    config = parse({"method": "dp_rec", **FAST})
    arrays, layout = start(config)
    coder, number, words = codec(config), run_number(0), sent(usual)
    slow = layout.flatten(arrays)
    for r in range(ROUNDS):
        told = dict(enumerate(words[r * CLIENTS : (r + 1) * CLIENTS]))
        slow = slow + sum(slowly(w, coder, Stream(number, r + 1, c)) for c, w in told.items()) / CLIENTS
        arrays = layout.moved(arrays, Round(r + 1, CLIENTS, told).mean(coder, number))
    assert same(usual.model, arrays)
    np.testing.assert_allclose(layout.flatten(usual.model), slow, atol=1e-6)


def test_workers_give_the_same_model(usual: Outcome, tmp_path: Path) -> None:
    assert same(run("dp_rec", tmp_path / "run", FAST, workers=2).model, usual.model)


def test_epsilon_is_the_accountants(usual: Outcome) -> None:
    coder = codec(parse({"method": "dp_rec", **FAST}))
    event = RandomCoding.of(BITS, (1.0 / SIGMA) ** 2, coder.caps)
    account, wanted = Accountant(1e-5), []
    for _ in range(ROUNDS):
        account.spend(event, range(CLIENTS))
        wanted.append(account.epsilon())
    results = usual.results
    assert [r["epsilon"] for r in results["rounds"]] == wanted
    said = results["privacy"]
    assert said["epsilon"] == wanted[-1]
    assert [said[k] for k in ("delta", "view", "adjacency", "sigma", "clip")] == [1e-5, "local", "zero_out", SIGMA, 1.0]
    assert said["certified"] is False and any("seeded" in note for note in results["notes"])
    assert Accountant.from_state(load(usual.folder).facts["method"]["account"]).epsilon() == wanted[-1]
    journal = [json.loads(line) for line in (usual.folder / "journal.jsonl").read_text().splitlines()]
    assert [e["privacy"]["epsilon"] for e in journal if "privacy" in e] == wanted


def test_the_run_stops_before_its_budget_is_passed(usual: Outcome, tmp_path: Path) -> None:
    first, second, third = (r["epsilon"] for r in usual.results["rounds"])
    stopped = run("dp_rec", tmp_path / "run", {**FAST, "dp-rec.target-epsilon": (second + third) / 2})
    results = stopped.results
    assert [r["epsilon"] for r in results["rounds"]] == [first, second] and results["complete"]
    assert len(sent(stopped)) == 2 * CLIENTS and sent(stopped) == sent(usual)[: 2 * CLIENTS]
    assert results["notes"][-1].startswith(f"stopped before round 3: epsilon would be {third:.4g}")
    with pytest.raises(SettingError, match="one round alone reaches epsilon"):
        run("dp_rec", tmp_path / "none", {**FAST, "dp-rec.target-epsilon": first * 0.99})


def test_a_target_is_spent_on_all_rounds(tmp_path: Path) -> None:
    """With half the clients a round, the noise is that of the client who takes part most often."""
    outcome = run("dp_rec", tmp_path / "run", {**HALF, "dp-rec.sigma": 0.0, "dp-rec.target-epsilon": 8.0})
    results = outcome.results
    assert len(results["rounds"]) == 5 and 7.9 < results["privacy"]["epsilon"] <= 8.0
    times = [sum(row["client"] == c for row in outcome.ledger if row["stage"] == "round") for c in range(CLIENTS)]
    assert sum(times) == 10 and max(times) < 5


def struck(monkeypatch: pytest.MonkeyPatch, *tickets: str) -> None:
    monkeypatch.setattr("fedwarm.rounds.faulty.strikes", lambda faults, seed, ticket: ticket in tickets)


def test_truncated_code_words_are_refused(usual: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    struck(monkeypatch, "0.0.1", "2.0.3")
    outcome = run("dp_rec", tmp_path / "run", {**FAST, "faults.kind": "truncated", "faults.rate": 1.0})
    failures = [(row["ticket"], row["failure"]) for row in outcome.ledger if row["failure"]]
    assert [ticket for ticket, _ in failures] == ["0.0.1", "2.0.3"]
    assert all("cannot be read" in failure for _, failure in failures)
    assert same(outcome.model, usual.model)


@pytest.mark.parametrize("kind", ["wrong_shape", "missing_key", "extra_key", "oversized", "crash"])
def test_other_faults_are_refused_and_the_denominator_stays(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's words never count: the sum has three of them, the denominator is the planned four."""
    struck(monkeypatch, "0.0.1")
    settings = {**FAST, "num-server-rounds": 1, "min-replies": 1, "faults.kind": kind, "faults.rate": 1.0}
    outcome = run("dp_rec", tmp_path / "run", settings)
    assert [row["ticket"] for row in outcome.ledger if row["failure"]] == ["0.0.1"]
    config = parse({"method": "dp_rec", **settings})
    arrays, layout = start(config)
    replies = [from_records(r.content) for r in trained(outcome) if r.has_content()]
    told = {int(p.text("ticket")[-1]): p.arrays["words"].tobytes() for p in replies if not p.text("ticket").endswith("1")}
    assert sorted(told) == [0, 2, 3]
    assert same(outcome.model, layout.moved(arrays, Round(1, CLIENTS, told).mean(codec(config), run_number(0))))


@pytest.mark.long
def test_a_round_that_is_asked_for_again_releases_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With true private randomness, a client whose reply was lost sends the same bytes; another run draws other ones."""
    struck(monkeypatch, "0.0.2")
    settings = {**FAST, "num-server-rounds": 1, "dp-rec.bits": 12, "dp-rec.sigma": 0.3, "dp-rec.entropy": "system"}
    again = run("dp_rec", tmp_path / "again", {**settings, "faults.kind": "replay", "faults.rate": 1.0})
    tickets = [row["ticket"] for row in again.ledger if row["stage"] == "round"]
    assert tickets == ["0.0.0", "0.0.1", "0.0.2", "0.1.2", "0.0.3"]
    words = dict(zip(tickets, sent(again), strict=True))
    assert words["0.0.2"] == words["0.1.2"] and words["0.0.1"] != words["0.0.2"]
    other = run("dp_rec", tmp_path / "other", settings)
    assert sent(other)[2] != words["0.0.2"] and again.results["privacy"]["certified"] is True
    assert other.results["privacy"] == again.results["privacy"]


@pytest.mark.parametrize(
    "more",
    [{}, {"dp-rec.prior": "last", "dp-rec.server-momentum": 0.5}, {"dp-rec.block-rule": "kl_adaptive"}],
    ids=["plain", "prior and momentum", "kl_adaptive"],
)
def test_replayed_code_words_make_the_servers_model(more: dict[str, Value], tmp_path: Path) -> None:
    """Each client checks the digest of the model that it replays; one that missed rounds catches up."""
    dense = run("dp_rec", tmp_path / "dense", {**HALF, **more})
    replayed = run("dp_rec", tmp_path / "replayed", {**HALF, **more, "dp-rec.downlink": "replay"})
    assert same(dense.model, replayed.model) and sent(dense) == sent(replayed)
    rows = [row for row in replayed.ledger if row["stage"] == "round"]
    assert not any(row["failure"] for row in replayed.ledger)
    last: dict[int, int] = {}
    missed = []
    size = len(sent(dense)[0])
    for row in rows:
        since = last.get(row["client"])
        if since is None:
            assert row["payload_bytes_down"] >= sum(a.nbytes for a in dense.model.values())
        elif not more.get("dp-rec.block-rule"):
            assert row["payload_bytes_down"] == replay_bytes([2] * (row["round"] - since), size)
        if since is not None:
            missed.append(row["round"] - since)
        last[row["client"]] = row["round"]
    assert max(missed) > 1
    if not more:  # else a model that is sent brings the last mean and the velocity with it
        assert replayed.results["totals"]["bytes_down"] < 0.5 * dense.results["totals"]["bytes_down"]


def test_what_is_downloaded_is_the_smaller_of_model_and_code_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where code words of one round are two thirds of the model, those of two are more than it."""
    model, layout = start(parse({"method": "dp_rec", **HALF}))
    whole, words = sum(array.nbytes for array in model.values()), codec_of(Settings(bits=BITS), layout.sizes, SIGMA).words_bytes
    one = replay_bytes([2], words)
    monkeypatch.setattr("strategies.dp_rec.replay_bytes", lambda cohorts, size: replay_bytes(cohorts, size) * whole / one / 1.5)
    outcome = run("dp_rec", tmp_path / "run", {**HALF, "dp-rec.downlink": "replay"})
    last: dict[int, int] = {}
    missed = []
    for row in (row for row in outcome.ledger if row["stage"] == "round"):
        missed.append(row["round"] - last.get(row["client"], -9))
        assert row["payload_bytes_down"] == (one if missed[-1] == 1 else whole)
        last[row["client"]] = row["round"]
    assert 1 in missed and any(1 < rounds < 9 for rounds in missed)


def test_a_prior_is_taken_off_before_the_clip_and_put_back(tmp_path: Path) -> None:
    """Without noise and clip the last mean as prior changes nothing; with a clip it is the rest that is clipped."""
    found = {}
    for clip in (1e3, 1e-3):
        settings: dict[str, Value] = {**FAST, "num-server-rounds": 2, "dp-rec.mechanism": "none", "dp-rec.clip": clip}
        plain, last = (run("dp_rec", tmp_path / f"{clip}-{p}", {**settings, "dp-rec.prior": p}).model for p in ("zero", "last"))
        found[clip] = max(float(np.abs(plain[name] - last[name]).max()) for name in plain)
    assert found[1e3] < 1e-7 < 1e-5 < found[1e-3]


def test_a_client_that_lost_its_model_is_sent_it(tmp_path: Path) -> None:
    """The reply to a replay that cannot be done is a failure in the ledger; asked again, the client gets the dense model."""
    settings = {**FAST, "num-server-rounds": 2, "dp-rec.downlink": "replay"}
    whole = run("dp_rec", tmp_path / "whole", settings)

    def forget(message: Message) -> None:
        for path in (tmp_path / "run" / "clients").glob("*/2/public.*"):
            path.unlink()

    again = run("dp_rec", tmp_path / "run", settings, listen=forget)
    failures = [row["failure"] for row in again.ledger if row["failure"]]
    assert len(failures) == 1 and "does not hold the model of round 1" in failures[0]
    assert same(again.model, whole.model)


def test_a_replay_that_comes_to_another_model_is_refused(tmp_path: Path) -> None:
    """By the digest, and the client gets the dense model when it is asked again."""
    settings = {**FAST, "num-server-rounds": 2, "dp-rec.downlink": "replay"}
    whole = run("dp_rec", tmp_path / "whole", settings)

    def spoil(message: Message) -> None:
        for path in (tmp_path / "run" / "clients").glob("*/2/public.*"):
            save_file({name: array + 1 for name, array in load_file(path).items()}, path)

    again = run("dp_rec", tmp_path / "run", settings, listen=spoil)
    failures = [row["failure"] for row in again.ledger if row["failure"]]
    assert len(failures) == 1 and "is not the server's" in failures[0]
    assert same(again.model, whole.model)


@pytest.mark.parametrize("mechanism", ["coding", "gaussian"])
def test_a_cohort_that_does_not_fit_its_slots_sends_nothing_and_moves_nothing(
    mechanism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedwarm.privacy.views.slots", lambda *given: Slots(1, 0.0))
    settings = {
        **HALF,
        "dp-rec.view": "central_certified",
        "dp-rec.mechanism": mechanism,
        "num-server-rounds": 2,
        "min-replies": 1,
    }
    outcome = run("dp_rec", tmp_path / "run", {**settings, "fraction-train": 1.0})
    assert not trained(outcome) and same(outcome.model, start(parse({"method": "dp_rec", **settings}))[0])
    assert any("does not fit into 1 slots; skipped" in text for text in outcome.results["notes"])


def test_noise_of_those_who_are_away_is_added_by_the_server(tmp_path: Path) -> None:
    """Uncompressed and in a central view, a sum has the noise of all its slots, however few clients take part."""
    settings = {**FAST, "dp-rec.view": "central_certified", "dp-rec.mechanism": "gaussian", "dp-rec.clip": 1e-6, "min-replies": 1}
    settings |= {"num-server-rounds": 1, "fraction-train": 0.25, "seed": 4}
    outcome = run("dp_rec", tmp_path / "run", settings)
    arrays, layout = start(parse({"method": "dp_rec", **settings}))
    room, added = slots(CLIENTS, 0.25, 1, 1e-5).count, len(trained(outcome))
    assert room - added >= 2
    noise = layout.difference(outcome.model, arrays)
    assert float(noise.std()) == pytest.approx(SIGMA * sqrt(room), rel=0.03)


def test_central_sums_are_padded_to_their_slots_after_dropouts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, original = [], Sum.mean

    def counted(total: Sum, planned: int) -> Any:
        counts.append((total.added, planned))
        return original(total, planned)

    monkeypatch.setattr(Sum, "mean", counted)
    settings = {**HALF, "dp-rec.view": "central_certified", "min-replies": 1, "seed": 3}
    outcome = run("dp_rec", tmp_path / "run", {**settings, "faults.kind": "crash", "faults.rate": 0.3}, clients=6)
    room = slots(6, 0.5, 5, 1e-5)
    assert counts == [(room.count, 3)] * 5
    rows = [row for row in outcome.ledger if row["stage"] == "round"]
    cohorts = [len({row["client"] for row in rows if row["round"] == r}) for r in range(1, 6)]
    assert len(set(cohorts)) > 1 and any(row["failure"] for row in rows)
    said = outcome.results["privacy"]
    assert (said["view"], said["sampling_rate"]) == ("central_certified", 0.5)
    again = run("dp_rec", tmp_path / "again", {**settings, "dp-rec.entropy": "system"}, clients=6)
    drawn = [(row["round"], row["client"]) for row in again.ledger if row["stage"] == "round"]
    assert drawn != [(row["round"], row["client"]) for row in rows]


def test_the_noise_has_its_scale_around_the_clipped_mean(tmp_path: Path) -> None:
    """Coded, noised and clipped runs of one round differ by noise of scale sigma / sqrt(n), and by nothing else."""
    settings = {**FAST, "num-server-rounds": 1, "dp-rec.sigma": 0.05, "dp-rec.bits": 6, "dp-rec.clip": 0.5}
    names = ("none", "coding", "gaussian")
    models = {name: run("dp_rec", tmp_path / name, {**settings, "dp-rec.mechanism": name}) for name in names}
    layout = start(parse({"method": "dp_rec", **settings}))[1]
    clean = layout.flatten(models["none"].model)
    for name in ("coding", "gaussian"):
        noise = layout.flatten(models[name].model) - clean
        assert float(noise.std()) == pytest.approx(0.05 / 2, rel=0.06)
    assert models["none"].results["privacy"] is None and models["gaussian"].results["privacy"]["epsilon"] > 0
    assert {len(from_records(r.content).arrays["update"]) for r in trained(models["gaussian"])} == {layout.total}


def test_without_privacy_it_is_clipped_fedavg(tmp_path: Path) -> None:
    settings = {**FAST, "dp-rec.mechanism": "none", "dp-rec.clip": 0.3}
    plain = run("dp_rec", tmp_path / "plain", settings)
    fedavg = run("fedavg", tmp_path / "fedavg", {**settings, "robust.clip-norm": 0.3})
    assert len({sum(c) for c in fedavg.results["partition"]["counts"]}) == 1
    for name, array in fedavg.model.items():
        np.testing.assert_allclose(plain.model[name], array, atol=2e-6)


def test_an_update_that_is_not_finite_is_never_coded(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"0 valid replies.*WithheldError: .round. failed; as this run is private"):
        run("dp_rec", tmp_path / "run", {**FAST, "learning-rate": 1e30, "local-epochs": 3})


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SettingError, match="dp-rec.clip"):
        DpRec(parse({"method": "dp_rec", "robust.rule": "median"}))
    with pytest.raises(SettingError, match="use dense"):
        DpRec(parse({"method": "dp_rec", "dp-rec.view": "central_limit", "dp-rec.downlink": "replay"}))
