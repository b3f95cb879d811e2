"""Codecs wrap any method by the setting `codec`: what a client uploads is coded at its end and decoded at the server's.

What is coded is the difference to a reference that both sides know: the model that was sent, or an adapter's first matrices. A
codec has a client half (`encode`) and a server half (`open`, `told`, `expected`, `decode`); a private one keeps an account, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import torch

from fedwarm.codecs.dp_rec.plan import (
    NO_PRIVACY,
    DpRec,
    codec_of,
    private_source,
    release_of,
    released,
    sigma_of,
    statement,
    terms_of,
    validated,
)
from fedwarm.coding import stochastic
from fedwarm.coding.layout import Layout
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays
from fedwarm.core.seeds import derive, numpy_generator
from fedwarm.flower.wire import Payload, PayloadError
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.clipping import norm_of
from fedwarm.privacy.views import Terms
from fedwarm.settings.config import Config, Group, SettingError, setting

WORDS, UPDATE = "words", "update"
OWN_METRICS = ("num-examples", "train-loss")
DEVIATIONS = 8


@dataclass(frozen=True)
class StochasticRounding(Group):
    """Settings of the codec `stochastic-rounding`."""

    prefix: ClassVar[str] = "stochastic-rounding"
    bits: int = setting(4, "bits a number of an update travels in", low=2, high=16)


@dataclass(frozen=True)
class Upload:
    """What a stage's clients upload: the reference's names and shapes, and most times that one client does so in a run."""

    reference: Arrays
    times: int


@dataclass(frozen=True)
class Place:
    """Whose message of which exchange; no two of a run are alike."""

    seed: int
    stage: str
    round: int
    client: int


class Codec:
    """The codec `dense`: arrays travel as they are."""

    private = False

    def __init__(self, config: Config) -> None:
        self.config = config

    # The server's half

    def open(self, uploads: Mapping[str, Upload], population: int, cohort: int) -> None:
        """Settle what depends on the run: called once, before anything is sent."""

    def told(self) -> dict[str, float]:
        """Metrics that clients need to encode."""
        return {}

    def expected(self, reference: Arrays) -> Arrays:
        """Names, shapes and dtypes of what a client sends."""
        return reference

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        """The payload as the method knows it.

        Raises:
            PayloadError: it is none that `encode` makes.
        """
        return payload

    def book(self, stage: str, clients: tuple[int, ...]) -> None:
        """Account for what a stage is about to release."""

    def statement(self) -> dict[str, Any] | None:
        """What is said of privacy; None where nothing is accounted for."""
        return None

    def notes(self) -> list[str]:
        """What a reader of the record should know."""
        return []

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take up what `facts` gave."""

    # The client's half

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        """The reply as it travels.

        Args:
            reply: what the method answers.
            sent: what the server sent, with what it `told`.
            reference: what both sides know.
            place: whose message this is.
            device: where heavy work is done.
        """
        return reply


class Rounded(Codec):
    """The codec `stochastic-rounding`: b bits a number, unbiased.

    Each array of the update is scaled by its largest number and rounded up or down at random, so that the mean is the number
    (the uniform case of Louizos et al., "Relaxed Quantization", arXiv 1810.01875, section 2).
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bits = config.of(StochasticRounding).bits

    def expected(self, reference: Arrays) -> Arrays:
        size = sum(stochastic.packed_bytes(n, self.bits) for n in Layout.of(reference).sizes)
        rest = {name: array for name, array in reference.items() if name not in dict(Layout.of(reference).entries)}
        return {WORDS: np.zeros(size, np.uint8), **rest}

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout = Layout.of(reference)
        draws = numpy_generator(place.seed, "stochastic-rounding", place.stage, place.round, place.client)
        words = stochastic.encode_all(layout.split(layout.difference(reply.arrays, reference)), self.bits, draws)
        rest = {name: array for name, array in reply.arrays.items() if name not in dict(layout.entries)}
        return Payload("words", {WORDS: words, **rest}, reply.metrics, reply.facts)

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        rest = {name: array for name, array in payload.arrays.items() if name != WORDS}
        parts = stochastic.decode_all(payload.arrays[WORDS].view(np.uint8), layout.sizes, self.bits)
        moved = layout.moved(reference, np.concatenate([np.empty(0), *parts]))
        return Payload("weights", {**moved, **rest}, payload.metrics, payload.facts)


class Private(Codec):
    """The codec `dp-rec`: an update leaves as a few random code words, or clipped and with noise (see `methods.dp_rec`).

    The server decodes each client's update, so the guarantee is that of the local view. Neither the number of examples nor the
    loss is sent: all updates weigh the same.
    """

    private = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.settings = validated(config.of(DpRec))
        self.sigma = 0.0
        self.terms: Terms | None = None
        self.account: Accountant | None = None
        self.uploads: Mapping[str, Upload] = {}
        for name, found, wanted in (
            ("view", self.settings.view, "local"),
            ("downlink", self.settings.downlink, "dense"),
            ("prior", self.settings.prior, "zero"),
        ):
            if found != wanted:
                raise SettingError(f"dp-rec.{name} = {found!r} needs method = 'dp_rec'; as a codec it must be {wanted!r}")
        if self.settings.block_rule == "kl_adaptive":
            raise SettingError(
                "dp-rec.block-rule = 'kl_adaptive' needs method = 'dp_rec'; as a codec take fixed_size or per_tensor"
            )

    # The server's half

    def open(self, uploads: Mapping[str, Upload], population: int, cohort: int) -> None:
        self.uploads = uploads
        times = max([1, *(upload.times for upload in uploads.values())])
        self.terms = terms_of(self.settings, population, cohort, times, 0)
        self.account = self.account or self.terms.accountant()
        if self.settings.mechanism != "none" and not self.sigma:
            self.sigma = sigma_of(self.settings, (), self.terms, self.planned)
            target = self.settings.target_epsilon
            if target and self.planned(self.sigma) > target:
                raise SettingError(
                    f"dp-rec.target-epsilon = {target:g}: the planned run comes to {self.planned(self.sigma):.4g}; "
                    "raise dp-rec.sigma or the target, or plan fewer rounds"
                )

    def planned(self, sigma: float) -> float:
        """Epsilon of the whole run at a scale of the noise."""
        assert self.terms is not None
        account = self.terms.accountant()
        for upload in self.uploads.values():
            account.spend(release_of(self.settings, Layout.of(upload.reference).sizes, sigma), times=upload.times)
        return account.epsilon()

    def told(self) -> dict[str, float]:
        return {"sigma": self.sigma}

    def expected(self, reference: Arrays) -> Arrays:
        layout = Layout.of(reference)
        if self.settings.mechanism == "coding":
            return {WORDS: np.zeros(codec_of(self.settings, layout.sizes, self.sigma).words_bytes, np.uint8)}
        return {UPDATE: np.zeros(layout.total, np.float32)}

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        if WORDS in payload.arrays:
            codec = codec_of(self.settings, layout.sizes, self.sigma)
            step = codec.decode(payload.arrays[WORDS].tobytes(), stream_of(place))
        else:
            step = payload.arrays[UPDATE].astype(np.float64)
            longest = self.settings.clip + self.sigma * (sqrt(layout.total) + DEVIATIONS)
            if norm_of(step) > longest * 1.0001:
                raise PayloadError(f"its update has norm {norm_of(step):.3g}; clipped and noised it has {longest:.3g} at most")
        return Payload("weights", layout.moved(reference, step), {**payload.metrics, "num-examples": 1}, payload.facts)

    def book(self, stage: str, clients: tuple[int, ...]) -> None:
        if self.settings.mechanism == "none" or stage not in self.uploads:
            return
        assert self.terms is not None and self.account is not None
        sizes = Layout.of(self.uploads[stage].reference).sizes
        self.terms.book(self.account, release_of(self.settings, sizes, self.sigma), clients)

    def statement(self) -> dict[str, Any] | None:
        if self.terms is None or self.account is None or not self.account.epsilon():
            return None
        told = statement(self.settings, self.terms, self.sigma, self.account.epsilon())
        return {**told, "mechanism": self.settings.mechanism}

    def notes(self) -> list[str]:
        seeded = self.settings.entropy == "seeded" and self.settings.mechanism != "none"
        return [NO_PRIVACY] if seeded else []

    def facts(self) -> dict[str, Any]:
        return {} if self.account is None else {"account": self.account.state(), "sigma": self.sigma}

    def restore(self, facts: Mapping[str, Any]) -> None:
        if facts:
            self.account, self.sigma = Accountant.from_state(facts["account"]), float(facts["sigma"])

    # The client's half

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout, settings = Layout.of(reference), self.settings
        update = layout.difference(reply.arrays, reference)
        source = private_source(settings, place.seed, place.stage, place.round, place.client)
        arrays = released(settings, update, layout.sizes, sent.number("sigma"), None, stream_of(place), source, device)
        metrics = {name: value for name, value in reply.metrics.items() if name not in OWN_METRICS}
        return Payload("words" if WORDS in arrays else "weights", arrays, metrics, reply.facts)


def stream_of(place: Place) -> Stream:
    """The shared candidates of a message: each stage has a run of its own in them."""
    return Stream(derive(place.seed, "dp-rec", place.stage), place.round, place.client)


CODECS: dict[str, Callable[[Config], Codec]] = {"dense": Codec, "dp-rec": Private, "stochastic-rounding": Rounded}
CODED_ALREADY = ("dp_rec",)


def codec_for(config: Config) -> Codec:
    """The run's codec.

    Raises:
        SettingError: the method has one of its own, or the codec's settings do not go together.
    """
    run = config.run
    if run.codec != "dense" and run.method in CODED_ALREADY:
        raise SettingError(f"codec = {run.codec!r} means nothing with method {run.method!r}, which codes its updates itself")
    return CODECS[run.codec](config)
