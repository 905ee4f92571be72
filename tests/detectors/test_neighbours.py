"""Neighbours are those that scikit-learn finds, and their distances keep their digits and their gradient."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from detectors.parts.neighbours import distance, exact_squares, kmeans, nearest, root, squared_distances


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_nearest_are_scikit_learns_nearest_first(count: int) -> None:
    queries, bank = normal(30, 16), normal(40, 16, seed=1)
    _, expected = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(bank.double()).kneighbors(queries.double())
    assert nearest(queries, bank, count).tolist() == expected.tolist()


def test_distances_of_near_duplicates_keep_their_digits() -> None:
    """|a|^2 + |b|^2 - 2ab alone loses them: at norm 800 and distance 1e-3 nothing would be left in float32."""
    bank = normal(50, 64) + 100
    queries = bank + normal(50, 64, seed=1) * 1e-4
    chosen = nearest(queries, bank, 1)
    assert chosen[:, 0].tolist() == list(range(50))
    exact = (queries.double() - bank.double()).norm(dim=1)
    for measured in (distance(queries, bank[chosen[:, 0]]), root(exact_squares(queries, bank, chosen))[:, 0]):
        torch.testing.assert_close(measured.double(), exact, rtol=1e-5, atol=0)
    naive = (queries.square().sum(1) + bank.square().sum(1) - 2 * (queries * bank).sum(1)).clamp_min(1e-12).sqrt()
    assert float((naive.double() / exact - 1).abs().max()) > 0.5, "the trap this test is about is gone"


def test_the_choice_is_centred_or_a_large_mean_would_drown_it() -> None:
    bank = normal(50, 64) * 1e-2 + 100
    queries = bank + normal(50, 64, seed=1) * 1e-3
    assert nearest(queries, bank, 1)[:, 0].tolist() == list(range(50))
    naive = queries.square().sum(1)[:, None] + bank.square().sum(1) - 2 * queries @ bank.T
    assert naive.argmin(dim=1).tolist() != list(range(50)), "the trap this test is about is gone"


def test_the_gradient_is_that_of_the_formula() -> None:
    queries, bank = normal(6, 5).double().requires_grad_(), normal(9, 5, seed=1).double()
    chosen = nearest(queries, bank, 3)
    assert not squared_distances(queries, bank).requires_grad, "a choice has no gradient"
    distances = root(exact_squares(queries, bank, chosen))
    expected = torch.cdist(queries, bank).topk(3, dim=1, largest=False).values
    torch.testing.assert_close(distances, expected)
    weights = normal(6, 3, seed=2).double()
    mine, theirs = (torch.autograd.grad((d * weights).sum(), queries)[0] for d in (distances, expected))
    torch.testing.assert_close(mine, theirs)
    assert torch.autograd.gradcheck(lambda q: root(exact_squares(q, bank, chosen)), (queries,))


def test_a_duplicate_has_a_small_distance_and_a_finite_gradient() -> None:
    bank = normal(9, 5)
    queries = bank[:4].clone().requires_grad_()
    distances = root(exact_squares(queries, bank, nearest(queries, bank, 2)))
    (gradient,) = torch.autograd.grad(distances.sum(), queries)
    torch.testing.assert_close(distances[:, 0], torch.full((4,), 1e-6))
    assert bool(gradient.isfinite().all()) and bool((gradient != 0).any(dim=1).all())


def test_nan_stays_with_its_query() -> None:
    queries, bank = normal(4, 5), normal(9, 5, seed=1)
    clean = root(exact_squares(queries, bank, nearest(queries, bank, 2)))
    queries[1, 2] = float("nan")
    broken = root(exact_squares(queries, bank, nearest(queries, bank, 2)))
    assert bool(broken[1].isnan().all())
    torch.testing.assert_close(broken[[0, 2, 3]], clean[[0, 2, 3]])


def test_k_means_centres_are_the_means_of_their_own_and_follow_the_generator() -> None:
    points = torch.cat([normal(60, 4, seed=i) * 0.3 + 4 * normal(1, 4, seed=50 + i) for i in range(6)])
    centres = kmeans(points, 12, torch.Generator().manual_seed(0))
    assert torch.equal(centres, kmeans(points, 12, torch.Generator().manual_seed(0)))
    assert not torch.equal(centres, kmeans(points, 12, torch.Generator().manual_seed(1)))
    own = nearest(points, centres, 1)[:, 0]
    means = torch.stack([points[own == centre].mean(dim=0) for centre in range(12)])
    torch.testing.assert_close(centres, means, rtol=1e-3, atol=1e-3)
