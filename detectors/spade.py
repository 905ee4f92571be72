"""SPADE: the distance to the nearest normal training images in the feature space of an ImageNet network.

Cohen & Hoshen 2020, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences". Nothing is trained. The image
score is the mean Euclidean distance to the K nearest training features of the global average pool; the neighbours are
chosen anew at every call, so an attack cannot leave them behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError, NoAnomalyMapError
from detectors.noise import Noise
from detectors.parts import backbone as backbones
from detectors.parts import presets
from detectors.parts.backbone import POOLED, Backbone
from detectors.parts.images import resize
from detectors.parts.neighbours import distance, nearest, squared_distances
from detectors.registry import register

_CHUNK = 32


@dataclass(frozen=True)
class SPADESettings(Settings):
    """Settings of SPADE.

    Attributes:
        backbone: timm's name of the network.
        neighbours: K; 5 in the implementation whose numbers FreeRAD's paper shows as SPADE, 50 in its own paper.
        pixel_map: keep the training images' feature maps, and offer the anomaly map made from them (memory!).
        map_layers: the layers that it is made of, finest first.
        input_size: side to which images are resized; 0 leaves them.
        crop: side of the centre crop that follows; 0: none.
        weights: "pretrained"; "random" is for tests.
    """

    backbone: str = backbones.PAPER
    neighbours: int = 5
    pixel_map: bool = False
    map_layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    input_size: int = 256
    crop: int = 224
    weights: str = "pretrained"


@register
class SPADE(Detector):
    """K-nearest-neighbour distance of pooled features (module docstring)."""

    name = "spade"
    title = "SPADE"
    paper = "Cohen & Hoshen 2020, arXiv 2005.02357"
    revision = 4  # last bits: every gradient is PyTorch's own, of the plain formula
    fit_is_seeded = False
    frozen_prefixes: ClassVar[tuple[str, ...]] = ("backbone.",)

    bank: Tensor

    def __init__(self, settings: SPADESettings, image_size: int) -> None:
        """Raises WeightsError where the backbone's weights cannot be had, DetectorError for settings that cannot be."""
        super().__init__(settings, image_size)
        if settings.neighbours < 1:
            raise DetectorError(f"spade's neighbours must be at least 1; got {settings.neighbours}.")
        self.min_normals = max(self.min_normals, settings.neighbours)
        maps = settings.map_layers if settings.pixel_map else ()
        if settings.pixel_map and not maps:
            raise DetectorError("spade's pixel_map needs at least one of map_layers.")
        self.backbone = Backbone(
            settings.backbone,
            (POOLED, *maps),
            size=settings.input_size or None,
            crop=settings.crop or None,
            weights=settings.weights,
        )
        self.has_map = settings.pixel_map
        self.register_buffer("bank", torch.empty(0, self.backbone.channels[0]))
        self._banks_of_maps = [f"map_bank_{i}" for i in range(len(maps))]
        with torch.no_grad():
            blank = self.backbone(torch.zeros(1, 3, image_size, image_size))[1:]
        for key, features in zip(self._banks_of_maps, blank, strict=True):
            self.register_buffer(key, features[:0].contiguous())

    @property
    def elastic_buffers(self) -> frozenset[str]:  # type: ignore[override]
        """The banks have as many rows as there were training images."""
        return frozenset({"bank", *self._banks_of_maps})

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> SPADESettings:
        """`quick`: a small network on the images as they come. `paper`: Resize 256, CenterCrop 224, WideResNet-50-2."""
        quick = SPADESettings(
            backbone=backbones.QUICK, map_layers=("blocks.1", "blocks.2", "blocks.4"), input_size=0, crop=0
        )
        return presets.choose(preset, quick=quick, paper=SPADESettings())

    def frozen_hashes(self) -> dict[str, str]:
        """The backbone's."""
        return {self.settings.backbone: self.backbone.sha256}

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        rows: list[list[Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(normals), _CHUNK):
                rows.append(self.backbone(normals[start : start + _CHUNK]))
                progress(min(start + _CHUNK, len(normals)), len(normals), "features")
        for key, features in zip(["bank", *self._banks_of_maps], zip(*rows, strict=True), strict=True):
            self.register_buffer(key, torch.cat(features).contiguous())

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        pooled = self.backbone(x)[0]
        neighbours = self.bank[self._nearest(pooled)]  # (B, K, C)
        return distance(pooled[:, None], neighbours).mean(dim=1)

    def _nearest(self, pooled: Tensor) -> Tensor:
        """(B, C) to the indices of the K nearest rows of the bank, (B, K)."""
        return nearest(pooled, self.bank, self.settings.neighbours)

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        """Each position's distance to the nearest of all positions in the K neighbours' maps (their section 3.2)."""
        if not self.has_map:
            raise NoAnomalyMapError("spade was built without its anomaly map; set pixel_map=True and fit it again.")
        pooled, *maps = self.backbone(x)
        side = maps[0].shape[-1]
        queries = torch.cat([resize(m, side) for m in maps], dim=1).flatten(2).transpose(1, 2)  # (B, P, C)
        rows = []
        for query, chosen in zip(queries, self._nearest(pooled), strict=True):  # one image's gallery at a time: memory
            banks = [getattr(self, key)[chosen] for key in self._banks_of_maps]
            gallery = torch.cat([resize(m, side) for m in banks], dim=1).transpose(0, 1).flatten(1).T  # (K P, C)
            closest = squared_distances(query, gallery).argmin(dim=1)
            rows.append(distance(query, gallery[closest]))
        return self._place(torch.stack(rows).view(len(x), 1, side, side), x)

    def _place(self, coarse: Tensor, x: Tensor) -> Tensor:
        """The map of the crop (B, 1, side, side), on the whole image (B, H, W); what was cropped away gets 0."""
        working = self.settings.input_size or x.shape[-1]
        crop = min(self.settings.crop or working, working)
        before = (working - crop) // 2
        after = working - crop - before
        framed = torch.nn.functional.pad(resize(coarse, crop), (before, after, before, after))
        return resize(framed, x.shape[-1])[:, 0]
