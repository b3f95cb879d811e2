"""A federation over slow lines: 1 Mbit/s, 100 ms there and back, 1 % of packets lost, each node in a network of its own.

    sudo python benchmarks/slow_links.py --nodes 4 --rounds 1 --runs runs/slow

Linux and root: network namespaces (`ip netns`), and between each of them and this machine a line that this process plays: two TUN
devices whose packets it passes on at the rate, after the delay, without those that are lost (drawn by a seed). So it needs no
netem in the kernel. The server is founded and its sites join by kits, as in docs/server.md and docs/site.md.

Bytes at the interface are all that passed the lines while a run went on, less what they carry at rest: TCP's and TLS's headers,
what was sent again after a loss, and Flower's own messages are in them. The ledger's are the arrays with their headers.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import ONLINE, control
from fedwarm.federation.kits import found, make_kit, register
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.settings import load
from fedwarm.flower.processes import Daemon, environment, free_ports
from fedwarm.launch.run import Request, run_method
from fedwarm.node.kit import join

HUB, TUNSETIFF, TUN, MTU = "10.77.0.1", 0x400454CA, 0x1001, 1500
QUEUE_SECONDS, REST_SECONDS = 0.4, 30.0
CASES = {
    "FedAvg, dense": ("fedavg", ""),
    "FedAvg, stochastic-rounding": ("fedavg", "codec='stochastic-rounding'"),
    "DP-REC": ("dp_rec", ""),
    "WarmFed, one shot (LoRA)": ("warmfed", "diffusion.lora-steps=50 warmfed.synthetic-ratio=0.25 warmfed.epochs-warm=5"),
}


@dataclass
class Way:
    """One direction of a line: packets leave one after the other at the rate, wait out the delay, or are lost."""

    source: int
    target: int
    rate: float
    delay: float
    loss: float
    free_at: float = 0.0
    bytes: int = 0
    lost: int = 0

    def due(self, packet: bytes, now: float, draws: random.Random) -> float | None:
        """When a packet arrives; None if it does not."""
        begin = max(now, self.free_at)
        if begin - now > QUEUE_SECONDS or draws.random() < self.loss:
            self.lost += 1
            return None
        self.free_at = begin + 8 * len(packet) / self.rate
        self.bytes += len(packet)
        return self.free_at + self.delay


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

    def bytes(self) -> int:
        """All that was passed on, both ways."""
        return sum(way.bytes for way in self.ways)


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


def network(stack: ExitStack, nodes: int, rate: float, delay: float, loss: float) -> Lines:
    """Nodes' namespaces `fedwarm-0` and so on, each at the end of a line to HUB."""
    lines = Lines()
    ip("address", "add", f"{HUB}/32", "dev", "lo")
    stack.callback(ip, "address", "del", f"{HUB}/32", "dev", "lo")
    for number in range(nodes):
        space, here, there = f"fedwarm-{number}", f"10.77.{number + 1}.1", f"10.77.{number + 1}.2"
        ip("netns", "add", space)
        stack.callback(ip, "netns", "del", space)
        near, far = device(f"fwnear{number}"), device(f"fwfar{number}")
        stack.callback(os.close, near)
        stack.callback(os.close, far)
        ip("address", "add", here, "peer", there, "dev", f"fwnear{number}")
        ip("link", "set", f"fwnear{number}", "up")
        ip("link", "set", f"fwfar{number}", "netns", space)
        ip("-n", space, "address", "add", there, "peer", here, "dev", f"fwfar{number}")
        ip("-n", space, "link", "set", f"fwfar{number}", "up")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "route", "add", "default", "via", here)
        lines.ways += [Way(near, far, rate, delay, loss), Way(far, near, rate, delay, loss)]
    thread = threading.Thread(target=lines.play, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(lines.ended.set)
    return lines


def federation(stack: ExitStack, root: Path, nodes: int) -> str:
    """A federation whose sites are online, each in its namespace."""
    said, (port,) = str(root / "server"), free_ports(1)
    found(said, HUB, port, nodes, HUB)
    up(said, Wanted(), print)
    stack.callback(down, said, print)
    for number in range(nodes):
        site = root / f"site-{number}"
        make_kit(said, site.name, root / f"{site.name}.zip")
        register(said, join(root / f"{site.name}.zip", site, None)[1], print)
        (site / "flower").mkdir()
        fedwarm = str(Path(sys.executable).parent / "fedwarm")
        words = ["ip", "netns", "exec", f"fedwarm-{number}", fedwarm, "node", "run", "--kit", str(site)]
        env = {**environment(site / "flower", root / "bytecode", [HUB]), "FEDWARM_ENGINE": "deployment"}
        stack.enter_context(Daemon(words, log=root / f"{site.name}.log", folder=site, env=env))
    while True:
        with control(load(said)) as link:
            if sum(each.status == ONLINE for each in link.nodes()) == nodes:
                return said
        time.sleep(1.0)


def row(said: str, lines: Lines, rest: float, out: Path, method: str, settings: str, rounds: int) -> list[str]:
    """One run: seconds and bytes a round, at the interface and by the ledger."""
    begun, before = time.monotonic(), lines.bytes()
    more = f"{settings} num-server-rounds={rounds} stage-timeout=3000"
    run_method(Request(method, "deployment", out, 1, run_config=(more,), federation=said))
    seconds, passed = time.monotonic() - begun, lines.bytes() - before
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    told = sum(each["wire_bytes_up"] + each["wire_bytes_down"] for each in entries)
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    stages = sum(each["stage"]["seconds"] for each in events if "stage" in each)
    failed = sum(bool(each["failure"]) for each in entries)
    moved = passed - rest * seconds
    kilobytes = [f"{size / rounds / 1e3:,.0f}" for size in (told, moved)]
    figures = [f"{stages / rounds:.0f}", *kilobytes, f"{moved / max(1, told):.2f}"]
    return [*figures, str(len(entries)), str(failed)]


def main() -> None:
    """Found it, run each case, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e6, help="bit/s each way")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds each way")
    parser.add_argument("--loss", type=float, default=0.01, help="share of packets")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs/slow"))
    said = parser.parse_args()
    if reason := why_not():
        sys.exit(f"skipped: {reason}")
    root = said.runs.absolute()
    root.mkdir(parents=True)
    with ExitStack() as stack:
        lines = network(stack, said.nodes, said.rate, said.delay, said.loss)
        server = federation(stack, root, said.nodes)
        time.sleep(5.0)
        before = lines.bytes()
        time.sleep(REST_SECONDS)
        rest = (lines.bytes() - before) / REST_SECONDS
        print(f"at rest: {rest / said.nodes:.0f} bytes a second and node", flush=True)
        print("| run | s a round | kB by the ledger | kB at the interface | ratio | messages | failed |", flush=True)
        print("|---|---|---|---|---|---|---|", flush=True)
        for number, name in enumerate(said.cases):
            method, settings = CASES[name]
            cells = row(server, lines, rest, root / f"run-{number}", method, settings, said.rounds)
            print("| " + " | ".join([name, *cells]) + " |", flush=True)
        print(f"lost: {sum(way.lost for way in lines.ways)} packets", flush=True)


if __name__ == "__main__":
    main()
