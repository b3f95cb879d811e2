"""Federated SimCLR: its heads by hand, what it refuses, which labels it knows, and the limits in which it is another method."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.methods.fed_simclr import COMPONENT, Contrastive, FedSimClr, Heads, Verification, known_labels
from fedwarm.models import Model, behead, build_model
from fedwarm.parts import Known
from fedwarm.settings.fields import SettingError, Value
from fedwarm.tasks.contrast import Contrast
from fedwarm.training.loop import Batch
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 16, "data.image-size": 8, "model.name": "cnn",
    "optimiser": "adamw", "learning-rate": 0.01, "batch-size": 8, "server-threads": 1, "views.crop": 0.8,
}  # fmt: skip
S, C, D = 4, 3, 5


def heads(clients: int = S, contrast: Contrast | None = None, **settings: Value) -> Heads:
    torch.manual_seed(0)
    return Heads(FedSimClr(**settings), contrast or Contrast(width=6), D, C, clients)  # type: ignore[arg-type]


def features(count: int = 8) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1))


def loss(made: Heads, seen: Tensor, labels: Tensor, place: int = 1) -> Tensor:
    """The heads' losses of features (2 b, d) and labels (b,)."""
    model = Contrastive(nn.Identity(), nn.Linear(D, 6), made, ())
    model.features = seen
    batch = Batch(model, seen, labels, seen, labels)
    return Verification(made.settings, place).loss(batch, torch.zeros(()))


def test_zero_logits_leave_ln_s_for_each_view() -> None:
    made = heads(verification="linear")
    nn.init.zeros_(made.rows)
    assert loss(made, features(), torch.full((4,), -1)).item() == pytest.approx(2 * math.log(S))


@pytest.mark.parametrize("verification", ["cosine", "linear"])
def test_of_one_client_nothing_is_to_be_told(verification: str) -> None:
    seen = features().requires_grad_()
    found = loss(heads(1, verification=verification), seen, torch.full((4,), -1), 0)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == 0 and seen.grad is not None and not seen.grad.any()


def test_alone_clients_are_not_told_apart() -> None:
    assert loss(heads(alone=True), features(), torch.full((4,), -1)) == 0


def test_the_loss_is_the_sum_of_both_views() -> None:
    made, seen, labels = heads(labelled=0.5, beta=0.3), features(), torch.tensor([0, -1, 2, -1])
    assert made.label is not None
    views = list(seen.chunk(2))
    own = torch.full((4,), 1)
    apart = sum(F.cross_entropy(made.verify(view, labels), own) for view in views)
    known = labels >= 0
    named = sum(F.cross_entropy(made.label(view[known]), labels[known]) for view in views)
    torch.testing.assert_close(loss(made, seen, labels), 0.3 * apart + 0.5 * named)
    plain, none = heads(), torch.full((4,), -1)
    torch.testing.assert_close(loss(plain, seen, none), sum(F.cross_entropy(plain.verify(v, none), own) for v in views))


def test_cosines_are_scaled_and_have_no_length() -> None:
    made, none = heads(scale=16.0), torch.full((8,), -1)
    logits = made.verify(features(), none)
    assert logits.abs().max() <= 16
    torch.testing.assert_close(made.verify(3 * features(), none), logits)


@pytest.mark.parametrize("conditioned", ["concatenated", "per_class"])
def test_rows_take_labels(conditioned: str) -> None:
    """By a loop: behind the features, or a row for each class and one for none; a row is a client's along the first axis."""
    made = heads(labelled=1.0, conditioned=conditioned, verification="linear")
    labels = torch.tensor([0, 2, -1, 1])
    found = made.verify(features(4), labels)
    for i, y in enumerate(labels.tolist()):
        for s in range(S):
            row = made.rows[s]
            slow = (
                row[y] @ features(4)[i]
                if conditioned == "per_class"
                else row[:D] @ features(4)[i] + (row[D + y] if y >= 0 else 0)
            )
            torch.testing.assert_close(found[i, s], slow)


def test_simsiam_alone_has_a_predictor_whose_guesses_go_along() -> None:
    made = heads(contrast=Contrast(loss="simsiam", width=6))
    assert made.predict is not None and heads().predict is None
    model = Contrastive(nn.Identity(), nn.Linear(D, 6), made, ())
    vectors, guessed = model(features()).chunk(2, 1)
    torch.testing.assert_close(guessed, made.predict(vectors))


def test_rows_that_are_codes_are_not_trained() -> None:
    made, learned = heads(rows="codes"), heads()
    loss(made, features().requires_grad_(), torch.full((4,), -1)).backward()  # type: ignore[no-untyped-call]
    loss(learned, features(), torch.full((4,), -1)).backward()
    assert made.rows.grad is None and learned.rows.grad is not None


def test_the_rows_bytes() -> None:
    """20 clients of 128 features: 10,240 bytes, and those of 10 half of it."""
    rows = Heads(FedSimClr(), Contrast(), 128, 10, 20).rows
    assert rows.numel() * rows.element_size() == 10240 and rows[:10].numel() * rows.element_size() == 5120


def test_a_classifier_without_its_head_gives_the_heads_inputs() -> None:
    settings, images = Model(name="conv4"), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, encoder = (build_model(settings, C, 8, 0) for _ in range(2))
    layer, head = behead(settings, encoder)
    torch.testing.assert_close(head(encoder(images)), whole(images))
    assert encoder(images).shape == (2, 128)
    assert {*encoder.state_dict(), *(f"{layer}.{name}" for name in head.state_dict())} == {*whole.state_dict()}


def test_it_knows_the_labels_that_as_many_examples_would_keep() -> None:
    data = Data(partition="iid", image_size=8)
    whole, few = (load_shard(d, 3, 1, 4) for d in (data, Data(partition="iid", image_size=8, max_examples=34)))
    known = known_labels(whole.train_labels, 34 / len(whole.train_labels), 3, 1)
    kept = known >= 0
    assert torch.equal(known[kept], few.train_labels) and torch.equal(whole.train_images[kept], few.train_images)
    assert (known_labels(whole.train_labels, 0.0, 3, 1) == -1).all()
    assert torch.equal(known_labels(whole.train_labels, 1.0, 3, 1), whole.train_labels)


REFUSED: list[tuple[dict[str, Value], str]] = [
    ({"task": "classification"}, "contrasts views, and task = 'classification' does not"),
    ({"codec": "dp-rec"}, "hides what a client holds"),
    ({"data.test": "central"}, "measured at clients"),
    ({"evaluate.bit-widths": "4"}, "measures a classifier"),
    ({"contrast.labels": "supcon"}, "set fed-simclr.labelled above 0"),
]


@pytest.mark.parametrize(("settings", "text"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_does_not_go_with_it_is_refused_in_one_line(settings: dict[str, Value], text: str) -> None:
    assert COMPONENT.validate is not None
    with pytest.raises(SettingError) as error:
        COMPONENT.validate(parse({"method": "fed_simclr", **settings}))
    assert text in str(error.value) and "\n" not in str(error.value)


def ends_in_a_convolution(classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_head_that_takes_no_features_is_refused_before_the_run() -> None:
    assert COMPONENT.check is not None
    known = Known(2, ("a", "b"), print)
    COMPONENT.check(parse({"method": "fed_simclr", "model.name": "cnn"}), known)
    with pytest.raises(SettingError, match="is no linear layer; take a model that ends in one"):
        COMPONENT.check(parse({"method": "fed_simclr", "model.name": f"{__name__}:ends_in_a_convolution"}), known)


def test_labels_count_in_the_contrast_where_there_are_some() -> None:
    assert parse({"method": "fed_simclr"}).of(Contrast).labels == "ignored"
    assert parse({"method": "fed_simclr", "fed-simclr.labelled": 0.1}).of(Contrast).labels == "conditional"


def test_without_verification_it_is_fedavg_on_the_contrast_bit_for_bit(tmp_path: Path) -> None:
    """The head is there, travels and is not used; one layer of projector is the classifier's head."""
    plain: dict[str, Value] = {**SMALL, "fed-simclr.beta": 0.0, "fed-simclr.projector": "linear"}
    ours = run("fed_simclr", tmp_path / "ours", plain, clients=3)
    theirs = run("fedavg", tmp_path / "theirs", {**SMALL, "task": "contrast"}, clients=3)
    assert same(ours.model, theirs.model)


def test_verification_changes_the_encoder(tmp_path: Path) -> None:
    models = [run("fed_simclr", tmp_path / str(b), {**SMALL, "fed-simclr.beta": b}, clients=3).model for b in (0.0, 1.0)]
    assert not same(*models)
