"""WarmFed's formulas: distillation against pFedSD and finite differences, the selection rules by hand, the quota."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.methods.warmfed import RULES, WarmFed, quota
from fedwarm.models.cnn import cnn
from fedwarm.training.distill import distillation_term
from fedwarm.training.loop import Batch, Hook, Plan, fit
from fedwarm.training.selection import SAMPLE_RULES, SelfDistillation, best_of, class_better, sample_better, sample_correct

N, CLASSES, SIZE = 30, 4, 8
PLAN = Plan(epochs=3, batch_size=8, learning_rate=0.05, momentum=0.9)


def data(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=draws).to(torch.uint8)
    return images, torch.randint(0, CLASSES, (n,), generator=draws)


def model_of(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cnn(CLASSES, SIZE)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pfedsd(student: Tensor, teacher: Tensor, labels: Tensor, weight: float, temperature: float) -> Tensor:
    """The loss of pFedSD written with PyTorch's own criteria: CE + lambda T^2 KLDiv(log p_student, p_teacher)."""
    divergence = nn.KLDivLoss(reduction="batchmean")
    soft = torch.softmax(teacher / temperature, dim=1)
    kl: Tensor = divergence(torch.log_softmax(student / temperature, dim=1), soft)
    loss: Tensor = nn.CrossEntropyLoss()(student, labels)
    return loss + weight * temperature**2 * kl


def test_the_list_of_rules_is_complete() -> None:
    assert set(RULES) == set(SAMPLE_RULES) | {"class_better"} and WarmFed().selection == "sample_better"


# The distillation term


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.5, 3.0), (2.0, 0.7)])
def test_always_is_pfedsd_on_every_batch(weight: float, temperature: float) -> None:
    (images, labels), teacher, student = data(), model_of(1), model_of(2)
    chosen = WarmFed(selection="always", distill_weight=weight, temperature=temperature)
    hook = SelfDistillation(teacher, chosen, images, labels)
    hook.epoch(student, 0)
    for rows in torch.randperm(N, generator=generator(0)).split(8):
        inputs = (images[rows].float() - 127.5) / 127.5
        logits = student(inputs)
        ours = hook.loss(Batch(student, inputs, labels[rows], logits, rows), F.cross_entropy(logits, labels[rows]))
        wanted = pfedsd(logits, teacher(inputs).detach(), labels[rows], weight, temperature)
        assert ours.item() == pytest.approx(wanted.item(), abs=1e-6, rel=1e-6)


def test_a_fit_with_always_is_a_bare_loop_of_pfedsd() -> None:
    (images, labels), teacher, ours = data(), model_of(1), model_of(2)
    bare = copy.deepcopy(ours)
    fit(ours, images, labels, PLAN, generator(0), [SelfDistillation(teacher, WarmFed(selection="always"), images, labels)])
    optimiser, draws = torch.optim.SGD(bare.parameters(), lr=0.05, momentum=0.9), generator(0)
    for _ in range(PLAN.epochs):
        for rows in torch.randperm(N, generator=draws).split(8):
            x = (images[rows].float() - 127.5) / 127.5
            optimiser.zero_grad()
            with torch.no_grad():
                soft = teacher(x)
            pfedsd(bare(x), soft, labels[rows], 1.0, 1.0).backward()
            optimiser.step()
    for p, q in zip(ours.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chosen", [WarmFed(selection="never"), WarmFed(selection="sample_better", distill_weight=0.0)])
def test_never_is_cross_entropy_bit_for_bit(chosen: WarmFed) -> None:
    """Neither the loss nor the generator of the training is touched."""
    (images, labels), ours = data(), model_of(2)
    plain, draws, reference, before = copy.deepcopy(ours), generator(0), generator(0), torch.get_rng_state()
    done = fit(ours, images, labels, PLAN, draws, [SelfDistillation(model_of(1), chosen, images, labels)])
    assert done == fit(plain, images, labels, PLAN, reference)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))
    assert torch.equal(draws.get_state(), reference.get_state())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_draws_a_number(rule: str) -> None:
    images, labels = data()
    draws, reference, before = generator(0), generator(0), torch.get_rng_state()
    hook = SelfDistillation(model_of(1), WarmFed(selection=rule), images, labels, data(1))
    fit(model_of(2), images, labels, PLAN, draws, [hook])
    for _ in range(PLAN.epochs):
        torch.randperm(N, generator=reference)
    assert torch.equal(draws.get_state(), reference.get_state()) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_against_central_differences(temperature: float) -> None:
    student, teacher = randn(4, 5, seed=1, dtype=torch.float64), randn(4, 5, seed=2, dtype=torch.float64)
    selected = torch.tensor([1.0, 0.0, 1.0, 1.0])
    student.requires_grad_(True)
    (gradient,) = torch.autograd.grad(distillation_term(student, teacher, selected, temperature), student)
    assert gradient.dtype == torch.float64 and gradient.abs().max() > 1e-3
    step, numeric = 1e-5, torch.zeros_like(gradient)
    with torch.no_grad():
        for i in range(student.numel()):
            delta = torch.zeros(student.numel(), dtype=torch.float64).index_fill_(0, torch.tensor([i]), step).view_as(student)
            up, down = (distillation_term(student + s * delta, teacher, selected, temperature) for s in (1, -1))
            numeric.view(-1)[i] = (up - down) / (2 * step)
    assert float((gradient - numeric).norm() / numeric.norm()) < 1e-4
    assert not gradient[1].any()


def test_the_term_by_hand() -> None:
    """Two classes: KL = p log(p/q) + (1-p) log((1-p)/(1-q)), with p the teacher's share; examples left out count as zero."""
    p, q, temperature = 0.8, 0.3, 2.0
    teacher, student = (torch.tensor([[temperature * math.log(s / (1 - s)), 0.0]] * 4) for s in (p, q))
    kl = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    for chosen in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]):
        value = distillation_term(student, teacher, torch.tensor(chosen), temperature).item()
        assert value == pytest.approx(temperature**2 * kl * sum(chosen) / 4, rel=1e-5, abs=1e-9)


def test_equal_models_have_nothing_to_distil() -> None:
    logits = randn(6, 5, seed=3).requires_grad_(True)
    term = distillation_term(logits, logits.detach(), torch.ones(6), 2.0)
    assert term.item() == pytest.approx(0.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(term, logits)
    assert gradient.abs().max() < 1e-6


def test_confident_models_give_finite_terms() -> None:
    student, teacher = torch.tensor([[300.0, -300.0]], requires_grad=True), torch.tensor([[-300.0, 300.0]])
    term = distillation_term(student, teacher, torch.ones(1), 1.0)
    (gradient,) = torch.autograd.grad(term, student)
    assert term.item() == pytest.approx(600.0) and gradient.isfinite().all()


# The selection rules


def logits_of(*entropies: float) -> Tensor:
    """Two-class logits (n, 2) whose cross-entropy with label 0 is each of the given values."""
    shares = torch.exp(-torch.tensor(entropies, dtype=torch.float64))
    return torch.stack([shares.log(), (1 - shares).log()], 1)


def test_sample_better_takes_what_the_teacher_knows_better() -> None:
    teacher, student = logits_of(0.2, 0.7, 0.2, 0.7), logits_of(0.7, 0.2, 0.2, 0.7)
    assert sample_better(teacher, student, torch.zeros(4, dtype=torch.long)).tolist() == [1, 0, 0, 0]


def test_sample_better_goes_by_cross_entropy_not_by_the_answer() -> None:
    labels = torch.tensor([0, 0])
    teacher, student = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert sample_better(teacher, student, labels).tolist() == [1, 0]


def test_sample_correct_looks_at_the_teacher_alone() -> None:
    teacher = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.1, 3.0]])
    for student in (torch.zeros(3, 3), randn(3, 3)):
        assert sample_correct(teacher, student, torch.tensor([0, 1, 2])).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("rule", "wanted"), [("always", [1, 1, 1]), ("never", [0, 0, 0]), ("model_best", [1, 1, 1])])
def test_constant_rules(rule: str, wanted: list[int]) -> None:
    assert SAMPLE_RULES[rule](randn(3, 2), randn(3, 2, seed=1), torch.tensor([0, 1, 0])).tolist() == wanted


def answers(*classes: int) -> Tensor:
    return F.one_hot(torch.tensor(classes), CLASSES).float()


def test_class_better_compares_class_by_class_on_the_held_out_split() -> None:
    """Class 0: 2 of 2 against 1 of 2; class 1: equal; class 2: 0 against 1; class 3: not in the split."""
    held = torch.tensor([0, 0, 1, 1, 2])
    teacher, student = answers(0, 0, 1, 0, 1), answers(0, 1, 0, 1, 2)
    labels = torch.tensor([3, 2, 1, 0, 0, 1])
    assert class_better(teacher, student, held, labels).tolist() == [0, 0, 0, 1, 1, 0]
    assert class_better(student, teacher, held, labels).tolist() == [0, 1, 0, 0, 0, 0]


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_best_of_has_the_lowest_cross_entropy_and_is_the_first_of_equals() -> None:
    images, labels = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8), torch.tensor([0, 0, 0, 1])
    right, wrong, shy = Constant(1.0, 0.0), Constant(0.0, 1.0), Constant(0.1, 0.0)
    assert best_of([wrong, right, shy], images, labels) is right
    assert best_of([Constant(50.0, 0.0), shy], images, labels) is shy
    again = Constant(1.0, 0.0)
    assert best_of([again, right], images, labels) is again


def test_a_model_that_diverged_is_never_the_best() -> None:
    images, labels = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), torch.tensor([0, 0])
    good = Constant(1.0, 0.0)
    assert best_of([Constant(math.nan, 0.0), good], images, labels) is good
    assert best_of([good, Constant(math.nan, 0.0)], images, labels) is good


# The hook


class Watch(Hook):
    """Keeps the selection of each epoch."""

    def __init__(self, hook: SelfDistillation) -> None:
        self.hook, self.seen = hook, list[Tensor]()

    def epoch(self, model: nn.Module, number: int) -> None:
        self.seen.append(self.hook.selected.clone())


def test_the_selection_follows_the_student_from_epoch_to_epoch() -> None:
    (images, labels), teacher, student = data(), model_of(1), model_of(2)
    hook = SelfDistillation(teacher, WarmFed(), images, labels)
    watch = Watch(hook)
    fit(student, images, labels, Plan(8, 8, 0.05, 0.9), generator(0), [hook, watch])
    assert len(watch.seen) == 8 and all(set(s.tolist()) <= {0.0, 1.0} for s in watch.seen)
    assert len({tuple(s.tolist()) for s in watch.seen}) > 1
    assert watch.seen[-1].sum() < watch.seen[0].sum()


@pytest.mark.parametrize("rule", ["sample_better", "class_better"])
def test_the_selection_is_of_the_student_at_that_moment(rule: str) -> None:
    (images, labels), held, teacher = data(), data(1), model_of(1)
    hook = SelfDistillation(teacher, WarmFed(selection=rule), images, labels, held)
    for seed in (2, 3, 4):
        student = model_of(seed)
        hook.epoch(student, 0)
        with torch.no_grad():
            f, g, f_held, g_held = (m((x.float() - 127.5) / 127.5) for x in (images, held[0]) for m in (student, teacher))
        if rule == "sample_better":
            wanted = [float(-g.log_softmax(1)[i, y] < -f.log_softmax(1)[i, y]) for i, y in enumerate(labels)]
        else:
            right = {m: [int((z.argmax(1) == held[1])[held[1] == c].sum()) for c in range(CLASSES)] for m, z in
                     (("f", f_held), ("g", g_held))}  # fmt: skip
            wanted = [float(right["g"][y] > right["f"][y]) for y in labels.tolist()]
        assert hook.selected.tolist() == wanted
        hook.epoch(teacher, 1)
        assert not hook.selected.any()


def test_class_better_needs_a_held_out_split() -> None:
    hook = SelfDistillation(model_of(1), WarmFed(selection="class_better"), *data())
    with pytest.raises(ValueError, match="held-out"):
        hook.epoch(model_of(2), 0)


def test_the_teacher_is_left_as_it_was() -> None:
    (images, labels), teacher = data(), model_of(1).train()
    before = copy.deepcopy(teacher)
    fit(model_of(2), images, labels, PLAN, generator(0), [SelfDistillation(teacher, WarmFed(), images, labels)])
    assert all(torch.equal(p, q) for p, q in zip(teacher.parameters(), before.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters()) and teacher.training


def test_distillation_brings_the_student_to_its_teacher() -> None:
    (images, labels), teacher = data(), model_of(1)
    distances = []
    for rule in ("never", "always"):
        student = model_of(2)
        chosen = WarmFed(selection=rule, distill_weight=20.0)
        fit(student, images, labels, Plan(10, 8, 0.01), generator(0), [SelfDistillation(teacher, chosen, images, labels)])
        with torch.no_grad():
            x = (images.float() - 127.5) / 127.5
            distances.append(distillation_term(student(x), teacher(x), torch.ones(N), 1.0).item())
    assert distances[1] < distances[0] / 2


# The quota


@pytest.mark.parametrize(
    ("ratio", "fewest", "examples", "classes", "wanted"),
    [
        (0.0, 20, 500, 10, 0),
        (2.0, 20, 500, 0, 0),
        (2.0, 20, 500, 10, 100),
        (2.0, 20, 50, 10, 20),
        (0.5, 0, 100, 8, 6),
        (1.0, 0, 100, 3, 33),
        (1.0, 0, 0, 3, 0),
        (0.001, 7, 10, 2, 7),
    ],
)
def test_quota_by_hand(ratio: float, fewest: int, examples: int, classes: int, wanted: int) -> None:
    assert quota(WarmFed(synthetic_ratio=ratio, min_per_class=fewest), examples, classes) == wanted


@given(st.floats(0.01, 10), st.integers(0, 50), st.integers(1, 5000), st.integers(1, 100))
def test_quota_is_balanced_and_near_the_ratio(ratio: float, fewest: int, examples: int, classes: int) -> None:
    each = quota(WarmFed(synthetic_ratio=ratio, min_per_class=fewest), examples, classes)
    assert each >= fewest
    if each > fewest:
        assert abs(each * classes - ratio * examples) <= classes / 2 + 1e-6
