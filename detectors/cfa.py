"""CFA: the distance of adapted patch features to a memory bank of normal ones.

Lee, Lee & Song 2022, "CFA: Coupled-Hypersphere-Based Feature Adaptation for Target-Oriented Anomaly Localization" (IEEE
Access 10). A frozen ImageNet network gives patch features; a 1x1 CoordConv, the only trained part, pulls each patch
into hyperspheres around its K nearest centres of the bank and out of those around the next J (`soft_boundary_loss`).

As the authors do, `paper` looks at the central 224 of 256 pixels alone. They crop the masks as well; here the map is 0,
the least that a distance can be, in the frame that was cropped away, and a defect there counts as missed in the figures
of pixels.

Two habits of the authors' evaluation are left out: the scores are not rescaled by the test set, and the epoch is chosen
by the loss on held-out normals, not by the AUC on the test set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.parts import backbone as backbones
from detectors.parts import presets
from detectors.parts.backbone import Backbone
from detectors.parts.features import Features
from detectors.parts.images import resize
from detectors.parts.neighbours import exact_squares, kmeans, nearest, root
from detectors.parts.training import (
    batches,
    check_schedule,
    holdout,
    initialise_,
    train_until_held_out_stops_improving,
)
from detectors.registry import register

_CHUNK = 32
_SETTINGS_SIDE = 256  # the image side to which the settings crop and sigma belong


@dataclass(frozen=True)
class CFASettings(Settings):
    """Settings of CFA.

    Attributes:
        backbone: timm's name of the network.
        layers: of the network, finest first; the others are brought to the first one's size.
        weights: "pretrained"; "random" is for tests.
        crop: side of the centre crop, in pixels of a 256 px image; it scales with the image's side. 0: none.
        gamma_c: how many positions share a centre of the memory bank; above 1, k-means makes the centres.
        gamma_d: by how much the descriptor has fewer channels than the layers together.
        neighbours: K, centres that attract a patch, and that its score is made of.
        hard_negatives: J, the next centres, which repel it.
        nu: share of the patches that may lie outside, as 1 / nu in front of the loss.
        alpha: margin of the repulsion, in squared distance.
        radius: of the hyperspheres when training begins; it is learned.
        sigma: of the Gaussian that smooths the map, in pixels of a 256 px image; it scales with the image's side.
        epochs: passes over the training images at most.
        batch_size: images per step.
        learning_rate: AdamW's (AMSGrad).
        weight_decay: AdamW's.
        patience: epochs without a better loss on the held-out normals before training stops.
        holdout: share of the normals that is held out for that, and from the memory bank.
    """

    backbone: str = backbones.PAPER
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    weights: str = "pretrained"
    crop: int = 224
    gamma_c: int = 1
    gamma_d: int = 1
    neighbours: int = 3
    hard_negatives: int = 3
    nu: float = 1e-3
    alpha: float = 0.1
    radius: float = 1e-5
    sigma: float = 4.0
    epochs: int = 30
    batch_size: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    patience: int = 5
    holdout: float = 0.1


class CoordConv(nn.Module):
    """A 1x1 convolution that also sees where it is (Liu et al. 2018): patches (B, P, C) to (B, P, D), P = side^2.

    Two more input channels hold the column and the row, from -1 to 1.
    """

    coordinates: Tensor

    def __init__(self, channels: int, outputs: int, side: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(channels + 2, outputs)
        axis = torch.linspace(-1, 1, side)
        place = torch.stack([axis.expand(side, side), axis[:, None].expand(side, side)], dim=-1)
        self.register_buffer("coordinates", place.reshape(-1, 2), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """In two parts: the coordinates' is the same for every image."""
        of_features, of_place = self.linear.weight.tensor_split([self.channels], dim=1)
        return patches @ of_features.T + F.linear(self.coordinates, of_place, self.linear.bias)


def soft_boundary_loss(squares: Tensor, radius: Tensor, settings: CFASettings) -> Tensor:
    """The paper's L_att + L_rep, with the soft boundary's 1 / nu in front as in the authors' code.

    Args:
        squares: squared distances of each patch to its K + J nearest centres, nearest first, (Q, K + J).
        radius: r, a scalar.
        settings: K, nu and the margin alpha.
    """
    attracting, repelling = squares.tensor_split([settings.neighbours], dim=1)
    loss = F.relu(attracting - radius**2).mean()
    if repelling.shape[1]:
        loss = loss + F.relu(radius**2 - repelling - settings.alpha).mean()
    return loss / settings.nu


@register
class CFA(Detector):
    """score = maximum of the smoothed map of softmin-weighted distances to the nearest centre (module docstring)."""

    name = "cfa"
    title = "CFA"
    paper = "Lee et al. 2022, IEEE Access 10, arXiv 2206.04325"
    revision = 5  # last bits: every gradient is PyTorch's own, of the plain formula
    has_map = True
    frozen_prefixes: ClassVar[tuple[str, ...]] = ("backbone.",)

    bank: Tensor
    spread: Tensor

    def __init__(self, settings: CFASettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had, DetectorError for settings that cannot be."""
        super().__init__(settings, image_size)
        _check(settings)
        crop = max(1, round(image_size * (settings.crop or _SETTINGS_SIDE) / _SETTINGS_SIDE))
        self.backbone = Backbone(
            settings.backbone, settings.layers, crop=crop if crop < image_size else None, weights=settings.weights
        )
        self.side = self._finest_side()
        centres = self.side**2 // settings.gamma_c
        wanted = settings.neighbours + settings.hard_negatives
        if centres < wanted:
            raise DetectorError(
                f"cfa's memory bank has {centres} centres at {image_size} px with gamma_c {settings.gamma_c}, fewer "
                f"than the {wanted} that neighbours and hard_negatives ask for; enlarge the images or lower those."
            )
        channels = sum(self.backbone.channels)
        if channels < settings.gamma_d:
            raise DetectorError(f"cfa's gamma_d must be at most {channels}, the layers' channels; lower it.")
        self.descriptor = CoordConv(channels, channels // settings.gamma_d, self.side)
        self.radius = nn.Parameter(torch.tensor(settings.radius))
        self.register_buffer("bank", torch.zeros(centres, channels // settings.gamma_d))
        self.register_buffer("spread", _spread(self.side, crop, image_size, settings.sigma), persistent=False)

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> CFASettings:
        """`paper`: as published. `quick`: a small network's maps at strides 8 and 16, a few epochs of larger batches.

        Stride 4 as well costs twice the time and gained nothing on painted defects; more epochs lost there, although
        the held-out loss still fell (the radius grows and grows).
        """
        quick = CFASettings(
            backbone=backbones.QUICK, layers=("blocks.2", "blocks.4"), crop=0, epochs=4, batch_size=8, patience=2
        )
        return presets.choose(preset, quick=quick, paper=CFASettings())

    def frozen_hashes(self) -> dict[str, str]:
        """The backbone's."""
        return {self.settings.backbone: self.backbone.sha256}

    def _finest_side(self) -> int:
        """The side of the finest layer's map. Raises DetectorError where the layers are no maps, finest first."""
        sides = [maps.shape[-1] for maps in self.backbone.blank_maps(self.image_size)]
        if sides != sorted(sides, reverse=True):
            layers = ", ".join(self.settings.layers)
            raise DetectorError(f"cfa's layers must come finest first; got {layers}.")
        return sides[0]

    # -- score --------------------------------------------------------------------------------------------------------

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._anomaly_map(x, noise).amax(dim=(1, 2))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        return self.spread @ self._coarse_map(x) @ self.spread.T

    def _coarse_map(self, x: Tensor) -> Tensor:
        """Each position's distance to its nearest centre, times its softmin weight among K, (B, side, side)."""
        queries = self.descriptor(self._patches(x)).flatten(0, 1)  # (B P, D)
        chosen = nearest(queries, self.bank, self.settings.neighbours)
        distances = root(exact_squares(queries, self.bank, chosen))
        # By value, not by place: two centres at nearly the same distance may have been chosen in either order.
        weighted = distances.amin(dim=1) * F.softmin(distances, dim=1).amax(dim=1)
        return weighted.view(len(x), self.side, self.side)

    def _patches(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to the features of all positions, (B, P, C)."""
        maps = [resize(F.avg_pool2d(features, 3, 1, 1), self.side) for features in self.backbone(x)]
        return torch.cat(maps, dim=1).permute(0, 2, 3, 1).flatten(1, 2)

    # -- fit ----------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: CFASettings = self.settings
        initialise_(self.descriptor, generator(seed, "cfa-initial-weights"))
        with torch.no_grad():
            self.radius.fill_(settings.radius)
        features = Features(lambda images: [self._patches(images)], normals, progress)
        training, held_out = holdout(len(normals), settings.holdout, generator(seed, "cfa-holdout"))
        self._fill_bank(features, training, seed)
        trained = [*self.descriptor.parameters(), self.radius]
        optimiser = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, amsgrad=True
        )

        def train(epoch: int) -> list[float]:
            total = torch.zeros((), device=normals.device)
            for indices in batches(len(training), settings.batch_size, generator(seed, "cfa-order", epoch)):
                loss = self._loss(features[training[indices]][0])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += loss.detach() * len(indices)
            return [float(total) / len(training)]

        self.fit_report |= train_until_held_out_stops_improving(
            self.name,
            self,
            epochs=settings.epochs,
            patience=settings.patience,
            train=train,
            judge=lambda: [self._mean_loss(features, held_out)],
            progress=progress,
            skipped=self.frozen_prefixes,
        )
        self.fit_report |= {"radius": float(self.radius.detach())}

    @torch.no_grad()
    def _fill_bank(self, features: Features, training: Tensor, seed: int) -> None:
        """The mean descriptor of each position as training begins, or k-means centres of those; then never changed.

        As in the authors' code; the paper's moving average over the nearest neighbours of each image is not in it.
        """
        total = torch.zeros_like(features[training[:1]][0])
        for indices in training.split(_CHUNK):  # type: ignore[no-untyped-call]
            total += features[indices][0].sum(dim=0, keepdim=True)
        # The descriptor is affine: that of the mean patch is the mean of the descriptors.
        centres = self.descriptor(total / len(training))[0]
        if self.settings.gamma_c > 1:
            centres = kmeans(centres, len(self.bank), generator(seed, "cfa-k-means"))
        self.bank.copy_(centres)

    def _loss(self, patches: Tensor) -> Tensor:
        queries = self.descriptor(patches).flatten(0, 1)
        chosen = nearest(queries, self.bank, self.settings.neighbours + self.settings.hard_negatives)
        return soft_boundary_loss(exact_squares(queries, self.bank, chosen), self.radius, self.settings)

    def _mean_loss(self, features: Features, indices: Tensor) -> float:
        parts: tuple[Tensor, ...] = indices.split(self.settings.batch_size)  # type: ignore[no-untyped-call]
        return float(torch.stack([self._loss(features[part][0]) * len(part) for part in parts]).sum()) / len(indices)


def _spread(side: int, crop: int, image_size: int, sigma: float) -> Tensor:
    """(image size, side): bilinear enlargement to the crop, Gaussian smoothing of a map's columns and a frame of zeros
    around, as one matrix."""
    enlarged = F.interpolate(torch.eye(side, dtype=torch.float64)[None], size=crop, mode="linear")[0].T
    # Mirrored at the edges of the crop: nothing is known beyond.
    smoothed = gaussian_filter1d(enlarged.numpy(), sigma * image_size / _SETTINGS_SIDE, axis=0)
    before = (image_size - crop) // 2  # as `centre_crop`
    return F.pad(torch.from_numpy(smoothed).float(), (0, 0, before, image_size - crop - before))


def _check(settings: CFASettings) -> None:
    check_schedule("cfa", settings)
    if not 0 <= settings.crop <= _SETTINGS_SIDE:
        raise DetectorError(
            f"cfa's crop is measured on an image of {_SETTINGS_SIDE} px and must lie in 0..{_SETTINGS_SIDE} "
            f"(0: none); got {settings.crop}."
        )
    for name in ("gamma_c", "gamma_d", "neighbours"):
        if getattr(settings, name) < 1:
            raise DetectorError(f"cfa's {name} must be at least 1; got {getattr(settings, name)}.")
    for name in ("nu", "radius", "sigma"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise DetectorError(f"cfa's {name} must be a number above 0; got {value:g}.")
    for name in ("hard_negatives", "alpha", "weight_decay"):
        if not getattr(settings, name) >= 0:
            raise DetectorError(f"cfa's {name} must be at least 0; got {getattr(settings, name):g}.")
