"""Example-level privacy of local training: DP-SGD, for classifiers and for adapters.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133,
algorithm 1: an example takes part in a step with probability q, its gradient is clipped to norm C, the sum gets noise
N(0, z^2 C^2 I) and is divided by the number of examples expected. Whatever a client sends of what it so trained costs no more
than its steps do together. Neighbours differ by one example, which is there or not; how many a client holds counts as public.

Opacus clips and prices. The gradients of single examples are those of `training.examples`: opacus' hooks on layers break on
ResNet's in-place sums, and find no gradient in a U-Net with checkpoints or in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedwarm.core.seeds import Key, numpy_generator
from fedwarm.norms import Still, mixing
from fedwarm.privacy.mechanisms.dp_sgd.account import COVERS, DpSgd, Steps, noise_of, opacus_part, rate_of
from fedwarm.privacy.randomness import SYSTEM, Source, normals
from fedwarm.privacy.sampling import poisson_cohort
from fedwarm.settings.fields import SettingError
from fedwarm.training.examples import Loss, Singly, at_once, one_by_one


@dataclass(frozen=True)
class Mechanism:
    """How steps are made private.

    Attributes:
        clip: C.
        noise_multiplier: z.
        chunk: examples whose gradients are held at once; 1: one after another.
        source: private bytes for who takes part, the noise, and an example's own random draws.
        allowed: refuses a training before it begins.
    """

    clip: float
    noise_multiplier: float
    chunk: int = 16
    source: Source = SYSTEM
    allowed: Callable[[Steps], None] | None = None
    name: ClassVar[str] = "dp-sgd"
    covers: ClassVar[tuple[str, ...]] = COVERS

    @staticmethod
    def of(settings: DpSgd, plan: Iterable[tuple[float, int]], source: Source = SYSTEM) -> Mechanism:
        """By the settings; for `plan` see `noise_of`, for `source` see `source_of`."""
        return Mechanism(settings.clip, noise_of(settings, plan), settings.chunk, source)

    def steps(self, examples: int, batch_size: int, count: int) -> Steps:
        """What `count` steps over so many examples tell the account, asked before they are taken.

        Raises:
            RefusalError: the account does not allow them.
        """
        steps = Steps(rate_of(examples, batch_size), self.noise_multiplier, count)
        if self.allowed is not None:
            self.allowed(steps)
        return steps

    def rows(self, examples: int, batch_size: int) -> Tensor:
        """The examples of a step, int64 (b,), ascending: any number of them, often none where there are few."""
        return torch.tensor(poisson_cohort(examples, rate_of(examples, batch_size), self.source), dtype=torch.int64)

    def expected(self, examples: int, batch_size: int) -> float:
        """Examples expected in a step."""
        return rate_of(examples, batch_size) * examples

    def gradient(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        trained: Mapping[str, nn.Parameter],
        expected: float,
        scale: float = 1.0,
        singly: Singly | None = None,
    ) -> PrivateGradient:
        """What puts a step's noised mean of clipped gradients into the parameters' `grad`.

        Raises:
            SettingError: a layer keeps statistics of examples.
        """
        return PrivateGradient(module, optimiser, trained, self, expected, scale, singly)

    def generator(self) -> torch.Generator:
        """For random draws that belong to examples: secret, else those of one example would tell who came before it."""
        return torch.Generator().manual_seed(int.from_bytes(self.source(8), "little") >> 1)


def source_of(settings: DpSgd, seed: int, *keys: Key) -> Source:
    """Private bytes: the operating system's, or for experiments those of the run's seed and the keys."""
    return SYSTEM if settings.entropy == "system" else numpy_generator(seed, "dp-sgd", *keys).bytes


class PrivateGradient:
    """Puts the noised mean of clipped gradients into the parameters' `grad`; the optimiser steps after that as it always does.

    Args:
        module: trains in training mode; nothing in it may mix examples.
        optimiser: over the parameters.
        parameters: those that train, by the names that the loss knows them by.
        mechanism: clip, noise and private bytes.
        expected: examples expected in a step, what the sum is divided by.
        scale: what the loss is multiplied by, and the gradients are divided by again.
        singly: how the gradients of single examples are found; None: by `at_once`, or `one_by_one` where `chunk` is 1.

    Raises:
        SettingError: a layer keeps statistics of examples.
    """

    def __init__(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        mechanism: Mechanism,
        expected: float,
        scale: float = 1.0,
        singly: Singly | None = None,
    ) -> None:
        refuse_statistics(module)
        self.parameters, self.mechanism, self.expected, self.scale = dict(parameters), mechanism, expected, scale
        self.singly = singly or (at_once if mechanism.chunk > 1 else one_by_one)
        self._clipper = opacus_part("optimizers").DPOptimizer(
            optimiser,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )

    def __call__(self, loss: Loss, examples: tuple[Tensor, ...]) -> None:
        """One step's gradient, in parts of `mechanism.chunk` examples.

        Args:
            loss: see `training.examples`.
            examples: tensors (b, ...); b may be 0, then the gradient is noise.
        """
        self._clipper.zero_grad(set_to_none=True)
        for part in zip(*(t.split(self.mechanism.chunk) for t in examples), strict=True):
            for name, gradient in self.singly(loss, self.parameters, part).items():
                sample: Any = self.parameters[name]
                sample.grad_sample = gradient.div_(self.scale).nan_to_num_(0.0, 0.0, 0.0)
            self._clipper.clip_and_accumulate()
        for parameter in self.parameters.values():
            held: Any = parameter
            parameter.grad = self._noised(held.summed_grad)
            del held.grad_sample, held.summed_grad

    def _noised(self, total: Tensor) -> Tensor:
        noise = torch.from_numpy(normals(total.numel(), self.mechanism.source)).view(total.shape)
        spread = self.mechanism.noise_multiplier * self.mechanism.clip
        return ((total.cpu().double() + spread * noise) / self.expected).to(total)


def refuse_statistics(module: nn.Module) -> None:
    """Refuse a module whose layers mix examples, as Opacus' validator does; those whose statistics are frozen do not.

    Raises:
        SettingError: a layer keeps statistics of examples.
    """
    kept = ((name, part) for name, part in module.named_modules() if getattr(part, "track_running_stats", False))
    for name, part in (*mixing(module), *kept):
        if not isinstance(part, Still):
            raise SettingError(
                f"dp-sgd cannot train layer {name!r}, which keeps statistics of examples; use model.norm='group', or "
                "model.statistics='frozen' with model.weights"
            )


def refuse_uncovered(module: nn.Module) -> None:
    """Refuse a module that Opacus' own validator refuses.

    Raises:
        SettingError: what it says of the first layer that is not covered.
    """
    errors = opacus_part("validators").ModuleValidator.validate(module, strict=False)
    if errors:
        text = " ".join(str(errors[0]).split())
        raise SettingError(f"dp-sgd cannot train this model: {text}; take another layer in its place, or privacy = 'none'")
