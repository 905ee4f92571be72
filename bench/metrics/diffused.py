"""Gaussians under diffusion: their divergence in closed form, and the identity that the paper's Theorem E.1 rests on.

The theorem: of any two distributions p and q, KL(p_t || q_t) never grows as both are diffused. Its proof (after Song et
al. 2021 and Nie et al. 2022) takes the limit of ever smaller steps, in which d KL / dt = -beta(t) / 2 * F(p_t || q_t)
with the Fisher divergence F = E_p ||grad log p - grad log q||^2. No limit is needed for the statement itself: the
marginals of the discrete chain are those of the continuous process at its timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.ranking import Floats
from detectors.freerad.diffusion import Schedule


@dataclass(frozen=True, eq=False)
class Marginals:
    """A process by its marginals, x_t = signal_t x_0 + noise_t epsilon with standard normal epsilon.

    Attributes:
        timesteps: ascending, int64 (T,).
        signal, noise: float64 (T,). It is a diffusion (a Markov chain from each timestep to the next) where
            noise / signal does not fall.
    """

    timesteps: NDArray[np.int64]
    signal: Floats
    noise: Floats


def ddpm(timesteps: Sequence[int] | None = None, schedule: Schedule | None = None) -> Marginals:
    """The marginals that FreeRAD's diffusion has (Eq. 4.2): signal^2 = alpha_bar, noise^2 = 1 - alpha_bar.

    Args:
        timesteps: ascending, in 0..T, where 0 is the data themselves; None: all of 0..T.
        schedule: of the betas; None: the paper's.

    Raises:
        ValueError: timesteps that do not ascend within 0..T.
    """
    chosen = schedule or Schedule()
    wanted = list(range(chosen.steps + 1)) if timesteps is None else list(timesteps)
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 0 or wanted[-1] > chosen.steps:
        raise ValueError(f"Timesteps must ascend within 0..{chosen.steps}; got {wanted[:5]}...")
    kept = np.concatenate([[1.0], chosen.alpha_bars().numpy()])[wanted]
    return Marginals(np.array(wanted, dtype=np.int64), np.sqrt(kept), np.sqrt(1 - kept))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance): float64 (d,) and (d, d), positive definite."""

    mean: Floats
    covariance: Floats

    def diffused(self, signal: float, noise: float) -> Gaussian:
        """The distribution of signal x + noise epsilon."""
        return Gaussian(signal * self.mean, signal**2 * self.covariance + noise**2 * np.eye(len(self.mean)))


def gaussian_kl(p: Gaussian, q: Gaussian) -> float:
    """KL(p || q) in nats: half the sum of m - log(1 + m), m the eigenvalues of Cq^-1 (Cp - Cq), plus half the squared
    Mahalanobis distance of the means. Written with the difference of the covariances, it keeps its digits where both
    are nearly the same."""
    from scipy.linalg import eigh, solve  # not at the top: see `metrics.rank`

    excess = eigh(p.covariance - q.covariance, q.covariance, eigvals_only=True)
    apart = p.mean - q.mean
    squared = float(apart @ solve(q.covariance, apart, assume_a="pos"))
    return 0.5 * (float((excess - np.log1p(excess)).sum()) + squared)


def gaussian_fisher(p: Gaussian, q: Gaussian) -> float:
    """The Fisher divergence E_p ||grad log p - grad log q||^2: the difference of the scores is A (x - mean_p) + b with
    A = Cq^-1 - Cp^-1 and b = Cq^-1 (mean_p - mean_q), whose expected square is tr(A Cp A) + |b|^2."""
    inverse_p, inverse_q = (np.linalg.inv(g.covariance) for g in (p, q))
    # Cq^-1 - Cp^-1, so written that it keeps its digits where both are nearly the same.
    slope = inverse_q @ (p.covariance - q.covariance) @ inverse_p
    offset = inverse_q @ (p.mean - q.mean)
    return float(np.einsum("ij,jk,ik->", slope, p.covariance, slope) + offset @ offset)


def kl_over_time(p: Gaussian, q: Gaussian, marginals: Marginals) -> Floats:
    """KL(p_t || q_t) at every timestep, (T,), in nats."""
    pairs = zip(marginals.signal, marginals.noise, strict=True)
    return np.array([gaussian_kl(p.diffused(signal, noise), q.diffused(signal, noise)) for signal, noise in pairs])


def identity_gap(p: Gaussian, q: Gaussian, marginals: Marginals) -> Floats:
    """How far the proof's identity is from what finite differences give, as a share of the derivative, (T,).

    With d log(alpha_bar) = -beta dt it reads d KL / d log(alpha_bar) = F / 2, whatever the schedule. Timesteps without
    noise have no two sides.
    """
    gaps = []
    for signal, noise in zip(marginals.signal, marginals.noise, strict=True):
        if noise == 0:
            raise ValueError("The identity is asked of timesteps from 1 on.")
        step = 1e-3 * noise**2  # of log(alpha_bar), whose distance from 0 is noise^2 or more
        around = [signal**2 * np.exp(sign * step) for sign in (1, -1)]
        above, below = (
            gaussian_kl(p.diffused(np.sqrt(kept), np.sqrt(1 - kept)), q.diffused(np.sqrt(kept), np.sqrt(1 - kept)))
            for kept in around
        )
        exact = 0.5 * gaussian_fisher(p.diffused(signal, noise), q.diffused(signal, noise))
        gaps.append(abs((above - below) / (2 * step) - exact) / exact)
    return np.array(gaps)


def example_pair(dimensions: int = 8) -> tuple[Gaussian, Gaussian]:
    """Two Gaussians of different means and covariances, neither of which is a multiple of the identity: variances that
    halve from axis to axis, as images have them, and the same ones along other axes, around another mean."""
    scales = np.diag(0.5 ** np.arange(dimensions))
    # The reflection along (1, 2, .., d): orthonormal, and no axis stays what it was.
    normal = np.arange(1.0, dimensions + 1)[:, None]
    turned = np.eye(dimensions) - 2 * normal @ normal.T / float((normal**2).sum())
    return Gaussian(np.zeros(dimensions), scales), Gaussian(np.full(dimensions, 0.25), turned @ scales @ turned.T)
