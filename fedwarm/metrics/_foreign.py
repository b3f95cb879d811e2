"""Metrics of torchmetrics as they are: their states add up where torchmetrics says so, else clients' values are averaged.

`import torchmetrics` takes longer than all else that a client imports (it imports transformers and torchvision), so nothing here
imports it: a run that names one of its metrics does.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwarm.settings.fields import SettingError

IGNORED = -100  # a token that nobody is asked for
WIDTHS = ("num_classes", "num_labels", "num_outputs")
CLASSES, LABELS, NUMBERS, TOKENS = FORMS = ("classes", "labels", "numbers", "tokens")


def foreign(found: Any, name: str, metric: Callable[..., Any], sum_of: Callable[..., Any], weighed: str) -> Any:
    """A metric out of a class of torchmetrics', or of a function that makes one.

    Args:
        found: what the name stands for.
        name: as it was given.
        metric, sum_of: what makes a `Metric` and a `Sum`.
        weighed: how values of clients are pooled, in words.

    Raises:
        SettingError: it is neither, or cannot be made.
    """
    theirs = _Theirs(found, name)
    made = theirs.made("", 2)
    summed = all(getattr(each, "__name__", "") == "dim_zero_sum" for each in made._reductions.values())
    own = name.replace(":", "-").replace(".", "-")

    def sums(form: str) -> Any:
        return sum_of(own, lambda width: _size(theirs.shapes(form, width)) if summed else 2,
                      lambda task, width: _Adds(theirs.made(form, width), task, form, summed), whole=False)  # fmt: skip

    def value(total: Any, width: int) -> float | None:
        if summed:
            return theirs.value(total, width)
        return None if not total[1] else float(total[0] / total[1])

    said = found.__name__ if isinstance(found, type) else type(made).__name__
    better, pooled = getattr(made, "higher_is_better", None), {} if summed else {"pooled": weighed}
    return metric(
        said, f"{said} of torchmetrics", {form: sums(form) for form in FORMS}, value,
        lower=better is False, ranks=better is not None, check=theirs.shapes, **pooled,
    )  # fmt: skip


class _Theirs:
    """What makes a metric of torchmetrics'."""

    def __init__(self, found: Any, name: str) -> None:
        self.found, self.name = found, name
        self.shapes = lru_cache(maxsize=16)(self._shapes)

    def made(self, form: str, width: int) -> Any:
        """A new one for targets of a form and a model's width.

        Raises:
            SettingError: there is none.
        """
        made = self._called(form, width) if callable(self.found) else None
        if not all(hasattr(made, part) for part in ("update", "compute", "add_state")):
            raise SettingError(
                f"metric {self.name!r} is neither a `fedwarm.metrics.Metric` nor a class of torchmetrics, nor a function that "
                "makes one; name one of these"
            )
        return made.set_dtype(torch.float64)  # type: ignore[union-attr]

    def _called(self, form: str, width: int) -> Any:
        try:
            known = inspect.signature(self.found).parameters
            given = {key: width for key in WIDTHS if key in known}
            given |= {"ignore_index": IGNORED} if form == TOKENS and "ignore_index" in known else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its memory, mostly
                return self.found(**given)
        except Exception as error:  # whatever somebody's code does
            raise SettingError(
                f"metric {self.name!r} cannot be made: {_line(error)}; give a class whose arguments have defaults, or a function "
                "that makes it"
            ) from error

    def _shapes(self, form: str, width: int) -> dict[str, torch.Size]:
        """The shapes of its states once it has seen examples: those of some metrics follow the number of outputs.

        Raises:
            SettingError: it does not take such examples, or gives no number.
        """
        made = self.made(form, width)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of examples that are few
                made.update(*_fitting(form, *_examples(form, width)))
                torch.as_tensor(made.compute()).double().mean()
        except Exception as error:
            raise SettingError(
                f"metric {self.name!r} does not fit targets that are {form}, with {width} outputs of the model: {_line(error)}; "
                "name another"
            ) from error
        return {name: getattr(made, name).shape for name in made._defaults if isinstance(getattr(made, name), Tensor)}

    def value(self, total: Any, width: int) -> float | None:
        """What sums of its states come to; None where that is not defined."""
        for form in FORMS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of examples that are few
                try:
                    if _size(shapes := self.shapes(form, width)) == len(total):
                        return _computed(_filled(self.made(form, width), shapes, torch.from_numpy(np.asarray(total))))
                except SettingError:
                    continue  # other targets than the run's
        return None


def _size(shapes: dict[str, torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes.values())


def _filled(made: Any, shapes: dict[str, torch.Size], total: Tensor) -> Any:
    """A metric whose states are a total's parts."""
    for (state, shape), part in zip(shapes.items(), total.split([shape.numel() for shape in shapes.values()]), strict=True):
        setattr(made, state, part.reshape(shape).to(made._defaults[state].dtype))
    made._update_count = 1
    return made


def _computed(made: Any) -> float | None:
    """A metric's value; None where it is undefined on the examples that it has, as some are on one."""
    try:
        value = float(torch.as_tensor(made.compute()).double().mean())
    except Exception:  # whatever somebody's code does
        return None
    return value if isfinite(value) else None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _examples(form: str, width: int) -> tuple[Tensor, Tensor]:
    """Four made-up answers and their targets."""
    draws, classes = torch.Generator().manual_seed(0), torch.arange(4) % width
    scores = torch.rand(4, width, generator=draws)
    if form == CLASSES:
        return scores.softmax(1), classes
    if form == LABELS:
        return scores, torch.arange(4 * width).reshape(4, width) % 2
    if form == NUMBERS:
        return scores.squeeze(1), torch.rand(scores.shape, generator=draws)
    places = width + 1  # of a text, and not as many as tokens
    return torch.rand(4, places, width, generator=draws).softmax(2), classes[:, None].expand(4, places).clone()


def _fitting(form: str, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Answers and targets as torchmetrics takes them."""
    if form == NUMBERS:
        return answers, targets.reshape(answers.shape)
    return answers.double().log() if form == TOKENS else answers, targets.long()  # of tokens it takes logits


class _Adds:
    """A metric of torchmetrics' as it goes over batches."""

    def __init__(self, made: Any, task: Any, form: str, summed: bool) -> None:
        self.made, self.task, self.form, self.summed, self.examples = made, task, form, summed, 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.made.update(*_fitting(self.form, self.task.predicted(outputs), targets))
        self.examples += len(targets)

    def total(self) -> Tensor:
        if self.summed:
            return torch.cat([getattr(self.made, state).double().flatten() for state in self.made._defaults])
        value = _computed(self.made)
        weight = 0 if value is None else self.examples
        return torch.tensor([(value or 0.0) * weight, weight], dtype=torch.float64)
