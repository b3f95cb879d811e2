"""Slow lines between this machine and network namespaces, played packet by packet by this process: rate, delay, loss, outages.

Linux and root: TUN devices and `ip netns`, so no netem in the kernel. What passes is counted by what it is for.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

VERSION_4, TCP, SYN = 4, 6, 2
DATA, HEADERS, ACKNOWLEDGED, AGAIN, OPENING = "data", "headers of data", "acknowledgements alone", "sent again", "opening"
NET = int(os.environ.get("SLOW_LINES_NET", "77"))
"""Addresses begin with 10.NET.; two starts at a time take different ones."""
HUB, TUNSETIFF, TUN, MTU = f"10.{NET}.0.1", 0x400454CA, 0x1001, 1500
QUEUE_SECONDS, UPLOAD_SECONDS, LATE_SECONDS = 0.4, 0.5, 0.02
HALF = 1 << 31


@dataclass
class Way:
    """One direction of a line: packets leave one after the other at the rate, wait out the delay, or are lost.

    `sent` are bytes of the sending interface by time (monotonic seconds) and what they are for, so lost packets are among them,
    and sent again count twice. Until `cut_until` all are lost. `lost` counts packets by why: chance, a full queue, the cut.
    """

    source: int
    target: int
    rate: float
    delay: float
    loss: float
    free_at: float = 0.0
    lost: Counter[str] = field(default_factory=Counter)
    sent: list[tuple[float, str, int]] = field(default_factory=list)
    data: int = 0
    cut_until: float = 0.0
    ends: dict[bytes, int] = field(default_factory=dict)

    def due(self, packet: bytes, now: float, draws: random.Random) -> float | None:
        """When a packet arrives; None if it does not."""
        begin = max(now, self.free_at)
        self.sent += [(now, name, size) for name, size in self.sort(packet) if size]
        chance = draws.random() < self.loss
        if why := "cut" if now < self.cut_until else "queue" if begin - now > QUEUE_SECONDS else "chance" if chance else "":
            self.lost[why] += 1
            return None
        self.free_at = begin + 8 * len(packet) / self.rate
        return self.free_at + self.delay

    def sort(self, packet: bytes) -> list[tuple[str, int]]:
        """A packet's bytes by what they are for; together its length."""
        heads = 4 * (packet[0] & 15)
        if packet[0] >> 4 != VERSION_4 or packet[9] != TCP:
            return [("other", len(packet))]
        flags, line, sequence = packet[heads + 13], packet[12:24], int.from_bytes(packet[heads + 4 : heads + 8], "big")
        heads += 4 * (packet[heads + 12] >> 4)
        data = len(packet) - heads
        behind = 0 if flags & SYN else (self.ends.get(line, sequence) - sequence) % (2 * HALF)
        behind = behind if behind < HALF else 0  # else it is ahead of what went before
        again = min(data, behind)
        self.ends[line] = sequence + max(data, behind)
        self.data += data - again
        if data and again == data:
            return [(AGAIN, len(packet))]
        alone = OPENING if flags & SYN else ACKNOWLEDGED
        return [(HEADERS if data else alone, heads), (AGAIN, again), (DATA, data - again)]


@dataclass
class Lines:
    """All lines, played by one thread: two ways a node, to it and from it.

    `passed` counts packets, and `late` those that it passed on more than LATE_SECONDS after their time: it had no core.
    """

    ways: list[Way] = field(default_factory=list)
    draws: random.Random = field(default_factory=lambda: random.Random(1))
    ended: threading.Event = field(default_factory=threading.Event)
    passed: int = 0
    late: int = 0

    def play(self) -> None:
        """Pass packets on until it is ended, before all that shares the cores."""
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        by_source = {way.source: way for way in self.ways}
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self.ended.is_set():
            patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.5
            readable, _, _ = select.select([*by_source], [], [], min(patience, 0.5))
            now = time.monotonic()
            for source in readable:
                packet, way, number = os.read(source, 2 * MTU), by_source[source], number + 1
                if (when := way.due(packet, now, self.draws)) is not None:
                    heapq.heappush(waiting, (when, number, way.target, packet))
            while waiting and waiting[0][0] <= now:
                due, _, target, packet = heapq.heappop(waiting)
                self.passed, self.late = self.passed + 1, self.late + (now - due > LATE_SECONDS)
                try:
                    os.write(target, packet)
                except OSError:
                    continue  # the interface is not up

    def cut_in_upload(self, node: int, seconds: float) -> None:
        """Wait until a node sends much, then let its line lose everything, both ways, for so long."""
        near, far = self.ways[2 * node : 2 * node + 2]
        before = far.data
        while not self.ended.wait(UPLOAD_SECONDS):
            if far.data - before > UPLOAD_SECONDS * far.rate / 16:
                near.cut_until = far.cut_until = time.monotonic() + seconds
                print(f"cut: node {node}, for {seconds:g} s", flush=True)
                return
            before = far.data


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def device(name: str) -> int:
    """A TUN device of this name; it goes when its file is closed."""
    file = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH14x", name.encode(), TUN))
    return file


def why_not() -> str:
    """Why this machine cannot play lines; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    try:
        ip("netns", "add", "fedwarm-try")
        ip("netns", "del", "fedwarm-try")
    except (OSError, subprocess.CalledProcessError):
        return "needs network namespaces (`ip netns`)"
    return ""


def namespace(number: int) -> str:
    """The name of a node's network namespace."""
    return f"fedwarm-{NET}-{number}"


def network(stack: ExitStack, nodes: int, rate: float, delay: float, loss: float) -> Lines:
    """Nodes' namespaces, each at the end of a line to HUB."""
    lines = Lines()
    ip("address", "replace", f"{HUB}/32", "dev", "lo")  # one that was ended by force left it
    stack.callback(ip, "address", "del", f"{HUB}/32", "dev", "lo")
    for number in range(nodes):
        space, here, there = namespace(number), f"10.{NET}.{number + 1}.1", f"10.{NET}.{number + 1}.2"
        ip("netns", "add", space)
        stack.callback(ip, "netns", "del", space)
        near, far = device(f"fw{NET}near{number}"), device(f"fw{NET}far{number}")
        stack.callback(os.close, near)
        stack.callback(os.close, far)
        ip("address", "add", here, "peer", there, "dev", f"fw{NET}near{number}")
        ip("link", "set", f"fw{NET}near{number}", "up")
        ip("link", "set", f"fw{NET}far{number}", "netns", space)
        ip("-n", space, "address", "add", there, "peer", here, "dev", f"fw{NET}far{number}")
        ip("-n", space, "link", "set", f"fw{NET}far{number}", "up")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "route", "add", "default", "via", here)
        lines.ways += [Way(near, far, rate, delay, loss), Way(far, near, rate, delay, loss)]
    thread = threading.Thread(target=lines.play, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(lines.ended.set)
    return lines
