"""Neighbours and probes on features, against loops and what must come out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedwarm.training.frozen import DECAY, features, nearest, probe, right_by_neighbours


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, 4) of three classes around three axes."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3, 4)[labels] + 0.2 * torch.randn(count, 4, generator=draws), labels


def test_neighbours_vote_by_cosine() -> None:
    (known, labels), (asked, _) = points(12), points(5, 1)
    found = nearest(known, labels, asked, 3, 4)
    for i, point in enumerate(asked):
        near = torch.cosine_similarity(point[None], known)
        votes = torch.zeros(3)
        for j in near.argsort(descending=True)[:4].tolist():
            votes[labels[j]] += (near[j] / 0.1).exp()
        assert found[i] == votes.argmax()
    assert torch.equal(nearest(known, labels, known, 3, 1), labels)
    assert len(nearest(known[:2], labels[:2], asked, 3, 20)) == 5


def test_right_answers_are_counted_and_none_of_none() -> None:
    known, asked = ((torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(n)) * 255).to(torch.uint8) for n in (9, 6))
    labels, wanted, flat = torch.arange(9) % 3, torch.arange(6) % 3, nn.Flatten()
    found = nearest(features(flat, known), labels, features(flat, asked), 3, 2)
    assert right_by_neighbours(flat, (known, labels), (asked, wanted), 3, 2) == int((found == wanted).sum())
    assert right_by_neighbours(flat, (known, labels), (known, labels), 3, 1) == 9
    none = known[:0], labels[:0]
    assert right_by_neighbours(flat, none, (asked, wanted), 3, 2) == right_by_neighbours(flat, (known, labels), none, 3, 2) == 0


def test_the_probe_is_at_its_minimum_and_right_where_it_can_be() -> None:
    known, labels = points(60)
    world = torch.get_rng_state()
    assert torch.equal(probe(known, labels, 3, 50)(known), labels)
    assert torch.equal(torch.get_rng_state(), world)
    from sklearn.linear_model import LogisticRegression

    noise, coins = torch.randn(80, 4, generator=torch.Generator().manual_seed(2)), torch.arange(80) % 3
    scaled = (noise - noise.mean(0)) / (noise.std(0, correction=0) + 1e-6)
    judge = LogisticRegression(C=1 / (80 * DECAY), max_iter=1000).fit(scaled.numpy(), coins.numpy())
    assert (probe(noise, coins, 3, 200)(noise).numpy() == judge.predict(scaled.numpy())).mean() > 0.95


def test_features_are_the_encoders_outputs_in_evaluation() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.9))
    images = torch.randint(0, 256, (7, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = features(encoder, images)
    torch.testing.assert_close(found, encoder[1](images.flatten(1) / 127.5 - 1).detach())
    assert features(nn.Flatten(), images).shape == (7, 12)
