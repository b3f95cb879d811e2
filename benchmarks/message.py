"""What a message costs a node: CPU time of a ClientApp's process with the tiny default model, in units of `import torch, flwr`.

    python benchmarks/message.py --repeats 7

Each case is a process of its own, all in turn, as often as is asked; the CPU time is the children's by the operating system,
less the training itself. Printed are the medians of the ratios to the first case of the same turn, with the least and the most,
and the medians of the seconds. A warm case is a stub and the process that a template forks for it: its CPU time is the stub's,
and what the template has used more of, with what it has forked, when that has ended. The template itself is loaded before, once.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fedwarm
from fedwarm.flower.family import end_family, family
from fedwarm.node.warm import stub

LEAN = Path(fedwarm.__file__).parent / "node" / "clientapp.py"
MESSAGE = """
import json, pathlib, sys, tempfile, time
{entry}
import fedwarm.clients.client_app
from fedwarm.core.arrays import from_module
from fedwarm.clients import trainer_class
from fedwarm.data.node import Node
from fedwarm.catalogue import parse
from fedwarm.core.store import Store
from fedwarm.flower.wire import Payload, from_records, to_records
spent = [0.0]
def timed(*values, **named):
    begun = time.process_time()
    try:
        return fit(*values, **named)
    finally:
        spent[0] += time.process_time() - begun
folder = pathlib.Path(tempfile.mkdtemp())
config = parse({{"method": {method!r}, "data.partition": {partition!r}, "client-threads": 1}})
trainer = trainer_class({method!r})(config, Node(0, 2, Store(folder, "a", 0, 10)))
action = {action!r}
module = next(sys.modules[each.__module__] for each in type(trainer).__mro__ if each.__name__ == "BaseClient")
fit, module.fit = module.fit, timed
weights = Payload("weights", from_module(trainer.model()), {{"round": 1}}) if action != "describe" else Payload()
to_records(trainer.answer(action, from_records(to_records(weights))))
print(json.dumps(spent[0]))
"""
FLOWER = "import torch, flwr.supernode.cli"
OURS = f"import runpy, torch; runpy.run_path({str(LEAN)!r})['lean']()"
BASE = "import torch, flwr; print(0.0)"


def message(action: str, entry: str = OURS, partition: str = "domain", method: str = "fedavg") -> str:
    """The code of a process that answers one message."""
    return MESSAGE.format(entry=entry, method=method, partition=partition, action=action)


ENTRY = """
import runpy, sys
def warm():
    runpy.run_path({lean!r})["warm"]()
    return lambda: exec(sys.argv[1], {{"__name__": "message"}})
"""
REAP_SECONDS = 1.2  # a template looks every second which of its processes have ended
CASES = {
    "import torch, flwr": BASE,
    "Flower's flwr-clientapp, nothing done": f"{FLOWER}; print(0.0)",
    "the federation's flwr-clientapp, nothing done": f"{OURS}; print(0.0)",
    "describe": message("describe"),
    "round": message("round"),
    "evaluate": message("evaluate"),
    "round, data.partition='dirichlet'": message("round", partition="dirichlet"),
    "round, by Flower's flwr-clientapp": message("round", FLOWER),
}
WARM = {
    "warm: nothing done": "print(0.0)",
    "warm: describe": message("describe", ""),
    "warm: round": message("round", ""),
    "warm: evaluate": message("evaluate", ""),
    "warm: round, data.partition='dirichlet'": message("round", "", partition="dirichlet"),
}


class Cost(NamedTuple):
    """Seconds of computing and by the clock, both less the training."""

    computing: float
    clock: float


class Template:
    """A template for the length of a `with` block, and stubs that ask it."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        entry = folder / "entry.py"
        entry.write_text(ENTRY.format(lean=str(LEAN)), encoding="utf-8")
        self.words = [sys.executable, "-I", "-S", stub.__file__, str(folder / "clients"), self.mark, str(entry)]

    def computed(self) -> float:
        """CPU seconds of the template and of what it has forked, when that has ended."""
        while len(found := family([], [self.mark])) > 1:
            time.sleep(0.1)
        time.sleep(REAP_SECONDS)
        return float(sum(found[0].cpu_times()[:4]))


@contextmanager
def template() -> Iterator[Template]:
    """A template that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        made = Template(Path(folder))
        try:
            subprocess.run([*made.words, "print(0.0)"], check=True, stdout=subprocess.DEVNULL)
            yield made
        finally:
            end_family([], [made.mark], 1.0)


def cost(words: list[str]) -> Cost:
    """What a process takes, less what it names as training."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder)
    clock, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    trained = float(json.loads(done.stdout.splitlines()[-1]))
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - trained, clock - trained)


def warm_cost(made: Template, code: str) -> Cost:
    """The same of a stub and of the process that is forked for it."""
    before = made.computed()
    told = cost([*made.words, code])
    return Cost(told.computing + made.computed() - before, told.clock)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    turns: list[dict[str, Cost]] = []
    for _ in range(repeats):
        turns.append({name: cost([sys.executable, "-c", code]) for name, code in CASES.items()})
        with template() as made:
            turns[-1] |= {name: warm_cost(made, code) for name, code in WARM.items()}
    print("| process | CPU time, in `import torch, flwr` | least | most | CPU, s | by the clock, s |\n|---|---|---|---|---|---|")
    for name in (*CASES, *WARM):
        ratios = [turn[name].computing / turn["import torch, flwr"].computing for turn in turns]
        computing, clock = (statistics.median(values) for values in zip(*(turn[name] for turn in turns), strict=True))
        spread = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
        print(f"| {name} | {spread} | {computing:.2f} | {clock:.2f} |")


if __name__ == "__main__":
    main()
