"""Errors of nodes in plain words: as Flower writes them, and as clients say them themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from clients.client_app import app, open_handed
from fedwarm.catalogue import parse
from fedwarm.core.payload import Payload
from fedwarm.engines.local.desk import identify
from fedwarm.flower.wire import from_records, is_unusable, to_records
from fedwarm.launch.run import Request, run_method
from fedwarm.methods import Method
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.fleet import FederationError, meet
from fedwarm.rounds.reasons import LONGEST, reason
from fedwarm.rounds.remarks import remarks
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run

QUESTION = "query"


@pytest.fixture(autouse=True)
def _identity() -> None:
    identify(7, 0)


def question(node: int = 5128) -> Message:
    return Message(content=to_records(Payload()), message_type=QUESTION, dst_node_id=node)


def refused(text: str, code: int = 2) -> Message:
    return Message(Error(code=code, reason=text), reply_to=question())


INNER = "\nException ClientAppException occurred. Message: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<class 'KeyError'>:<''partition-id''>", "KeyError: 'partition-id'"),
        ("<class 'fedwarm.settings.config.SettingError'>:<'set: row 76 is none'>", "SettingError: set: row 76 is none"),
        ("<class 'ValueError'>:<'first\nlast: 'quoted''>", "ValueError: last: 'quoted'"),
        (f"<class 'flwr.clientapp.client_app.ClientAppException'>:<'{INNER}no luck'>", "no luck"),
        ("<class 'MemoryError'>:<''>", "MemoryError without a word; the node's log says where"),
        ("An exception was raised when attempting to load `ClientApp`", "its app could not be loaded; the node's log says why "
         "(is fedwarm installed there?)"),
        ("Reply message objects are unavailable. The sender", "its reply did not arrive whole: its line broke, or a proxy "
         "refuses large bodies; the node's log says which"),
        ("no client has the node id 3", "no client has the node id 3"),
        ("", "error 2 without a reason; the node's log may say more"),
        ("<class 'test.<locals>.Odd'>:<'x'>", "Odd: x"),
    ],
)  # fmt: skip
def test_flowers_form_becomes_words(text: str, words: str) -> None:
    assert reason(refused(text)) == words


def test_a_long_reason_is_cut() -> None:
    assert len(reason(refused("x" * 10_000))) == LONGEST + 2


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "the node's configuration has no partition-id; start it with --node-config 'partition-id=0 num-partitions=4'"),
        ({"partition-id": 0}, "client 0: the node's configuration has no num-partitions; start it with"),
        ({"partition-id": "first", "num-partitions": 2}, "has partition-id = 'first', which is no whole number; start it"),
        ({"partition-id": 0.5, "num-partitions": 2}, "has partition-id = 0.5, which is no whole number"),
        ({"partition-id": 2, "num-partitions": 2}, "client 2: there is no partition 2; 2 clients have the partitions 0 to 1"),
    ],
)
def test_a_node_that_is_configured_wrongly_says_so(node: dict[str, Any], message: str) -> None:
    reply = app(question(), Context(7, 5128, node, RecordDict(), {"method": "fedavg"}))
    assert reply.has_error() and is_unusable(reply) and message in reason(reply)


def test_numbers_as_texts_are_numbers() -> None:
    node: dict[str, Value] = {"partition-id": "1", "num-partitions": "2"}
    reply = app(question(), Context(7, 5128, node, RecordDict(), {"method": "fedavg", "data.partition": "iid"}))
    assert from_records(reply.content).count("partition") == 1


class OneNode:
    """A grid with one node, which answers by one of the given replies."""

    def __init__(self, reply: Message) -> None:
        self.reply = reply

    def get_node_ids(self) -> list[int]:
        return [5128]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterator[Message]:
        return iter([self.reply])


def test_the_run_ends_in_the_nodes_words() -> None:
    reply = app(question(), Context(7, 5128, {}, RecordDict(), {"method": "fedavg"}))
    with pytest.raises(SettingError, match=r"cannot take part: the node's configuration has no partition-id; start it with"):
        meet(cast(Grid, OneNode(reply)), 1.0)
    with pytest.raises(FederationError, match="cannot take part: KeyError: 'x'"):
        meet(cast(Grid, OneNode(refused("<class 'KeyError'>:<''x''>"))), 1.0)


class NoDisk(BaseClient):
    """A node that cannot use its settings."""

    def describe(self, payload: Payload) -> Payload:
        raise SettingError("there is no disk here; mount one")


class LostDisk(BaseClient):
    """Client 1 loses its disk after it has described itself."""

    def round(self, payload: Payload) -> Payload:
        if self.node.partition == 1:
            raise SettingError("the disk is gone; mount it")
        return super().round(payload)


NO_DISK = Method("NoDisk", "FedAvg on nodes without disks.", client=f"{__name__}:NoDisk")
LOST_DISK = Method("LostDisk", "FedAvg on nodes one of which loses its disk.", client=f"{__name__}:LostDisk")


def test_a_setting_that_a_node_cannot_use_is_no_failed_run(tmp_path: Path) -> None:
    """What only a node finds out ends the command as what is found before it: a SettingError, exit code 2."""
    with pytest.raises(SettingError, match=r"node \d+ cannot take part: client 0: there is no disk here; mount one$"):
        run_method(Request(f"{__name__}:NO_DISK", clients=2, workers=1, out=tmp_path / "run"))


def test_in_a_round_it_is_a_failure_in_its_own_words(tmp_path: Path) -> None:
    settings: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 20, "min-replies": 3}
    failures = run(f"{__name__}:LOST_DISK", tmp_path / "run", settings).results["rounds"][-1]["failures"]
    assert failures and all(f.endswith("the disk is gone; mount it") and "<class" not in f for f in failures)


def test_remarks_are_told_once_and_cut() -> None:
    def said(*texts: str) -> Payload:
        return Payload(facts={"remarks": list(texts)})

    replies = {2: said("a: b", "c"), 0: said("a: b"), 1: Payload(), 3: said("\x1b[31mred", "x" * 500)}
    told = remarks(replies, [])
    assert told == ["clients 0, 2: a: b", "client 2: c", f"client 3: {'x' * 200}"]
    assert remarks(replies, told) == []
    assert remarks({0: Payload(facts={"remarks": [1, 2]})}, []) == []
    assert remarks({n: said("all") for n in range(12)}, []) == ["clients 0, 1, 2, 3, 4, 5, 6, 7 and 4 more: all"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, True),
        ({"data.share-class-counts": False}, False),
        ({"privacy": "dp-sgd"}, False),
        ({"method": "dp_rec"}, False),
        ({"augment": "gen-fedsd", "gen-fedsd.histogram-epsilon": 1.0}, False),
    ],
)
def test_remarks_are_not_made_where_counts_are_private(settings: dict[str, Value], told: bool) -> None:
    assert open_handed(parse({"method": "fedavg", **settings})) is told
