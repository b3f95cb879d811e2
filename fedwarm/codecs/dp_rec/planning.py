"""How many clients, rounds and bits an epsilon takes: the plans of a grid, each with its noise beside its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedwarm.codecs.dp_rec.pricing import Answer, answer
from fedwarm.codecs.dp_rec.question import Question
from fedwarm.codecs.dp_rec.reach import GOOD, LOST, Reach
from fedwarm.core.text import paragraph, table
from fedwarm.settings.fields import SettingError

COHORTS, ROUNDS = (30, 100, 300, 1000, 3000), (5, 20, 80)
NEEDED = {"target_epsilon": "the epsilon to reach", "update_size": "numbers in an update (the model's parameters)"}
REFUSED = ("sigma", "noise_multiplier", "participations", "rate", "steps")
HEADS = ("clients", "rounds", "sigma", "z", "bits up", "S/N a round", "S/N a run", "learns")
WIDTH = 80
LEARNS = {"lost": "no", "poor": "little", "good": "yes"}


@dataclass(frozen=True)
class Row:
    """One plan.

    Attributes:
        cohort, rounds: clients of a round, rounds.
        sigma, noise_multiplier: scale of one update's noise, and z = sqrt(n) sigma / C.
        message_bits, message_bytes: of one client's message in a round.
        signal_to_noise_round, signal_to_noise: see `reach.Reach`: of a round and of all of them, at most.
        verdict: `lost`, `poor` or `good`, as these ratios were found to be.
        epsilon: at most the target.
    """

    cohort: int
    rounds: int
    sigma: float
    noise_multiplier: float
    message_bits: int
    message_bytes: int
    signal_to_noise_round: float
    signal_to_noise: float
    verdict: str
    epsilon: float

    @staticmethod
    def of(question: Question, found: Answer) -> Row:
        """A plan that was priced."""
        n, rounds = question.cohort, question.terms.rounds
        reach = Reach(question.clip, found.sigma, question.update_size, n, found.slots, rounds)
        size = (found.message_bits or 0, found.message_bytes or 0)
        return Row(n, rounds, found.sigma, found.noise_multiplier, *size, reach.round, reach.run, reach.verdict, found.epsilon)

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        noise = (f"{self.sigma:.4g}", f"{self.noise_multiplier:.3g}")
        ratios = (f"{self.signal_to_noise_round:.2g}", f"{self.signal_to_noise:.2g}", LEARNS[self.verdict])
        return (f"{self.cohort:,}", f"{self.rounds:,}", *noise, f"{self.message_bits:,}", *ratios)


@dataclass(frozen=True)
class Plans:
    """The plans of a grid, with all clients in each round where `population` is 0; `left_out` says why some of it cannot be."""

    asked: Question
    population: int
    certified: bool
    rows: Sequence[Row]
    left_out: Sequence[str]

    def json(self) -> dict[str, Any]:
        """One object: what all plans share, and each of them."""
        names = ("target_epsilon", "delta", "view", "adjacency", "mechanism", "clip", "update_size")
        shared = {name: getattr(self.asked, name) for name in names}
        told = {**shared, "population": self.population or None, "certified": self.certified}
        return {**told, "plans": [asdict(row) for row in self.rows]}

    def lines(self) -> list[str]:
        """The table in words, at most 80 columns wide."""
        q, kind = self.asked, "certified" if self.certified else "an estimate, no bound"
        whom = f"rounds draw from {self.population:,} clients" if self.population else "all clients in each round"
        return [
            f"epsilon {q.target_epsilon:g} at delta {q.delta:g}: {kind}",
            f"view {q.view}; {whom}",
            f"updates of {q.update_size:,} numbers, clip C = {q.clip:g}, mechanism {q.mechanism}",
            "",
            *table(HEADS, [row.cells for row in self.rows], right=True).splitlines(),
            *(line for text in self.left_out for line in paragraph(f"left out: {text}", WIDTH, hang=2).splitlines()),
            "",
            "S/N: C beside the noise on a round's mean; over a run sqrt(rounds) times that.",
            f"In trials runs below {LOST:g} learned nothing, those from {GOOD:g} on half or more of what",
            "they can without noise, from 2 on most of it. z = sqrt(n) sigma / C.",
        ]


def plans(given: Mapping[str, Any]) -> Plans:
    """The plans with the number of clients and of rounds that are given, or else several of each.

    Args:
        given: a `Question` by its fields. The view is `central_certified` where none is given, the population a round's clients.

    Raises:
        SettingError: something is missing, or means nothing here; or no plan reaches the target.
    """
    for name, meaning in NEEDED.items():
        if not given.get(name):
            raise SettingError(f"--plan needs --{name.replace('_', '-')}: {meaning}")
    if unused := [name for name in REFUSED if given.get(name)]:
        raise SettingError(
            f"--{unused[0].replace('_', '-')} cannot be used with --plan, which finds the noise of each plan; leave it out"
        )
    wanted = {"view": "central_certified", **given}
    population = int(given.get("population") or 0)
    cohorts = [int(given.get("cohort") or 0)] if given.get("cohort") else [n for n in COHORTS if n <= (population or n)]
    times = [int(given["rounds"])] if given.get("rounds") else ROUNDS
    rows, refused, asked = list[Row](), dict[str, None](), None
    certified = True
    for n in cohorts or [population]:
        for number in times:
            asked = Question(**{**wanted, "cohort": n, "population": population or n, "rounds": number})
            try:
                found = answer(asked)
            except SettingError as error:
                refused[f"{n:,} clients, {number} rounds: {error}"] = None
                continue
            certified = certified and found.certified
            rows.append(Row.of(asked, found))
    if not rows or asked is None:
        raise SettingError(next(iter(refused)))
    return Plans(asked, population, certified, rows, [*refused])
