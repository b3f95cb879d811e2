"""The ClientApp of every method: it finds out who this node is, builds the method's trainer and hands it the message."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedwarm.catalogue import flagged, parse
from fedwarm.core.chain import add as add_event
from fedwarm.core.compute import repeatable, torch_threads
from fedwarm.core.logs import structured
from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.core.policy import Policy, policy_of
from fedwarm.core.progress import listening
from fedwarm.core.progress import log as log_progress
from fedwarm.core.refusals import RefusalError, reason_of
from fedwarm.core.stages import USUAL
from fedwarm.core.store import Store, cache_home
from fedwarm.core.version import VERSION
from fedwarm.data.checks import remarks
from fedwarm.data.node import Node
from fedwarm.data.settings import Data
from fedwarm.flower.packing import RECORDS_TOO, SIGN, packing
from fedwarm.flower.wire import from_records, size_of, to_records, unusable
from fedwarm.models import on_gpu
from fedwarm.privacy.limits import Limits
from fedwarm.rounds import cohorts
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.faulty import faulty
from fedwarm.rounds.gate import WithheldError, public
from fedwarm.rounds.home import at_home, guarded
from fedwarm.rounds.policies import accounted, enforce
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value

from . import trainer_class


class App(ClientApp):
    """Flower's app, which tells the local engine how its clients are best run."""

    def cohort(self, flat: Mapping[str, Value], clients: int) -> int:
        """How many of so many clients train together in one process; 0: none."""
        return cohorts.size(settings(tuple(flat.items())), clients)

    def workers(self, flat: Mapping[str, Value], clients: int) -> int:
        """How many processes so many clients are good for; 0: as cores and memory allow."""
        return cohorts.workers(settings(tuple(flat.items())), clients)

    def holds(self, flat: Mapping[str, Value], clients: int) -> int:
        """Bytes of what each of these processes loads beside itself."""
        return cohorts.holds(settings(tuple(flat.items())))


LOG = logging.getLogger("flwr")
app = App(mods=[packing, faulty])
SITE = ("site", "name")
CAUSE, AUDIT = "failure.txt", "audit"


@lru_cache(maxsize=4)
def settings(flat: tuple[tuple[str, Value], ...]) -> Config:
    """The run's settings, parsed once in a process."""
    return parse(dict(flat))


def handle(message: Message, context: Context) -> Message:
    """One message in, one message out; a setting or data that cannot be used are told in the error's own words."""
    payload = from_records(message.content)
    action = payload.text("action") if "action" in payload.facts else USUAL[message.metadata.message_type]
    try:
        here = str(context.node_config.get("site", context.node_config.get("partition-id", "")))
        where = structured(run=str(context.run_id), round=message.metadata.group_id, node=here)
        with where, audited(message, context, action) as told:
            told.append(answered(message, context, payload, action))
        return told[0]
    except SettingError as error:
        own = context.node_config.get("partition-id")
        who = "" if own is None or action != "describe" else f"client {own}: "
        return unusable(message, f"{who}{error}")


@contextmanager
def audited(message: Message, context: Context, action: str) -> Iterator[list[Message]]:
    """What becomes of a message, as a line in the audit log of a site that has one, and in its log; the block adds its answer."""
    place, answers, begun = str(context.node_config.get(AUDIT, "")), [], time.monotonic()  # type: str, list[Message], float
    asked = {"run": str(context.run_id), "method": str(context.run_config.get("method", "")), "action": action}
    asked["round"] = message.metadata.group_id
    try:
        yield answers
    except Exception as error:
        kind = "refused" if isinstance(error, SettingError) and reason_of(str(error)) else "failed"
        why = str(error).partition("\n")[0]
        if place:
            add_event(Path(place), {"event": kind, **asked, "why": why})
            LOG.warning("%s %s: %s", kind, action, why)
        raise
    if place:
        told: Mapping[str, Any] = answers[0].content.metric_records.get("metrics", {})
        epsilon = {"epsilon": told["epsilon"]} if "epsilon" in told else {}
        sent = size_of(answers[0].content).wire_bytes
        add_event(Path(place), {"event": "answered", **asked, "bytes-up": sent, **epsilon})
        LOG.info("answered %s in %.1f s, %s bytes up", action, time.monotonic() - begun, f"{sent:,}")


def answered(message: Message, context: Context, payload: Payload, action: str) -> Message:
    """One message in, one message out: parse, train, answer.

    Raises:
        SettingError: a setting, this node's configuration or its data cannot be used.
    """
    own = {key: context.node_config[key] for key in flagged("node") if key in context.node_config}
    policy = policy_of(context.node_config)
    if policy != Policy():
        enforce(policy, settings(tuple(context.run_config.items())), action)
    own |= policy.limits(own)
    told = settings(tuple({**context.run_config, **own}.items())).changed(own)  # whatever the run's key `set` says
    config = at_home(told, context.node_config)
    partition, partitions = place(context.node_config)
    root = Path(config.run.client_folder) if config.run.client_folder else cache_home()
    store = Store(root, payload.text("run") or f"{context.run_id:x}", partition, config.run.client_state_mb)
    node = Node(partition, partitions, store, told.of(Data).own, agreed(told, payload, action))
    trainer: BaseClient = trainer_class(config.run.method)(config, node)
    heard = listening(log_progress, f"client {partition}", only_if_nobody_listens=True)
    exact = repeatable(on_gpu(config.run.device) and config.run.deterministic)
    alone = accounted(root, config.of(Limits).most_epsilon > 0)
    with torch_threads(config.run.client_threads), exact, heard, alone, policy.in_time():  # the server may go on in this process
        reply = worked(trainer, action, payload)
    metrics, told_facts = policy.shared(reply.metrics, reply.facts)
    facts = {**told_facts, **site_of(context.node_config, action), "ticket": payload.text("ticket")}
    if action == "evaluate" and open_handed(config):
        facts["remarks"] = remarks(config.of(Data), trainer.real)
    answer = trainer.gate(action).passed(Payload(reply.kind, reply.arrays, metrics, facts))
    content = to_records(answer)
    policy.check_reply(size_of(content).wire_bytes)
    return Message(content=content, reply_to=message)


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
    """The name of this node's site, its versions and what it unpacks, where its node config has a name; told with who it is."""
    name = next((str(node[key]) for key in SITE if key in node), "")
    told: dict[str, Fact] = {"site": name, "fedwarm": VERSION, "flwr": version("flwr"), SIGN: RECORDS_TOO}
    return told if name and action == "describe" else {}


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
