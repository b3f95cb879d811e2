"""The sums that metrics are made of: counts by class, counts by score, errors, and log-likelihoods of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.metrics import Sum

IGNORED = -100  # a token that nobody is asked for
REACH, BINS_A_NAT = 20, 10
SCORES = 2 * REACH * BINS_A_NAT + 1
BINS = 15
NUMBERS = 5  # of errors: how many, their sizes, their squares, targets, their squares


class Adding:
    """Adds up what a function gives of each batch."""

    def __init__(self, of: Callable[[Tensor, Tensor], Tensor], size: int) -> None:
        self.of, self.sum = of, torch.zeros(size, dtype=torch.float64)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.sum += self.of(outputs, targets).flatten()

    def total(self) -> Tensor:
        return self.sum


def _sum(name: str, size: Callable[[int], int], of: Callable[[Tensor, Tensor], Tensor], whole: bool = True) -> Sum:
    return Sum(name, size, lambda task, width: Adding(of, size(width)), whole)


def one_hot(answers: Tensor, width: int) -> Tensor:
    """0 and 1 (n, width) of classes (n,)."""
    return F.one_hot(answers, width)


def confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Examples by true class and by answer, (C, C); logits (n, C), classes (n,)."""
    classes = outputs.shape[1]
    return torch.bincount(targets * classes + outputs.argmax(1), minlength=classes**2).double()


def _counts(said: Tensor, true: Tensor) -> Tensor:
    right = (said & true).sum(0)
    return torch.stack([right, said.sum(0) - right, true.sum(0) - right], 1).double()


def class_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """Right, wrongly said and missed examples of each class, (C, 3); logits (n, C), classes (n,)."""
    width = outputs.shape[1]
    return _counts(one_hot(outputs.argmax(1), width).bool(), one_hot(targets, width).bool())


def label_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same of each label, (L, 3), said where its logit is above 0; logits and targets (n, L)."""
    return _counts(outputs > 0, targets > 0.5)


def log_odds(outputs: Tensor) -> Tensor:
    """Of each class against all others, (n, C); logits (n, C)."""
    log_p = outputs.double().log_softmax(1)
    return log_p - (-log_p.exp()).log1p()


def _by_score(scores: Tensor, true: Tensor) -> Tensor:
    """Counts by column, truth and score, (C, 2, SCORES); scores in log-odds (n, C), cut at +-REACH, of bins of 0.1."""
    width = scores.shape[1]
    places = (scores.double().nan_to_num().clamp(-REACH, REACH) * BINS_A_NAT).round().long() + REACH * BINS_A_NAT
    rows = (torch.arange(width) * 2 + true.long()) * SCORES + places
    return torch.bincount(rows.flatten(), minlength=width * 2 * SCORES).double()


def class_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """Counts by class, whether an example is of it, and score; logits (n, C), classes (n,)."""
    return _by_score(log_odds(outputs), one_hot(targets, outputs.shape[1]))


def label_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """Counts by label, whether an example has it, and score; logits and targets (n, L)."""
    return _by_score(outputs, targets > 0.5)


def _by_confidence(sure: Tensor, right: Tensor) -> Tensor:
    """How many, what confidence and how many right by bins of confidence, (3, BINS)."""
    place = (sure * BINS).long().clamp(0, BINS - 1)
    found = torch.zeros(3, BINS, dtype=torch.float64)
    for row, values in zip(found, (torch.ones_like(sure), sure, right.double()), strict=True):
        row.index_add_(0, place, values)
    return found


def class_confidence(outputs: Tensor, targets: Tensor) -> Tensor:
    """By the confidence in the answer; logits (n, C), classes (n,)."""
    sure, said = outputs.double().softmax(1).max(1)
    return _by_confidence(sure, said == targets)


def label_confidence(outputs: Tensor, targets: Tensor) -> Tensor:
    """By the probability of each label; logits and targets (n, L)."""
    return _by_confidence(outputs.double().sigmoid().flatten(), (targets > 0.5).flatten())


def errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each output: how many, sizes and squares of errors, targets and their squares, (k, 5); both (n,) or (n, k)."""
    found, wanted = outputs.double().reshape(len(outputs), -1), targets.double().reshape(len(targets), -1)
    gap = found - wanted
    return torch.stack([torch.ones_like(gap), gap.abs(), gap.square(), wanted, wanted.square()], 2).sum(0)


def tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    """Nats, right answers and tokens, (3,); logits (n, T, V), targets (n, T), those at IGNORED are not asked for."""
    asked = targets != IGNORED
    logits, wanted = outputs[asked].double(), targets[asked]
    nats = F.cross_entropy(logits, wanted, reduction="sum")
    return torch.stack([nats, (logits.argmax(1) == wanted).sum().double(), asked.sum().double()])


class Losses:
    """Adds up a task's loss over examples (over tokens where it is theirs)."""

    def __init__(self, task: Any, width: int) -> None:
        self.task, self.sum = task, torch.zeros(2, dtype=torch.float64)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        examples = self.task.examples(targets)
        if examples:
            self.sum += torch.tensor([float(self.task.loss(outputs.double(), targets)) * examples, examples], dtype=torch.float64)

    def total(self) -> Tensor:
        return self.sum


CONFUSION = _sum("confusion", lambda width: width**2, confusion)
COUNTS = {"classes": _sum("counts", lambda width: 3 * width, class_counts),
          "labels": _sum("counts", lambda width: 3 * width, label_counts)}  # fmt: skip
BY_SCORE = {"classes": _sum("scores", lambda width: 2 * width * SCORES, class_scores),
            "labels": _sum("scores", lambda width: 2 * width * SCORES, label_scores)}  # fmt: skip
BY_CONFIDENCE = {"classes": _sum("confidence", lambda width: 3 * BINS, class_confidence, whole=False),
                 "labels": _sum("confidence", lambda width: 3 * BINS, label_confidence, whole=False)}  # fmt: skip
ERRORS = {"numbers": _sum("errors", lambda width: NUMBERS * width, errors, whole=False)}
TOKENS = {"tokens": _sum("tokens", lambda width: 3, tokens, whole=False)}
LOSSES = {"": Sum("losses", lambda width: 2, Losses, whole=False)}
