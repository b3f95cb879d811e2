"""The mod in a ClientApp: what is struck, what is left alone, and the server's check that refuses each kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.engines.local.desk import identify
from fedwarm.faults import Faults, InjectedError, strikes
from fedwarm.flower.wire import from_records, size_of, to_records
from fedwarm.rounds import faulty as module
from fedwarm.rounds.faulty import EARLIER_AT_MOST, faulty
from fedwarm.settings.kinds import FAULTS
from tests.contracts.test_faults import SENT, read

app = ClientApp(mods=[faulty])
calls: list[str] = []


def answer(message: Message, context: Context) -> Message:
    """Half a step away from what was sent; the number of the call is in the arrays."""
    payload = from_records(message.content)
    calls.append(payload.text("ticket"))
    arrays: Arrays = {name: np.asarray(a * 1.5 + 0.01 * len(calls)).astype(a.dtype) for name, a in payload.arrays.items()}  # type: ignore[operator]
    facts = {"ticket": payload.text("ticket"), "who": "me"}
    return Message(to_records(Payload(payload.kind, arrays, {"num-examples": 3}, facts)), reply_to=message)  # type: ignore[arg-type]


for action in ("default", "adapt", "distill"):
    app.train(action)(answer)
app.evaluate()(answer)
app.query()(answer)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    identify(run_id=1, node_id=1)
    calls.clear()
    module.earlier.clear()
    yield
    module.earlier.clear()


def ask(kind: str, ticket: str = "4.0.1", rate: float = 1.0, message_type: str = "train", arrays: Arrays | None = None,
        node: int = 1, **more: Any) -> Message:  # fmt: skip
    """The app's reply to one message of the server."""
    config = {
        "seed": 0,
        "faults.kind": kind,
        "faults.rate": rate,
        **{f"faults.{k}".replace("_", "-"): v for k, v in more.items()},
    }
    payload = Payload("weights", SENT if arrays is None else arrays, {"round": 2}, {"ticket": ticket, "run": "0" * 16})
    message = Message(to_records(payload), message_type=message_type, dst_node_id=node)
    return app(message, Context(7, node, {"partition-id": node, "num-partitions": 9}, RecordDict(), config))


REFUSALS = {
    "nan": "w holds NaN or infinity",
    "infinity": "w holds NaN or infinity",
    "wrong_shape": r"w is float32\[1, 20, 30\]",
    "missing_key": r"differ in their names: \['v'\]",
    "extra_key": "differ in their names",
    "wrong_dtype": "w is float64",
    "huge_update": "too long an update",
    "oversized": "too many bytes",
    "replay": r"answers 3\.0\.1",
    "truncated": "array 'w'",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_each_kind_is_refused_for_what_it_is(kind: str) -> None:
    with pytest.raises(PayloadError, match=REFUSALS[kind]) as caught:
        read(ask(kind))
    assert len(str(caught.value).splitlines()) == 1
    assert read(ask(kind, rate=0.0)).metrics == {"num-examples": 3}


def test_a_crash_raises_before_any_work() -> None:
    with pytest.raises(InjectedError, match=r"injected fault: crash, ticket 4\.0\.1"):
        ask("crash")
    assert not calls


def test_a_delayed_answer_is_honest_and_late() -> None:
    begun = time.monotonic()
    late = ask("delay", delay_seconds=0.2)
    assert time.monotonic() - begun >= 0.2
    calls.clear()
    assert late.content == ask("none").content


def test_poison_passes_every_check_turned_round() -> None:
    reply = read(ask("poison", poison_scale=2.0))
    calls.clear()
    honest = read(ask("none"))
    for name, array in SENT.items():
        start, local = array.astype(float), honest.arrays[name].astype(float)
        np.testing.assert_allclose(reply.arrays[name].astype(float), start - 2 * (local - start), rtol=1e-6)


@pytest.mark.parametrize("kind", [k for k in FAULTS if k not in ("none", "crash")])
def test_metrics_and_facts_stay_as_they_are(kind: str) -> None:
    content = ask(kind, delay_seconds=0.0).content
    assert content.metric_records["metrics"] == {"num-examples": 3}
    facts = dict(content.config_records["facts"])
    facts.pop("ticket")
    assert facts == {"kind": "weights", "who": "me"}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_not_struck_is_the_app_s_own_answer(kind: str) -> None:
    honest = ask("none").content
    for reply in (
        ask(kind, rate=0.0),
        ask(kind, clients="3"),
        ask(kind, message_type="evaluate"),
        ask(kind, message_type="query"),
    ):
        content = reply.content
        assert from_records(content).facts == from_records(honest).facts
        assert size_of(content) == size_of(honest)
        read(reply)
    assert len(calls) == 5


def test_all_training_messages_are_struck() -> None:
    for message_type in ("train", "train.adapt", "train.distill"):
        with pytest.raises(InjectedError):
            ask("crash", message_type=message_type)


def test_strikes_are_those_of_the_tickets() -> None:
    faults, met = Faults("crash", 0.4, "1,2"), []
    tickets = [f"{stage}.{attempt}.{client}" for stage in range(12) for attempt in (0, 1) for client in range(4)]
    for ticket in tickets:
        try:
            ask("crash", ticket, rate=0.4, clients="1,2")
        except InjectedError:
            met.append(ticket)
    assert met == [t for t in tickets if strikes(faults, 0, t)] and met


def test_a_replay_is_the_last_reply_of_the_same_client() -> None:
    other = ask("replay", "0.0.2", node=2, clients="9")
    first = ask("replay", "1.0.1", rate=1.0, clients="9")
    second = ask("replay", "2.0.1", rate=1.0, clients="9")
    assert first.content != second.content
    replayed = ask("replay", "4.0.1")
    assert replayed.content == second.content != other.content
    with pytest.raises(PayloadError, match=r"answers 2\.0\.1"):
        read(replayed)
    assert from_records(ask("replay", "5.0.1").content).text("ticket") == "4.0.1"


def test_a_message_that_comes_twice_is_not_answered_with_its_own_ticket() -> None:
    ask("replay", "4.0.1", clients="9")
    assert from_records(ask("replay", "4.0.1").content).text("ticket") == "3.0.1"


def test_replays_keep_few_clients_and_no_other_kind_keeps_any() -> None:
    for node in range(3 * EARLIER_AT_MOST):
        ask("nan", f"1.0.{node}", rate=0.5, node=node + 1)
    assert not module.earlier
    for node in range(3 * EARLIER_AT_MOST):
        ask("replay", f"1.0.{node}", rate=0.5, node=node + 1)
    assert [node for _, node in module.earlier] == list(range(2 * EARLIER_AT_MOST + 1, 3 * EARLIER_AT_MOST + 1))


@pytest.mark.parametrize("kind", [k for k in FAULTS if k != "crash"])
def test_an_answer_without_arrays_is_struck_by_some_kinds_only(kind: str) -> None:
    content = ask(kind, message_type="train.distill", arrays={}, delay_seconds=0.0).content
    payload = from_records(content)
    assert bool(payload.arrays) == (kind in ("extra_key", "oversized"))
    assert payload.text("ticket") == ("3.0.1" if kind == "replay" else "4.0.1")
    assert payload.metrics == {"num-examples": 3}


def test_an_error_of_the_app_goes_through() -> None:
    message = Message(to_records(Payload(facts={"ticket": "1.0.1"})), message_type="train", dst_node_id=1)
    config = {"faults.kind": "nan", "faults.rate": 1.0}
    context = Context(7, 1, {}, RecordDict(), config)  # type: ignore[arg-type]
    reply = faulty(message, context, lambda m, c: Message(Error(code=1, reason="no battery"), reply_to=m))
    assert reply.has_error() and reply.error.reason == "no battery"


def test_without_faults_nothing_is_read_or_changed() -> None:
    message = Message(RecordDict(), message_type="train", dst_node_id=1)
    reply = Message(RecordDict(), reply_to=message)
    assert faulty(message, Context(7, 1, {}, RecordDict(), {}), lambda m, c: reply) is reply
