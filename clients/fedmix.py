"""FedMix's client: it trains the experts that it is sent together with its own gate, which never leaves it (arXiv 2107.06724)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined, numbered, split
from fedwarm.methods.fedmix import RANDOM_GATES, UNIFORM, FedMix
from fedwarm.models import Model, head_of
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.experts import EXPERT, EXPERTS, MASS, PRIOR, SHARED, TRAINED
from fedwarm.settings.fields import SettingError
from fedwarm.training.evaluate import predict
from fedwarm.training.gates import ALIGNED, BIAS, TRUNK, Gate, known, new_gate
from fedwarm.training.loop import Hook, fit
from fedwarm.training.mixture import Answers, Mixture, Responsible, Terms
from fedwarm.training.plan import Plan

GATE = "gate"


class FedMixClient(BaseClient):
    """Gate out of its store, some steps of the gate alone, then local epochs of the mixture; experts and their masses go back."""

    counted: Responsible

    @cached_property
    def settings(self) -> FedMix:
        return self.config.of(FedMix)

    @property
    def private(self) -> bool:
        """Whether steps are private, so that nothing else may tell of images."""
        return self.level >= Level.EXAMPLE

    def tells(self, level: Level) -> Reasons:
        masses = {f"{MASS}-{k}": "the account is of other facts" for k in range(self.settings.experts)}
        told = {TRAINED: "all that it was sent" if level >= Level.EXAMPLE else "the account is of other facts"}
        return {**super().tells(level), **told, **({} if level >= Level.EXAMPLE else masses)}

    def round(self, payload: Payload) -> Payload:
        number, several = payload.count("round", 1), self.settings.experts > 1
        mixture = self.mixture(payload.arrays, self.kept(number) or self.new_gate())
        terms = self.terms(mixture, payload)
        if several:
            self.warm(mixture, terms, number)
        self.counted = Responsible(mixture, terms)
        loss = self.fit(mixture, "train", number)
        if several:
            self.node.store.save(GATE, mixture.gate.state_dict(), number)
        trained = [k for k, stepped in zip(mixture.numbers, self.counted.trained, strict=True) if stepped or self.private]
        self.sent = self.arrays_of(mixture, trained)
        share = self.weight / len(self.shard.train_labels)  # of its weight in an average, as other images may be among them
        masses = {f"{MASS}-{k}": share * mass for k, mass in zip(mixture.numbers, self.counted.mass, strict=True)}
        metrics = {"num-examples": self.weight, "train-loss": loss, **self.spent, **({} if self.private else masses)}
        return Payload("weights", self.sent, metrics, {TRAINED: trained})

    def hooks(self) -> list[Hook]:
        return [] if self.private else [self.counted]

    def reference(self, action: str, payload: Payload) -> Arrays:
        return {name: payload.arrays[name] for name in self.sent}

    def terms(self, mixture: Mixture, payload: Payload) -> Terms:
        """What the settings ask of a step beside the mixture's likelihood."""
        own = self.settings
        prior = self.shares(payload, mixture.numbers) if own.usage_entropy_global else None
        alignment = own.alignment if own.gate == ALIGNED else 0.0
        return Terms(own.norm, own.gate_rate, own.usage_entropy_client, prior, own.usage_entropy_global, alignment)

    def shares(self, payload: Payload, numbers: Sequence[int]) -> Tensor:
        """How much all clients use some of the experts, summing to one: (experts,)."""
        found = torch.tensor([payload.number(f"{PRIOR}-{k}") for k in numbers], dtype=torch.float64).clamp(min=1e-6)
        return found / found.sum()

    def warm(self, mixture: Mixture, terms: Terms, number: int) -> None:
        """Some steps of the gate on experts that stay as they are, so that a gate which is new does not mislead them."""
        run, steps, shard = self.config.run, self.settings.gate_warmup, self.shard
        if not steps or len(mixture.numbers) == 1:
            return
        draws, n, wanted = self.draws("gate", number), len(shard.train_labels), steps * run.batch_size
        rows = torch.cat([torch.randperm(n, generator=draws) for _ in range(-(-wanted // n))])[:wanted]
        still = [p for name, p in mixture.named_parameters() if not name.startswith("gate.")]
        for p in still:
            p.requires_grad_(False)
        plan, hooks = Plan.of(run, epochs=1, number=number), [Responsible(mixture, terms)]
        fit(mixture, shard.train_images[rows], shard.train_labels[rows], plan, draws, hooks, "gate")
        for p in still:
            p.requires_grad_(True)

    # Mixtures out of arrays, and back

    @cached_property
    def head(self) -> str:
        """The name of a model's last layer, whose input are its features.

        Raises:
            SettingError: it is not a linear one.
        """
        model = self.model()
        layer = head_of(self.config.of(Model), model)[0].rpartition(".")[0]
        if not isinstance(model.get_submodule(layer), nn.Linear):
            raise SettingError(
                f"fedmix.gate = {self.settings.gate!r} needs a model whose head is a linear layer; take 'own_net' or 'bias'"
            )
        return layer

    @property
    def looks(self) -> bool:
        """Whether the gate looks at features."""
        return self.settings.experts > 1 and self.settings.gate in (TRUNK, ALIGNED)

    def mixture(self, arrays: Arrays, gate: Gate) -> Mixture:
        """The mixture of the experts whose arrays these are."""
        common = split(arrays, SHARED)[1]
        models = {k: self.model(Payload("weights", {**common, **own})) for k, own in numbered(arrays, EXPERT).items()}
        if not common:
            head = self.head if self.looks and len(models) > 1 else ""
            return Mixture(models, gate, head=head).to(self.device)
        heads = {k: model.get_submodule(self.head) for k, model in models.items()}
        trunk = next(iter(models.values()))
        trunk.set_submodule(self.head, nn.Identity())
        return Mixture(heads, gate, trunk).to(self.device)

    def arrays_of(self, mixture: Mixture, experts: Sequence[int]) -> Arrays:
        """The arrays of some experts of a mixture and of its trunk, as they travel."""
        found: Arrays = {} if mixture.trunk is None else joined({}, from_module(mixture.trunk), SHARED)
        before = "" if mixture.trunk is None else f"{self.head}."
        for k, expert in zip(mixture.numbers, mixture.experts, strict=True):
            if k in experts:
                own = {before + name: array for name, array in from_module(expert).items()}
                found = joined(found, own, f"{EXPERT}-{k}")
        return found

    def new_gate(self) -> Gate:
        """This client's first gate."""
        own = self.settings
        layer = self.model().get_submodule(self.head) if self.looks else None
        width = layer.in_features if isinstance(layer, nn.Linear) else 0
        scale = own.init_scale if own.experts > 1 and own.init == RANDOM_GATES else 0.0
        return new_gate(
            own.gate if own.experts > 1 else BIAS, own.experts, width, self.config.run.seed, self.node.partition, scale
        )

    def kept(self, before: int) -> Gate | None:
        """The gate that this client keeps from rounds before one."""
        state = self.node.store.load(GATE, before=before)
        if state is None:
            return None
        gate = self.new_gate()
        gate.load_state_dict(state)
        return gate

    # What is measured

    def evaluate(self, payload: Payload) -> Payload:
        """Right answers of all experts under the federation's prior, and of this client's own experts under its gate."""
        own, every = self.settings, tuple(numbered(payload.arrays, EXPERT))
        uniform = own.experts == 1 or own.new_client == UNIFORM
        common = known([1.0] * own.experts if uniform else self.shares(payload, every).tolist())
        gate, told = self.kept(payload.count("round") + 1), payload.facts.get(EXPERTS, [])
        mine = [int(k) for k in told] if gate is not None and isinstance(told, list) else every
        gates = [(common, every), (gate or common, mine)]
        answers = Answers(self.mixture(payload.arrays, common), gates, own.experts > 1 and own.predict != "mixture")
        images, labels = self.real.test_images, self.real.test_labels
        found = predict(answers.to(self.device), images).argmax(2).T.tolist() if len(labels) else [[], []]
        right = [sum(a == b for a, b in zip(column, labels.tolist(), strict=True)) for column in found]
        return Payload(metrics={"num-test": len(labels), "correct-global": right[0], "correct-personal": right[1]})
