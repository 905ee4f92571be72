"""KL(p_t || q_t) of diffused clean and diffused attacked images, estimated in three ways.

Of n clean images and their n attacked copies, taken as two empirical distributions, p_t and q_t are mixtures of n
Gaussians whose densities are exactly known, in full dimension too. Images are moved to [-1, 1], where the diffusion
lives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.errors import CellError
from bench.metrics.diffused import Marginals, ddpm
from bench.metrics.falling import Curve
from bench.metrics.ranking import Floats
from detectors.noise import Noise

# From where the noise is half a grey level to where nothing is left; 50 to 300 are the paper's k.
TIMESTEPS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 700, 1000)
DRAWS = 64  # of each image, each with its mirror image
DIMENSIONS = 4
NEIGHBOURS = 5
REPEATS = 10  # of the two-sample estimate
LEAST_SAMPLES = 2000  # in each sample of it, at least
CLOSE = 0.5  # chi^2 divergence up to which q / p serves as a control variate


@dataclass(frozen=True, eq=False)
class KLEstimates:
    """The divergence of diffused clean images from diffused attacked ones.

    Attributes:
        full: from the exact densities, in full dimension.
        bound: the mean over images of KL of an image's own Gaussian from its attacked copy's, (T,): what it would be if
            no two images were alike under the noise. KL is convex, so `full` lies below.
        projected: from the exact densities, after an orthonormal projection onto the `dimensions` directions in which
            the attack moves the images most.
        two_sample: in this projection without the densities, from nearest neighbours.
        images, values: n, and how many numbers an image has.
        dimensions: of the projection; share: of the perturbations' squared length that lies in it.
        samples: in each of the two samples of `two_sample`; neighbours: its k.
    """

    full: Curve
    bound: Floats
    projected: Curve
    two_sample: Curve
    images: int
    values: int
    dimensions: int
    share: float
    samples: int
    neighbours: int

    @property
    def curves(self) -> tuple[Curve, Curve, Curve]:
        return self.full, self.projected, self.two_sample

    @property
    def bias(self) -> Floats:
        """How far the two-sample estimate is from the exact densities' in the same projection, (T,)."""
        return self.two_sample.kl - self.projected.kl


def kl_estimates(
    clean: Tensor,
    attacked: Tensor,
    noise: Noise,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    marginals: Marginals | None = None,
    draws: int = DRAWS,
    dimensions: int = DIMENSIONS,
    neighbours: int = NEIGHBOURS,
    repeats: int = REPEATS,
) -> KLEstimates:
    """Estimate KL(p_t || q_t) at some timesteps.

    Args:
        clean, attacked: (n, 3, S, S) in [0, 1]; image i of the second was made from image i of the first.
        noise: a source for these images that nothing else has.
        timesteps: ascending, in 1..T; marginals: another process than the paper's, with timesteps of its own.
        draws: of each image for the exact densities.
        dimensions: of the projection; neighbours, repeats: of the two-sample estimate.

    Raises:
        CellError: there are fewer than two images, shapes differ, values are not finite, or no image was changed.
    """
    _check(clean, attacked)
    process = marginals or ddpm(timesteps)
    p, q = _coordinates(clean, attacked)
    lengths = (p - q).square().sum(dim=1)
    dimensions = min(dimensions, p.shape[1])
    axes = torch.linalg.svd(q - p, full_matrices=False).Vh[:dimensions].T
    flat_p, flat_q = p @ axes, q @ axes
    per_image = -(-LEAST_SAMPLES // len(p))
    ratio = torch.from_numpy((process.signal / process.noise) ** 2)
    return KLEstimates(
        full=Curve("exact densities", process.timesteps, mixture_kl(p, q, process, noise.sub(0), draws)),
        bound=np.asarray((0.5 * ratio * lengths.mean()).numpy()),
        projected=Curve(
            "exact densities, projected", process.timesteps, mixture_kl(flat_p, flat_q, process, noise.sub(1), draws)
        ),
        two_sample=Curve(
            "two samples, projected",
            process.timesteps,
            _two_samples(flat_p, flat_q, process, noise.sub(2), per_image, repeats, neighbours),
        ),
        images=len(p),
        values=clean[0].numel(),
        dimensions=dimensions,
        share=float((flat_p - flat_q).square().sum() / lengths.sum()),
        samples=per_image * len(p),
        neighbours=neighbours,
    )


def mixture_kl(p: Tensor, q: Tensor, process: Marginals, noise: Noise, draws: int) -> Floats:
    """Independent estimates of KL(p_t || q_t), (draws, T), p_t and q_t the mixtures of the Gaussians around the points.

    Each is the mean over the points of log p_t - log q_t at one draw around every point and at its mirror image, which
    takes out what is linear in the noise. Where p_t and q_t are close, q_t / p_t - 1, whose mean under p_t is 0, is a
    control variate: without it the noise of a small divergence may be larger than the divergence. Its coefficient is
    estimated from all draws. All timesteps share the draws.

    Args:
        p, q: points, float64 (n, d) each; the i-th of both belong together.
        process: whose noise is above 0 at every timestep.
        noise: a source for n images.
        draws: of each point, 2 or more.
    """
    if draws < 2:
        raise ValueError(f"A standard error takes 2 draws or more; got {draws}.")
    drawn = noise.normal((draws, p.shape[1]), stream="diffusion", like=p)  # (n, draws, d)
    own = torch.einsum("ntd,nd->nt", drawn, p)[..., None]
    to_p, to_q = (own - drawn @ points.T for points in (p, q))  # <epsilon, p_i - points_j>, (n, draws, n)
    exactly = "donot_use_mm_for_euclid_dist"  # distances of images that hardly differ would cancel
    far_p, far_q = (torch.cdist(p, points, compute_mode=exactly).square()[:, None] for points in (p, q))
    longest = float((p - q).square().sum(dim=1).max())
    found = []
    for signal, sigma in zip(process.signal.tolist(), process.noise.tolist(), strict=True):
        scale = signal / sigma
        # Of two Gaussians so far apart; it is convex, so those of the mixtures are no larger.
        is_close = scale**2 * longest <= math.log1p(CLOSE)
        values, control = torch.zeros(2, len(p), draws, dtype=p.dtype)
        for sign in (1.0, -1.0):
            # log N(x; signal points_j, sigma^2) but for what is the same for all j, in p_t as in q_t
            log_p = (-0.5 * scale**2 * far_p - sign * scale * to_p).logsumexp(dim=2)
            log_q = (-0.5 * scale**2 * far_q - sign * scale * to_q).logsumexp(dim=2)
            values += 0.5 * (log_p - log_q)
            if is_close:
                control += 0.5 * (log_q - log_p).expm1()
        found.append((values + _coefficient(values, control) * control).mean(dim=0))
    return np.asarray(torch.stack(found, dim=1).numpy())


def _coefficient(values: Tensor, control: Tensor) -> float:
    """What times the control makes the mean of both scatter least, each (n, draws); points are given, draws scatter."""
    off, away = (numbers - numbers.mean(dim=1, keepdim=True) for numbers in (values, control))
    scatter = float(away.square().sum())
    return -float((off * away).sum()) / scatter if scatter > 0 else 0.0


def nearest_neighbour_kl(x: Floats, y: Floats, neighbours: int = NEIGHBOURS) -> float:
    """KL of the distribution of x from that of y by nearest neighbours (Wang, Kulkarni & Verdu 2009, Eq. 5): the mean
    of d log(nu / rho) plus log(m / (n - 1)), with rho the distance of each x to its k-th neighbour among the others and
    nu that to its k-th neighbour in y. It knows no densities.

    Its bias vanishes with many samples alone. Of two Gaussians in 4 dimensions, 2000 points each, it says 0.41 nats of
    0.5 and 1.6 of 2 (measured); where the distributions hardly overlap it is lower by far, as neighbours in y then say
    no more than how far away they are; and of distributions that are nearly the same it scatters around 0.

    Args:
        x: (n, d), from the first distribution; y: (m, d), from the second, without exact repetitions.
        neighbours: k, less than n and m at most.
    """
    from scipy.spatial import KDTree  # not at the top: see `metrics.rank`

    # The nearest of the own sample is the point itself.
    rho = KDTree(x).query(x, k=[neighbours + 1])[0][:, 0]
    nu = KDTree(y).query(x, k=[neighbours])[0][:, 0]
    return float(x.shape[1] * np.log(nu / rho).mean() + np.log(len(y) / (len(x) - 1)))


def _two_samples(
    p: Tensor, q: Tensor, process: Marginals, noise: Noise, per_image: int, repeats: int, neighbours: int
) -> Floats:
    """Estimates from pairs of samples with noise of their own, (repeats, T); every image is in a sample equally often,
    and all timesteps share the draws."""
    rows = []
    for repeat in range(repeats):
        near, far = (
            noise.sub(repeat, side).normal((per_image, p.shape[1]), stream="diffusion", like=p) for side in (0, 1)
        )
        row = []
        for signal, sigma in zip(process.signal.tolist(), process.noise.tolist(), strict=True):
            x, y = (signal * points[:, None] + sigma * drawn for points, drawn in ((p, near), (q, far)))
            row.append(nearest_neighbour_kl(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), neighbours))
        rows.append(row)
    return np.array(rows)


def _coordinates(clean: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
    """The images on [-1, 1] as points of the space that they span, float64 (n, 2n) each or less, distances as they are.
    The noise outside of this space is the same in p_t and q_t, so no divergence is lost."""
    flat = [2 * images.detach().cpu().double().flatten(1) for images in (clean, attacked)]
    points = torch.cat(flat) - flat[0].mean(dim=0)
    coordinates = torch.linalg.qr(points.T, mode="r").R.T  # points = coordinates @ Q.T
    return coordinates[: len(clean)], coordinates[len(clean) :]


def _check(clean: Tensor, attacked: Tensor) -> None:
    if clean.shape != attacked.shape or len(clean) < 2:
        raise CellError(
            f"A divergence takes two clean images or more, each with its attacked copy; got {len(clean)} clean of "
            f"shape {tuple(clean.shape[1:])} and {len(attacked)} attacked of shape {tuple(attacked.shape[1:])}."
        )
    if not (clean.isfinite().all() and attacked.isfinite().all()):
        raise CellError("Some images have values that are not finite; look at the attack that made them.")
    if bool((clean == attacked).all()):
        raise CellError(
            "The attack changed no image, so both distributions are the same; take another attack or radius."
        )
