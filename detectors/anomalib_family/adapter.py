"""A model of anomalib as a RADBench detector: what all the rewirings share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from detectors.anomalib_family.features import Features
from detectors.anomalib_family.fence import own_randomness
from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError, NoAnomalyMapError
from detectors.noise import Noise
from detectors.parts import backbone as backbones
from detectors.parts import presets
from detectors.parts.backbone import Backbone
from detectors.parts.images import resize

CHUNK = 32


@dataclass(frozen=True)
class AnomalibSettings(Settings):
    """What every model takes.

    Attributes:
        input_size: side at which the model works; images are resized to it differentiably; 0 leaves them.
        version: anomalib's: it is its code that scores, so figures of two versions are figures of two detectors.
    """

    input_size: int = 0
    version: str = field(default_factory=lambda: version("anomalib"))


@dataclass(frozen=True)
class BackboneSettings(AnomalibSettings):
    """What a model on a pretrained network takes.

    Attributes:
        backbone: timm's name of the network.
        layers: where its features are taken, finest first.
        weights: "pretrained"; "random" is for tests.
    """

    backbone: str = backbones.PAPER
    layers: tuple[str, ...] = ("layer2", "layer3")
    weights: str = "pretrained"


class AnomalibDetector(Detector):
    """anomalib's torch model, its training without Lightning, and a score with a true gradient.

    Subclasses write `_assemble`, `_learn` and `_judge`. The score orders images as anomalib's own does; where that one
    saturates (a probability), the score is a strictly monotone function of it that does not.

    Attributes:
        model: anomalib's, its extractor replaced.
        extractor: the attribute of the model that holds the backbone; "" where there is none.
        layer_count: how many layers of the backbone the model takes; 0: any number.
        learned_shapes: buffers whose shapes are learned (PCA bases, memory banks).
    """

    revision = 4  # as in the family's `REVISION`
    has_map = True
    extractor: ClassVar[str] = "feature_extractor"
    layer_count: ClassVar[int] = 0
    learned_shapes: ClassVar[frozenset[str]] = frozenset()
    model: Any

    def __init__(self, settings: AnomalibSettings, image_size: int) -> None:
        """Raises WeightsError where the weights cannot be had, DetectorError where another anomalib is installed or the
        model takes another number of layers."""
        super().__init__(settings, image_size)
        if settings.version != (installed := version("anomalib")):
            raise DetectorError(
                f"{self.name} was set up with anomalib {settings.version} and {installed} is installed: "
                f"install anomalib=={settings.version}, or leave its version alone and fit again."
            )
        self.work_size = settings.input_size or image_size
        if isinstance(settings, BackboneSettings) and self.layer_count not in (0, len(settings.layers)):
            raise DetectorError(
                f"{self.name} takes {self.layer_count} of its backbone's layers; got {len(settings.layers)}: "
                "set layers to as many names."
            )
        # In a tuple, so that torch does not see it as a second child.
        self._held: tuple[Backbone, ...] = (self._backbone(settings),) if isinstance(settings, BackboneSettings) else ()
        self._rebuild(seed=0)

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pretrained network's."""
        return (f"model.{self.extractor}.backbone.",) if self._held else ()

    @property
    def elastic_buffers(self) -> frozenset[str]:  # type: ignore[override]
        """Those with learned shapes."""
        return self.learned_shapes

    def frozen_hashes(self) -> dict[str, str]:
        """The backbone's, if there is one."""
        return {self.settings.backbone: self._held[0].sha256} if self._held else {}

    # -- what a rewiring writes ---------------------------------------------------------------------------------------

    @abstractmethod
    def _assemble(self) -> Any:
        """anomalib's untrained model, with `self._features()` as its extractor."""

    @abstractmethod
    def _learn(self, images: Tensor, *, seed: int, progress: Progress) -> None:
        """Fit `self.model` on normal images at the working size."""

    @abstractmethod
    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images at the working size to scores (B,) and maps (B, 1, h, w)."""

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _features(self, **options: Any) -> Features:
        return Features(self._held[0], **options)

    def _rebuild(self, *, seed: int) -> None:
        """A fresh model, its initial weights from the seed: a second fit starts where the first one did."""
        with own_randomness(seed, self.name, "initial weights"):
            self.model = self._assemble()

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self._rebuild(seed=seed)
        self.to(normals.device)
        with own_randomness(seed, self.name, "fit"):
            images = torch.cat([resize(chunk, self.work_size) for chunk in normals.split(CHUNK)])  # type: ignore[no-untyped-call]
            self._learn(images, seed=seed, progress=progress)
        self.to(torch.float32)  # some of anomalib's statistics are kept in float64, a checkpoint's are not

    def _images(self, x: Tensor) -> Tensor:
        # `Features` builds a graph wherever its input has one, so a caller without gradients must not hand one on.
        return resize(x if torch.is_grad_enabled() else x.detach(), self.work_size)

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        return self._judge(self._images(x))[0]

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        found = self._judge(self._images(x))[1]
        if found is None:
            raise NoAnomalyMapError(f"{self.name} scores whole images and has no anomaly map.")
        return resize(found, x.shape[-1])[:, 0]

    def _adapt(self, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is learned may have any shape in a checkpoint; its hash says that it is the file that was written."""
        for key in self.learned_shapes & tensors.keys() & own.keys():
            if tensors[key].dtype == own[key].dtype:
                parent, _, name = key.rpartition(".")
                self.get_submodule(parent).register_buffer(name, tensors[key].to(own[key].device))
                own[key] = tensors[key]
        return tensors

    @staticmethod
    def _backbone(settings: BackboneSettings) -> Backbone:
        return Backbone(settings.backbone, settings.layers, weights=settings.weights)


def at_preset(preset: str, paper: Any, **quick: Any) -> Any:
    """The `paper` settings, or at the preset `quick` the same with some fields replaced."""
    return presets.choose(preset, quick=replace(paper, **quick), paper=paper)
