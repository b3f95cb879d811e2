"""Metrics against scikit-learn's on all examples at once, and by sums of clients that add up to the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from fedwarm.catalogue import parse
from fedwarm.metrics import COUNTED, metric, metrics_for, metrics_of
from fedwarm.metrics._sums import IGNORED
from fedwarm.rounds.measuring import check_fitting
from fedwarm.settings.config import General
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METRICS, TASKS
from fedwarm.tasks import Task, made

N, WIDTH = 240, 4
Pair = tuple[Tensor, Tensor]


def draws(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def classes() -> Pair:
    labels = torch.randint(0, WIDTH, (N,), generator=draws())
    return torch.randn(N, WIDTH, generator=draws(1)) + 1.5 * torch.nn.functional.one_hot(labels, WIDTH), labels


def labels() -> Pair:
    targets = (torch.rand(N, WIDTH, generator=draws()) < 0.3).float()
    return torch.randn(N, WIDTH, generator=draws(1)) + 2 * targets - 1, targets


def numbers() -> Pair:
    targets = torch.randn(N, 2, generator=draws()) * 30 + 100
    return targets + torch.randn(N, 2, generator=draws(1)) * 9, targets


def tokens() -> Pair:
    targets = torch.randint(0, WIDTH, (N, 5), generator=draws())
    targets[::3, 3:] = IGNORED
    return torch.randn(N, 5, WIDTH, generator=draws(1)), targets


GIVEN: dict[str, Callable[[], Pair]] = {"classes": classes, "labels": labels, "numbers": numbers, "tokens": tokens}
WIDTHS = {"numbers": 2}


def total(name: str, task: Task, outputs: Tensor, targets: Tensor) -> Any:
    part = metric(name).sum_of(task.targets)
    assert part is not None
    width = WIDTHS.get(task.targets, WIDTH)
    adding = part.begin(task, width)
    for rows in torch.arange(len(targets)).split(50):
        adding.add(outputs[rows], targets[rows])
    found = adding.total().numpy()
    assert found.shape == (part.size(width),) and (not part.whole or (found == found.round()).all())
    return found


def value(name: str, task: Task, outputs: Tensor, targets: Tensor) -> float | None:
    of = metric(name).value
    assert of is not None
    return of(total(name, task, outputs, targets), WIDTHS.get(task.targets, WIDTH))


def one(logits: Tensor) -> Any:
    return logits.double().softmax(-1).numpy()


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        ("classification", "balanced-accuracy", lambda x, y: reference.balanced_accuracy_score(y, x.argmax(1))),
        ("classification", "f1", lambda x, y: reference.f1_score(y, x.argmax(1), average="macro")),
        ("classification", "loss", lambda x, y: reference.log_loss(y, one(x))),
        ("multilabel", "f1", lambda x, y: reference.f1_score(y, x > 0, average="macro")),
        ("regression", "mae", lambda x, y: reference.mean_absolute_error(y, x)),
        ("regression", "rmse", lambda x, y: reference.mean_squared_error(y, x) ** 0.5),
        ("regression", "r2", lambda x, y: reference.r2_score(y, x)),
        ("language", "perplexity", lambda x, y: np.exp(reference.log_loss(y[y >= 0], one(x)[y >= 0]))),
        ("language", "accuracy", lambda x, y: reference.accuracy_score(y[y >= 0], x[y >= 0].argmax(1))),
        ("language", "loss", lambda x, y: reference.log_loss(y[y >= 0], one(x)[y >= 0])),
    ],
)
def test_it_is_what_scikit_learn_says(task: str, name: str, wanted: Callable[[Any, Any], float]) -> None:
    outputs, targets = GIVEN[made(task).targets]()
    assert value(name, made(task), outputs, targets) == pytest.approx(wanted(outputs, targets), rel=1e-6)


def test_r2_knows_targets_whose_mean_is_far_above_their_spread() -> None:
    outputs, targets = (part.double() + 1e6 for part in numbers())
    assert value("r2", made("regression"), outputs, targets) == pytest.approx(reference.r2_score(targets, outputs), rel=1e-3)
    assert value("r2", made("regression"), outputs, torch.full_like(targets, 1e6 + 0.1)) is None


def test_area_is_exact_but_for_scores_that_are_within_a_tenth_of_a_nat() -> None:
    outputs, targets = classes()
    wanted = reference.roc_auc_score(targets, one(outputs), multi_class="ovr", average="macro")
    assert value("auroc", made(), outputs, targets) == pytest.approx(wanted, abs=2e-3)
    scores, given = labels()
    wanted = reference.roc_auc_score(given, scores, average="macro")
    assert value("auroc", made("multilabel"), scores, given) == pytest.approx(wanted, abs=2e-3)
    coarse = (scores * 2).round() / 2  # scores that are apart or equal: no rounding is left
    assert value("auroc", made("multilabel"), coarse, given) == pytest.approx(reference.roc_auc_score(given, coarse), rel=1e-12)
    two, answers = outputs[:, :2], targets % 2
    found = metric("auroc")
    part = found.sum_of("classes")
    assert part is not None and found.value is not None
    adding = part.begin(made(), 2)
    adding.add(30 * two, answers)  # as sure of itself as can be: probabilities of 1 - 1e-12 still differ
    wanted = reference.roc_auc_score(answers, (30 * (two[:, 1] - two[:, 0])).clamp(-20, 20))
    assert found.value(adding.total().numpy(), 2) == pytest.approx(wanted, abs=2e-3)


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    outputs, targets = classes()
    sure, said = outputs.double().softmax(1).max(1)
    bins, right = (sure * 15).long().numpy(), (said == targets).double().numpy()
    gaps = [abs(right[bins == b].sum() - sure.numpy()[bins == b].sum()) for b in range(15)]
    assert value("calibration-error", made(), outputs, targets) == pytest.approx(sum(gaps) / N)
    rows = metric("calibration-error").table
    assert rows is not None
    table = rows(total("calibration-error", made(), outputs, targets), WIDTH)
    assert sum(row[0] for row in table) == N and table[14][2] == pytest.approx(right[bins == 14].mean())
    assert table[0] == [0, None, None]  # of four classes one has a quarter at least


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    outputs, targets = classes()
    table = metric("confusion-matrix").table
    assert table is not None
    found = table(total("confusion-matrix", made(), outputs, targets), WIDTH)
    assert found == reference.confusion_matrix(targets, outputs.argmax(1)).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_clients_sums_add_up_to_those_of_all_examples(task: str) -> None:
    """So that a federation's metric is exactly that of all test examples together, whoever holds which."""
    own = made(task)
    outputs, targets = GIVEN[own.targets]()
    parts = torch.tensor_split(torch.randperm(N, generator=draws(3)), [7, 9, 150])
    for name in metrics_for(own):
        if not (own.counted and name == COUNTED):
            whole = total(name, own, outputs, targets)
            added = np.sum([total(name, own, outputs[rows], targets[rows]) for rows in parts], axis=0)
            np.testing.assert_allclose(added, whole, rtol=1e-9)


def test_classes_that_a_client_has_no_example_of_do_not_count() -> None:
    outputs, targets = classes()
    two = targets < 2
    outputs, targets = outputs[two], targets[two]
    recalls = [(outputs[targets == c].argmax(1) == c).double().mean() for c in (0, 1)]
    assert value("balanced-accuracy", made(), outputs, targets) == pytest.approx(float(sum(recalls)) / 2)
    alone = targets == 0
    assert value("auroc", made(), outputs[alone], targets[alone]) is None
    none = outputs[:0], targets[:0]
    assert all(value(name, made(), *none) is None for name in METRICS if name in metrics_for(made()) and name not in
               ("accuracy", "confusion-matrix"))  # fmt: skip


def run(**given: Any) -> General:
    return General(**{"method": "fedavg", **given})


def test_a_tasks_metrics_are_its_main_one_and_its_usual_ones_or_those_named() -> None:
    assert metrics_of(run()) == metrics_of(run(metrics="accuracy")) == {}
    assert [*metrics_of(run(task="regression", watch="rmse"))] == ["rmse", "mae", "r2"]
    assert [*metrics_of(run(task="regression", watch="loss", metrics="mae"))] == ["rmse", "mae", "loss"]
    assert [*metrics_of(run(task="multilabel", watch="personal"))] == ["auroc", "f1"]
    assert [*metrics_of(run(task="language", watch="worst"))] == ["perplexity", "accuracy"]
    assert [*metrics_of(run(watch="auroc", metrics=" f1 , confusion_matrix"))] == ["f1", "confusion-matrix", "auroc"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"watch": "mae"}, r"watch = 'mae' is no metric of task 'classification'; it has accuracy, .*balanced-acc.*personal"),
        ({"task": "regression"}, r"watch = 'accuracy' is no metric of task 'regression'; it has rmse, loss, mae, r2, pers"),
        ({"metrics": "f1,speed"}, r"metrics = 'speed' is no metric of task 'classification'; it has accuracy, auroc"),
        ({"task": "contrast", "metrics": "f1"}, r"metrics = 'f1' is no metric of task 'contrast'; it has accuracy$"),
        ({"watch": "confusion-matrix"}, r"watch = 'confusion-matrix' is a table, not a number; choose one of accuracy, "),
    ],
)  # fmt: skip
def test_what_a_task_has_not_is_refused_with_the_list(given: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        metrics_of(run(**given))


@pytest.mark.long
def test_torchmetrics_says_the_same_and_any_of_its_metrics_goes_by_its_place() -> None:
    """What its states are sums of adds up over clients; of others each client's value counts by its examples."""
    import torchmetrics
    from torchmetrics import classification as of

    outputs, targets = classes()
    probabilities = outputs.double().softmax(1)
    for name, made_by in (
        ("auroc", of.MulticlassAUROC(WIDTH, thresholds=None)),
        ("f1", of.MulticlassF1Score(WIDTH)),
        ("balanced-accuracy", of.MulticlassAccuracy(WIDTH)),
        ("calibration-error", of.MulticlassCalibrationError(WIDTH, n_bins=15)),
    ):
        assert value(name, made(), outputs, targets) == pytest.approx(float(made_by(probabilities, targets)), abs=2e-3)
    kappa = "torchmetrics.classification:MulticlassCohenKappa"
    found = metric(kappa)
    assert found.value is not None and found.pooled.startswith("sums")
    halves = [total(kappa, made(), outputs[rows], targets[rows]) for rows in torch.arange(N).chunk(2)]
    wanted = reference.cohen_kappa_score(targets, outputs.argmax(1))
    assert found.value(halves[0] + halves[1], WIDTH) == pytest.approx(wanted, abs=1e-6)
    rank, (numbers_found, wanted_numbers) = metric("torchmetrics:SpearmanCorrCoef"), numbers()
    assert rank.pooled.startswith("mean over clients") and rank.value is not None
    with pytest.warns(UserWarning, match="buffer"):
        own = torchmetrics.SpearmanCorrCoef(2)(numbers_found, wanted_numbers).mean()
    assert value("torchmetrics:SpearmanCorrCoef", made("regression"), numbers_found, wanted_numbers) == pytest.approx(float(own))
    assert metric("torchmetrics:MeanSquaredError").lower
    assert value("torchmetrics:R2Score", made("regression"), numbers_found, wanted_numbers) == pytest.approx(
        reference.r2_score(wanted_numbers, numbers_found), abs=1e-6
    )
    for task, ours, theirs in (
        ("language", "perplexity", "torchmetrics.text:Perplexity"),
        ("multilabel", "auroc", "torchmetrics.classification:MultilabelAUROC"),
    ):
        pair = GIVEN[made(task).targets]()
        assert value(theirs, made(task), *pair) == pytest.approx(value(ours, made(task), *pair), abs=2e-3)
    for name in ("BinaryF1Score", "MulticlassROC"):
        with pytest.raises(SettingError, match="does not fit targets that are classes"):
            check_fitting(parse({"metrics": f"torchmetrics.classification:{name}"}), 3)


class Stated:
    """As torchmetrics has it: states that are sums, or lists of all examples, and checks of what it is given."""

    higher_is_better: bool | None = True

    def __init__(self, num_outputs: int = 1, ignore_index: int | None = None) -> None:
        self._defaults: dict[str, Any] = {}
        self._reductions: dict[str, Any] = {}
        self.ignored = ignore_index

    def add_state(self, name: str, default: Any, sums: bool = True) -> None:
        def dim_zero_sum() -> None: ...
        def dim_zero_cat() -> None: ...

        self._defaults[name], self._reductions[name] = default, dim_zero_sum if sums else dim_zero_cat
        setattr(self, name, default)

    def set_dtype(self, kind: torch.dtype) -> Any:
        return self


class Spread(Stated):
    """Variance by output, whose states are scalars before the first example; undefined on one."""

    def __init__(self, num_outputs: int = 1, ignore_index: int | None = None) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))
        self.add_state("squares", torch.tensor(0.0))
        self.add_state("count", torch.tensor(0.0))

    def update(self, answers: Tensor, targets: Tensor) -> None:
        assert answers.shape == targets.shape, "shapes differ"
        self.total, self.squares = self.total + targets.sum(0), self.squares + targets.square().sum(0)  # type: ignore[has-type]
        self.count = self.count + len(targets)  # type: ignore[has-type]

    def compute(self) -> Any:
        if self.count < 2:
            raise ValueError("needs two examples")
        return self.squares / self.count - (self.total / self.count) ** 2


class Correlation(Stated):
    """Not a number where targets are all the same."""

    higher_is_better = None

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", [], sums=False)

    def update(self, answers: Tensor, targets: Tensor) -> None:
        self.pairs = [*self.pairs, torch.stack([answers, targets])]  # type: ignore[has-type]

    def compute(self) -> Any:
        return torch.corrcoef(torch.cat(self.pairs, 1))[0, 1]


class Whole(Stated):
    """Takes whole targets of the answers' shape alone."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0.0))

    def update(self, answers: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() or answers.shape != targets.shape:
            raise RuntimeError("Expected whole targets of the shape of answers.")
        self.right = self.right + ((answers > 0.5) == targets).sum()  # type: ignore[has-type]

    def compute(self) -> Any:
        return self.right


class Logits(Stated):
    """Nats of tokens from logits, as torchmetrics' perplexity has them."""

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index=ignore_index)
        self.add_state("nats", torch.tensor(0.0))

    def update(self, answers: Tensor, targets: Tensor) -> None:
        asked = targets != self.ignored
        self.nats = self.nats + torch.nn.functional.cross_entropy(answers[asked], targets[asked], reduction="sum")  # type: ignore[has-type]

    def compute(self) -> Any:
        return self.nats


def spread() -> Any:
    return Spread()


def place(of: Any) -> str:
    return f"{__name__}:{of.__name__}"


def test_another_librarys_states_may_follow_the_number_of_outputs_and_a_function_may_make_it() -> None:
    outputs, targets = numbers()
    wanted = float(targets.double().var(0, correction=0).mean())
    for of in (Spread, spread):
        assert value(place(of), made("regression"), outputs, targets) == pytest.approx(wanted, rel=1e-4)
    found = metric(place(Spread))
    part = found.sum_of("numbers")
    assert part is not None and found.value is not None and found.title == metric(place(spread)).title == "Spread"
    assert part.size(2) == 5 and part.size(1) == 3
    adding = part.begin(made("regression"), 1)
    adding.add(outputs[:1, :1], targets[:1, :1])  # answers lose the axis of one output, and targets with them
    assert found.value(adding.total().numpy(), 1) is None, "undefined on one example is no error"


def test_a_value_that_is_no_number_takes_no_part_in_the_mean_over_clients() -> None:
    outputs, targets = (part[:, :1] for part in numbers())
    found = metric(place(Correlation))
    part = found.sum_of("numbers")
    assert part is not None and found.value is not None
    totals = []
    for given in (targets, torch.zeros_like(targets)):
        adding = part.begin(made("regression"), 1)
        adding.add(outputs, given)
        totals.append(adding.total().numpy())
    assert totals[1].tolist() == [0, 0] and found.value(totals[1], 1) is None
    assert found.value(totals[0] + totals[1], 1) == found.value(totals[0], 1) != 0


def test_targets_are_given_as_another_library_takes_them() -> None:
    scores, given = labels()
    right = float(((scores > 0) == (given > 0.5)).sum())
    assert value(place(Whole), made("multilabel"), scores, given) == right
    outputs, targets = tokens()
    asked = targets != IGNORED
    nats = torch.nn.functional.cross_entropy(outputs[asked].double(), targets[asked], reduction="sum")
    assert value(place(Logits), made("language"), outputs, targets) == pytest.approx(float(nats), rel=1e-5)


def test_a_metric_that_does_not_fit_is_refused_before_work() -> None:
    with pytest.raises(
        SettingError, match=r"Whole' does not fit targets that are classes, with 3 outputs .*: Expected whole .*; name"
    ):
        check_fitting(parse({"metrics": place(Whole)}), 3)
    check_fitting(parse({"task": "multilabel", "metrics": place(Whole), "watch": "f1"}), 3)
    with pytest.raises(SettingError, match="is neither a `fedwarm.metrics.Metric` nor a class of torchmetrics, nor a function"):
        metric(f"{__name__}:GIVEN")


def test_what_does_not_say_which_way_is_better_cannot_be_watched() -> None:
    with pytest.raises(SettingError, match=r"Correlation' does not say whether more or less of it is better; name it in metrics"):
        metrics_of(run(task="regression", watch=place(Correlation)))
    assert metric(place(Correlation)).better == "" and metric("rmse").better == "lower" and metric("r2").better == "higher"
