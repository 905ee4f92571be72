"""Nearest neighbours in feature space: chosen by one matrix product, measured from the differences themselves.

The two are kept apart because the matrix product loses the digits of a small distance, and because a choice has no
gradient: an attack differentiates the distances to the neighbours that were chosen for the image at hand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

_SMALLEST_SQUARE = 1e-12  # the square root has an infinite slope at 0


@torch.no_grad()
def squared_distances(queries: Tensor, bank: Tensor) -> Tensor:
    """(Q, C) and (N, C) to (Q, N) by one matrix product.

    Only for choosing: for near duplicates the difference of large numbers loses its digits. Centring loses fewer.
    """
    centre = bank.mean(dim=0)
    queries, bank = queries - centre, bank - centre
    squares = queries.square().sum(dim=1)[:, None] + bank.square().sum(dim=1)
    squares -= 2 * queries @ bank.T  # in place: a table of all pairs is large
    return squares


def nearest(queries: Tensor, bank: Tensor, count: int) -> Tensor:
    """(Q, C) and (N, C) to the indices of each query's `count` nearest rows of the bank, (Q, count), nearest first."""
    return squared_distances(queries, bank).topk(count, dim=1, largest=False).indices


def exact_squares(queries: Tensor, bank: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances (Q, K), differentiable, of queries (Q, C) to their chosen rows (Q, K) of the bank (N, C)."""
    # One neighbour after the other: all K differences at once need K times the memory and are no faster.
    squares = [(queries - F.embedding(rows, bank)).square().sum(dim=1) for rows in chosen.unbind(dim=1)]
    return torch.stack(squares, dim=1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the last dimension, from the difference itself: exact for near duplicates, too."""
    return root((a - b).square().sum(dim=-1))


def root(squares: Tensor) -> Tensor:
    """The square root, with slope 0 instead of infinity where two points are the same."""
    return squares.clamp_min(_SMALLEST_SQUARE).sqrt()


def kmeans(points: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Centres (count, C) of points (N, C): scikit-learn's k-means++ and Lloyd's iterations, on the CPU."""
    from sklearn.cluster import KMeans  # not at the top: a second of importing, also where SPADE is only listed

    state = int(torch.randint(2**31, (), generator=draws))
    # On several threads it adds up in any order, and the same seed would give other bits.
    with threadpool_limits(limits=1):
        found = KMeans(count, n_init=1, tol=0, random_state=state).fit(points.detach().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(points)
