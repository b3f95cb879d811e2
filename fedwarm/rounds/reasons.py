"""What a node's error says, in one line of plain words.

A client that cannot use a setting or its data says so itself (`fedwarm.flower.wire.unusable`). Whatever else it raises comes as
Flower writes it, `<class 'KeyError'>:<'..'>`, in a simulation once more inside of `ClientAppException`.
"""

from __future__ import annotations

import re

from flwr.app import Message

RAISED = re.compile(r"<class '(?:[\w<>]+\.)*(\w+)'>:<'(.*)'>\s*$", re.S)
WRAPPED = re.compile(r"^\s*Exception ClientAppException occurred\. Message: ", re.S)
UNLOADED, TORN = "attempting to load `ClientApp`", "Reply message objects are unavailable"
LONGEST = 600


def reason(reply: Message) -> str:
    """Why a reply holds an error, in one line."""
    text = (reply.error.reason or "").strip()
    if not text:
        return f"error {reply.error.code} without a reason; the node's log may say more"
    if UNLOADED in text:
        return "its app could not be loaded; the node's log says why (is fedwarm installed there?)"
    if text.startswith(TORN):
        return "its reply did not arrive whole: its line broke, or a proxy refuses large bodies; the node's log says which"
    raised = RAISED.search(text)
    if raised is None:
        return _line(text)
    kind, said = raised.groups()
    if (wrapped := WRAPPED.search(said)) is not None:
        kind, said = "", said[wrapped.end() :]
    said = _line(said.strip())
    if not said:
        return f"{kind or 'an error'} without a word; the node's log says where"
    return f"{kind}: {said}" if kind else said


def _line(text: str) -> str:
    """The last line, as tracebacks end in what was wrong; no longer than a reader takes in."""
    last = text.splitlines()[-1].strip() if text else ""
    return last if len(last) <= LONGEST else f"{last[:LONGEST]}.."
