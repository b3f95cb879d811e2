"""Flower's SuperNode in this process, which tells of every heartbeat that is accepted, and ends when it is no longer heard.

Flower's own process stays after an answer that it did not expect (an HTTP 500, say): its loop has ended and it has signed off,
but its port goes on answering, so that no restart policy acts. The same is true of the thread that sends the heartbeats. Where
the process that starts a process for each message has ended (for want of memory, say), it takes messages on, and nobody answers
them. Where its key is refused, it ends without a word and with exit code 0. Here all four end with one line and exit code 1.

It takes what `flower-supernode` takes: `python -m fedwarm.node.supernode --superlink HOST:PORT ...`, or `fedwarm node run`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from fedwarm.flower import beginning, pushing
from fedwarm.node import leftover, pace
from fedwarm.node.heartbeat import VARIABLE, Pulse, place
from fedwarm.node.line import PIECES, kept
from fedwarm.node.messages import POLL_SECONDS, POLL_VARIABLE, with_own_commands, with_warm_messages
from fedwarm.node.pace import LOOP

COMMAND, CONNECTION = "flower-supernode", "flwr.supernode.fleet_http_connection"
UNAUTHORIZED, TOO_LARGE, FAILED = 401, 413, 1
TOGETHER_SECONDS = 1.0  # Ctrl-C in a terminal ends both
GRACE_SECONDS = 4.0  # Flower ends its process by force after 5, with an exit code that says that all is well
ENDED = "Flower's SuperNode has given the SuperLink up (its error stands above) and asks no more"
IDLE = "flower-superexec, which starts a process for each message, has ended (its log or the system's may say why)"
SILENT = "the SuperLink no longer takes this node's heartbeats"
REFUSED = (
    "the SuperLink refused this node (HTTP 401): it does not know its key, or this clock is more than 5 s ahead of its own, or "
    "5 minutes behind; `fedwarm node check` says whether it is the clock"
)
LIMITED = (
    "a proxy on the way refuses bodies of this size (HTTP 413), so that a model cannot pass; whoever runs it has to raise its "
    "limit, in nginx by `client_max_body_size 0;`"
)


class Watch:
    """What is seen of a SuperNode from inside its process.

    Args:
        pulse: makes the file that tells of heartbeats, when the node begins to call its SuperLink.
    """

    def __init__(self, pulse: Callable[[], Pulse | None]) -> None:
        self.pulse, self.why = pulse, ""

    def senders(self, base: Any) -> Any:
        """Flower's class of those that send heartbeats, which tells of each that was accepted, and of its own end."""
        watch = self

        class Sender(base):  # type: ignore[misc]
            def __init__(self, heartbeat: Callable[[], bool]) -> None:
                pulse = watch.pulse()

                def told() -> bool:
                    try:
                        accepted = heartbeat()
                    except Exception as error:
                        watch.deaf(f"{SILENT} ({str(error).partition(chr(10))[0]})")
                        raise
                    if accepted and pulse is not None:
                        pulse.beat()
                    return accepted

                super().__init__(told)

        return Sender

    def signers(self, base: Any) -> Any:
        """Flower's class of those that sign requests, which notes that a signature was refused; Flower ends the process then."""
        watch = self

        class Signer(base):  # type: ignore[misc]
            def intercept(self, *given: Any, **named: Any) -> Any:
                response = super().intercept(*given, **named)
                if response.status_code == UNAUTHORIZED:
                    watch.ends(REFUSED)
                if response.status_code == TOO_LARGE:
                    watch.deaf(LIMITED)
                return response

        return Signer

    def executors(self, start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., subprocess.Popen[bytes]]:
        """Flower's way to start the process that starts those for messages, with whose end this one ends."""

        def follow(process: subprocess.Popen[bytes]) -> None:
            process.wait()
            time.sleep(TOGETHER_SECONDS)
            self.deaf(IDLE)

        def started(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
            process = start(*given, **named)
            threading.Thread(target=follow, args=(process,), daemon=True).start()
            return process

        return started

    def deaf(self, why: str) -> None:
        """End this process from another thread than its first: it signs off, so that it can be back at once."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            return  # it is ending already, and a second signal would not let it sign off
        if self.ends(why):
            os.kill(os.getpid(), signal.SIGTERM)

    def ends(self, why: str) -> bool:
        """This process ends by itself, within a few seconds; whether that is news."""
        if self.why:
            return False
        self.why = why
        forced = threading.Timer(GRACE_SECONDS, self.end)
        forced.daemon = True
        forced.start()
        return True

    def end(self) -> None:
        """End this process with its line."""
        _say(f"{self.why}; this process ends, so that it can be started anew")
        os._exit(FAILED)


def install(watch: Watch) -> bool:
    """Put the watch into Flower's connection, and have it stay; whether this version of Flower has the places for it."""
    try:
        connection, loop = import_module(CONNECTION), import_module(LOOP)
        senders, signers = connection.HeartbeatSender, connection.NodeAuthHttpInterceptor
        clients, start = connection.FleetHttpClient, loop.subprocess.Popen
    except (ImportError, AttributeError):
        return False
    changed = {"HeartbeatSender": watch.senders(senders), "NodeAuthHttpInterceptor": watch.signers(signers)}
    vars(connection).update(changed, FleetHttpClient=kept(clients))
    vars(loop).update(subprocess=SimpleNamespace(**{**vars(subprocess), "Popen": watch.executors(start)}))
    return True


def main(arguments: Sequence[str]) -> None:
    """Run a SuperNode until it ends."""
    os.environ.update({**PIECES, POLL_VARIABLE: f"{POLL_SECONDS:g}", **os.environ, "PATH": commands()})
    from flwr.supernode.cli import flower_supernode

    sys.argv = [COMMAND, *arguments]
    if not pushing.install(pushing.SUPERNODE):
        _say("this version of Flower keeps objects in another way; what is sent twice may end a run")
    if not beginning.install(pushing.SUPERNODE):
        _say("this version of Flower gives tasks away in another way; a busy machine may answer no message")
    watch = Watch(pulse)
    if not leftover.install():
        _say("this version of Flower has another loop; a message that nobody answers may keep this node from answering others")
    pace.install()
    if not install(watch):
        _say("this version of Flower does not tell of heartbeats; `fedwarm node alive` will know of none")
    try:
        flower_supernode()
        watch.why = watch.why or ENDED  # it returns when its loop has ended, and leaves a thread that serves on
    except (OSError, RuntimeError) as error:  # that thread would keep the process alive then, too
        watch.why = watch.why or f"the node cannot start ({error}); what stands above may say why"
    finally:
        if watch.why:
            watch.end()


def commands() -> str:
    """The PATH of what this node starts by name."""
    path = with_own_commands(os.environ.get("PATH", os.defpath))
    try:
        return with_warm_messages(path, place().parent)
    except OSError as error:
        _say(f"{error.filename} cannot be written ({error.strerror}), so every message loads torch anew; set {VARIABLE}")
    return path


def pulse() -> Pulse | None:
    """Where this node's heartbeats are written; None where another node writes there, or nobody can."""
    path = place()
    try:
        return Pulse(path)
    except BlockingIOError:
        _say(f"{path} is held by another SuperNode, so `fedwarm node alive` knows of that one alone; give each a {VARIABLE}")
    except OSError as error:
        _say(f"{path} cannot be written ({error.strerror}), so `fedwarm node alive` will know of no heartbeat; set {VARIABLE}")
    return None


def _say(line: str) -> None:
    print(f"fedwarm: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
