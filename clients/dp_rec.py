"""DP-REC's client (Triastcyn, Reisser, Louizos, arXiv 2111.05454): what training changed leaves it as code words, nothing else.

Code words are kept, and a round that is asked for again is answered with the same bytes: a second draw would tell more than the
account knows of. No loss, no number of examples and no classes are sent.
"""

from __future__ import annotations

from functools import cached_property

from torch import nn

from fedwarm.codecs import WORDS
from fedwarm.codecs.dp_rec.own import Own
from fedwarm.codecs.dp_rec.plan import Vector, codec_of, private_source, released, run_number
from fedwarm.codecs.dp_rec.public import Public
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import CodeError
from fedwarm.coding.replay import digest, unpack_rounds
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays, from_module, from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.privacy.levels import ARRAYS, PRICED, Level, Reasons
from fedwarm.rounds.client import BaseClient

REPLAY = "replay"
SENT, PUBLIC = "sent", "public"


class DpRecClient(BaseClient):
    """Trains the model that it is sent, or that it makes out of the cohorts' code words, and codes the difference."""

    @cached_property
    def settings(self) -> DpRec:
        return self.config.of(DpRec)

    def tells(self, level: Level) -> Reasons:
        return {ARRAYS: f"{PRICED}code words, or the update clipped and with noise, its own or the server's"}

    def round(self, payload: Payload) -> Payload:
        number = payload.count("round", 1)
        own = Own(self.config, self.node, "round", SENT, self.config.run.fraction_train)
        sent = own.again(number)
        if sent is None:
            public = self.public(payload, number)
            model = self.model(Payload("weights", public.arrays))
            layout, profile = self.layout(model, public), public.profile(self.settings)
            entry = own.permit(number, payload.number("sigma"), layout.sizes, profile, tolerance_of(payload))
            update = self.trained(model, layout, public, number)
            sent = own.keep(number, self.release(update, layout.sizes, profile, payload, number), entry)
        return Payload("words" if WORDS in sent else "weights", sent)

    def public(self, payload: Payload, number: int) -> Public:
        """What everyone knows before the round: as sent, or by replay of the rounds since this client was last asked.

        Raises:
            CodeError: there is nothing here to replay from, or it comes to another model than the server's.
        """
        public = self.replayed(payload) if payload.kind == "words" else Public.of(payload.arrays)
        if self.settings.downlink == "replay":
            self.node.store.save(PUBLIC, to_tensors(public.named(self.settings)), number)
        return public

    def replayed(self, payload: Payload) -> Public:
        """The model out of an older one and code words (see `public`)."""
        rounds = unpack_rounds(payload.arrays[REPLAY].tobytes())
        start = rounds[0].number if rounds else -1
        if start not in self.node.store.steps(PUBLIC):
            raise CodeError(f"this client does not hold the model of round {start}, which it should replay from")
        public = Public.of(from_tensors(self.node.store.load(PUBLIC, before=start + 1) or {}))
        layout = self.layout(self.model(Payload("weights", public.arrays)), public)
        for each in rounds:
            codec = codec_of(self.settings, layout.sizes, payload.number("sigma"), public.profile(self.settings))
            public = public.after(each.mean(codec, run_number(self.config.run.seed)), layout, self.settings)
        if digest(public.named(self.settings)) != payload.text("digest"):
            raise CodeError(f"the model replayed from round {start} on is not the server's")
        return public

    def layout(self, model: nn.Module, public: Public) -> Layout:
        """The model's parameters; counters and running statistics are never released."""
        return Layout.of(public.arrays, [name for name, _ in model.named_parameters() if name in public.arrays])

    def trained(self, model: nn.Module, layout: Layout, public: Public, number: int) -> Vector:
        """What training changes (d,), less the centre of the prior."""
        self.fit(model, "train", number)
        return layout.difference(from_module(model), public.arrays) - public.centre(self.settings)

    def release(self, update: Vector, sizes: tuple[int, ...], profile: Vector | None, payload: Payload, number: int) -> Arrays:
        """The update as it leaves: code words, the update with noise, or only clipped.

        Raises:
            UpdateError: it holds NaN or infinity; nothing was drawn.
        """
        run = self.config.run
        told = (bytes.fromhex(payload.text(name)) for name in ("secret", "rotation"))
        stream = Stream(run_number(run.seed), number, self.node.partition, *told)
        source = private_source(self.settings, run.seed, number, self.node.partition)
        named = (payload.number("sigma"), profile, stream, source, self.device, tolerance_of(payload))
        return released(self.settings, update, sizes, *named)


def tolerance_of(payload: Payload) -> float:
    """What a message of `poisson` is made with; 0 where the server names none."""
    return payload.number("tolerance") if "tolerance" in payload.metrics else 0.0
