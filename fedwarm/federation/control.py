"""The SuperLink's control: who is there, whose keys are known, which runs there are, and a run's log.

This is the one place that uses a part of Flower which is not public, its HTTP client for the control API: the `flwr` command does
the same, but starts a process of several seconds for every question, and does not tell a node's key, name or last sign of life.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.proto.run_pb2 import Run as RunMessage
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedwarm.core.failures import RunError
from fedwarm.federation.settings import Federation
from fedwarm.flower.processes import bypass

ONLINE, UNREGISTERED = "online", "unregistered"
FINISHED = "finished"
CLOSED = 403  # what the proxy of sites answers to all that is not for them
TROUBLE = 500  # from this status on it is the server that failed, e.g. as its database was locked
PATIENCE = 2  # heartbeats that Flower waits for before it counts a node as offline


class Unreachable(RunError):  # noqa: N818
    """The SuperLink does not answer, or is in trouble itself."""


@dataclass(frozen=True)
class Seen:
    """A node as the SuperLink sees it; `last_seen` is in seconds before its now."""

    node_id: int
    name: str
    key: bytes
    status: str
    last_seen: float | None


@dataclass(frozen=True)
class Listed:
    """A run as the SuperLink lists it; `config` holds the overrides that it was started with."""

    run_id: int
    status: str
    details: str
    pending_at: str
    config: dict[str, object]

    @property
    def finished(self) -> bool:
        return self.status.startswith(FINISHED)


class Control:
    """Questions to one SuperLink; each raises Unreachable where it does not answer, RunError where it refuses or is none."""

    def __init__(self, client: ControlHttpClient) -> None:
        self.client = client

    def nodes(self) -> list[Seen]:
        """All nodes whose keys are registered, or that came by themselves where there are no keys."""
        with _translated():
            told = self.client.ListNodes(ListNodesRequest())
        now = datetime.fromisoformat(told.now).timestamp()
        found = []
        for node in told.nodes_info:
            seen = now - (node.online_until - PATIENCE * node.heartbeat_interval) if node.last_activated_at else None
            found.append(Seen(node.node_id, node.name, bytes(node.public_key), node.status, seen))
        return [node for node in found if node.status != UNREGISTERED]

    def register(self, key: bytes, name: str) -> None:
        """Let the node with this public key (PEM) in."""
        with _translated():
            self.client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, node_id: int) -> None:
        """Let a node in no more."""
        with _translated():
            self.client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def runs(self) -> list[Listed]:
        """All runs, the oldest first."""
        with _translated():
            told = self.client.ListRuns(ListRunsRequest())
        return sorted((_listed(run) for run in told.run_dict.values()), key=lambda run: run.pending_at)

    def run(self, run_id: int) -> Listed:
        """One run."""
        with _translated():
            told = self.client.ListRuns(ListRunsRequest(run_id=run_id))
        return _listed(told.run_dict[run_id])

    def stop(self, run_id: int) -> None:
        """End a run."""
        with _translated():
            self.client.StopRun(StopRunRequest(run_id=run_id))

    def logs(self, run_id: int, after: float = 0.0) -> Iterator[tuple[str, float]]:
        """Pieces of a run's log after a time, and the time of each, until the run has ended; waits for more without limit."""
        with _translated():
            for piece in self.client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=after)):
                yield piece.log_output, piece.latest_timestamp


def _listed(run: RunMessage) -> Listed:
    status = f"{run.status.status}:{run.status.sub_status}" if run.status.sub_status else run.status.status
    config = {key: getattr(value, value.WhichOneof("scalar") or "string") for key, value in run.override_config.items()}
    return Listed(run.run_id, status, run.status.details, run.pending_at, config)


@contextmanager
def control(federation: Federation, trusted: Path | None = None) -> Iterator[Control]:
    """The control of a federation's SuperLink, without a detour by a proxy.

    Args:
        federation: whose.
        trusted: the file of its CA's certificate; None: the one that the federation keeps.
    """
    os.environ |= bypass([federation.reach])
    file = trusted or federation.authority
    authority = None if file is None else file.read_bytes()
    client = ControlHttpClient.from_server_address(
        server_address=federation.address,
        insecure=federation.insecure,
        root_certificates=authority,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    with contextlib.closing(client):
        yield Control(client)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code >= TROUBLE:
            raise Unreachable(f"the SuperLink is in trouble (HTTP {code})") from error
        if code == CLOSED:
            raise RunError(
                f"what starts runs is closed here (HTTP {code}), as at the port of sites; give the SuperLink's own"
            ) from error
        raise RunError(f"the SuperLink refused: {' '.join(error.response.text.split())[:300]}") from error
    except httpx.HTTPError as error:
        raise Unreachable(f"the SuperLink does not answer: {error or type(error).__name__}") from error
    except ValueError as error:
        raise RunError(f"what answers is no SuperLink ({error}); see the address") from error
