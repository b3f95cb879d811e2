"""A client's own account of what it sends by DP-REC: what noise it asks for, how much it sends, and that nothing is drawn twice.

All of it follows from the run's settings and the node's own limits, nothing from what a message says, and is on the client's disk
before a reply leaves. The account is that of the local view, whatever the run's: of the messages themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

from fedwarm.codecs.dp_rec.account import terms_of
from fedwarm.codecs.dp_rec.plan import Vector, blocks_of, release_of
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.core.arrays import Arrays, from_tensors, to_tensors
from fedwarm.core.refusals import EPSILON, NOISE, OPEN, REPEATED, ROUNDS, RefusalError
from fedwarm.data.node import Node
from fedwarm.privacy.accountant import EVERYONE, Accountant
from fedwarm.privacy.limits import Limits
from fedwarm.privacy.views import Release, Terms
from fedwarm.settings.config import Config

ACCOUNT = "released"
ROUNDING = 1e-6
PRICED = ("coding", "gaussian")  # mechanisms whose single message has a price
Entry = dict[str, Any]


@dataclass
class Own:
    """What one client has sent of one action in a run, and what it may still send.

    Args:
        config: the run's settings, with the node's own among them.
        node: who the client is.
        action: what is asked for.
        name: what its messages are kept under.
        share: of the clients that are asked in a round.
    """

    config: Config
    node: Node
    action: str
    name: str
    share: float

    @property
    def settings(self) -> DpRec:
        return self.config.of(DpRec)

    @property
    def limits(self) -> Limits:
        return self.config.of(Limits)

    @property
    def private(self) -> bool:
        """Whether there is anything to account for."""
        return self.settings.mechanism != "none"

    @cached_property
    def terms(self) -> Terms:
        """What the run's guarantee is stated for where every client is here: where fewer are, the noise is no less."""
        run, clients = self.config.run, self.node.partitions
        return terms_of(self.settings, clients, max(1, round(self.share * clients)), run.num_server_rounds)

    # One answer

    def again(self, number: int) -> Arrays | None:
        """What this client answered a round with; None where it has not.

        Raises:
            RefusalError: it has, and its answer is gone.
        """
        store = self.node.store
        if not self.private:
            return from_tensors(store.load(self.name, before=number + 1) or {}) if number in store.steps(self.name) else None
        if (self.action, number) not in self._booked():
            return None
        found = store.kept(self.name, number)
        if found is None:
            raise RefusalError(
                REPEATED, f"round {number} was answered before, and the answer is gone from {store.folder}; begin a new run"
            )
        return from_tensors(found)

    def permit(
        self, number: int, sigma: float, sizes: Sequence[int], profile: Vector | None = None, tolerance: float = 0.0
    ) -> Entry:
        """What is to be booked for a message, before anything is drawn for it.

        Args:
            number: the round.
            sigma: scale of the noise that the server names.
            sizes, profile: see `plan.blocks_of`.
            tolerance: that the server names, for `poisson`.

        Raises:
            RefusalError: the settings, the node's limits or this client's account do not allow the message.
        """
        settings, limits = self.settings, self.limits
        limits.check_run(self.private, settings.entropy == "system")
        if limits.private and settings.mechanism not in PRICED:
            raise RefusalError(OPEN, f"the limits of this node need messages with a price of their own, not {settings.mechanism}")
        self._check_count(number)
        if not self.private:
            return {}
        if not 0 <= number <= self.config.run.num_server_rounds:
            raise RefusalError(
                ROUNDS, f"num-server-rounds is {self.config.run.num_server_rounds}, the server asks for round {number}"
            )
        self._check_noise(sigma, sizes)
        self._check_tolerance(tolerance)
        blocks = None if profile is None else blocks_of(settings, sizes, sigma, profile)
        release = release_of(settings, sizes, sigma, blocks)
        self._adopt(release)
        self._check_count(number)
        if (self.action, number) not in self._booked():
            self._check_spent(release)
        return self._entry(self.action, number, release)

    def _check_count(self, number: int) -> None:
        booked = self._booked()
        if (self.action, number) not in booked:
            self.limits.check_count(len(booked))

    def keep(self, number: int, drawn: Arrays, entry: Entry) -> Arrays:
        """What is to be sent of what was drawn for a round; it and its booking are on the disk then.

        Where another process of this client was first, it is that one's.
        """
        store = self.node.store
        if not self.private:
            store.save(self.name, to_tensors(drawn), number)
            return drawn
        sent = from_tensors(store.keep(self.name, to_tensors(drawn), number))
        store.book(ACCOUNT, entry)
        return sent

    # What a message must keep to

    def _check_noise(self, sigma: float, sizes: Sequence[int]) -> None:
        settings, terms = self.settings, self.terms
        least = settings.sigma or settings.noise_multiplier * settings.clip / sqrt(terms.slots.count)
        if (settings.sigma or not settings.target_epsilon) and sigma < least * (1 - ROUNDING):
            raise RefusalError(NOISE, f"the settings of dp-rec come to a sigma of {least:.6g}, the server names {sigma:.6g}")
        if not sigma > 0:
            raise RefusalError(NOISE, f"the server names a sigma of {sigma:g}")
        self.limits.check_noise(sigma / settings.clip)
        if terms.central and settings.target_epsilon:
            self._within_target(terms.epsilon(release_of(settings, sizes, sigma)), sigma)

    def _check_tolerance(self, tolerance: float) -> None:
        """Refuse messages of another law than the account takes them for; the exact bound needs the server's whole plan."""
        most = self.terms.tolerated
        if self.settings.mechanism == "poisson" and not 0 < tolerance <= most:
            raise RefusalError(NOISE, f"dp-rec.delta allows a tolerance of {most:.3g} at most, the server names {tolerance:.3g}")

    def _check_spent(self, release: Release) -> None:
        """Refuse what would bring this run, or all runs of this client, to more than is allowed."""
        settings, limits = self.settings, self.limits
        if settings.target_epsilon and not self.terms.central:
            account = _account(self._booked().values(), settings.delta, settings.adjacency)
            self._within_target(account.after(release), settings.clip / sqrt(release.energy))
        if not limits.most_epsilon:
            return
        entries = [entry for run in self.node.store.booked_of_all(ACCOUNT) for entry in _once(run).values()]
        limits.check_epsilon(_account(entries, limits.delta, "zero_out").after(release))

    def _within_target(self, epsilon: float, sigma: float) -> None:
        target = self.settings.target_epsilon
        if epsilon > target * (1 + ROUNDING):
            raise RefusalError(
                EPSILON, f"dp-rec.target-epsilon is {target:g}, with sigma {sigma:.6g} it would come to {epsilon:.4g}"
            )

    # The account

    def _booked(self) -> dict[tuple[str, int], Entry]:
        """What was booked in this run, once for each action and round."""
        return _once(self.node.store.booked(ACCOUNT))

    def _adopt(self, release: Release) -> None:
        """Book what a run sent that was begun before clients kept accounts: all rounds up to the last that it answered."""
        store = self.node.store
        for number in range(1, max(store.steps(self.name), default=0) + 1) if not self._booked() else ():
            store.book(ACCOUNT, self._entry(self.action, number, release))

    @staticmethod
    def _entry(action: str, number: int, release: Release) -> Entry:
        single = Accountant(0.5)
        single.spend(release)
        return {"what": action, "number": number, "event": single.state()["spent"][0]["event"]}


def _once(entries: Iterable[Entry]) -> dict[tuple[str, int], Entry]:
    """The entries by action and round: two processes that answered with the same bytes may both have booked them."""
    return {(str(entry["what"]), int(entry["number"])): entry for entry in entries}


def _account(entries: Iterable[Entry], delta: float, adjacency: str) -> Accountant:
    rows: Iterator[Entry] = ({"client": EVERYONE, "event": entry["event"], "times": 1} for entry in entries)
    return Accountant.from_state({**Accountant(delta, adjacency).state(), "spent": list(rows)})
