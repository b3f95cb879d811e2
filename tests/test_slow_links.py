"""The player of slow lines on packets written by hand, and what it and a node's requests say that bytes were for."""

from __future__ import annotations

import importlib
import json
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.benches import loaded

SYN, ACK, TOP = 2, 16, 2**32


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(monkeypatch, "lines")


@pytest.fixture
def account(lines: Any) -> Any:
    return importlib.import_module("on_the_line")


def packet(sequence: int, data: int, flags: int = ACK, port: int = 1, options: int = 12) -> bytes:
    """A packet of IP version 4 and TCP."""
    address = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
    head = struct.pack(">HHIIBBHHH", port, 443, sequence % TOP, 0, (20 + options) << 2, flags, 0, 0, 0)
    return address + head + bytes(options + data)


def way(lines: Any, **told: float) -> Any:
    return lines.Way(0, 1, **{"rate": 8000.0, "delay": 0.05, "loss": 0.0, **told})


def test_packets_leave_one_after_the_other_at_the_rate_and_wait_out_the_delay(lines: Any) -> None:
    one, draws = way(lines), random.Random(0)
    whole = packet(0, 48)  # 100 bytes: 0.1 s
    due = [one.due(whole, at, draws) for at in (10.0, 10.0, 10.05, 10.5)]
    assert due == pytest.approx([10.15, 10.25, 10.35, 10.65])
    assert not one.lost and sum(size for _, _, size in one.sent) == 400


def test_packets_are_lost_by_chance_by_a_full_queue_and_by_a_cut_and_told_apart(lines: Any) -> None:
    one, draws = way(lines), random.Random(0)
    due = [one.due(packet(0, 48), 0.0, draws) for _ in range(7)]  # the sixth would wait for 0.5 s, and 0.4 is the most
    assert due[:5] == pytest.approx([0.15, 0.25, 0.35, 0.45, 0.55]) and due[5:] == [None, None]
    one.cut_until = 9.0
    assert one.due(packet(0, 48), 8.9, draws) is None and one.due(packet(0, 48), 9.0, draws) == pytest.approx(9.15)
    assert one.lost == {"queue": 2, "cut": 1} and sum(size for _, _, size in one.sent) == 900
    rare = way(lines, loss=0.25, rate=1e9)
    arrived = sum(rare.due(packet(0, 48), float(at), draws) is not None for at in range(4000))
    assert rare.lost["chance"] == 4000 - arrived == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("first", [5, TOP - 150])  # numbers begin anew after 2**32
def test_a_packet_s_bytes_are_told_apart(lines: Any, first: int) -> None:
    one, found = way(lines), Counter[str]()
    went = [(first, 0, SYN), (first + 1, 0, ACK), (first + 1, 100, ACK), (first + 101, 100, ACK), (first + 101, 100, ACK)]
    went += [(first + 151, 100, ACK), (first + 251, 0, ACK)]
    for sequence, data, flags in went:
        parts = one.sort(packet(sequence, data, flags))
        assert sum(size for _, size in parts) == 52 + data
        found.update(dict(parts))
    assert found == {
        lines.OPENING: 52, lines.ACKNOWLEDGED: 104, lines.HEADERS: 3 * 52, lines.DATA: 250, lines.AGAIN: 152 + 50,
    }  # fmt: skip
    assert one.data == 250 and one.sort(bytes([0x60, *range(59)])) == [("other", 60)]
    assert dict(one.sort(packet(first + 1, 10, port=2)))[lines.DATA] == 10  # another connection knows nothing of this one
    one.sort(packet(first - 90, 0, SYN))
    assert dict(one.sort(packet(first - 89, 10)))[lines.DATA] == 10  # the same ports, opened anew


REQUESTS = [
    (1.0, 1.1, "pull-messages", 900, 20, 150, 0),
    (4.1, 4.2, "pull-messages", 900, 20, 150, 400),
    (4.2, 5.0, "pull-object", 900, 80, 150, 9000),
    (4.6, 4.7, "send-node-heartbeat", 900, 30, 150, 2),
    (9.0, 9.8, "push-object", 900, 5000, 150, 2),
    (9.9, 10.0, "pull-messages", 900, 20, 150, 0),
]


def test_a_line_works_while_a_request_carries_something(account: Any, tmp_path: Path) -> None:
    file = tmp_path / "site.requests"
    file.write_text("".join(json.dumps(each) + "\n" for each in [*REQUESTS, (20.0, 21.0, *REQUESTS[-1][2:])]))
    requests = account.read(file, 0.0, 15.0)
    assert requests == REQUESTS and [each.idle for each in requests] == [True, False, False, True, False, True]
    assert account.spans(requests) == [(4.1, pytest.approx(5.3)), (9.0, 9.9)]  # a tail, which ends where idle requests begin
    assert account.seconds(requests) == (pytest.approx(1.7), 1 + 2 / 2)


def test_all_bytes_of_a_line_are_told(account: Any, lines: Any) -> None:
    requests = [account.Asked(*each) for each in REQUESTS]
    packets = [(1.0, lines.DATA, 170), (4.3, lines.DATA, 10_000), (4.3, lines.HEADERS, 364), (5.2, lines.ACKNOWLEDGED, 52),
               (5.4, lines.ACKNOWLEDGED, 52), (9.95, lines.AGAIN, 170)]  # fmt: skip
    found = account.account(requests, packets, "down")
    assert found["together"] == 10_000 + 364 + 52 and found["waiting"] == 170 + 52 + 170
    assert found["heads"] == 3 * 150 and found["bodies"] == 400 + 9000 + 2 and found["heartbeats"] == 152
    told = ("bodies", "heads", "TLS", "heartbeats", lines.HEADERS, lines.ACKNOWLEDGED, lines.AGAIN)
    assert sum(found[name] for name in told) == found["together"] and found["requests"] == 3


def test_what_is_predicted_of_a_message_alone_is_its_packets_and_their_acknowledgements(account: Any) -> None:
    told = account.predicted({"down": 1448e3, "up": 0.0}, 0, 0.01)
    assert told == {"down": pytest.approx(1.5e6 * 1.01), "up": pytest.approx(1.5e6 * 1.01 * 26 / 1448)}
