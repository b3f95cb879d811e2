"""Plans are priced as runs are: the design's figures, both ways round, in words and JSON, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import log, sqrt
from typing import Any

import pytest

from fedwarm.cli.app import main
from fedwarm.codecs.dp_rec.account import statement, terms_of
from fedwarm.codecs.dp_rec.plan import block_count, release_of, sigma_of
from fedwarm.codecs.dp_rec.pricing import Answer, answer
from fedwarm.codecs.dp_rec.question import Question
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.events import dp_sgd_step
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
from fedwarm.settings.fields import SettingError

EMNIST_CNN = 1_018_174
CENTRAL: dict[str, Any] = {"view": "central_limit", "cohort": 100, "population": 3400, "rounds": 1000}


def ask(**given: Any) -> Answer:
    return answer(Question(**given))


# The design's figures


def test_two_bits_at_c_one() -> None:
    found = ask(bits=2, blocks=1, sigma=1.0)
    assert found.epsilon == pytest.approx(5.258, abs=5e-4) and found.certified
    assert found.cut is not None and found.cut.gaussian_epsilon == pytest.approx(4.753, abs=5e-4)
    assert not found.cut.within_rule and found.cut.rule_blocks == 3


def test_four_blocks_and_eight_participations() -> None:
    found = ask(bits=7, blocks=4, sigma=2.0, participations=8, update_size=EMNIST_CNN)
    assert found.epsilon == pytest.approx(7.06, abs=5e-3)
    assert (found.message_bits, found.message_bytes, found.releases) == (28, 4 + 16, 8)
    assert found.cut is not None and found.cut.norm == pytest.approx(0.25) and found.cut.within_rule


def test_a_hundred_blocks_at_c_one() -> None:
    """sigma = C / 10, X = 100: 50 nats = 72.1 bits in 100 blocks, 700 bits = 88 bytes, 6.9e-4 bits a parameter."""
    found = ask(sigma=0.1, update_size=EMNIST_CNN)
    assert found.epsilon == pytest.approx(96.04, abs=0.05)
    assert found.cut is not None and found.cut.blocks == found.cut.rule_blocks == 100
    assert found.cut.norm == pytest.approx(1.0) and found.cut.within_rule
    assert found.cut.kl_nats * 100 == pytest.approx(50.0) and found.cut.kl_bits * 100 == pytest.approx(72.1, abs=0.05)
    assert (found.message_bits, found.message_bytes) == (700, 88 + 16)
    assert found.bits_per_parameter == pytest.approx(6.9e-4, rel=0.01)


@pytest.mark.parametrize(("population", "value", "slots"), [(3400, 6.60, 165), (10_000, 2.11, 166)])
def test_the_central_limit(population: int, value: float, slots: int) -> None:
    """z = 1, T = 1,000: the design's figure at delta = 1e-5, what cohorts that do not fit take of it coming on top."""
    plan = {**CENTRAL, "population": population, "noise_multiplier": 1.0}
    found = ask(**plan)
    assert found.slots == slots and 0 < found.reserved_delta <= 1e-6 and not found.certified
    assert value < found.epsilon < value + 0.05
    assert ask(**plan, delta=1e-5 + found.reserved_delta).epsilon == pytest.approx(value, abs=5e-3)


# As a run has it


@pytest.mark.parametrize("view", ["local", "central_certified", "central_limit"])
@pytest.mark.parametrize("mechanism", ["coding", "gaussian"])
def test_a_plan_is_what_a_run_states(view: str, mechanism: str) -> None:
    settings = DpRec(mechanism=mechanism, view=view, target_epsilon=6.0, bits=5 if mechanism == "coding" else 7, clip=0.5)
    terms = terms_of(settings, 300, 50, 8)
    sigma = sigma_of(settings, (1000, 340), terms)
    said = statement(settings, terms, sigma, terms.epsilon(release_of(settings, (1000, 340), sigma)))
    more = {"bits": 5} if mechanism == "coding" else {}
    plan = {"mechanism": mechanism, "view": view, "clip": 0.5, "cohort": 50, "population": 300, "rounds": 8, **more}
    found = ask(target_epsilon=6.0, update_size=1340, **plan).json()
    assert {name: found[name] for name in said} == said
    assert found["noise_multiplier"] == pytest.approx(sqrt(terms.slots.count) * sigma / 0.5)
    assert found["message_bits"] == (5 * block_count(settings, 1340, sigma) if mechanism == "coding" else 32 * 1340)


def test_a_block_size_is_that_of_the_setting() -> None:
    settings = DpRec(block_size=100, sigma=0.3)
    found = ask(block_size=100, sigma=0.3, update_size=1340, rounds=2)
    assert found.epsilon == terms_of(settings, 1, 1, 2).epsilon(release_of(settings, (1340,), 0.3))
    assert found.cut is not None and (found.cut.blocks, found.cut.block_size) == (21, 100)


@pytest.mark.parametrize(
    "more", [{}, {"mechanism": "gaussian"}, {"mechanism": "gaussian", "adjacency": "replacement"}, {**CENTRAL, "rounds": 20}]
)
@pytest.mark.parametrize("target", [0.7, 8.0])
def test_from_epsilon_to_sigma_and_back(target: float, more: dict[str, Any]) -> None:
    blocks = {} if more.get("mechanism") == "gaussian" else {"blocks": 3}
    noise = ask(target_epsilon=target, **blocks, **more)
    assert 0.99 * target < noise.epsilon <= target
    assert ask(sigma=noise.sigma, **blocks, **more).epsilon == noise.epsilon
    again = ask(noise_multiplier=noise.noise_multiplier, **blocks, **{"cohort": 1, **more})
    assert again.epsilon == pytest.approx(noise.epsilon, rel=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_without_a_size_the_price_holds_for_any(bits: int, blocks: int) -> None:
    """Smaller blocks may keep more of the norm; where blocks are few bits for their c, that costs."""
    plan: dict[str, Any] = {"bits": bits, "blocks": blocks, "sigma": 0.4, "rounds": 2}
    unknown = ask(**plan)
    known = [ask(**plan, update_size=size).epsilon for size in (3 * blocks, 4 * blocks, 11 * blocks, 40_000)]
    assert all(epsilon <= unknown.epsilon for epsilon in known)
    assert unknown.bits_per_parameter is None


def test_more_is_released_by_more_rounds_less_noise_and_other_adjacencies() -> None:
    plan: dict[str, Any] = {"blocks": 4, "sigma": 2.0, "rounds": 4}
    here = ask(**plan).epsilon
    for more in ({"rounds": 5}, {"sigma": 1.9}, {"adjacency": "replacement"}, {"delta": 1e-6}):
        assert ask(**{**plan, **more}).epsilon > here
    assert ask(**plan, participations=2).epsilon < here


def test_noise_is_relative_to_the_clip() -> None:
    one, ten = ask(sigma=0.2), ask(sigma=2.0, clip=10.0)
    assert one.epsilon == ten.epsilon and one.noise_multiplier == pytest.approx(ten.noise_multiplier)


# DP-SGD


def test_steps_of_dp_sgd() -> None:
    plan: dict[str, Any] = {"mechanism": "dp-sgd", "rate": 256 / 60_000, "steps": 1000}
    found = ask(**plan, noise_multiplier=1.1, clip=0.5)
    account = Accountant(1e-5)
    account.spend(dp_sgd_step(1.1, 256 / 60_000), times=1000)
    steps = [Steps(256 / 60_000, 1.1, 1000)]
    assert found.epsilon == example_epsilon(steps, 1e-5)  # a run's own accountant, close to the one of updates
    assert found.epsilon == pytest.approx(account.epsilon(), rel=1e-2) and found.certified and found.sigma == pytest.approx(0.55)
    assert (found.view, found.level, found.message_bits) == ("steps", "example", None)
    noise = ask(**plan, target_epsilon=found.epsilon)
    assert noise.epsilon <= found.epsilon and noise.noise_multiplier == pytest.approx(1.1, rel=2e-4)


# Words


def test_epsilon_never_stands_alone() -> None:
    first, *rest = ask(sigma=2.0, blocks=4, participations=8).lines()
    assert first == "epsilon 7.071 at delta 1e-05: certified"
    table = {line.split()[0]: line for line in rest}
    assert list(table) == ["view", "adjacency", "sampling", "noise", "message", "block", "rule", "Gaussian"]
    assert "local" in table["view"] and "zero_out" in table["adjacency"] and "a client: 8" in table["sampling"]
    assert (
        "28 bits in 20 bytes, 16 of them a nonce;" in table["message"]
        and f"KL 0.03125 nats = {0.03125 / log(2):.4g} bits" in table["block"]
    )
    assert table["rule"].endswith("kept") and not table["rule"].endswith("not kept")


def test_an_estimate_is_called_one() -> None:
    first, *rest = ask(**CENTRAL, noise_multiplier=1.0).lines()
    assert first.endswith("an estimate, no bound")
    (sampling,) = [line for line in rest if line.split()[0] == "sampling"]
    assert "0.02941" in sampling and "165 vectors" in sampling and "8.7e-07 of delta" in sampling
    certified = ask(**{**CENTRAL, "view": "central_certified", "rounds": 2}, sigma=5.0).lines()
    assert certified[0].endswith("certified")


def test_the_block_rule_is_told_where_it_is_not_kept() -> None:
    found = ask(bits=4, blocks=2, sigma=0.5)
    assert found.cut is not None and found.cut.norm == pytest.approx(sqrt(2)) and found.cut.rule_blocks == 4
    assert any("rule" in line and line.endswith("4 blocks here: not kept") for line in found.lines())
    kept = ask(bits=4, blocks=4, sigma=0.5)
    assert kept.cut is not None and kept.cut.within_rule and kept.epsilon < found.epsilon
    uneven = ask(bits=4, block_size=900, update_size=1024, sigma=0.8).cut
    assert uneven is not None and uneven.blocks == 2 == uneven.rule_blocks and not uneven.within_rule


# The command


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedwarm", "privacy", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command_prints_the_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bits", "7", "--blocks", "4", "--sigma", "2", "--participations", "8", "--clip", "1"]
    found = ask(bits=7, blocks=4, sigma=2.0, participations=8, clip=1.0)
    assert call(monkeypatch, *options) == 0
    assert capsys.readouterr().out.splitlines() == found.lines()
    assert call(monkeypatch, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found.json()


def test_every_option_reaches_the_question(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Question] = []
    found = ask(sigma=3.0)

    def note(question: Question) -> Answer:
        asked.append(question)
        return found

    monkeypatch.setattr("fedwarm.codecs.dp_rec.pricing.answer", note)
    local = Question(bits=3, block_size=50, update_size=200, target_epsilon=4.0, clip=0.5, delta=1e-4, view="local", rounds=6)
    local = replace(local, adjacency="replacement", cohort=2, population=9, participations=3, mechanism="coding")
    steps = Question(mechanism="dp-sgd", noise_multiplier=1.5, rate=0.1, steps=7)
    for question in (local, steps, Question(sigma=1.0, blocks=2)):
        changed = {name: value for name, value in vars(question).items() if value != getattr(Question(sigma=3.0), name)}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
        assert call(monkeypatch, *options, "--json") == 0
        assert asked.pop() == question
    assert capsys.readouterr().err == ""


POISSON = "--mechanism poisson --view central_certified --cohort 9 --population 9 --update-size 970"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "exactly one of --sigma, --noise-multiplier, --target-epsilon; given: none"),
        ("--sigma 1 --target-epsilon 2", "given: --sigma, --target-epsilon"),
        ("--mechanism dp-sgd --rate .1 --steps 3", "exactly one of --noise-multiplier, --target-epsilon"),
        ("--mechanism dp-sgd --noise-multiplier 1 --steps 3", "--rate is missing"),
        ("--mechanism dp-sgd --noise-multiplier 1 --rate .1", "--steps is missing"),
        ("--mechanism dp-sgd --noise-multiplier 1 --rate .1 --steps 3 --bits 3", "--bits cannot be used"),
        ("--mechanism gaussian --sigma 1 --blocks 3", "--blocks cannot be used"),
        ("--mechanism poisson --sigma 1 --bits 3", "--bits cannot be used"),
        ("--mechanism poisson --sigma 1", "hides nothing from those who know its candidates"),
        ("--mechanism laplace --sigma 1", "choose one of coding, poisson, gaussian, server, dp-sgd"),
        ("--sigma 1 --rate .1", "--rate cannot be used with --mechanism coding"),
        ("--sigma nan", "--sigma = nan is out of range"),
        ("--sigma 1e-9", "sigma = 1e-09 for clip = 1 is out of range; it must be 0.0001"),
        ("--sigma 1 --clip 0", "--clip = 0.0 is out of range"),
        ("--noise-multiplier inf", "--noise-multiplier = inf is out of range"),
        ("--noise-multiplier 1", "--cohort is missing"),
        ("--sigma 1 --bits 17", "--bits = 17 is out of range; it must be 1 to 16"),
        ("--sigma 1 --bits x", "'x' is not a valid integer"),
        ("--sigma 1 --delta 0", "--delta = 0.0 is out of range"),
        ("--sigma 1 --view global", "choose one of local, central_certified, central_limit"),
        ("--sigma 1 --view central_limit", "--cohort is missing"),
        ("--sigma 1 --view central_limit --cohort 3", "--population is missing"),
        ("--sigma 1 --view central_limit --cohort 3 --population 9 --participations 1", "local view"),
        ("--sigma 1 --view central_limit --cohort 3 --population 9 --adjacency replacement", "no proven bound"),
        ("--sigma 1 --cohort 10 --population 9", "cohort = 10 of 9 clients"),
        ("--sigma 1 --rounds 2 --participations 3", "2 rounds, 3 for each"),
        ("--sigma 1 --blocks 2 --block-size 3 --update-size 9", "not both"),
        ("--sigma 1 --block-size 3", "--update-size is missing"),
        ("--sigma 1 --blocks 9 --update-size 5", "--blocks 9 is more than the 8 numbers"),
        ("--sigma .0005 --bits 1", "blocks in a message; at most"),
        ("--target-epsilon 1e-9", "no sigma up to 10000 reaches it"),
        (f"{POISSON} --sigma .02", "has a proven epsilon up to 40 alone"),
        (f"{POISSON} --target-epsilon 39", "takes more than 1048576 candidates"),
    ],
)
def test_what_cannot_be_priced_is_one_line(
    options: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *options.split()) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("fedwarm: ") and words in line, line


def test_a_question_is_refused_where_it_is_put() -> None:
    with pytest.raises(SettingError, match="--bits = 0 is out of range"):
        Question(bits=0, sigma=1.0)
    with pytest.raises(SettingError, match="--magnitude cannot be used"):
        Question(magnitude="scale", sigma=1.0)
