"""The codec `dp-rec`: DP-REC around any method."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import torch

from fedwarm.codecs import WORDS, Codec, Upload
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
from fedwarm.coding.layout import Layout
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.seeds import derive
from fedwarm.core.stages import Place
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.clipping import norm_of
from fedwarm.privacy.views import Terms
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

UPDATE = "update"


OWN_METRICS = ("num-examples", "train-loss")


DEVIATIONS = 8


class Private(Codec):
    """The codec `dp-rec`: an update leaves as a few random code words, or clipped and with noise (see `methods.dp_rec`).

    The server decodes each client's update, so the guarantee is that of the local view. Neither the number of examples nor the
    loss is sent: all updates weigh the same.
    """

    settings = DpRec
    private = True
    hides = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.own = validated(config.of(DpRec))
        self.sigma = 0.0
        self.terms: Terms | None = None
        self.account: Accountant | None = None
        self.uploads: Mapping[str, Upload] = {}
        for name, found, wanted in (
            ("view", self.own.view, "local"),
            ("downlink", self.own.downlink, "dense"),
            ("prior", self.own.prior, "zero"),
        ):
            if found != wanted:
                raise SettingError(f"dp-rec.{name} = {found!r} needs method = 'dp_rec'; as a codec it must be {wanted!r}")
        if self.own.block_rule == "kl_adaptive":
            raise SettingError(
                "dp-rec.block-rule = 'kl_adaptive' needs method = 'dp_rec'; as a codec take fixed_size or per_tensor"
            )

    # The server's half

    def open(self, uploads: Mapping[str, Upload], population: int, cohort: int) -> None:
        self.uploads = uploads
        times = max([1, *(upload.times for upload in uploads.values())])
        self.terms = terms_of(self.own, population, cohort, times, 0)
        self.account = self.account or self.terms.accountant()
        if self.own.mechanism != "none" and not self.sigma:
            self.sigma = sigma_of(self.own, (), self.terms, self.planned)
            target = self.own.target_epsilon
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
            account.spend(release_of(self.own, Layout.of(upload.reference).sizes, sigma), times=upload.times)
        return account.epsilon()

    def told(self) -> dict[str, float]:
        return {"sigma": self.sigma}

    def expected(self, reference: Arrays) -> Arrays:
        layout = Layout.of(reference)
        if self.own.mechanism == "coding":
            return {WORDS: np.zeros(codec_of(self.own, layout.sizes, self.sigma).words_bytes, np.uint8)}
        return {UPDATE: np.zeros(layout.total, np.float32)}

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        if WORDS in payload.arrays:
            codec = codec_of(self.own, layout.sizes, self.sigma)
            step = codec.decode(payload.arrays[WORDS].tobytes(), stream_of(place))
        else:
            step = payload.arrays[UPDATE].astype(np.float64)
            longest = self.own.clip + self.sigma * (sqrt(layout.total) + DEVIATIONS)
            if norm_of(step) > longest * 1.0001:
                raise PayloadError(f"its update has norm {norm_of(step):.3g}; clipped and noised it has {longest:.3g} at most")
        return Payload("weights", layout.moved(reference, step), {**payload.metrics, "num-examples": 1}, payload.facts)

    def book(self, stage: str, clients: tuple[int, ...]) -> None:
        if self.own.mechanism == "none" or stage not in self.uploads:
            return
        assert self.terms is not None and self.account is not None
        sizes = Layout.of(self.uploads[stage].reference).sizes
        self.terms.book(self.account, release_of(self.own, sizes, self.sigma), clients)

    def statement(self) -> dict[str, Any] | None:
        if self.terms is None or self.account is None or not self.account.epsilon():
            return None
        told = statement(self.own, self.terms, self.sigma, self.account.epsilon())
        return {**told, "mechanism": self.own.mechanism}

    def notes(self) -> list[str]:
        seeded = self.own.entropy == "seeded" and self.own.mechanism != "none"
        return [NO_PRIVACY] if seeded else []

    def facts(self) -> dict[str, Any]:
        return {} if self.account is None else {"account": self.account.state(), "sigma": self.sigma}

    def restore(self, facts: Mapping[str, Any]) -> None:
        if facts:
            self.account, self.sigma = Accountant.from_state(facts["account"]), float(facts["sigma"])

    # The client's half

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout, settings = Layout.of(reference), self.own
        update = layout.difference(reply.arrays, reference)
        source = private_source(settings, place.seed, place.stage, place.round, place.client)
        arrays = released(settings, update, layout.sizes, sent.number("sigma"), None, stream_of(place), source, device)
        metrics = {name: value for name, value in reply.metrics.items() if name not in OWN_METRICS}
        return Payload("words" if WORDS in arrays else "weights", arrays, metrics, reply.facts)


def stream_of(place: Place) -> Stream:
    """The shared candidates of a message: each stage has a run of its own in them."""
    return Stream(derive(place.seed, "dp-rec", place.stage), place.round, place.client)
