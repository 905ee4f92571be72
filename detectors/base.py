"""The contract of a detector: `fit` on normal images, then a score where higher means more anomalous.

Whether one keeps it, `detectors.contract` finds out.

A detector is one class in one file of this folder, with frozen `Settings` for each preset, registered by name:

    @register
    class MyDetector(Detector):
        name = "mine"
        ...

Subclasses write `_fit`, `_score` and, where the method has one, `_anomaly_map`; the public methods around them check
inputs, follow the input's device and dtype, and replace a missing noise source with fresh entropy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from detectors import checkpoint
from detectors import noise as noise_module
from detectors.checks import RANGE_TOLERANCE, check_range, one_number_each, tensor
from detectors.errors import (
    CheckpointError,
    DetectorError,
    NoAnomalyMapError,
    NoReconstructionError,
    wrong_images,
)
from detectors.noise import Noise
from detectors.settings import Settings as Settings
from detectors.settings import described
from detectors.store import Store

LARGEST_SIDE = 4096  # of a picture in pixels: one of them has 200 MB as float32


class Progress(Protocol):
    """Told how far a long job is: `done` of `total` steps, and a few words about the last one."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """A `Progress` that says nothing."""


class Detector(nn.Module, ABC):
    """An image anomaly detector behind one differentiable score.

    Images are float32 or float64, shape (B, 3, H, W), in [0, 1]; normalisation and resizing happen inside. Each image's
    score depends on that image alone.

    Attributes:
        name: the registry's name.
        title: the name as the field writes it.
        paper: where the method comes from.
        revision: raised whenever a change of code can change scores.
        is_stochastic: whether the score draws noise.
        sees_pixels: False for a baseline that scores the names of the images alone (`noise.image_ids`). It has no
            gradient, and no attack moves it.
        fit_is_seeded: False where the fit draws nothing: every seed gives the same detector, which is fitted once.
        training_is_chaotic: whether a fit with another seed, or last bits that round otherwise on another processor,
            gives a detector whose AUCs differ by more than what the intervals over images cover (measured).
        trains_adversarially: whether the fit attacks its training images.
        has_extra_data: whether the fit takes other pictures than the training normals, pretrained weights aside.
        has_map, has_reconstruction: whether `anomaly_map` and `reconstruct` are there.
        has_surrogate: whether `surrogate_score` is another function than `score`; attacks then follow both gradients.
            May depend on the settings.
        surrogate_is_monotone: whether the surrogate is an increasing function of the score (its logarithm, say).
            Steepest steps along both are then the same wherever the score's gradient is alive, and attacks follow the
            surrogate's alone.
        surrogate_holds_reconstruction: whether the surrogate has the score's values, and a gradient that leaves out the
            way through the reconstruction (BPDA as the FreeRAD paper takes it). The score's own gradient is there, so
            no attack follows this one unless it is told to (`--bpda`).
        score_is_map_maximum: whether the score is the largest value of the anomaly map (of one of another size: up to
            interpolation). The gradient of a maximum touches what one pixel sees; attacks on a stochastic detector
            can then follow a smooth maximum of the map instead. May depend on the settings.
        auto_choices: settings that may be "auto", with the values that the suite tries (see `choose`).
        frozen_prefixes: state that comes from elsewhere (a pretrained backbone), is not trained and not saved.
        elastic_buffers: buffers whose first dimension is learned (a memory bank).
        noise_setting: the setting that states the standard deviation, on [0, 1], of noise that every image carries
            already, as under randomised smoothing; "" where there is none.
        min_normals: how many training images it needs; known when it is built, before any fit.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    revision: ClassVar[int] = 1
    is_stochastic: bool = False  # may depend on the settings
    sees_pixels: ClassVar[bool] = True
    fit_is_seeded: ClassVar[bool] = True
    training_is_chaotic: ClassVar[bool] = False
    trains_adversarially: ClassVar[bool] = False
    has_extra_data: ClassVar[bool] = False
    has_map: bool = False  # may depend on the settings
    has_reconstruction: bool = False
    has_surrogate: bool = False  # may depend on the settings
    surrogate_is_monotone: bool = False
    surrogate_holds_reconstruction: bool = False
    score_is_map_maximum: bool = False
    auto_choices: ClassVar[dict[str, tuple[int, ...]]] = {}
    frozen_prefixes: ClassVar[tuple[str, ...]] = ()
    elastic_buffers: ClassVar[frozenset[str]] = frozenset()
    noise_setting: ClassVar[str] = ""
    min_normals: int = 2  # may depend on the settings

    def __init__(self, settings: Settings, image_size: int) -> None:
        """Build the untrained detector.

        Args:
            settings: this detector's frozen settings.
            image_size: side of the square input pictures in pixels (the preset's resolution).

        Raises:
            DetectorError: no picture has that size.
        """
        super().__init__()
        if not 1 <= image_size <= LARGEST_SIDE:
            raise DetectorError(
                f"{self.name} cannot be built for pictures of {image_size} pixels; 1 to {LARGEST_SIDE} are possible."
            )
        self.settings: Any = settings
        self.image_size = image_size
        self.is_fitted = False
        self.may_take_shipped = True  # a fit may start from weights that ship with the package (False: --refit)
        self.fit_report: dict[str, Any] = {}
        self.training_names: tuple[str, ...] | None = None  # while it is fitted, where the caller knows them
        self.store = Store()  # while it is fitted, the caller's
        self.tensors_sha256 = ""  # of the checkpoint that was loaded
        self._trusts_images = False

    @classmethod
    @abstractmethod
    def settings_for(cls, preset: str, image_size: int) -> Settings:
        """The settings at a preset ("quick", "paper")."""

    # -- what a subclass writes ---------------------------------------------------------------------------------------

    @abstractmethod
    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        """Learn from normal images (N, 3, H, W); may fill `self.fit_report` with what the user should know."""

    @abstractmethod
    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        """(B, 3, H, W) to (B,)."""

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        """(B, 3, H, W) to (B, H, W)."""
        raise NoAnomalyMapError(f"{self.name} scores whole images and has no anomaly map.")

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        """(B, 3, H, W) to (B, 3, h, w) on about [0, 1], at the size at which the method works."""
        raise NoReconstructionError(f"{self.name} does not reconstruct images.")

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        """(B, 3, H, W) to (B,); one that is not the score needs `has_surrogate`, or no attack follows it."""
        return self._score(x, noise)

    def _after_load(self) -> None:
        """Make again what follows from loaded tensors and is kept beside them; nothing in most detectors."""

    # -- what everybody calls -----------------------------------------------------------------------------------------

    def fit(
        self,
        normals: Tensor,
        *,
        seed: int,
        progress: Progress | None = None,
        workdir: Path | None = None,
        names: Sequence[str] | None = None,
        store: Store | None = None,
    ) -> Self:
        """Learn what normal looks like.

        Args:
            normals: normal images only, float (N, 3, H, W) in [0, 1].
            seed: the source of all randomness in fitting.
            progress: told about each step.
            workdir: a folder in which a long fit may keep what it needs to go on after a kill.
            names: of the images, for a baseline that scores these.
            store: where weights are found that another fit has trained on these images, and kept for the next one.

        Raises:
            DetectorError: too few images, or images of the wrong shape or range.
        """
        self._check(normals)
        lowest, highest = float(normals.min()), float(normals.max())
        # So written that NaN is refused, too.
        if not (lowest >= -RANGE_TOLERANCE and highest <= 1.0 + RANGE_TOLERANCE):
            raise DetectorError(
                f"Training images must lie in [0, 1]; these go from {lowest:g} to {highest:g}; rescale them."
            )
        if len(normals) < self.min_normals:
            raise DetectorError(
                f"{self.name} needs at least {self.min_normals} normal training images, got {len(normals)}; add more."
            )
        self.fit_report = {"normals": len(normals), "seed": seed}
        self.is_fitted = False
        # Always in float32, so that what is learned survives the way to float64 and back, and a checkpoint.
        normals = normals.detach().to(torch.float32)
        self.to(device=normals.device, dtype=torch.float32)
        self.train()
        for key, parameter in self.named_parameters():
            parameter.requires_grad_(not key.startswith(self.frozen_prefixes or ("\0",)))
        self.training_names = None if names is None else tuple(names)
        self.store = store or Store()
        with torch.inference_mode(False), torch.enable_grad():
            self._fit(normals, seed=seed, progress=progress or silent, workdir=workdir)
        self.training_names, self.store = None, Store()
        self._freeze()
        return self

    def train(self, mode: bool = True) -> Self:
        """As in torch, but a fitted detector stays in evaluation mode: batch statistics would couple its images."""
        return super().train(mode and not self.is_fitted)

    def score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        """Anomaly score, (B,), higher is more anomalous, differentiable with respect to x (B, 3, H, W) in [0, 1].

        Raises:
            DetectorError: x is no such batch, or the detector is not fitted.
            ContractError: the method does not return one number per image.
        """
        return one_number_each(self._score(*self._ready(x, noise)), len(x), owner=self.name)

    def anomaly_map(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        """Anomaly map, (B, H, W), at the size of x. Raises NoAnomalyMapError where the method has none, and what
        `score` raises."""
        return tensor(self._anomaly_map(*self._ready(x, noise)), owner=self.name, what="anomaly map")

    def reconstruct(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        """What the method makes of x, (B, 3, H, W), not clamped. Raises NoReconstructionError where it has no such."""
        found = tensor(self._reconstruct(*self._ready(x, noise)), owner=self.name, what="reconstruction")
        if found.shape[-2:] == x.shape[-2:]:
            return found
        return nn.functional.interpolate(found, size=x.shape[-2:], mode="bilinear", align_corners=False)

    def surrogate_score(self, x: Tensor, *, noise: Noise | None = None) -> Tensor:
        """What BPDA differentiates, (B,): the score, unless its honest forward pass has no useful gradient."""
        found = self._surrogate_score(*self._ready(x, noise))
        return one_number_each(found, len(x), owner=self.name, what="surrogate_score")

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """Within it nobody asks whether images lie in [0, 1]: for an attack, which has asked once and projects since
        (to read a value back at each step would stall a GPU), and for what is made from images (`purify`)."""
        before, self._trusts_images = self._trusts_images, True
        try:
            yield
        finally:
            self._trusts_images = before

    def save(self, path: Path, *, extra: dict[str, Any] | None = None) -> Path:
        """Write `path` (.safetensors) and, beside it, a .json that describes it. Returns the path of the tensors."""
        self._require_fitted()
        return checkpoint.write(
            path,
            {k: self._stored(k, v) for k, v in self._own_state().items()},
            {
                "detector": self.name,
                "revision": self.revision,
                "image_size": self.image_size,
                "settings": described(self.settings),
                "frozen": self.frozen_hashes(),
                "fit": self.fit_report,
                **(extra or {}),
            },
        )

    def load(self, path: Path) -> Self:
        """Take over a checkpoint of this detector with these settings.

        Raises:
            CheckpointError: it is missing, damaged, tampered with, or of another detector, size or architecture.
        """
        tensors, description = checkpoint.read(path)
        checkpoint.check_description(
            path,
            description,
            detector=self.name,
            revision=self.revision,
            image_size=self.image_size,
            settings=described(self.settings),
            frozen=self.frozen_hashes(),
        )
        own = {k: self._stored(k, v) for k, v in self._own_state().items()}
        tensors = self._adapt(tensors, own)
        checkpoint.check_tensors(path, tensors, own)
        self.to(dtype=torch.float32)
        self.load_state_dict(tensors, strict=False)
        try:
            self._take_over(checkpoint.report_of(description))
            self._try_out()
        except Exception as error:  # each tensor is one that a network can have; what they do together nobody knows
            self.is_fitted = False
            raise CheckpointError(
                f"The tensors of the checkpoint {path} fit neither each other nor its settings "
                f"({' '.join(str(error).split())[:200]}); fit the detector again."
            ) from error
        self.tensors_sha256 = str(description["tensors_sha256"])
        return self

    def choose(self, setting: str, value: int, normals: Tensor, *, seed: int) -> Self:
        """Set one of `auto_choices` after the fit, given the normals that the fit saw."""
        raise DetectorError(f"{self.name} has no setting {setting!r} that can be chosen after the fit.")

    @classmethod
    def shipped_checkpoints(cls) -> list[Path]:
        """Checkpoints that the detector's package brings."""
        return []

    def lipschitz(self, norm: str) -> float | None:
        """A constant L with |A(x) - A(x')| <= L |x - x'| for all images, in the norm "linf" or "l2": an exact
        certificate. None where none is known. The contract checks it."""
        return None

    def frozen_hashes(self) -> dict[str, str]:
        """Names and hashes of the pretrained weights that this detector stands on."""
        return {}

    def stored_dtypes(self) -> dict[str, torch.dtype]:
        """Prefixes of tensors that a checkpoint stores in another dtype, because their values were rounded to it."""
        return {}

    # -- inside -------------------------------------------------------------------------------------------------------

    def _own_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the state without its frozen parts, in float32 even after a check in float64."""
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(self.frozen_prefixes or ("\0",))}
        return {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in own.items()}

    def _stored(self, key: str, value: Tensor) -> Tensor:
        for prefix, dtype in self.stored_dtypes().items():
            if key.startswith(prefix):
                return value.to(dtype)
        return value

    def _adapt(self, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Buffers whose first dimension is learned (a memory bank) take its size from what is loaded."""
        for key in self.elastic_buffers & tensors.keys() & own.keys():
            mine, loaded = own[key], tensors[key]
            alike = mine.ndim == loaded.ndim and mine.shape[1:] == loaded.shape[1:] and mine.dtype == loaded.dtype
            if alike and len(loaded) > 0:
                parent, _, name = key.rpartition(".")
                self.get_submodule(parent).register_buffer(name, loaded.to(mine.device))
                own[key] = loaded
        return tensors

    def _take_over(self, report: dict[str, Any]) -> None:
        """The tensors of a checkpoint are in place: be the detector that was fitted then."""
        self.fit_report = report
        self._freeze()
        self._after_load()

    def _try_out(self) -> None:
        """A look at a blank image, where a checkpoint has a say in shapes: a memory bank can have fewer rows than the
        score takes neighbours."""
        if not self.elastic_buffers:
            return
        place = next((tensor.device for tensor in self.state_dict().values()), None)
        blank = torch.zeros(1, 3, self.image_size, self.image_size, device=place)
        with torch.no_grad():
            if not bool(self.score(blank).isfinite().all()):
                raise DetectorError("a blank image's score is no finite number")
            if self.has_map:
                self.anomaly_map(blank)

    def _freeze(self) -> None:
        # No gradient ever flows into the weights after fitting: an attack needs the input's gradient alone.
        self.eval()
        self.requires_grad_(False)
        self.is_fitted = True

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise DetectorError(f"{self.name} is not fitted yet; call fit(normals, seed=...) or load(path) first.")

    def _check(self, x: Tensor) -> None:
        wrong = wrong_images(x)
        if wrong:
            raise DetectorError(wrong)
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise DetectorError(
                f"{self.name} was built for {self.image_size}x{self.image_size} images and got "
                f"{x.shape[-2]}x{x.shape[-1]}; resize them or fit the detector at that size."
            )

    def _ready(self, x: Tensor, noise: Noise | None) -> tuple[Tensor, Noise]:
        self._require_fitted()
        self._check(x)
        if not self._trusts_images:
            check_range(x)
        state = chain(self.parameters(), self.buffers())
        reference = next((tensor for tensor in state if tensor.is_floating_point()), x)
        if reference.device != x.device or reference.dtype != x.dtype:
            with torch.inference_mode(False):  # weights born in inference mode could never again carry a gradient
                self.to(device=x.device, dtype=x.dtype)  # float32 to float64 and back is exact
        if noise is None:
            noise = noise_module.fresh(len(x))
        elif len(noise) != len(x):
            raise DetectorError(f"The noise source is for {len(noise)} images, the batch has {len(x)}.")
        return x, noise


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Within it the module is in evaluation mode (statistics inside a fit must not depend on dropout or batches)."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
