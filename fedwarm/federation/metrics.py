"""A federation and its newest runs as Prometheus tells them (https://prometheus.io/docs/concepts/metric_types/).

What is told is read at each question: who is online from the SuperLink, and runs from their folders (ledger and journal). Labels
are names of runs, sites, stages and kinds of failures; nothing of a site's data is in them that its server does not have.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedwarm.core.refusals import reason_of
from fedwarm.record.folder import JOURNAL, LEDGER
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

    from fedwarm.federation.control import Seen

NEWEST = 10
KINDS = {"no reply within": "late", "it is not here": "absent", "Node Unavailable": "lost", "its node was away": "lost",
         "ClientApp": "crashed"}  # fmt: skip
OTHER = "other"


class Watched:
    """What a scrape collects.

    Args:
        nodes: asks the SuperLink; None where it does not answer.
        runs: the folders of runs, the newest first.
    """

    def __init__(self, nodes: Callable[[], list[Seen] | None], runs: Callable[[], Sequence[Path]]) -> None:
        self.nodes, self.runs = nodes, runs

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        yield from self._of_nodes()
        yield from self._of_runs()

    def _of_nodes(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        seen = self.nodes()
        yield GaugeMetricFamily("fedwarm_superlink_up", "1: the SuperLink answers", float(seen is not None))
        online = GaugeMetricFamily("fedwarm_node_online", "1: the node is online", labels=["site"])
        sign = GaugeMetricFamily("fedwarm_node_last_seen_seconds", "seconds since the last sign of life", labels=["site"])
        for node in seen or []:
            online.add_metric([node.name or str(node.node_id)], float(node.status == "online"))
            if node.last_seen is not None:
                sign.add_metric([node.name or str(node.node_id)], max(0.0, node.last_seen))
        yield from (online, sign)

    def _of_runs(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        rounds = CounterMetricFamily("fedwarm_rounds", "rounds that are done", labels=["run"])
        replies = CounterMetricFamily("fedwarm_replies", "replies that counted", labels=["run", "site"])
        failures = CounterMetricFamily("fedwarm_failures", "replies left out, by kind", labels=["run", "site", "kind"])
        sent = CounterMetricFamily("fedwarm_bytes", "bytes of arrays, up to the server or down", labels=["run", "site", "way"])
        stages = CounterMetricFamily("fedwarm_stage_seconds", "seconds of all stages of a name", labels=["run", "stage"])
        epsilon = GaugeMetricFamily("fedwarm_epsilon", "largest epsilon that a site told", labels=["run", "site"])
        for folder in self.runs():
            name, entries, done = folder.name, entries_of(folder), stages_of(folder)
            rounds.add_metric([name], float(len({number for number, _, _ in done})))
            for stage, seconds in _sums((stage, seconds) for _, stage, seconds in done).items():
                stages.add_metric([name, stage], seconds)
            for site, number in Counter(each.who for each in entries if not each.failure).items():
                replies.add_metric([name, site], number)
            for (site, kind), number in Counter((each.who, kind_of(each.failure)) for each in entries if each.failure).items():
                failures.add_metric([name, site, kind], number)
            for way, field in (("up", "wire_bytes_up"), ("down", "wire_bytes_down")):
                for site, size in _sums((each.who, float(getattr(each, field))) for each in entries).items():
                    sent.add_metric([name, site, way], size)
            for site in {each.who for each in entries if each.epsilon}:
                epsilon.add_metric([name, site], max(each.epsilon for each in entries if each.who == site))
        yield from (rounds, replies, failures, sent, stages, epsilon)


def _sums(pairs: Iterator[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in pairs:
        found[name] = found.get(name, 0.0) + value
    return found


def kind_of(failure: str) -> str:
    """A failure's kind: the reason of a refusal, `late`, `absent`, `lost`, `crashed`, or `other`."""
    return reason_of(failure) or next((kind for said, kind in KINDS.items() if said in failure), OTHER)


def entries_of(folder: Path) -> list[Entry]:
    """A run's exchanges; of a file that is being written to, the whole lines."""
    try:
        return Ledger.read(_whole(folder / LEDGER)).entries
    except ValueError:
        return []


def stages_of(folder: Path) -> list[tuple[int, str, float]]:
    """Round, name and seconds of each stage that a run has done."""
    try:
        events = [json.loads(line) for line in _whole(folder / JOURNAL).splitlines()]
        return [(each["stage"]["round"], each["stage"]["name"], each["stage"]["seconds"]) for each in events if "stage" in each]
    except (ValueError, KeyError, TypeError):
        return []


def _whole(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError:
        return ""
    return raw[: raw.rfind(b"\n") + 1].decode("utf-8", "replace")


def newest_runs(root: Path) -> list[Path]:
    """The newest runs below a folder; the folder itself where it is one."""
    if (root / LEDGER).is_file():
        return [root]
    found = [path.parent for path in root.glob(f"*/{LEDGER}")] if root.is_dir() else []
    return sorted(found, key=lambda run: (run / LEDGER).stat().st_mtime, reverse=True)[:NEWEST]


def registry_of(said: str, root: Path) -> CollectorRegistry:
    """What a Prometheus server scrapes of a federation and the runs below a folder.

    Raises:
        SettingError: there is no such federation, or prometheus-client is not installed.
    """
    try:
        from prometheus_client.registry import CollectorRegistry
    except ImportError:
        raise SettingError("metrics need the package prometheus-client; install it by `pip install 'fedwarm[metrics]'`") from None
    from fedwarm.federation.control import Unreachable, control
    from fedwarm.federation.settings import load

    load(said)

    def nodes() -> list[Seen] | None:
        try:
            with control(load(said)) as link:
                return link.nodes()
        except (Unreachable, RuntimeError):
            return None

    registry = CollectorRegistry()
    registry.register(Watched(nodes, lambda: newest_runs(root)))
    return registry
