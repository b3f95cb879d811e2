"""A federation over slow lines: 1 Mbit/s, 100 ms there and back, 1 % of packets lost, each node in a network of its own.

    sudo python benchmarks/slow_links.py --nodes 4 --rounds 1 --runs runs/slow

Linux and root: network namespaces (`ip netns`), and between each of them and this machine a line that this process plays: two TUN
devices whose packets it passes on at the rate, after the delay, without those that are lost (drawn by a seed). So it needs no
netem in the kernel. The server is founded and its sites join by kits, as in docs/server.md and docs/site.md.

Bytes at the interface are all that nodes and server sent while a run went on, less what idle requests take at rest: headers
and acknowledgements of TCP, TLS, what was sent again after a loss, and Flower's own messages are in them. The ledger's are the
arrays with their headers. `parts.json` of each run says what the bytes were for.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from lines import HUB, Lines, namespace, network, why_not

from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import ONLINE, control
from fedwarm.federation.kits import found, make_kit, register
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.settings import load
from fedwarm.flower.processes import Daemon, environment, free_ports
from fedwarm.launch.run import Request, run_method
from fedwarm.node.kit import join
from fedwarm.node.line import PIECE_VARIABLE

REST_SECONDS = 30.0
SMALL = (
    "diffusion.lora-steps=2 diffusion.sample-steps=2 warmfed.synthetic-ratio=0.05 warmfed.min-per-class=1 "
    "warmfed.epochs-warm=1 warmfed.distill-epochs=1 warmfed.teacher-epochs=1"
)
BIG = "data.max-examples=40 local-epochs=1 client-threads=1 min-replies=1 stage-timeout=3000"
CASES = {
    "FedAvg, dense": ("fedavg", ""),
    "FedAvg, stochastic-rounding": ("fedavg", "codec='stochastic-rounding'"),
    "DP-REC": ("dp_rec", ""),
    "WarmFed, one shot (LoRA)": ("warmfed", SMALL),
    "FedAvg, ResNet-18 (45 MB)": ("fedavg", f"model.name='resnet18' {BIG}"),
    "FedAvg, one array of 5.2 MB": ("fedavg", f"model.name='mlp' mlp.width=426 {BIG}"),
}


def federation(stack: ExitStack, root: Path, nodes: int, first: dict[str, str]) -> str:
    """A federation whose sites are online, each in its namespace; `first` is set in the environment of the first."""
    said, (port,) = str(root / "server"), free_ports(1)
    found(said, HUB, port, nodes, HUB)
    up(said, Wanted(), print)
    stack.callback(down, said, print)
    for number in range(nodes):
        site = root / f"site-{number}"
        make_kit(said, site.name, root / f"{site.name}.zip")
        register(said, join(root / f"{site.name}.zip", site, None)[1], print)
        (site / "flower").mkdir()
        counted = [sys.executable, str(Path(__file__).with_name("counted_node.py")), str(root / f"{site.name}.requests")]
        words = ["ip", "netns", "exec", namespace(number), *counted, "--kit", str(site)]
        env = {
            **environment(site / "flower", root / "bytecode", [HUB]),
            "FEDWARM_ENGINE": "deployment",
            **(first if number == 0 else {}),
        }
        stack.enter_context(Daemon(words, log=root / f"{site.name}.log", folder=site, env=env))
    while True:
        with control(load(said)) as link:
            if sum(each.status == ONLINE for each in link.nodes()) == nodes:
                return said
        time.sleep(1.0)


def passed(lines: Lines, root: Path, since: float) -> Counter[str]:
    """Bytes sent by all interfaces so far by what they were for, and bytes of nodes' HTTP requests since a time, before TLS."""
    parts = Counter({f"interface: {name}": size for name, size in lines.parts().items()})
    parts["connections"] = sum(way.opened for way in lines.ways)
    for file in root.glob("*.requests"):
        for line in file.read_text().splitlines():
            at, path, asked, sent, told, got = json.loads(line)
            if at >= since:
                parts[f"requests: {path}"] += 1
                parts[f"heads: {path}"] += asked + told
                parts[f"bodies: {path}"] += sent + got
    return parts


def idle(parts: Counter[str]) -> int:
    """Requests that carry nothing: whether there is a message, and heartbeats."""
    return parts["requests: pull-messages"] + parts["requests: send-node-heartbeat"]


def row(said: str, lines: Lines, rest: float, out: Path, method: str, settings: str, rounds: int) -> list[str]:
    """One run: seconds and bytes a round, at the interface and by the ledger; what the bytes were for goes to `parts.json`."""
    now, before = time.time(), passed(lines, out.parent, math.inf)
    more = f"num-server-rounds={rounds} {settings}"
    run_method(Request(method, "deployment", out, 1, run_config=(more,), federation=said))
    parts = passed(lines, out.parent, now)
    parts.subtract(before)
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    told = sum(each["wire_bytes_up"] + each["wire_bytes_down"] for each in entries)
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    stages = sum(each["stage"]["seconds"] for each in events if "stage" in each)
    failed = sum(bool(each["failure"]) for each in entries)
    moved = total(parts) - rest * idle(parts)
    figures = {"ledger": told, "idle": round(rest * idle(parts)), **dict(sorted(parts.items()))}
    (out / "parts.json").write_text(json.dumps(figures, indent=1) + "\n")
    kilobytes = [f"{size / rounds / 1e3:,.0f}" for size in (told, moved)]
    return [f"{stages / rounds:.0f}", *kilobytes, f"{moved / max(1, told):.2f}", str(len(entries)), str(failed)]


def total(parts: Counter[str]) -> int:
    """All bytes at the interfaces."""
    return sum(size for name, size in parts.items() if name.startswith("interface: "))


def main() -> None:
    """Found it, run each case, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e6, help="bit/s each way")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds each way")
    parser.add_argument("--loss", type=float, default=0.01, help="share of packets")
    parser.add_argument("--cut", type=float, default=0.0, help="seconds that the first node's line is cut for in an upload")
    parser.add_argument("--settings", default="", help="settings of all runs")
    parser.add_argument("--flowers", action="store_true", help="the first node sends arrays in pieces as Flower comes, of 5 MiB")
    parser.add_argument("--cases", nargs="*", default=list(CASES)[:4], choices=list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs/slow"))
    said = parser.parse_args()
    if reason := why_not():
        sys.exit(f"skipped: {reason}")
    root = said.runs.absolute()
    root.mkdir(parents=True)
    with ExitStack() as stack:
        lines = network(stack, said.nodes, said.rate, said.delay, said.loss)
        server = federation(stack, root, said.nodes, {PIECE_VARIABLE: str(5 * 2**20)} if said.flowers else {})
        time.sleep(5.0)
        now, before = time.time(), passed(lines, root, math.inf)
        time.sleep(REST_SECONDS)
        quiet = passed(lines, root, now)
        quiet.subtract(before)
        rest = total(quiet) / idle(quiet)
        print(
            f"at rest: {total(quiet) / REST_SECONDS / said.nodes:.0f} bytes a second and node, {rest:.0f} a request", flush=True
        )
        if said.cut:
            threading.Thread(target=lines.cut_in_upload, args=(0, said.cut), daemon=True).start()
        print("| run | s a round | kB by the ledger | kB at the interface | ratio | messages | failed |", flush=True)
        print("|---|---|---|---|---|---|---|", flush=True)
        for number, name in enumerate(said.cases):
            method, settings = CASES[name]
            cells = row(server, lines, rest, root / f"run-{number}", method, f"{settings} {said.settings}", said.rounds)
            print("| " + " | ".join([name, *cells]) + " |", flush=True)
        print(f"lost: {sum(way.lost for way in lines.ways)} packets", flush=True)


if __name__ == "__main__":
    main()
