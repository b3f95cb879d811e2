"""The ClientApp of every method: it finds out who this node is, builds the method's trainer and hands it the message."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedwarm.catalogue import flagged, parse
from fedwarm.core.compute import repeatable, torch_threads
from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.core.progress import listening
from fedwarm.core.progress import log as log_progress
from fedwarm.core.refusals import RefusalError, reason_of
from fedwarm.core.stages import USUAL
from fedwarm.core.store import Store, cache_home
from fedwarm.data.checks import remarks
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records, to_records, unusable
from fedwarm.models import on_gpu
from fedwarm.rounds import cohorts
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.faulty import faulty
from fedwarm.rounds.gate import WithheldError, public
from fedwarm.rounds.home import at_home, guarded
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value

from . import trainer_class


class App(ClientApp):
    """Flower's app, whose clients can train together."""

    def cohort(self, flat: Mapping[str, Value], clients: int) -> int:
        """How many of so many clients train together in one process; 0: none. An engine that can have them do so asks this."""
        return cohorts.size(settings(tuple(flat.items())), clients)


app = App(mods=[faulty])
SITE = ("site", "name")
CAUSE = "failure.txt"


@lru_cache(maxsize=4)
def settings(flat: tuple[tuple[str, Value], ...]) -> Config:
    """The run's settings, parsed once in a process."""
    return parse(dict(flat))


def handle(message: Message, context: Context) -> Message:
    """One message in, one message out; a setting or data that cannot be used are told in the error's own words."""
    payload = from_records(message.content)
    action = payload.text("action") if "action" in payload.facts else USUAL[message.metadata.message_type]
    try:
        return answered(message, context, payload, action)
    except SettingError as error:
        own = context.node_config.get("partition-id")
        who = "" if own is None or action != "describe" else f"client {own}: "
        return unusable(message, f"{who}{error}")


def answered(message: Message, context: Context, payload: Payload, action: str) -> Message:
    """One message in, one message out: parse, train, answer.

    Raises:
        SettingError: a setting, this node's configuration or its data cannot be used.
    """
    own = {key: context.node_config[key] for key in flagged("node") if key in context.node_config}
    told = settings(tuple({**context.run_config, **own}.items())).changed(own)  # whatever the run's key `set` says
    config = at_home(told, context.node_config)
    partition, partitions = place(context.node_config)
    root = Path(config.run.client_folder) if config.run.client_folder else cache_home()
    store = Store(root, payload.text("run") or f"{context.run_id:x}", partition, config.run.client_state_mb)
    node = Node(partition, partitions, store, told.of(Data).own, agreed(told, payload, action))
    trainer: BaseClient = trainer_class(config.run.method)(config, node)
    heard = listening(log_progress, f"client {partition}", only_if_nobody_listens=True)
    exact = repeatable(on_gpu(config.run.device) and config.run.deterministic)
    with torch_threads(config.run.client_threads), exact, heard:  # in this process the server may go on
        reply = worked(trainer, action, payload)
    facts = {**reply.facts, **site_of(context.node_config, action), "ticket": payload.text("ticket")}
    if action == "evaluate" and open_handed(config):
        facts["remarks"] = remarks(config.of(Data), trainer.real)
    answer = trainer.gate(action).passed(Payload(reply.kind, reply.arrays, reply.metrics, facts))
    return Message(content=to_records(answer), reply_to=message)


def worked(trainer: BaseClient, action: str, payload: Payload) -> Payload:
    """The trainer's answer; of what goes wrong in a private run, only what tells of no image leaves this client.

    Raises:
        WithheldError: the cause is in the client's own folder.
        RefusalError: so is what its account comes to, where that tells how many images it holds.
    """
    try:
        return trainer.answer(action, payload)
    except Exception as error:
        if public(error, trainer.level) and not trainer.counts_hidden:
            raise
        trainer.node.store.folder.mkdir(parents=True, exist_ok=True)
        (trainer.node.store.folder / CAUSE).write_text(traceback.format_exc(), encoding="utf-8")
        refused = reason_of(str(error)) if isinstance(error, RefusalError) else ""
    told = f"{action!r} failed; as this run is private, the cause stays with the client, in {CAUSE} of its folder"
    raise RefusalError(refused, told) if refused else WithheldError(told)


def agreed(config: Config, payload: Payload, action: str) -> tuple[str, ...]:
    """The run's classes as a message tells them: needed by who brings its own, once it has said which these are.

    Raises:
        PayloadError: the message does not tell them.
    """
    names = payload.facts.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PayloadError("'classes' must be a list of names")
    if config.of(Data).own and not config.of(Data).classes and not names and action != "describe":
        raise PayloadError("the server does not tell the run's classes, without which this node's labels have no numbers")
    return tuple(map(str, names))


def open_handed(config: Config) -> bool:
    """Whether the server may hear of a client's data what training does not need: how many rows were left out, and the like."""
    return config.of(Data).share_class_counts and not guarded(config)


def place(node: Mapping[str, Value]) -> tuple[int, int]:
    """Which partition of how many a node's configuration gives it.

    Raises:
        SettingError: it does not say, or no whole number.
    """
    found = []
    for key in ("partition-id", "num-partitions"):
        text = str(node.get(key, ""))
        if not text.isdecimal():
            said = f"{key} = {node[key]!r}, which is no whole number" if key in node else f"no {key}"
            raise SettingError(
                f"the node's configuration has {said}; start it with --node-config "
                "'partition-id=0 num-partitions=4' (its number, counted from 0, and how many there are)"
            )
        found.append(int(text))
    return found[0], found[1]


def site_of(node: Mapping[str, Value], action: str) -> dict[str, Fact]:
    """The name of this node's site, where its node config has one; a node says it with who it is."""
    name = next((str(node[key]) for key in SITE if key in node), "")
    return {"site": name} if name and action == "describe" else {}


@app.query()
def query(message: Message, context: Context) -> Message:
    """Who are you: partition, examples, classes."""
    return handle(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round of training, or another action that the message names."""
    return handle(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure on this client's own test images."""
    return handle(message, context)
