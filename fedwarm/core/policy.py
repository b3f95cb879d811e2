"""What a site allows, in a file of its own: enforced at its node before data are opened, and loosened by no server.

The node's configuration names the file (`policy='/path/policy.toml'`); a run's settings cannot. What is left out bounds nothing.
"""

from __future__ import annotations

import signal
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fedwarm.core.refusals import POLICY, RefusalError
from fedwarm.settings.fields import SettingError, Value, near

KEY = "policy"
SERVER, NOBODY = "server", "nobody"
LONGEST_SECONDS = 1e8  # three years; a timer of the system's takes no number whatever
FREE = ("method", "set", "nodes.partitions")
"""Settings that change nothing at a node, or that `methods` bounds; those whose fields say so are left out before."""


@dataclass(frozen=True)
class Policy:
    """A site's own bounds.

    Attributes:
        methods: those that may train here; None: all.
        settings: patterns of settings that a run may change from their defaults; None: all.
        most_epsilon: of all runs of the site together, at `delta`; 0: no bound.
        least_noise: standard deviation in units of the clip; 0: no bound.
        most_seconds: of one message; 0: no bound.
        most_bytes: of one reply's arrays; 0: no bound.
        metrics: who may read losses and accuracies, `server` or `nobody`.
    """

    methods: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None
    most_epsilon: float = 0.0
    delta: float = 1e-5
    least_noise: float = 0.0
    most_seconds: float = 0.0
    most_bytes: int = 0
    metrics: str = SERVER

    @classmethod
    def read(cls, path: Path) -> Policy:
        """That of a file.

        Raises:
            SettingError: it cannot be read, or a key or value is none of a policy; a node then takes part in nothing.
        """
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SettingError(f"the policy {path} cannot be read ({why}); mend it, as nothing is done here without it") from None
        known = {field.name.replace("_", "-"): field for field in fields(cls)}
        if odd := sorted(said.keys() - known.keys()):
            raise SettingError(f"the policy {path} has no key {odd[0]!r}{near(odd[0], list(known))}; it has {', '.join(known)}")
        return cls(**{known[key].name: _checked(path, key, known[key].default, value) for key, value in said.items()})

    def check_run(self, method: str, changed: Iterable[str]) -> None:
        """Refuse a run by its method and the names of the settings that it changes from their defaults.

        Raises:
            RefusalError: this site does not allow it.
        """
        if self.methods is not None and method not in self.methods:
            allowed = ", ".join(self.methods) or "none"
            raise RefusalError(POLICY, f"this site's policy allows the methods {allowed}, and the run's is {method}")
        allowed_settings = (*FREE, *(("*",) if self.settings is None else self.settings))
        for name in sorted(changed):
            if not any(fnmatchcase(name, pattern) for pattern in allowed_settings):
                raise RefusalError(POLICY, f"this site's policy lets no run change {name} from its default")

    def check_action(self, action: str) -> None:
        """Refuse a message that only measures, where nobody may read what comes of it.

        Raises:
            RefusalError: this site does not allow it.
        """
        if self.metrics == NOBODY and action == "evaluate":
            raise RefusalError(POLICY, "by this site's policy nobody may read how well a model does on its data")

    def shared(self, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Metrics and facts of a reply, without losses and accuracies where nobody may read them."""
        if self.metrics == SERVER:
            return dict(metrics), dict(facts)

        def kept(told: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in told.items() if not name.startswith(MEASURED)}

        return kept(metrics), kept(facts)

    def check_reply(self, size_bytes: int) -> None:
        """Refuse to send more than may leave.

        Raises:
            RefusalError: it is more.
        """
        if self.most_bytes and size_bytes > self.most_bytes:
            raise RefusalError(
                POLICY, f"this site's policy lets {self.most_bytes:,} bytes of a reply leave, and this has {size_bytes:,}"
            )

    def limits(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """The node's limits, each as strict as the stricter of what the policy and the node's configuration (`given`) say."""
        found: dict[str, Value] = {}
        if self.most_epsilon:
            before = float(given.get("limits.most-epsilon", 0.0)) or self.most_epsilon
            delta = min(float(given.get("limits.delta", self.delta)), self.delta)
            found |= {"limits.most-epsilon": min(before, self.most_epsilon), "limits.delta": delta}
        if self.least_noise:
            found["limits.least-noise"] = max(float(given.get("limits.least-noise", 0.0)), self.least_noise)
        return found

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Break off what takes longer than it may; outside of a process's main thread it is only refused when it is done.

        Raises:
            RefusalError: it took longer.
        """
        if not self.most_seconds:
            yield
            return
        begun, alone = time.monotonic(), threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGALRM, self._late) if alone else None
        if alone:
            signal.setitimer(signal.ITIMER_REAL, min(self.most_seconds, LONGEST_SECONDS))
        try:
            yield
        finally:
            if alone:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, before)
        if time.monotonic() - begun > self.most_seconds:
            self._late()

    def _late(self, *_: object) -> None:
        raise RefusalError(POLICY, f"this site's policy gives a message {self.most_seconds:g} s, and they are over")


MEASURED = ("train-loss", "correct", "loss", "sums-", "validation-")
"""How names of losses and accuracies begin."""


def _checked(path: Path, key: str, default: Any, value: Any) -> Any:
    """A value of a policy as it is kept."""
    where = f"the policy {path}: {key}"
    if default is None:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise SettingError(f"{where} must be a list of names, e.g. {key} = ['fedavg']")
        return tuple(value)
    if isinstance(default, str):
        if value not in (SERVER, NOBODY):
            raise SettingError(f"{where} is {value!r}; it must be '{SERVER}' or '{NOBODY}'")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise SettingError(f"{where} is {value!r}; it must be a number from 0 on")
    if value == 0 and key.startswith("most-"):
        raise SettingError(
            f"{where} is 0; it must be above 0: without the line nothing is bounded, and `methods = []` allows no run"
        )
    if key == "delta" and not 0 < value < 1:
        raise SettingError(f"{where} is {value!r}; it must be between 0 and 1, e.g. 1e-5")
    if type(default)(value) != value:
        raise SettingError(f"{where} is {value!r}; it must be a whole number")
    return type(default)(value)


def policy_of(node: Mapping[str, Value]) -> Policy:
    """The policy that a node's configuration names; without one nothing is bounded.

    Raises:
        SettingError: it cannot be read.
    """
    place = str(node.get(KEY, "")).strip()
    return Policy.read(Path(place)) if place else Policy()
