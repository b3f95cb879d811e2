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
from contextlib import ExitStack
from dataclasses import dataclass, field

VERSION_4, TCP, SYN, ACK = 4, 6, 2, 16
NET = int(os.environ.get("SLOW_LINES_NET", "77"))
"""Addresses begin with 10.NET.; two starts at a time take different ones."""
HUB, TUNSETIFF, TUN, MTU = f"10.{NET}.0.1", 0x400454CA, 0x1001, 1500
QUEUE_SECONDS, UPLOAD_SECONDS = 0.4, 0.5
HALF = 1 << 31


@dataclass
class Way:
    """One direction of a line: packets leave one after the other at the rate, wait out the delay, or are lost.

    `parts` are bytes of the sending interface, so lost packets are among them, and sent again count twice. Until `cut_until`
    (monotonic seconds) all are lost.
    """

    source: int
    target: int
    rate: float
    delay: float
    loss: float
    free_at: float = 0.0
    lost: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    cut_until: float = 0.0
    ends: dict[bytes, int] = field(default_factory=dict)

    def due(self, packet: bytes, now: float, draws: random.Random) -> float | None:
        """When a packet arrives; None if it does not."""
        begin = max(now, self.free_at)
        self.sort(packet)
        if now < self.cut_until or begin - now > QUEUE_SECONDS or draws.random() < self.loss:
            self.lost += 1
            return None
        self.free_at = begin + 8 * len(packet) / self.rate
        return self.free_at + self.delay

    def sort(self, packet: bytes) -> None:
        """Count a packet by what it is for: headers, acknowledgements alone, data, and data that went before."""
        heads = 4 * (packet[0] & 15)
        if packet[0] >> 4 != VERSION_4 or packet[9] != TCP:
            self.parts["other"] += len(packet)
            return
        self.opened += packet[heads + 13] & (SYN | ACK) == SYN
        heads += 4 * (packet[heads + 12] >> 4)
        data = len(packet) - heads
        self.parts["headers of data" if data else "acknowledgements alone"] += heads
        line, sequence = packet[12:24], int.from_bytes(packet[24:28], "big")
        begins, ends = self.ends.get(line, sequence), sequence + data
        again = min(data, max(0, begins - sequence)) if abs(begins - sequence) < HALF else 0
        self.parts["data again"] += again
        self.parts["data"] += data - again
        self.ends[line] = ends if abs(ends - begins) > HALF else max(begins, ends)


@dataclass
class Lines:
    """All lines, played by one thread."""

    ways: list[Way] = field(default_factory=list)
    draws: random.Random = field(default_factory=lambda: random.Random(1))
    ended: threading.Event = field(default_factory=threading.Event)

    def play(self) -> None:
        """Pass packets on until it is ended."""
        by_source = {way.source: way for way in self.ways}
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self.ended.is_set():
            patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.5
            readable, _, _ = select.select([*by_source], [], [], min(patience, 0.5))
            now = time.monotonic()
            for source in readable:
                packet, way, number = os.read(source, 2 * MTU), by_source[source], number + 1
                if (due := way.due(packet, now, self.draws)) is not None:
                    heapq.heappush(waiting, (due, number, way.target, packet))
            while waiting and waiting[0][0] <= now:
                _, _, target, packet = heapq.heappop(waiting)
                try:
                    os.write(target, packet)
                except OSError:
                    continue  # the interface is not up

    def parts(self) -> Counter[str]:
        """Bytes sent so far by all interfaces, both ways, by what they were for."""
        return sum((way.parts for way in self.ways), Counter())

    def cut_in_upload(self, node: int, seconds: float) -> None:
        """Wait until a node sends much, then let its line lose everything, both ways, for so long."""
        near, far = self.ways[2 * node : 2 * node + 2]
        before = far.parts["data"]
        while not self.ended.wait(UPLOAD_SECONDS):
            if far.parts["data"] - before > UPLOAD_SECONDS * far.rate / 16:
                near.cut_until = far.cut_until = time.monotonic() + seconds
                print(f"cut: node {node}, for {seconds:g} s", flush=True)
                return
            before = far.parts["data"]


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
    ip("address", "add", f"{HUB}/32", "dev", "lo")
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
