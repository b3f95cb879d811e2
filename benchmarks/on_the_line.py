"""What the bytes on a node's line were for, each way, and what is expected: its requests by what they carry, its packets by time.

A node works while a request of it carries something, and waits else: it asks every 3 s whether there is a message, and sends
heartbeats. Packets are told apart by when they went, so that no constant is taken off for waiting. Two runs that differ in their
rounds alone give a round: who a node is, the app and the opening of connections are in both.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lines import DATA

WAYS = ("down", "up")
PULL, HEARTBEAT = "pull-messages", "send-node-heartbeat"
TAIL_SECONDS = 0.3
"""What a request may leave on the line after its end: the last acknowledgement, which systems keep back for 40 to 200 ms."""
AT_A_TIME = 2  # objects of a message, as Flower comes
REQUEST_BYTES = {"down": 450, "up": 1350}
"""What a request takes: its head (130 and 840 bytes), what it says beside arrays, TLS, and acknowledgements of it alone."""
HEADER_BYTES, SEGMENT_BYTES = 52, 1448
Packet = tuple[float, str, int]
Span = tuple[float, float]


class Asked(NamedTuple):
    """A request as `counted_node.py` notes it: monotonic seconds, path, and bytes before TLS."""

    began: float
    ended: float
    path: str
    head_up: int
    body_up: int
    head_down: int
    body_down: int

    @property
    def idle(self) -> bool:
        """Whether it carried nothing: there was no message, or it is a heartbeat."""
        return self.path == HEARTBEAT or (self.path == PULL and not self.body_down)

    @property
    def objects(self) -> bool:
        """Whether it carried an object of a message."""
        return self.path.endswith("-object")

    def heads(self, way: str) -> int:
        """Bytes of its head one way."""
        return self.head_up if way == "up" else self.head_down

    def bodies(self, way: str) -> int:
        """Bytes of its body one way."""
        return self.body_up if way == "up" else self.body_down


def read(file: Path, since: float, until: float) -> list[Asked]:
    """A node's requests that began in this time, in order."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return sorted(each for line in lines if since <= (each := Asked(*json.loads(line))).began < until)


def spans(requests: Sequence[Asked], tail: float = TAIL_SECONDS) -> list[Span]:
    """When a node's line works: from a request's begin to a moment after its end, or to the next idle request."""
    idle = [each.began for each in requests if each.idle]
    found: list[Span] = []
    for each in requests:
        if each.idle:
            continue
        after = bisect_left(idle, each.ended)
        ends = min(each.ended + tail, idle[after] if after < len(idle) else math.inf)
        if found and each.began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ends))
        else:
            found.append((each.began, ends))
    return found


def within(at: float, times: Sequence[Span]) -> bool:
    """Whether a moment is in one of these times, which are in order."""
    place = bisect_right(times, (at, math.inf)) - 1
    return place >= 0 and at < times[place][1]


def account(requests: Sequence[Asked], packets: Iterable[Packet], way: str) -> Counter[str]:
    """Bytes one way on a node's line by what they were for; all but `waiting` and `requests` add up to `together`.

    Args:
        requests: of the node.
        packets: that its line took this way in the same time.
        way: of WAYS.
    """
    times, found = spans(requests), Counter[str]()
    for at, name, size in packets:
        found[name if within(at, times) else "waiting"] += size
    found["together"] = sum(size for name, size in found.items() if name != "waiting")
    work = [each for each in requests if not each.idle]
    beats = [each for each in requests if each.idle and within(each.began if way == "up" else each.ended, times)]
    found["requests"] = len(work)
    found["heads"] = sum(each.heads(way) for each in work)
    found["bodies"] = sum(each.bodies(way) for each in work)
    found["heartbeats"] = sum(each.heads(way) + each.bodies(way) for each in beats)
    found["TLS"] = found.pop(DATA, 0) - found["heads"] - found["bodies"] - found["heartbeats"]
    return found


def seconds(requests: Sequence[Asked]) -> tuple[float, float]:
    """Seconds for which a node's line worked, and how many round trips its requests take one after the other."""
    objects = sum(each.objects for each in requests)
    alone = sum(not each.idle and not each.objects for each in requests)
    return sum(end - begin for begin, end in spans(requests, 0.0)), alone + objects / AT_A_TIME


def predicted(ledger: dict[str, float], requests: float, loss: float) -> dict[str, float]:
    """Bytes each way out of the ledger's, the number of requests and the share of packets that are lost.

    A request takes REQUEST_BYTES, of which there are nine an exchange where a message is three objects each way, else six and as
    many as it has objects; a packet of 1,448 bytes 52 of headers; what is lost goes twice; and every second packet is
    acknowledged by 52 bytes the other way.
    """
    data = {way: (ledger[way] + requests * REQUEST_BYTES[way]) * (1 + HEADER_BYTES / SEGMENT_BYTES) * (1 + loss) for way in WAYS}
    back = HEADER_BYTES / (2 * SEGMENT_BYTES)
    return {way: data[way] + back * data[other] for way, other in zip(WAYS, reversed(WAYS), strict=True)}
