"""The ClientApp of every method: it finds out who this node is, builds the method's trainer and hands it the message."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedwarm.config import Config, Value, parse
from fedwarm.progress import listening
from fedwarm.progress import logger as log_progress
from fedwarm.store import Store, cache_home
from fedwarm.threads import torch_threads
from fedwarm.wire import Payload, from_records, to_records

from . import trainer_class
from .base import Action, Node
from .faulty import faulty

app = ClientApp(mods=[faulty])
OWN = ("device", "client-folder", "hollowed.memory-budget-mb")


@lru_cache(maxsize=4)
def settings(flat: tuple[tuple[str, Value], ...]) -> Config:
    """The run's settings, parsed once in a process."""
    return parse(dict(flat))


def handle(message: Message, context: Context, action: Action) -> Message:
    """One message in, one message out: parse, train, answer."""
    own = {key: context.node_config[key] for key in OWN if key in context.node_config}  # what a device may have of its own
    config = settings(tuple({**context.run_config, **own}.items()))
    partition = int(context.node_config["partition-id"])
    root = Path(config.run.client_folder) if config.run.client_folder else cache_home()
    payload = from_records(message.content)
    store = Store(root, payload.text("run") or f"{context.run_id:x}", partition, config.run.client_state_mb)
    trainer = trainer_class(config.run.method)(config, Node(partition, int(context.node_config["num-partitions"]), store))
    told = listening(log_progress, f"client {partition}", only_if_nobody_listens=True)
    with torch_threads(config.run.client_threads), told:  # in this process the server may go on
        reply = trainer.answer(action, payload)
    answer = Payload(reply.kind, reply.arrays, reply.metrics, {**reply.facts, "ticket": payload.text("ticket")})
    return Message(content=to_records(answer), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Who are you: partition, examples, classes."""
    return handle(message, context, "describe")


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round of training."""
    return handle(message, context, "round")


@app.train("gaps")
def gaps(message: Message, context: Context) -> Message:
    """How many images of each class are here."""
    return handle(message, context, "gaps")


@app.train("augment")
def augment(message: Message, context: Context) -> Message:
    """Fill the class gaps with synthetic images."""
    return handle(message, context, "augment")


@app.train("adapt")
def adapt(message: Message, context: Context) -> Message:
    """Tune a generator's adapter."""
    return handle(message, context, "adapt")


@app.train("distill")
def distill(message: Message, context: Context) -> Message:
    """Make the personal model."""
    return handle(message, context, "distill")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure on this client's own test images."""
    return handle(message, context, "evaluate")
