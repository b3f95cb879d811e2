"""Small runs for tests: any method on real digits through the local engine, with every message in view."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from safetensors.numpy import load_file

from fedwarm.core.stages import USUAL
from fedwarm.engines.local.run import Listener, run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.flower.writing import CLIENT, SERVER
from fedwarm.settings.fields import Value

SMALL_WARMFED: dict[str, Value] = {
    "data.max-examples": 16,
    "server-threads": 1,
    "diffusion.lora-steps": 2,
    "diffusion.lora-batch-size": 4,
    "diffusion.sample-steps": 1,
    "warmfed.synthetic-ratio": 0.25,
    "warmfed.min-per-class": 1,
    "warmfed.epochs-warm": 2,
    "warmfed.teacher-epochs": 2,
    "warmfed.distill-epochs": 2,
}


@dataclass
class Outcome:
    """What a run left behind."""

    folder: Path
    messages: list[Message] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found

    @property
    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "ledger.jsonl").read_text().splitlines()]

    def asked(self, action: str) -> list[Message]:
        """The messages that ask for an action."""
        return [message for message in self.messages if action_of(message) == action]

    def answered(self, action: str) -> list[Message]:
        """The replies to them."""
        tickets = {ticket_of(message) for message in self.asked(action)}
        return [reply for reply in self.replies if reply.has_content() and ticket_of(reply) in tickets]

    @property
    def model(self) -> dict[str, np.ndarray[Any, Any]]:
        return load_file(self.folder / "model.safetensors")


# Of dp_rec: what all methods have by default, in place of its own defaults.
LOCAL: dict[str, Value] = {
    "dp-rec.view": "local",
    "dp-rec.clip": 1.0,
    "dp-rec.noise-multiplier": 2.0,
    "learning-rate": 0.01,
    "model.name": "cnn",
}


def action_of(message: Message) -> str:
    """What a message asks for."""
    return str(message.content.config_records["facts"].get("action", "") or USUAL[message.metadata.message_type])


def ticket_of(message: Message) -> str:
    """Which message of its run it is, or answers; empty of a question who is there."""
    return str(message.content.config_records["facts"].get("ticket", ""))


def run(
    method: str,
    folder: Path,
    settings: dict[str, Value] | None = None,
    *,
    clients: int = 4,
    workers: int = 1,
    node: dict[str, Value] | None = None,
    server: str = SERVER,
    listen: Listener | None = None,
) -> Outcome:
    """Run a method, on nodes of a config of their own; the outcome holds its folder and its messages.

    Where the settings say nothing else, the server computes on one thread: tests share the cores among themselves.
    `server` is another ServerApp than the project's, e.g. of `grids.served`; `listen` hears each message and may end the run.
    """
    outcome = Outcome(folder)
    flat: dict[str, Value] = {
        "server-threads": 1,
        "method": method,
        "out": str(folder),
        "client-folder": str(folder / "clients"),
        **(settings or {}),
    }
    app = FlowerApp(server, CLIENT, flat, None)

    def heard(message: Message) -> None:
        if listen is not None:
            listen(message)
        (outcome.replies if message.metadata.reply_to_message_id else outcome.messages).append(message)

    run_local(app, {}, clients=clients, workers=workers, node_config=node, listen=heard)
    return outcome


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal names, and equal arrays bit for bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
