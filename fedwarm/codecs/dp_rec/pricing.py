"""What privacy a plan has, or what noise it takes, without a run: a question, its answer, and the answer in words and JSON.

Every figure is that of a run with the same settings: noise, blocks and prices are those of `fedwarm.codecs.dp_rec.plan`,
`fedwarm.privacy.views` and `fedwarm.privacy.accountant`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf, log, sqrt
from typing import Any

from fedwarm.codecs.dp_rec import plan as dp_rec
from fedwarm.codecs.dp_rec.account import statement
from fedwarm.codecs.dp_rec.question import ANY_SIZE, Question
from fedwarm.codecs.dp_rec.settings import BLOCKWISE, validated
from fedwarm.coding.packing import packed_bytes
from fedwarm.coding.streams import NONCE_BYTES
from fedwarm.privacy.events import Gaussian, Simulated
from fedwarm.privacy.views import Terms, calibrate
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PRIVACY

SEEN = {
    "local": "the adversary sees the seeds and whatever a client sends",
    "central_certified": "the adversary sees released models only; seeds and cohorts are secret",
    "central_limit": "as central_certified, with the sum's noise taken as Gaussian",
    "steps": "the adversary sees the model after every step, not which examples were drawn for it",
}
EXCHANGED = {"zero_out": "with what it tells or without", "replacement": "as it is or any other"}
NOISE_RANGE = (1e-4, 1e8)


@dataclass(frozen=True)
class Cut:
    """The blocks of one coded message.

    Attributes:
        block_size: numbers in the largest block; 0: unknown.
        norm: c = ||v_j|| / sigma of a block that holds its share of a full update; norm_cap: c_max, where it is clipped.
        kl_nats, kl_bits: c^2 / 2, the KL divergence of a block.
        rule_norm, rule_blocks: the most c that the block-size rule allows, and the blocks that it takes.
        within_rule: whether c is within it, so that coding costs about what the Gaussian mechanism does.
        gaussian_epsilon: epsilon of the Gaussian mechanism with this sigma, uncompressed.
    """

    bits: int
    blocks: int
    block_size: int
    norm: float
    norm_cap: float
    kl_nats: float
    kl_bits: float
    rule_norm: float
    rule_blocks: int
    within_rule: bool
    gaussian_epsilon: float


@dataclass(frozen=True)
class Answer:
    """What a plan promises: epsilon never stands alone.

    Attributes:
        level: whom it protects, `client` or `example`.
        slots: n, vectors in every sum; reserved_delta: what of delta is kept for cohorts that do not fit.
        releases: participations (local), rounds (central views) or steps (dp-sgd) that add up.
        message_bits, message_bytes: of one client's code words or update, bytes with the nonce; None: not known, or not sent.
    """

    mechanism: str
    epsilon: float
    delta: float
    certified: bool
    view: str
    adjacency: str
    level: str
    sampling_rate: float
    releases: int
    sigma: float
    noise_multiplier: float
    clip: float
    slots: int = 1
    reserved_delta: float = 0.0
    message_bits: int | None = None
    message_bytes: int | None = None
    bits_per_parameter: float | None = None
    cut: Cut | None = None

    def json(self) -> dict[str, Any]:
        """One flat object; what does not apply is left out."""
        found = {**asdict(self), **(asdict(self.cut) if self.cut else {})}
        return {name: value for name, value in found.items() if name != "cut" and value is not None}

    def lines(self) -> list[str]:
        """The answer in words."""
        kind = "certified" if self.certified else "an estimate, no bound"
        ratio = f"sqrt({self.slots}) sigma / C" if self.level == "client" else "sigma / C"
        pairs = [
            ("view", f"{self.view}: {SEEN[self.view]}"),
            ("adjacency", f"{self.adjacency}: one {self.level}, {EXCHANGED[self.adjacency]}"),
            ("sampling", self._sampling()),
            ("noise", f"sigma {self.sigma:.6g} for clip C = {self.clip:g}; multiplier {self.noise_multiplier:.6g} = {ratio}"),
            *self._message(),
        ]
        return [f"epsilon {self.epsilon:.4g} at delta {self.delta:g}: {kind}", *(f"  {name:<10} {text}" for name, text in pairs)]

    def _sampling(self) -> str:
        if self.view == "local":
            return f"no credit for it; participations of a client: {self.releases}"
        drawn = f"Poisson at rate {self.sampling_rate:.4g}"
        if self.view == "steps":
            return f"{drawn}; steps: {self.releases}"
        rest = f"sums padded to {self.slots} vectors, {self.reserved_delta:.2g} of delta for cohorts that do not fit"
        return f"{drawn}; rounds: {self.releases}; {rest}"

    def _message(self) -> list[tuple[str, str]]:
        if self.message_bits is None:
            return []
        nonce = f", {NONCE_BYTES} of them a nonce" if self.cut and self.view == "local" else ""
        size = f"{_count(self.message_bits, 'bit')} in {_count(self.message_bytes or 0, 'byte')}{nonce}"
        each = "" if self.bits_per_parameter is None else f"; {self.bits_per_parameter:.3g} bits per parameter"
        if (cut := self.cut) is None:
            return [("message", f"{size}{each}")]
        of = f"{cut.block_size} numbers" if cut.block_size else "3 numbers or more"
        times = self.epsilon / cut.gaussian_epsilon if cut.gaussian_epsilon else 1.0
        rule = f"c <= {cut.rule_norm:.3g} at b = {cut.bits} and this delta, {_count(cut.rule_blocks, 'block')} here: "
        return [
            ("message", f"{size}{each}; {_count(cut.blocks, 'block')} of {of}"),
            ("block", f"c = {cut.norm:.4g}, clipped at {cut.norm_cap:.4g}; KL {cut.kl_nats:.4g} nats = {cut.kl_bits:.4g} bits"),
            ("rule", rule + ("kept" if cut.within_rule else "not kept")),
            ("Gaussian", f"epsilon {cut.gaussian_epsilon:.4g} with this sigma, uncompressed; coding has {times:.4g} times that"),
        ]


def answer(question: Question) -> Answer:
    """What the plan promises, or the noise that it takes.

    Raises:
        SettingError: terms that have no proven bound, blocks that do not fit the update, a target that no noise reaches.
    """
    return _of_steps(question) if question.mechanism == "dp-sgd" else _of_updates(question)


def _of_steps(q: Question) -> Answer:
    price = PRIVACY.load(q.mechanism).price  # the accountant that such a run has

    def epsilon(z: float) -> float:
        return float(price(q.rate, z, q.steps, q.delta))

    z = q.noise_multiplier or calibrate(epsilon, q.target_epsilon, low=0.01, high=1e4)
    promised = (q.mechanism, epsilon(z), q.delta, True, "steps", "zero_out", "example", q.rate, q.steps)
    return Answer(*promised, sigma=_sane(z * q.clip, q.clip), noise_multiplier=z, clip=q.clip)


def _of_updates(q: Question) -> Answer:
    validated(q)
    terms = q.terms
    n = terms.slots.count

    def epsilon(sigma: float) -> float:
        return terms.epsilon(q.release(sigma))

    sigma = _sane(q.sigma or q.noise_multiplier * q.clip / sqrt(n), q.clip) if not q.target_epsilon else 0.0
    sigma = sigma or calibrate(epsilon, q.target_epsilon, low=q.clip * 0.01, high=q.clip * 1e4)
    cut = _cut(q, sigma, terms) if q.mechanism == "coding" else None
    bits = _bits(q, sigma, terms)
    said: dict[str, Any] = statement(q, terms, sigma, epsilon(sigma))
    return Answer(
        **said,
        mechanism=q.mechanism,
        level="client",
        slots=n,
        reserved_delta=terms.slots.overflow,
        releases=terms.rounds if terms.central else terms.participations or terms.rounds,
        noise_multiplier=sqrt(n) * sigma / q.clip,
        message_bits=bits or None,
        message_bytes=(packed_bytes(bits, 1) + dp_rec.nonce_bytes(q)) if bits else None,
        bits_per_parameter=bits / q.update_size if q.update_size else None,
        cut=cut,
    )


def _bits(q: Question, sigma: float, terms: Terms) -> int:
    """Of a message; 0 where that is not known."""
    if q.mechanism not in BLOCKWISE:
        return (q.bits if q.mechanism == "server" else 32) * q.update_size
    blocks, energy = q.blocks_at(sigma), (q.clip / sigma) ** 2
    if q.mechanism == "coding":
        return len(blocks) * q.bits
    shared = (blocks.total, sigma, q.clip, blocks, "none", q.magnitude)
    return dp_rec.exact_codec(*shared, terms.tolerance(Simulated(energy))).words_bits


def _sane(sigma: float, clip: float) -> float:
    least, most = NOISE_RANGE[0] * clip, NOISE_RANGE[1] * clip
    if not least <= sigma <= most < inf:
        raise SettingError(f"sigma = {sigma:g} for clip = {clip:g} is out of range; it must be {least:g} to {most:g}")
    return sigma


def _cut(q: Question, sigma: float, terms: Terms) -> Cut:
    blocks, energy = q.blocks_at(sigma), (q.clip / sigma) ** 2
    share = max(blocks.shares) if max(blocks.sizes) - min(blocks.sizes) > 1 else 1 / len(blocks)
    nats, most = energy * share / 2, dp_rec.block_norm(q.bits, q.delta)
    return Cut(
        bits=q.bits,
        blocks=len(blocks),
        block_size=max(blocks.sizes) if q.update_size else 0,
        norm=sqrt(2 * nats),
        norm_cap=sqrt(float(blocks.caps(energy).max())),
        kl_nats=nats,
        kl_bits=nats / log(2),
        rule_norm=most,
        rule_blocks=dp_rec.block_count(replace(q, block_size=0), q.update_size or ANY_SIZE, sigma),
        within_rule=sqrt(2 * nats) <= most * (1 + 1e-6),
        gaussian_epsilon=terms.epsilon(Gaussian(energy)),
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"
