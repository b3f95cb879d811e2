"""The codec `dp-rec`: DP-REC around any method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedwarm.codecs import WORDS, Codec, Upload
from fedwarm.codecs.dp_rec.account import Account, terms_of
from fedwarm.codecs.dp_rec.booking import Open
from fedwarm.codecs.dp_rec.own import Own
from fedwarm.codecs.dp_rec.plan import codec_of, private_source, release_of, released
from fedwarm.codecs.dp_rec.reach import of_codec
from fedwarm.codecs.dp_rec.settings import DpRec, fixed_rounds, validated
from fedwarm.coding.layout import Layout
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import derive
from fedwarm.core.stages import Place
from fedwarm.data.node import Node
from fedwarm.privacy.levels import ARRAYS, PRICED, Level, Reasons
from fedwarm.privacy.views import Terms
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError

UPDATE = "update"


class Private(Codec):
    """The codec `dp-rec`: an update leaves as a few random code words, or clipped and with noise (see `methods.dp_rec`).

    The server decodes each client's update, so the guarantee is that of the local view. Neither the number of examples nor the
    loss is sent: all updates weigh the same.
    """

    settings = DpRec
    private = True
    fixed_rounds = staticmethod(fixed_rounds)
    reach = staticmethod(of_codec)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.own = validated(config.of(DpRec))
        self.account: Account | None = None
        self.going = Open()
        self.kept: Mapping[str, Any] = {}
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
        terms = terms_of(self.own, population, cohort, times, 0)
        if self.kept:
            self.account = Account(self.own, terms, 0.0, terms.accountant())
            self.account.restore(self.kept)
            return
        self.account = Account.of(self.own, terms, (), lambda sigma: self.planned(terms, sigma))
        target, planned = self.own.target_epsilon, self.planned(terms, self.account.sigma) if self.account.private else 0.0
        if target and planned > target:
            raise SettingError(
                f"dp-rec.target-epsilon = {target:g}: the planned run reaches epsilon {planned:.4g}; "
                "raise dp-rec.sigma or the target, or plan fewer rounds"
            )

    def planned(self, terms: Terms, sigma: float) -> float:
        """Epsilon of the whole run at a scale of the noise."""
        account = terms.accountant()
        for upload in self.uploads.values():
            account.spend(release_of(self.own, Layout.of(upload.reference).sizes, sigma), times=upload.times)
        return account.epsilon()

    @property
    def opened(self) -> Account:
        """The account, which `open` begins."""
        assert self.account is not None
        return self.account

    def told(self) -> dict[str, float]:
        return {"sigma": 0.0 if self.account is None else self.account.sigma}

    def expected(self, reference: Arrays) -> Arrays:
        layout = Layout.of(reference)
        if self.own.mechanism == "coding":
            return {WORDS: np.zeros(codec_of(self.own, layout.sizes, self.opened.sigma).words_bytes, np.uint8)}
        return {UPDATE: np.zeros(layout.total, np.float32)}

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        if WORDS in payload.arrays:
            codec = codec_of(self.own, layout.sizes, self.opened.sigma)
            step = codec.decode(payload.arrays[WORDS].tobytes(), stream_of(place))
        else:
            step = payload.arrays[UPDATE].astype(np.float64)
            self.opened.check_length(step)
        return Payload("weights", layout.moved(reference, step), {**payload.metrics, "num-examples": 1}, payload.facts)

    def book(self, stage: str, clients: tuple[int, ...], number: int = 0) -> None:
        if self.opened.private and stage in self.uploads:
            sizes = Layout.of(self.uploads[stage].reference).sizes
            self.going.book(self.opened, self.opened.release(sizes), f"{stage} {number}", clients)

    def statement(self) -> dict[str, Any] | None:
        return None if self.account is None else self.account.statement()

    def notes(self) -> list[str]:
        return [] if self.account is None else list(self.account.notes())

    def facts(self) -> dict[str, Any]:
        return {} if self.account is None else {**self.account.state(), **self.going.state()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        self.kept = facts
        self.going.restore(facts)

    # The client's half

    def tells(self, level: Level) -> Reasons:
        return {ARRAYS: f"{PRICED}code words, or the update clipped and with noise, its own or the server's"}

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout, settings = Layout.of(reference), self.own
        update = layout.difference(reply.arrays, reference)
        source = private_source(settings, place.seed, place.stage, place.round, place.client)
        arrays = released(settings, update, layout.sizes, sent.number("sigma"), None, stream_of(place), source, device)
        return Payload("words" if WORDS in arrays else "weights", arrays, reply.metrics, reply.facts)

    def guarded(
        self, node: Node, place: Place, sent: Payload, reference: Arrays, encode: Callable[[], Payload], share: float = 1.0
    ) -> Payload:
        own = Own(self.config, node, place.stage, f"sent-{place.stage}", share)
        kept = own.again(place.round)
        entry = {} if kept is not None else own.permit(place.round, sent.number("sigma"), Layout.of(reference).sizes)
        told = encode()
        return replace(told, arrays=own.keep(place.round, told.arrays, entry) if kept is None else kept)


def stream_of(place: Place) -> Stream:
    """The shared candidates of a message: each stage has a run of its own in them."""
    return Stream(derive(place.seed, "dp-rec", place.stage), place.round, place.client)
