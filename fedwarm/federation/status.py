"""How a federation is: its processes, its nodes as the SuperLink sees them, the run that goes on and how far it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fedwarm.core.failures import RunError
from fedwarm.core.version import VERSION
from fedwarm.federation.processes import home, living, tail
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK, Federation
from fedwarm.flower.certificates import BEFORE, ends
from fedwarm.node.heartbeat import look, place

if TYPE_CHECKING:
    from fedwarm.federation.control import Listed, Seen

SOON = timedelta(days=60)
ENDED, ONLINE, UP = "ended", "online", "up"


@dataclass(frozen=True)
class Member:
    """One process of a federation; a server has no partition (-1), who was never online no last sign of life."""

    name: str
    partition: int
    state: str
    last_seen: float | None
    pid: int
    version: str

    @property
    def well(self) -> bool:
        return self.state in (ONLINE, UP)

    def row(self) -> tuple[str, ...]:
        """As the columns of a table."""
        seen = "" if self.last_seen is None else f"{max(0.0, self.last_seen):.0f} s ago"
        partition = "" if self.partition < 0 else str(self.partition)
        version = self.version + ("" if self.version in ("", VERSION) else f" (installed: {VERSION})")
        return self.name, partition, self.state, seen, str(self.pid or ""), version


@dataclass(frozen=True)
class Status:
    """All that can be said of a federation at a moment; `runs` are those that go on, or the last one."""

    members: tuple[Member, ...]
    runs: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def well(self) -> bool:
        return all(member.well for member in self.members)


def status(federation: Federation) -> Status:
    """Ask the processes and the SuperLink."""
    seen: dict[str, Seen] = {}
    link_nodes: list[Seen] = []
    runs: list[Listed] = []
    answers, refusal = False, list[str]()
    if federation.remote or living(federation, SUPERLINK) is not None:
        from fedwarm.federation.control import Unreachable, control
        from fedwarm.federation.nodes import sightings

        try:
            with control(federation) as link:
                link_nodes, runs, answers = link.nodes(), link.runs(), True
            seen = {} if federation.remote or federation.outside else sightings(federation, link_nodes)
        except Unreachable:
            pass
        except RunError as error:
            refusal = [str(error)]
    going = [run for run in runs if not run.finished] or runs[-1:]
    if federation.remote:
        return Status(_elsewhere(federation, link_nodes, answers), tuple(map(describe, going)), tuple(refusal))
    partitions = {node.name: node.partition for node in federation.nodes}
    members = tuple(_member(federation, name, partitions.get(name, -1), seen.get(name), answers) for name in federation.members)
    if federation.outside:
        members += _sites(federation, link_nodes)
    notes = [f"{each.name} ended; its log ends: {_last_line(federation, each.name)}" for each in members if each.state == ENDED]
    notes += [*refusal, *_certificate(federation), *_authority(federation)]
    return Status(members, tuple(map(describe, going)), tuple(notes))


def _elsewhere(federation: Federation, seen: list[Seen], answers: bool) -> tuple[Member, ...]:
    """What can be said of processes that run elsewhere: whether the SuperLink answers, and whom it sees."""
    link = Member(SUPERLINK, -1, UP if answers else f"does not answer at {federation.address}", None, 0, "")
    nodes = [Member(each.name or str(each.node_id), -1, each.status, each.last_seen, 0, "") for each in seen]
    return (link, *sorted(nodes, key=lambda node: node.name))


def _sites(federation: Federation, seen: list[Seen]) -> tuple[Member, ...]:
    """All sites that have a kit, as the SuperLink sees them."""
    known = {each.name: each for each in seen}
    return tuple(
        Member(site, number, known[site].status, known[site].last_seen, 0, "")
        if site in known
        else Member(site, number, "no key is registered", None, 0, "")
        for number, site in enumerate(federation.sites)
    )


def _certificate(federation: Federation) -> list[str]:
    """A line where the SuperLink's certificate ends soon, and sites would be shut out."""
    file = federation.folder / "certificates" / "server.crt"
    if not federation.outside or not file.is_file():
        return []
    end = ends(file)
    left = end - datetime.now(UTC)
    when = f"ends in {left.days} days" if left > timedelta() else f"ended on {end:%Y-%m-%d}, and sites are shut out"
    return [f"the certificate {when}; `fedwarm federation renew{federation.flag}` issues it anew"] if left < SOON else []


def _authority(federation: Federation) -> list[str]:
    """A line where the CA was issued anew, as long as sites may hold the one before it."""
    file = federation.folder / "certificates" / BEFORE
    if not federation.outside or not file.is_file() or (end := ends(file)) < datetime.now(UTC) - SOON:
        return []
    tense = "end" if end > datetime.now(UTC) else "ended"
    again = f"make each site a new one by `fedwarm federation kit SITE{federation.flag}`, to join over its folder"
    return [f"the CA was issued anew, and what kits from before hold {tense} on {end:%Y-%m-%d}; {again}"]


def _member(federation: Federation, name: str, partition: int, seen: Seen | None, answers: bool) -> Member:
    process, known = living(federation, name), federation.processes.get(name)
    if process is None:
        state = ENDED
    elif name == SUPEREXEC:
        state = UP
    elif name == SUPERLINK:
        state = UP if answers else "runs, but does not answer"
    elif not answers:
        state = "runs"
    else:
        state = ONLINE if seen is not None and seen.status == ONLINE else "runs, but is not online"
    version = known.version if known is not None and process is not None else ""
    return Member(name, partition, state, _last_seen(federation, name, seen), process.pid if process else 0, version)


def _last_seen(federation: Federation, name: str, seen: Seen | None) -> float | None:
    """What the SuperLink says; where it says nothing, what the node's own process tells of it."""
    return look(place(home(federation, name))).seconds if seen is None else seen.last_seen


def describe(run: Listed) -> str:
    """One line about a run: what it is, how it is, and how far its folder says it is."""
    method, out = str(run.config.get("method", "")), str(run.config.get("out", ""))
    parts = [f"run {run.run_id}", method, run.status, stage_of(Path(out)) if out else "", out]
    return ", ".join(part for part in parts if part)


def stage_of(folder: Path) -> str:
    """The last stage that a run's journal tells of; empty where there is none yet, or its folder is on another machine."""
    try:
        lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        stages = [event["stage"] for line in lines if "stage" in (event := json.loads(line))]
    except (OSError, ValueError):
        return ""
    return f"after round {stages[-1]['round']}, {stages[-1]['name']}" if stages else ""


def _last_line(federation: Federation, member: str) -> str:
    """The last line of a log; what fedwarm says of an end comes before the last words of others."""
    lines = [line.strip() for line in reversed(tail(federation, member)) if line.strip()]
    return next((line for line in lines if line.startswith("fedwarm: ")), lines[0] if lines else "(nothing)")
