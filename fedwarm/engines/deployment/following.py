"""A run as it goes on elsewhere: its log, the logs of the nodes, its status.

The ServerApp runs under the federation's SuperExec, not in this process. What it says comes by the run's log, what the clients
say by the logs of nodes on this machine; lines about progress are shown as the local engine shows them. How the run stands is
asked of the SuperLink once a second, so that neither a broken stream nor a SuperLink that is away for a while passes for its end.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from fedwarm.core import terminal
from fedwarm.core.chain import FILE
from fedwarm.core.failures import RunError
from fedwarm.core.files import DiskError
from fedwarm.core.logs import restyled
from fedwarm.core.progress import current, heard
from fedwarm.core.refusals import reason_of
from fedwarm.federation.control import ONLINE, Control, Listed, Unreachable, control
from fedwarm.federation.noting import note
from fedwarm.federation.processes import living
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK, Federation, load
from fedwarm.flower.outcome import KEPT_LINES
from fedwarm.flower.processes import plain
from fedwarm.record.signs import write_signs

POLL_SECONDS, ASK_SECONDS = 0.2, 1.0
AWAY_SECONDS, TELL_AWAY_SECONDS = 600.0, 30.0
DRAIN_SECONDS, SIGNS_SECONDS = 10.0, 20.0
RUNNING = "running"
LOUD = ("WARNING", "ERROR", "CRITICAL")


class Following:
    """A run as it goes on: its log, the logs of the nodes, and its status.

    Args:
        federation, link: the run's, and the control of its SuperLink.
        run_id: the run.
        folder: of the run, where it is known.
    """

    def __init__(self, federation: Federation, link: Control, run_id: int, folder: Path | None = None) -> None:
        self.federation, self.link, self.run_id = federation, link, run_id
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._came: SimpleQueue[str] = SimpleQueue()
        self._ended = threading.Event()
        self._nodes = [Tail(federation.log(node.name)) for node in federation.nodes]
        self._away: float | None = None
        self.folder = folder
        self._noted = -SIGNS_SECONDS
        self._audit = None if folder is None else Tail(folder / FILE)
        self._known: set[tuple[str, str]] = set()  # sites that joined, and that refused for a reason
        self._told = 0.0

    def to_the_end(self) -> Listed:
        """Follow the run until it has ended; how it did.

        Raises:
            RunError: the SuperLink stayed away.
        """
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            while (ended := self._ask()) is None:
                until = time.monotonic() + ASK_SECONDS
                while time.monotonic() < until:
                    self._show()
                    time.sleep(POLL_SECONDS)
        finally:
            self._ended.set()
        reader.join(DRAIN_SECONDS)
        self._show()
        return ended

    def _ask(self) -> Listed | None:
        try:
            run = self.link.run(self.run_id)
        except Unreachable:
            self._wait_for_superlink()
            return None
        if self._away is not None:
            say("the SuperLink answers again")
            self._away = None
        if not run.finished and run.status != RUNNING:
            self._see_it_begin()
        self._look(ended=run.finished)
        return run if run.finished else None

    def _see_it_begin(self) -> None:
        """Say where nobody is left to begin the run: it is only begun by SuperExec, and has not failed without it."""
        now = time.monotonic()
        if now - self._told > TELL_AWAY_SECONDS and not self.federation.remote and self._has_ended(SUPEREXEC):
            self._told = now
            say(f"SuperExec has ended; `fedwarm federation up{self.federation.flag}` starts it again, and the run begins then")

    def _has_ended(self, member: str) -> bool:
        return living(load(str(self.federation.folder)), member) is None

    def _look(self, ended: bool) -> None:
        """Write down who was seen when, for the page of the run; and who joined or refused it, for the federation's audit log."""
        if time.monotonic() - self._noted < SIGNS_SECONDS and not ended:
            return
        self._noted = time.monotonic()
        with suppress(RuntimeError):
            seen = [(each.name or str(each.node_id), each.status, each.last_seen) for each in self.link.nodes()]
            if self.folder is not None:
                write_signs(self.folder, seen)
            for site in sorted(name for name, state, _ in seen if state == ONLINE):
                self._note("joined", site)
        for line in () if self._audit is None else self._audit.more():
            with suppress(ValueError, KeyError, TypeError):
                told = json.loads(line)
                if told["event"] == "refused":
                    self._note("refused", told["site"].rpartition(" (")[0] or told["site"], told["why"])

    def _note(self, event: str, site: str, why: str = "") -> None:
        """Add to the federation's audit log what is new of a site in this run."""
        if (news := (site, reason_of(why))) not in self._known:
            self._known.add(news)
            try:
                note(self.federation, event, run=str(self.run_id), site=site, **({"why": why} if why else {}))
            except DiskError as error:
                say(f"{error}; the audit log lacks that {site} {event}")

    def _wait_for_superlink(self) -> None:
        now = time.monotonic()
        self._away = now if self._away is None else self._away
        if now - self._away > AWAY_SECONDS:
            raise RunError(f"the SuperLink did not answer for {AWAY_SECONDS:.0f} s; the run may continue without it", self.lines)
        if now - self._told > TELL_AWAY_SECONDS:
            self._told = now
            ended = not self.federation.remote and self._has_ended(SUPERLINK)
            what = f"has ended; `fedwarm federation up{self.federation.flag}` starts it again" if ended else "does not answer"
            say(f"the SuperLink {what}; the run goes on if it is back within a minute, and is followed until then")

    def _read(self) -> None:
        """Pass on the run's log; a stream that breaks is opened again where it was."""
        after, last = 0.0, False
        while not last:
            last = self._ended.is_set()
            with suppress(RuntimeError), control(self.federation) as link:
                for text, at in link.logs(self.run_id, after):
                    after = at
                    for line in text.splitlines():
                        self._came.put(plain(line).rstrip())
            self._ended.wait(POLL_SECONDS)

    def _show(self) -> None:
        with suppress(Empty):
            while True:
                line = self._came.get_nowait()
                self.lines.append(line)
                if not _shown(line) and any(word in line for word in LOUD):
                    terminal.say(restyled(line))
        for node in self._nodes:
            for line in node.more():
                _shown(line)


class Tail:
    """A file's lines that come after this moment; a file that begins anew is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0
        self.rest = b""

    def more(self) -> Iterator[str]:
        """Whole lines since the last time."""
        with suppress(OSError):
            if self.path.stat().st_size < self.position:
                self.position, self.rest = 0, b""
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                new = stream.read()
            self.position += len(new)
            *lines, self.rest = (self.rest + new).split(b"\n")
            yield from (plain(line.decode("utf-8", "replace")) for line in lines)


def _shown(line: str) -> bool:
    """Show a line if it tells of progress; whether it did."""
    event, listener = heard(line), current()
    if event is not None and listener is not None:
        listener(event)
    return event is not None


def say(line: str) -> None:
    terminal.say(f"fedwarm: {line}")
