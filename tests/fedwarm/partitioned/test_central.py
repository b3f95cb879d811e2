"""Partitions on one machine: who changes what, what psi is learned by, the limit of one partition; a client's turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import from_module, to_tensors
from fedwarm.core.seeds import generator, initialisation
from fedwarm.partitioned.central import Examples, Partitioned, Search, accuracy, alone, scored_chunks, split
from fedwarm.partitioned.masks import Layout, shares_of
from fedwarm.partitioned.networks import gradient
from fedwarm.partitioned.psi import Floats, Psi
from fedwarm.partitioned.turn import Turn, digest_of, locally

SEARCH = Search(steps=4, batch=16)


def net() -> nn.Module:
    with initialisation(0, "model"):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def examples(count: int = 60, seed: int = 0) -> Examples:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=draws)
    return x, (x[:, :3].sum(1) > 0).long()


def search(chunks: int = 3, search: Search = SEARCH, data: list[Examples] | None = None, psi: str = "mask") -> Partitioned:
    layout = Layout.drawn(from_module(net()), shares_of([], chunks), 0)
    made, found = split(examples(), [1.0] * chunks, 0) if data is None else data, Psi([psi], (6,))
    return Partitioned(net, layout, made, found, found.first, search, 0)


def hashes(state: Partitioned) -> list[str]:
    return [digest_of({"w": network.packed()}) for network in state.networks]


def test_a_step_changes_its_own_partition_alone() -> None:
    state = search()
    for k in (1, 2, 3):
        before = hashes(state)
        state.step_partition(k)
        changed = [a != b for a, b in zip(before, hashes(state), strict=True)]
        assert changed == [j == k for j in (1, 2, 3)]


def test_other_partitions_have_no_gradient_and_are_seen_as_they_move() -> None:
    state = search()
    state.step_weights()
    network = state.networks[1]
    assert all(p.grad is None for p in network.body.parameters())
    first = {name: p.detach().numpy() for name, p in state.networks[2].body.named_parameters()}
    assert np.array_equal(state.layout.packed(first, 1), state.networks[0].packed())


def test_a_chunk_never_reaches_the_partitions_before_it() -> None:
    data = split(examples(), [1.0] * 3, 0)
    other = [*data[:2], (data[2][0] + 1, 1 - data[2][1])]
    frozen = Search(steps=3, batch=16, every=99)
    one, two = search(search=frozen, data=data), search(search=frozen, data=other)
    one.run()
    two.run()
    assert [a == b for a, b in zip(hashes(one), hashes(two), strict=True)] == [True, True, False]


def test_one_partition_is_ordinary_training_bit_for_bit_and_keeps_psi() -> None:
    psi, data = Psi(["mask"], (6,)), examples()
    found = search(1, data=[data]).run()
    model, values, draws = net(), torch.from_numpy(psi.first), generator(0, "central", "batches")
    optimiser = torch.optim.Adam(model.parameters(), lr=SEARCH.rate)
    for _ in range(SEARCH.steps):
        rows = torch.randint(60, (16,), generator=draws)
        loss = nn.functional.cross_entropy(model(psi.inputs(data[0][rows], values, draws)), data[1][rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for ours, plain in zip(found.body.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, plain)
    assert np.array_equal(found.psi, psi.first)
    assert np.array_equal(alone(net, data, psi, psi.first, SEARCH, 0).psi, psi.first)


def test_the_whole_network_is_all_partitions_together() -> None:
    state = search()
    found = state.run()
    assert len(found.trajectory) == 4 and not np.array_equal(found.psi, state.psi.first)
    parts = {k: network.packed() for k, network in enumerate(state.networks, 1)}
    whole = state.layout.placed(state.arrays, parts)
    assert all(np.array_equal(whole[name], array) for name, array in from_module(found.body).items())


def test_which_chunks_have_a_say() -> None:
    assert scored_chunks(3, Search()) == [(2, 1), (3, 2)] and scored_chunks(1, Search()) == []
    assert scored_chunks(2, Search(include_first=True)) == [(1, 0), (2, 1)]
    assert scored_chunks(2, Search(trained=True)) == [(1, 1), (2, 2)]


def test_the_noise_variance_is_of_residuals_out_of_sample() -> None:
    """Closed form on fixed subnetworks: ln of the mean square over chunks 2 and 3, each on what has not seen it."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(45, 6, generator=draws)
    data = split((x, (x[:, :2] + 0.3 * torch.randn(45, 2, generator=draws))), [1.0] * 3, 0)
    fit = Search(steps=80, batch=15, rate=0.03, every=999)
    state = search(search=fit, data=data, psi="noise-var")
    state.run()

    def residuals(pairs: list[tuple[int, int]]) -> Tensor:
        with torch.no_grad():
            return torch.cat([(state.networks[s - 1].fixed()(data[k - 1][0]) - data[k - 1][1]).flatten() for k, s in pairs])

    unseen, seen = residuals([(2, 1), (3, 2)]), residuals([(1, 1), (2, 2), (3, 3)])
    values = unseen.double().square().mean().log().reshape(1)
    slopes = [
        gradient(state.networks[k - 2].fixed(), state.psi, values, *data[k - 1], draws)[0] for k in (2, 3)
    ]  # fmt: skip
    assert abs(float(sum(slopes))) < 1e-6  # the slope of psi - ln(mean square) is 1 there
    assert float(seen.square().mean()) < 0.8 * float(unseen.square().mean())


def test_noise_is_masked_by_what_was_not_seen_and_not_by_the_training_loss() -> None:
    data = examples(90)
    chunks, psi = split(data, [1.0] * 3, 0), Psi(["mask"], (6,))
    found = search(search=Search(steps=60, batch=30, rate=0.02, psi_rate=0.1), data=chunks)
    mask = 1 / (1 + np.exp(-found.run().psi))
    control = search(1, Search(steps=60, batch=30, rate=0.02, psi_rate=0.1, trained=True), [data])
    ended = control.run()
    trained = 1 / (1 + np.exp(-ended.psi))
    assert accuracy(ended, psi, examples(200, 1), 1, 0) > 0.8
    assert mask[3:].mean() < mask[:3].mean() and mask[3:].mean() < 0.5 < trained[3:].mean()


# A client's turn


def turn(moved: bool = False) -> tuple[Turn, list[str], Layout]:
    layout, seen, psi = Layout.drawn(from_module(net()), shares_of([], 3), 0), [], Psi(["mask"], (6,))
    x, labels = examples()

    def network(arrays: dict[str, np.ndarray]) -> nn.Module:  # type: ignore[type-arg]
        made = net()
        made.load_state_dict(to_tensors(arrays))
        return made

    def score(model: nn.Module, values: Floats) -> Floats:
        seen.append(digest_of(from_module(model)))
        found: Floats = gradient(model, psi, torch.from_numpy(values), x, labels, torch.Generator())[0].numpy()
        return found

    asked = locally(score, 3, 0.1) if moved else score
    return Turn(layout, from_module(net()), network, asked, 1, psi.first), seen, layout


def test_the_gradient_is_of_the_weights_as_they_came_and_training_cannot_change_it() -> None:
    made, seen, layout = turn()
    received = digest_of(layout.subnetwork(from_module(net()), 1))
    assert made.digest == received == seen[0] and made.gradient is not None
    before, psi = made.gradient.copy(), Psi(["mask"], (6,))
    trained = made.subnetwork(1, psi, torch.Generator())
    with torch.no_grad():
        for own in trained.own:
            own += 0.3
    made.keep(1, trained)
    assert np.array_equal(made.gradient, before) and made.digest == received and len(seen) == 1
    late = made.subnetwork(1, psi, torch.Generator()).body
    x, labels = examples()
    leaked, _ = gradient(late, psi, torch.from_numpy(psi.first), x, labels, torch.Generator())
    assert digest_of(from_module(late)) != received and not np.allclose(leaked.numpy(), before)
    for name in ("gradient", "digest"):
        with pytest.raises(AttributeError):
            setattr(made, name, None)


def test_local_steps_on_psi_are_gradient_descent_on_the_weights_as_they_came() -> None:
    made, seen, _ = turn(moved=True)
    once, _, _ = turn()
    assert made.gradient is not None and once.gradient is not None and len(set(seen)) == 1 and len(seen) == 3
    assert made.gradient == pytest.approx(0.3 * once.gradient, rel=0.2, abs=1e-4)
