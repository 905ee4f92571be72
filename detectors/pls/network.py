"""The networks of PLS: principal components that follow a moving average, and the autoencoder around them.

Lo, Oza & Patel 2022, "Adversarially Robust One-class Novelty Detection" (T-PAMI; arXiv 2108.11168), written from the
paper's formulas.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class PrincipalComponents(nn.Module):
    """Mean (d,) and `count` orthonormal directions (d, count) of rows of length d, learned by a moving average.

    Between updates they are constants, so that a row's projection is affine and depends on that row alone.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(size))
        self.register_buffer("basis", torch.empty(size, count))
        self.reset()

    def reset(self) -> None:
        """Mean 0 and the first unit vectors, as before any update."""
        self.mean.zero_()
        nn.init.eye_(self.basis)

    def encode(self, rows: Tensor) -> Tensor:
        """(..., d) to coordinates (..., count): the paper's f(X; mu, U) = (X - mu) U."""
        return (rows - self.mean) @ self.basis

    def decode(self, coordinates: Tensor) -> Tensor:
        """(..., count) to (..., d): the paper's g(X; mu, U) = X U^T + mu."""
        return coordinates @ self.basis.T + self.mean

    @torch.no_grad()
    def update(self, rows: Tensor, rate: float) -> None:
        """Move towards the principal components of these rows (N, d), N > count; at rate 1 take them over.

        Singular vectors come with arbitrary signs and, where singular values are close, in an arbitrary rotation:
        averaged as they are they would cancel. So the new basis is first turned onto the old one (the orthogonal
        Procrustes problem: the sign where there is one component), which leaves its span alone; and the average,
        whose columns have become shorter, is replaced by the nearest orthonormal basis.

        Raises:
            torch.linalg.LinAlgError: the rows are not finite.
        """
        mean, basis = principal_components(rows, self.basis.shape[1])
        old = self.basis.to(basis.dtype)
        averaged = (1 - rate) * old + rate * basis @ _nearest_orthonormal(basis.T @ old)
        self.mean.lerp_(mean.to(self.mean.dtype), rate)
        self.basis.copy_(_nearest_orthonormal(averaged))


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) and the `count` directions (d, count) of largest variance of rows (N, d), in float64."""
    rows = rows.double()  # the covariance squares the condition number
    mean = rows.mean(dim=0)
    centred = rows - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    return mean, vectors[:, -count:].flip(1)


def _nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest to this one, its polar factor."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return cast(Tensor, left @ right)


class PrincipalLatentSpace(nn.Module):
    """Latent maps (B, v, h, w) to the same shape, through Vector-PCA and then Spatial-PCA, both inverted (Sec. 4)."""

    def __init__(self, channels: int, side: int, *, vector_components: int, spatial_components: int) -> None:
        super().__init__()
        self.vector = PrincipalComponents(channels, vector_components)
        self.spatial = PrincipalComponents(side * side, spatial_components)

    def forward(self, latent: Tensor) -> Tensor:
        """The latent maps that the components can express."""
        vectors = latent.flatten(2).transpose(1, 2)  # (B, s, v): one channel vector per position
        maps = self.vector.encode(vectors).transpose(1, 2)  # (B, k_V, s)
        maps = self.spatial.decode(self.spatial.encode(maps))
        return self.vector.decode(maps.transpose(1, 2)).transpose(1, 2).reshape(latent.shape)

    @torch.no_grad()
    def update(self, latent: Tensor, rate: float) -> None:
        """Move both sets of components towards those of a training batch: Spatial-PCA on the moved Vector-PCA's maps.

        Raises:
            torch.linalg.LinAlgError: the latent maps are not finite.
        """
        vectors = latent.flatten(2).transpose(1, 2)
        self.vector.update(vectors.flatten(0, 1), rate)
        self.spatial.update(self.vector.encode(vectors).transpose(1, 2).flatten(0, 1), rate)


class PrincipalAutoencoder(nn.Module):
    """(B, 3, S, S) to the same shape, about [0, 1], through the principal latent space.

    Convolutions of 3 x 3, the first `poolings` of them followed by average pooling; the latent is a sigmoid's. The
    decoder mirrors that. No normalisation layers: batch statistics would couple images. Average pooling and SiLU, since
    they pass a gradient at every pixel.
    """

    def __init__(
        self, work_size: int, widths: tuple[int, ...], poolings: int, *, vector_components: int, spatial_components: int
    ) -> None:
        super().__init__()
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for level, (before, width) in enumerate(zip([3, *widths], widths, strict=False)):
            is_last = level == len(widths) - 1
            pools = level < poolings
            down += [nn.Conv2d(before, width, 3, padding=1), nn.Sigmoid() if is_last else nn.SiLU()]
            down += [nn.AvgPool2d(2)] if pools else []
            mirrored = [nn.Upsample(scale_factor=2)] if pools else []
            up = [*mirrored, nn.Conv2d(width, before, 3, padding=1), *([nn.SiLU()] if level else []), *up]
        self.encode = nn.Sequential(*down)
        self.principal = PrincipalLatentSpace(
            widths[-1],
            work_size // 2**poolings,
            vector_components=vector_components,
            spatial_components=spatial_components,
        )
        self.decode = nn.Sequential(*up)

    def latent_of(self, x: Tensor) -> Tensor:
        """The encoder's (B, v, h, w) in (0, 1) of images on [0, 1], not yet projected."""
        # On a CPU, thin convolutions are faster when channels lie together in memory.
        latent: Tensor = self.encode((2 * x - 1).contiguous(memory_format=torch.channels_last))
        return latent

    def image_of(self, latent: Tensor) -> Tensor:
        """What the decoder makes of the latent maps, projected, on about [0, 1]; a clamp would cut gradients."""
        decoded: Tensor = self.decode(self.principal(latent))
        return (decoded + 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return self.image_of(self.latent_of(x))
