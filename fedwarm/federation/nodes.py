"""The federation's nodes: their keys are let in, they are started, and they are waited for."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.federation.control import ONLINE, Control, Seen, Unreachable
from fedwarm.federation.processes import end, living, start, tail
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK, Federation
from fedwarm.flower.certificates import public_file, public_pem
from fedwarm.settings.fields import SettingError

POLL_SECONDS, TELL_SECONDS, DEAF_SECONDS = 0.3, 10.0, 60.0
_NODE_ID = re.compile(r"SuperNode ID: (\d+)")
Tell = Callable[[str], None]


def register(federation: Federation, link: Control, tell: Tell) -> None:
    """Let the nodes' keys in that the SuperLink does not know, and those of nodes that are no more out.

    Raises:
        SettingError: it takes a key no more.
    """
    known = {each.key: each for each in link.nodes()}
    names = {node.name for node in federation.nodes}
    for path in sorted((federation.folder / "keys").glob("*.pub")):
        private = path.with_suffix("")
        pem = public_pem(private)
        if private.name in names and pem not in known:
            try:
                link.register(pem, private.name)
            except Unreachable:
                raise
            except RuntimeError as error:
                raise SettingError(
                    f"the key {path} cannot be registered ({error}); remove it and {private.name} for a new one"
                ) from None
        elif private.name not in names:
            if pem in known:
                link.unregister(known[pem].node_id)
                tell(f"{private.name}: its key is registered no more")
            _forget(private)


def _forget(private: Path) -> None:
    private.unlink(missing_ok=True)
    public_file(private).unlink(missing_ok=True)


def sightings(federation: Federation, seen: Sequence[Seen]) -> dict[str, Seen]:
    """What the SuperLink says of each node, by name: a node is known by its key, without keys by the id that its log tells."""
    if not federation.insecure:
        by_key = {each.key: each for each in seen}
        found = {node.name: by_key.get(public_pem(federation.key_file(node.name))) for node in federation.nodes}
    else:
        by_id = {each.node_id: each for each in seen}
        found = {node.name: by_id.get(_told_id(federation, node.name)) for node in federation.nodes}
    return {name: each for name, each in found.items() if each is not None}


def _told_id(federation: Federation, node: str) -> int:
    found = _NODE_ID.search("\n".join(tail(federation, node, 10**6)))
    return int(found[1]) if found else 0


class Nodes:
    """Starts nodes and waits for them.

    The SuperLink takes nobody for a node that it counts as online, which lasts up to a minute after one was killed. A node that
    runs and is not online for a minute is deaf (after an answer that it did not expect a SuperNode stays and asks no more).
    """

    def __init__(self, federation: Federation, link: Control, tell: Tell, end_at: float) -> None:
        self.federation, self.link, self.tell, self.end_at = federation, link, tell, end_at
        self.missing = [node.name for node in federation.nodes if living(federation, node.name) is None]
        self.deaf_at = time.monotonic() + DEAF_SECONDS
        self.running = [node.name for node in federation.nodes if node.name not in self.missing]
        self.online: list[str] = []
        self.told_at = time.monotonic()

    def wait(self) -> None:
        """Return when all are online."""
        for name in self.missing:
            end(self.federation, [name])  # what an earlier one left
        while True:
            seen = sightings(self.federation, self._seen())
            self._start(seen)
            self._note(seen)
            if len(self.online) == len(self.federation.nodes):
                return
            late = [node.name for node in self.federation.nodes if node.name not in self.online]
            self._restart(late)
            self._remind(late)
            started = [name for name in late if name not in self.missing]
            watch(self.federation, [SUPERLINK, SUPEREXEC, *started], self.end_at, "online")

    def _seen(self) -> list[Seen]:
        with contextlib.suppress(Unreachable):
            return self.link.nodes()
        return []

    def _start(self, seen: dict[str, Seen]) -> None:
        for name in list(self.missing):
            if name in seen and seen[name].status == ONLINE and not self.federation.insecure:
                continue
            start(self.federation, name)
            self.missing.remove(name)

    def _note(self, seen: dict[str, Seen]) -> None:
        for node in self.federation.nodes:
            there = node.name in seen and seen[node.name].status == ONLINE
            if there and node.name not in self.online and node.name not in self.missing:
                self.online.append(node.name)
                self.tell(f"{node.name}: online ({len(self.online)} of {len(self.federation.nodes)})")

    def _restart(self, late: Sequence[str]) -> None:
        if time.monotonic() < self.deaf_at:
            return
        for name in [name for name in late if name in self.running]:
            self.tell(f"{name}: runs and is not online; started anew")
            end(self.federation, [name])
            self.running.remove(name)
            self.missing.append(name)

    def _remind(self, late: Sequence[str]) -> None:
        if time.monotonic() - self.told_at < TELL_SECONDS:
            return
        self.told_at, left = time.monotonic(), self.end_at - time.monotonic()
        held = [name for name in late if name in self.missing]
        why = f"; {', '.join(held)} ended without a word and counts as online for up to a minute" if held else ""
        self.tell(f"waiting for {', '.join(late)}, {left:.0f} s more at most{why}")


def watch(federation: Federation, members: Sequence[str], end_at: float, doing: str) -> None:
    """Wait a moment; RunError where one of these members has ended, or the time is over."""
    for member in members:
        if living(federation, member) is None:
            log = federation.log(member)
            raise RunError(f"{member} ended before it was {doing}; its log is {log}", tail(federation, member))
    if time.monotonic() > end_at:
        named = ", ".join(members)
        raise RunError(f"{named}: not {doing} in time; see {federation.log(members[-1])}", tail(federation, members[-1]))
    time.sleep(POLL_SECONDS)
