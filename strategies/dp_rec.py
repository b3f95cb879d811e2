"""DP-REC's server (Triastcyn, Reisser, Louizos, arXiv 2111.05454): it books a round, asks for code words and adds their mean.

A round is booked before it is sent. A client that is asked for a round again (a lost reply, a resumed run) answers with the bytes
of the first time, so that nothing is released which was not booked. The account covers what training tells of training images;
evaluation counts right answers on held-out images in the clear, as for every method.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from flwr.app import MessageType

from fedwarm.aggregators import Robust
from fedwarm.codecs import WORDS
from fedwarm.codecs.dp_rec.account import Account, terms_of
from fedwarm.codecs.dp_rec.booking import Open
from fedwarm.codecs.dp_rec.codec import UPDATE
from fedwarm.codecs.dp_rec.plan import codec_of, run_number
from fedwarm.codecs.dp_rec.public import Public
from fedwarm.codecs.dp_rec.settings import CODED, validated
from fedwarm.codecs.dp_rec.settings import DpRec as Settings
from fedwarm.coding.codec import BlockCodec
from fedwarm.coding.layout import Layout
from fedwarm.coding.replay import PlainSum, Round, Sum, digest, pack_rounds, replay_bytes
from fedwarm.coding.streams import SECRET_BYTES, client_secret, common_secret
from fedwarm.core.arrays import Arrays, payload_bytes
from fedwarm.core.payload import Fact, Payload
from fedwarm.core.seeds import derive
from fedwarm.privacy.randomness import Source, keyed, normals
from fedwarm.privacy.sampling import poisson_cohort
from fedwarm.privacy.views import Release, Terms
from fedwarm.record.folder import RunFolder
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import RULES

REPLAY = "replay"


class DpRec(BaseStrategy):
    """FedAvg of coded updates with equal weights and a fixed denominator, the planned cohort."""

    method = "dp_rec"

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.settings = validated(self.config.of(Settings))
        robust = self.config.of(Robust)
        if robust.rule != RULES.first or robust.clip_norm:
            raise SettingError(
                "robust.rule and robust.clip-norm need plain updates, and dp_rec clips at its clients, by "
                "dp-rec.clip; leave both at their defaults"
            )
        self.public = Public({})
        self.booked = 0
        self.open = Open()
        self.held: dict[int, int] = {}
        self.log: dict[int, Arrays] = {}
        self._codec: tuple[object, BlockCodec] | None = None

    # What follows from settings and fleet

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.arrays, [name for name, _ in self.new_model().named_parameters() if name in self.arrays])

    @cached_property
    def terms(self) -> Terms:
        run, clients = self.config.run, len(self.fleet.members)
        cohort, most = max(1, round(run.fraction_train * clients)), run.num_server_rounds
        if self.settings.view == "local" and cohort < clients:
            taken = np.bincount(np.concatenate([super(DpRec, self).sampled(n) for n in range(1, run.num_server_rounds + 1)]))
            most = int(taken.max())
        return terms_of(self.settings, clients, cohort, run.num_server_rounds, most)

    @cached_property
    def account(self) -> Account:
        return Account.of(self.settings, self.terms, self.layout.sizes)

    @cached_property
    def secret(self) -> bytes:
        """What streams, cohorts and padding of a central view are made of; never sent. Empty where seeds are public."""
        if not self.terms.central:
            return b""
        if self.settings.entropy == "seeded":
            return derive(self.config.run.seed, "dp-rec", "secret").to_bytes(SECRET_BYTES, "little")
        return secrets.token_bytes(SECRET_BYTES)

    @property
    def codec(self) -> BlockCodec:
        """This round's."""
        mean = self.public.mean
        if self._codec is None or self._codec[0] is not mean:
            told = (self.settings, self.layout.sizes, self.account.sigma, self.public.profile(self.settings))
            codec = codec_of(*told, self.account.tolerance)
            self._codec = (mean, codec)
        return self._codec[1]

    @property
    def release(self) -> Release:
        """What one message of this round releases."""
        cut = self.codec.blocks if self.settings.mechanism == "coding" else None
        return self.account.release(self.layout.sizes, cut)

    def sampled(self, number: int) -> tuple[int, ...]:
        """The cohort of a round; in a central view a Poisson sample that only the secret gives away."""
        if not self.terms.central:
            return super().sampled(number)
        return poisson_cohort(self.terms.population, self.terms.rate, keyed(self.secret + f"cohort {number} ".encode()))

    def fits(self, number: int) -> bool:
        """Whether a round's cohort has room in its slots; where not, which delta covers, the round is skipped."""
        return len(self.sampled(number)) <= self.terms.slots.count

    # The rounds

    def plan(self) -> Iterator[Stage]:
        self.public = replace(self.public, arrays=self.arrays)
        for number in range(1, self.config.run.num_server_rounds + 1):
            cohort = self.sampled(number)
            if number > self.booked and not self.affordable(number, cohort):
                return
            cohort = cohort if self.fits(number) else ()
            yield Stage(number, "round", MessageType.TRAIN, cohort, alone=self.terms.central)
            yield self.evaluation(number)
            if self.enough(number):
                return

    def affordable(self, number: int, cohort: tuple[int, ...]) -> bool:
        """Whether a round keeps within `target-epsilon`.

        Raises:
            SettingError: not even the first one does.
        """
        target = self.settings.target_epsilon
        if not (self.account.private and target):
            return True
        reached = self.account.after(self.release, cohort)
        if reached > target and number == 1:
            raise SettingError(
                f"dp-rec.target-epsilon = {target:g}: one round alone reaches epsilon {reached:.4g}; raise "
                f"dp-rec.sigma or the target"
            )
        if reached > target:
            told = f"epsilon would be {reached:.4g}, dp-rec.target-epsilon is {target:g}"
            self.record.remark(f"stopped before round {number}: {told}")
        return reached <= target

    def expected(self, stage: Stage) -> Arrays:
        if stage.name != "round":
            return {}
        if self.settings.mechanism in CODED:
            return {WORDS: np.zeros(self.codec.words_bytes, np.uint8)}
        return {UPDATE: np.zeros(self.layout.total, np.float32)}

    def numbers(self, expected: Arrays) -> int:
        return self.layout.total

    def begin(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        if self.account.private:
            self.open.book(self.account, self.release, f"round {stage.round}", stage.clients)
        self.booked = stage.round
        self.sum: Sum | PlainSum = PlainSum(self.layout.total)
        if self.settings.mechanism in CODED:
            self.sum = Sum(self.codec, run_number(self.config.run.seed), stage.round, self.secret)
        self.words: Arrays = {}
        self.digest = digest(self.public.named(self.settings)) if self.log else ""
        for text in self.account.notes():
            self.record.remark(text)

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name != "round":
            return super().instruct(stage, client)
        metrics: dict[str, int | float] = {"round": stage.round, "sigma": self.account.sigma}
        if self.account.tolerance:
            metrics["tolerance"] = self.account.tolerance
        since = self.held.pop(client, stage.round)  # asked again, it is sent the model
        rounds = self._missed(since, stage.round)
        if rounds:
            packed = np.frombuffer(pack_rounds(rounds), np.uint8)
            return Payload("words", {REPLAY: packed}, metrics, {"digest": self.digest})
        return Payload("weights", self.public.named(self.settings), metrics, self._secrets(stage.round, client))

    def _secrets(self, number: int, client: int) -> dict[str, Fact]:
        """What a client is told of the round's randomness: its own stream's secret and the rotation's, in a central view."""
        own, common = client_secret(self.secret, number, client), common_secret(self.secret, number)
        return {"secret": own.hex(), "rotation": common.hex()}

    def _missed(self, since: int, number: int) -> list[Round]:
        """The rounds that bring the model from before round `since` to before `number`; empty where the model is smaller."""
        if since >= number or any(n not in self.log for n in range(since, number)):
            return []
        return [self._round(n) for n in range(since, number)] if self._cheaper(since, number) else []

    def _cheaper(self, since: int, number: int) -> bool:
        cohorts = [list(self.log[n].values()) for n in range(since, number)]
        size_bytes = sum(replay_bytes([len(words)], words[0].size) for words in cohorts)
        return size_bytes < payload_bytes(self.public.named(self.settings))

    def _round(self, number: int) -> Round:
        return Round(number, self.terms.cohort, {int(c): words.tobytes() for c, words in self.log[number].items()})

    def check(self, stage: Stage, payload: Payload) -> None:
        if stage.name != "round":
            return super().check(stage, payload)
        if UPDATE in payload.arrays:
            self.account.check_length(payload.arrays[UPDATE])

    def _check_size(self, stage: Stage, arrays: Arrays, expected: Arrays) -> float:
        return 0.0  # code words have no norm; see `check` for what has one

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name != "round":
            return
        if isinstance(self.sum, PlainSum):
            self.sum.add(payload.arrays[UPDATE])
        else:
            self.sum.add(client, payload.arrays[WORDS].tobytes())
            self.words[str(client)] = payload.arrays[WORDS].copy()
        if self.settings.downlink == "replay":
            self.held[client] = stage.round

    def finish(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        if not self.fits(stage.round):
            slots = self.terms.slots.count
            return self.record.remark(f"round {stage.round}: the cohort does not fit into {slots} slots; skipped")
        if self.terms.central and self.account.private:
            self._pad(keyed(self.secret + f"nobody {stage.round} ".encode()))
        self._move(self.public.after(self.sum.mean(self.terms.cohort), self.layout, self.settings))
        if self.settings.downlink == "replay" and self.words:
            self.log[stage.round] = self.words
            while self.log and not self._cheaper(min(self.log), stage.round + 1):
                del self.log[min(self.log)]

    def _pad(self, source: Source) -> None:
        """Fill the slots of the sum with messages of nobody; or add their noise, where clients leave that to the server."""
        missing = self.terms.slots.count - self.sum.added
        if self.settings.mechanism == "server" and isinstance(self.sum, Sum):
            return self.sum.add_noise(self.terms.slots.count, source)
        if isinstance(self.sum, PlainSum):
            self.sum.add(self.account.sigma * sqrt(missing) * normals(self.layout.total, source), missing)
            return
        for i in range(missing):
            self.sum.add(self.terms.population + i, self.codec.absent(source))

    def _move(self, public: Public) -> None:
        self.public, self.arrays = public, public.arrays

    def privacy(self) -> dict[str, Any] | None:
        return self.account.statement() if self.booked else None

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        everything = replace(self.public, arrays={}).named(replace(self.settings, downlink="replay"))
        secret: Arrays = {"secret": np.frombuffer(self.secret, np.uint8)} if self.secret else {}
        parts = {"model": self.arrays, "public": everything, "secret": secret, **{f"{WORDS}-{n}": a for n, a in self.log.items()}}
        return {name: part for name, part in parts.items() if part}

    def facts(self) -> dict[str, Any]:
        held = {str(client): number for client, number in self.held.items()}
        return {**self.account.state(), **self.open.state(), "booked": self.booked, "held": held}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.public = Public.of({**self.arrays, **parts.get("public", {})})
        self.secret = parts["secret"]["secret"].tobytes() if "secret" in parts else b""
        self.account.restore(facts)
        self.booked = facts["booked"]
        self.open.restore(facts)
        self.held = {int(client): number for client, number in facts["held"].items()}
        numbers = sorted(int(name.partition("-")[2]) for name in parts if name.startswith(f"{WORDS}-"))
        self.log = {number: dict(parts[f"{WORDS}-{number}"]) for number in numbers}
