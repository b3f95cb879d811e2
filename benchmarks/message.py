"""What a message costs a node: CPU time of a ClientApp's process with the tiny default model, in units of `import torch, flwr`.

    python benchmarks/message.py --repeats 7

Each case is a process of its own, all in turn, as often as is asked; the CPU time is the children's by the operating system,
less the training itself. Printed are the medians of the ratios to the first case of the same turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import fedwarm

LEAN = Path(fedwarm.__file__).parent / "run" / "federation" / "clientapp.py"
MESSAGE = """
import json, pathlib, sys, tempfile, time
{entry}
import fedwarm.clients.client_app
from fedwarm.arrays import from_module
from fedwarm.clients import base, trainer_class
from fedwarm.config import parse
from fedwarm.store import Store
from fedwarm.wire import Payload, from_records, to_records
spent = [0.0]
def timed(*values, **named):
    begun = time.process_time()
    try:
        return fit(*values, **named)
    finally:
        spent[0] += time.process_time() - begun
folder = pathlib.Path(tempfile.mkdtemp())
config = parse({{"method": {method!r}, "data.partition": {partition!r}, "client-threads": 1}})
trainer = trainer_class({method!r})(config, base.Node(0, 2, Store(folder, "a", 0, 10)))
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


def seconds(code: str) -> float:
    """CPU seconds of a process, less those that it names as training."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return whole - float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    turns = [{name: seconds(code) for name, code in CASES.items()} for _ in range(repeats)]
    print("| process | CPU time, in `import torch, flwr` | least | most |\n|---|---|---|---|")
    for name in CASES:
        ratios = [turn[name] / turn["import torch, flwr"] for turn in turns]
        print(f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
