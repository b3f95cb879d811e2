"""Which examples a teacher is heard on: the rules of dynamic self-distillation, and their term of the loss.

Feng et al., "WarmFed", arXiv 2503.03110 (2025), select examples anew before each epoch; `always` is pFedSD (Jin et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.training.distill import distillation_term
from fedwarm.training.evaluate import predict
from fedwarm.training.loop import Batch, Hook


class Rule(Protocol):
    """A rule by its name, lambda and T."""

    @property
    def selection(self) -> str:
        """One of `SAMPLE_RULES`, or `class_better`."""

    @property
    def distill_weight(self) -> float:
        """lambda."""

    @property
    def temperature(self) -> float:
        """T."""


def sample_better(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """1 where the teacher's cross-entropy is strictly below the student's: logits (n, classes), labels (n,) -> (n,)."""
    return (F.cross_entropy(teacher, labels, reduction="none") < F.cross_entropy(student, labels, reduction="none")).float()


def sample_correct(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """1 where the teacher is right."""
    return (teacher.argmax(1) == labels).float()


def always(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """1 everywhere: the distillation of pFedSD (Jin et al., 2022)."""
    return torch.ones(len(labels))


def never(teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
    """0 everywhere: plain local fine-tuning."""
    return torch.zeros(len(labels))


SAMPLE_RULES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sample_better": sample_better,
    "sample_correct": sample_correct,
    "model_best": always,
    "always": always,
    "never": never,
}


def class_better(teacher: Tensor, student: Tensor, held: Tensor, labels: Tensor) -> Tensor:
    """1 for examples whose class the teacher labels more accurately than the student on a held-out local split.

    Args:
        teacher, student: logits (m, classes) on the held-out split.
        held: labels (m,) of the held-out split.
        labels: labels (n,) of the training examples.
    """
    gain = torch.zeros(teacher.shape[1])
    gain.index_add_(0, held, (teacher.argmax(1) == held).float() - (student.argmax(1) == held).float())
    return (gain[labels] > 0).float()


def best_of(candidates: Sequence[nn.Module], images: Tensor, labels: Tensor) -> nn.Module:
    """The candidate with the lowest cross-entropy on a held-out local split; the first of equals."""
    losses = [float(F.cross_entropy(predict(c, images), labels)) for c in candidates]
    losses = [loss if loss == loss else float("inf") for loss in losses]
    return candidates[losses.index(min(losses))]


class SelfDistillation(Hook):
    """Dynamic self-distillation: adds lambda s(x) T^2 KL(teacher || student), with s recomputed before each epoch.

    Args:
        teacher: the personal model that teaches, which is not changed; or its logits (n, classes) on the images.
        settings: rule, lambda and T.
        images, labels: the training examples, uint8 (n, 3, S, S) and (n,), as `fit` gets them.
        held: a held-out local split (images, labels) for `class_better`.
    """

    def __init__(
        self,
        teacher: nn.Module | Tensor,
        settings: Rule,
        images: Tensor,
        labels: Tensor,
        held: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.settings, self.images, self.labels, self.held = settings, images, labels, held
        self.teacher_logits = teacher if isinstance(teacher, Tensor) else predict(teacher, images)
        self._held_logits = predict(teacher, held[0]) if held and not isinstance(teacher, Tensor) else None
        self.selected = torch.zeros(len(labels))
        self.shares: list[float] = []

    def epoch(self, model: nn.Module, number: int) -> None:
        rule = self.settings.selection
        if rule == "class_better":
            if self.held is None or self._held_logits is None:
                raise ValueError("class_better needs a held-out local split")
            student = predict(model, self.held[0])
            self.selected = class_better(self._held_logits, student, self.held[1], self.labels)
        else:
            self.selected = SAMPLE_RULES[rule](self.teacher_logits, predict(model, self.images), self.labels)
        self.shares.append(float(self.selected.double().mean()) if len(self.selected) else 0.0)

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        weight, rows = self.settings.distill_weight, batch.rows.cpu()
        if weight == 0 or self.settings.selection == "never":
            return loss
        device = batch.logits.device
        teacher, chosen = self.teacher_logits[rows].to(device), self.selected[rows].to(device)
        return loss + weight * distillation_term(batch.logits, teacher, chosen, self.settings.temperature)
