"""A federation over slow lines: 1 Mbit/s, 100 ms there and back, 1 % of packets lost, each node in a network of its own.

    sudo python benchmarks/slow_links.py --nodes 4 --more 3 --runs runs/slow

Linux and root: network namespaces (`ip netns`), and between each of them and this machine a line that this process plays: two TUN
devices whose packets it passes on at the rate, after the delay, without those that are lost (drawn by a seed). So it needs no
netem in the kernel. The server is founded and its sites join by kits, as in docs/server.md and docs/site.md.

A round is what a run of `1 + more` rounds takes more than a run of one, so that who a node is, the app and the opening of
connections are in no round. Bytes are those that server and nodes sent while a request carried something, packets that were lost
among them: each way for itself, beside the ledger's and beside what is predicted of those (`on_the_line.py`). What went while no
request carried anything is told as waiting. `parts.json` of each run says what its bytes were for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from lines import ACKNOWLEDGED, AGAIN, HEADERS, HUB, OPENING, Lines, namespace, network, why_not
from on_the_line import WAYS, account, predicted, read, seconds

from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import ONLINE, control
from fedwarm.federation.kits import found, make_kit, register
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.settings import load
from fedwarm.flower.processes import Daemon, environment, free_ports
from fedwarm.launch.run import Request, run_method
from fedwarm.node.kit import join
from fedwarm.node.line import PIECE_VARIABLE

SMALL = (
    "diffusion.lora-steps=2 diffusion.sample-steps=2 warmfed.synthetic-ratio=0.05 warmfed.min-per-class=1 "
    "warmfed.epochs-warm=1 warmfed.distill-epochs=1 warmfed.teacher-epochs=1"
)
BIG = "data.max-examples=40 local-epochs=1 client-threads=1 min-replies=1 stage-timeout=3000"
CASES = {
    "FedAvg, dense": ("fedavg", ""),
    "FedAvg, dense, 0.34 MB": ("fedavg", f"cnn.channels=30 {BIG}"),
    "FedAvg, dense, 1.0 MB": ("fedavg", f"cnn.channels=58 {BIG}"),
    "FedAvg, dense, 5.0 MB": ("fedavg", f"cnn.channels=145 {BIG}"),
    "FedAvg, stochastic-rounding": ("fedavg", "codec='stochastic-rounding'"),
    "DP-REC": ("dp_rec", ""),
    "WarmFed, one shot (LoRA)": ("warmfed", SMALL),
    "FedAvg, ResNet-18 (45 MB)": ("fedavg", f"model.name='resnet18' {BIG}"),
    "FedAvg, one array of 5.2 MB": ("fedavg", f"model.name='mlp' mlp.width=426 {BIG}"),
}
ONE_SHOT = "WarmFed, one shot (LoRA)"
"""Knows no rounds, so its row is a whole run, and who its nodes are in it."""
COLUMNS = ("ledger", "records", "heads", "TLS", HEADERS, ACKNOWLEDGED, AGAIN, OPENING, "heartbeats", "other")
"""What a way's bytes are together; `records` are bodies of requests less the ledger's arrays."""


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


def ran(said: str, lines: Lines, out: Path, method: str, settings: str, rounds: int) -> dict[str, Counter[str]]:
    """One run: bytes each way on all lines by what they were for, and how long things took; `parts.json` has it as well."""
    before, late, lost = [len(way.sent) for way in lines.ways], (lines.passed, lines.late), dropped(lines)
    since = time.monotonic()
    more = f"num-server-rounds={rounds} {settings}"
    run_method(Request(method, "deployment", out, 1, run_config=(more,), federation=said))
    until = time.monotonic()
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    found = {name: Counter[str]() for name in (*WAYS, "run")}
    for number, played in enumerate(lines.ways):
        requests, way = read(out.parent / f"site-{number // 2}.requests", since, until), WAYS[number % 2]
        found[way].update(account(requests, played.sent[before[number] :], way))
        if way == WAYS[0]:
            busy, trips = seconds(requests)
            found["run"].update({"seconds on the line": busy, "round trips": trips, "nodes": 1})
    for way in WAYS:
        found[way]["ledger"] = sum(each[f"wire_bytes_{way}"] for each in entries)
        found[way]["records"] = found[way]["bodies"] - found[way]["ledger"]
    found["run"]["seconds"] = sum(each["stage"]["seconds"] for each in events if "stage" in each)
    found["run"]["exchanges"] = len(entries)
    found["run"]["failed"] = sum(bool(each["failure"]) for each in entries)
    found["run"]["packets"], found["run"]["late"] = lines.passed - late[0], lines.late - late[1]
    found["run"].update({f"lost: {why}": count - lost[why] for why, count in dropped(lines).items()})
    (out / "parts.json").write_text(json.dumps({**found, "load": os.getloadavg()}, indent=1) + "\n")
    return found


def dropped(lines: Lines) -> Counter[str]:
    """Packets that did not arrive so far, by why."""
    return sum((way.lost for way in lines.ways), Counter())


def a_round(short: Counter[str], long: Counter[str], rounds: int) -> dict[str, float]:
    """What a round takes, out of two runs that differ by so many."""
    return {name: (long[name] - short[name]) / rounds for name in {*short, *long}}


def way_rows(name: str, each: dict[str, dict[str, float]], run: dict[str, Counter[str]], loss: float) -> list[list[str]]:
    """A case's two rows of the table of bytes; what passed while it waited is a share of all in its longest run."""
    told = predicted({way: each[way].get("ledger", 0.0) for way in WAYS}, each["up"].get("requests", 0.0), loss)
    rows = []
    for way in WAYS:
        parts = Counter(each[way])
        kilobytes = [f"{parts[column] / 1e3:,.1f}" for column in (*COLUMNS, "together")]
        ratios = [f"{parts['together'] / parts['ledger']:.2f}" if parts["ledger"] else "", f"{told[way] / 1e3:,.1f}"]
        waits = run[way]["waiting"] / max(1, run[way]["waiting"] + run[way]["together"])
        rows.append([name, way, *kilobytes, *ratios, f"{waits:.0%}"])
    return rows


def time_row(
    name: str, each: dict[str, dict[str, float]], runs: list[dict[str, Counter[str]]], rate: float, delay: float
) -> list[str]:
    """A case's row of the table of seconds: a round, a node's on its line, and the least that its line allows."""
    run, nodes = Counter(each["run"]), runs[-1]["run"]["nodes"]
    sent = sum(parts["together"] - parts[ACKNOWLEDGED] - parts[AGAIN] for parts in (Counter(each[way]) for way in WAYS))
    floor = 8 * sent / nodes / rate + 2 * delay * run["round trips"] / nodes
    whole = sum((one["run"] for one in runs), Counter())
    why = ", ".join(f"{count} {key.removeprefix('lost: ')}" for key, count in sorted(whole.items()) if key.startswith("lost: "))
    figures = [f"{run['seconds']:.0f}", f"{run['seconds on the line'] / nodes:.1f}", f"{floor:.1f}"]
    counts = [f"{run['exchanges']:g}", f"{Counter(each['up'])['requests']:.0f}", f"{whole['failed']:g}"]
    return [name, *figures, *counts, why or "0", f"{whole['late'] / max(1, whole['packets']):.2%}", f"{os.getloadavg()[2]:.1f}"]


def line(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Found it, run each case, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument(
        "--more", type=int, default=3, help="rounds that the long run of a case has more than its short one, of 1"
    )
    parser.add_argument("--rate", type=float, default=1e6, help="bit/s each way")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds each way")
    parser.add_argument("--loss", type=float, default=0.01, help="share of packets")
    parser.add_argument("--cut", type=float, default=0.0, help="seconds that the first node's line is cut for in an upload")
    parser.add_argument("--settings", default="", help="settings of all runs")
    parser.add_argument("--flowers", action="store_true", help="the first node sends arrays in pieces as Flower comes, of 5 MiB")
    parser.add_argument("--cases", nargs="*", default=[*CASES][:7], choices=list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs/slow"))
    said = parser.parse_args()
    if reason := why_not():
        sys.exit(f"skipped: {reason}")
    root = said.runs.absolute()
    root.mkdir(parents=True)
    with ExitStack() as stack:
        lines = network(stack, said.nodes, said.rate, said.delay, said.loss)
        server = federation(stack, root, said.nodes, {PIECE_VARIABLE: str(5 * 2**20)} if said.flowers else {})
        if said.cut:
            threading.Thread(target=lines.cut_in_upload, args=(0, said.cut), daemon=True).start()
        print(line(["a round", "way", *COLUMNS, "together, kB", "to the ledger", "predicted", "waiting beside"]), flush=True)
        print(line(["---"] * (len(COLUMNS) + 6)), flush=True)
        times = []
        for number, name in enumerate(said.cases):
            method, settings = CASES[name]
            count = [1] if name == ONE_SHOT else [1, 1 + said.more]
            runs = [
                ran(server, lines, root / f"run-{number}-{rounds}", method, f"{settings} {said.settings}", rounds)
                for rounds in count
            ]
            short = runs[0] if len(runs) > 1 else {part: Counter[str]() for part in runs[0]}
            each = {part: a_round(short[part], runs[-1][part], count[-1] - len(count) + 1) for part in runs[0]}
            print("\n".join(line(row) for row in way_rows(name, each, runs[-1], said.loss)), flush=True)
            times.append(time_row(name, each, runs, said.rate, said.delay))
        print(
            line(
                [
                    "a round",
                    "s",
                    "s on a node's line",
                    "s at least",
                    "exchanges",
                    "requests",
                    "failed",
                    "lost packets",
                    "late",
                    "load",
                ]
            )
        )
        print(line(["---"] * 10))
        print("\n".join(map(line, times)), flush=True)


if __name__ == "__main__":
    main()
