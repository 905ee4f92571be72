"""Purify, then detect: FreeRAD's reconstruction placed before any other detector (`purify:spade`, `purify:cfa`, ...).

DiffPure (Nie et al. 2022, "Diffusion Models for Adversarial Purification") diffuses an image a little, denoises it, and
shows the result to a classifier that was trained on clean images. Here a detector takes the classifier's place. The
footnote of FreeRAD's paper says that this does not work, since the purifier breaks the signals of the anomaly, too:
this family of detectors lets everyone see for themselves.

    score(x) = inner.score(purifier.reconstruct(x))

The gradient runs through both, and the noise of both comes from the image's source, under different draws. The purified
image is not clamped to [0, 1] on its way: a clamp would cut the gradient wherever it bites. The purifier's U-Net is
that of FreeRAD to the bit, so weights that ship with FreeRAD, that a killed fit left behind or that FreeRAD's fit left
in the store are taken over.

At `quick` the purifier works at 64 of 128 pixels, so what it gives back is also blurred; `purifier.k=1`, which adds
next to no noise, shows what the blur does alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from detectors import registry
from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.freerad import FreeRAD, FreeRADSettings
from detectors.freerad.diffusion import Schedule
from detectors.freerad.training import TrainingSettings
from detectors.freerad.unet import UNetSettings
from detectors.noise import Noise, NoiseSeed

PREFIX = "purify"
# DiffPure's t* = 0.1 against l-inf on CIFAR-10 (0.15 on ImageNet), with the same betas at T = 1000.
DIFFPURE_K = 100
_CHUNK = 16
_NORMALS = "purified-normals"  # the purpose of the noise in a fit


@dataclass(frozen=True)
class PurifierSettings:
    """Those of FreeRAD's settings that its reconstruction depends on; FreeRADSettings explains them.

    Attributes:
        k: the timestep that images are diffused to. A number: nothing here chooses it.
        denoising_steps: 1 is one-shot, 0 means k (full-shot, as in DiffPure), anything between is arbitrary-shot.
        work_size: side at which the U-Net works.
        storage: dtype that the fitted weights are rounded to.
        unet, training, schedule: see there.
    """

    k: int = DIFFPURE_K
    denoising_steps: int = 1
    work_size: int = 256
    storage: str = "float32"
    unet: UNetSettings = field(default_factory=UNetSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    schedule: Schedule = field(default_factory=Schedule)

    def freerad(self) -> FreeRADSettings:
        """The same for FreeRAD; its score, which nobody asks for here, as cheap as can be."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return FreeRADSettings(**own, filter_size=1, scales=1, map_images=1, map_draws=1)

    @classmethod
    def of(cls, settings: FreeRADSettings) -> PurifierSettings:
        """FreeRAD's at a preset, with DiffPure's k and one shot."""
        taken = {f.name: getattr(settings, f.name) for f in fields(cls)}
        return cls(**{**taken, "k": DIFFPURE_K, "denoising_steps": 1})


@dataclass(frozen=True)
class PurifySettings(Settings):
    """Settings of a detector behind a purifier.

    Attributes:
        purifier: see PurifierSettings.
        inner: the detector's own.
        fit_on: what the detector is fitted on: "clean" normals, as DiffPure's classifiers were trained on clean images,
            or "purified" ones: it then knows the purifier's blur, and takes it for normal.
    """

    purifier: PurifierSettings = field(default_factory=PurifierSettings)
    inner: Settings = field(default_factory=Settings)
    fit_on: str = "clean"


class Purify(Detector):
    """A purifier and the detector behind it (module docstring); `inner_class` is what a member of the family adds."""

    inner_class: ClassVar[type[Detector]]
    is_stochastic = True
    has_reconstruction = True  # the purified image

    def __init__(self, settings: PurifySettings, image_size: int) -> None:
        """Raises DetectorError for settings that cannot be, and what the inner detector raises."""
        super().__init__(settings, image_size)
        self._check_settings(settings)
        try:
            self.purifier = FreeRAD(settings.purifier.freerad(), image_size)
        except DetectorError as error:
            raise DetectorError(f"In the purifier of {self.name}, {error}") from None
        self.inner = self.inner_class(settings.inner, image_size)
        self.min_normals = max(self.purifier.min_normals, self.inner.min_normals)
        self.has_map, self.has_surrogate = self.inner.has_map, self.inner.has_surrogate
        self.surrogate_is_monotone = self.inner.surrogate_is_monotone
        self.score_is_map_maximum = self.inner.score_is_map_maximum

    def _check_settings(self, settings: PurifySettings) -> None:
        if settings.fit_on not in ("clean", "purified"):
            raise DetectorError(f"{self.name}'s fit_on must be clean or purified; got {settings.fit_on!r}.")
        if not isinstance(settings.purifier.k, int):
            raise DetectorError(
                f"{self.name}'s purifier.k must be a timestep, e.g. {DIFFPURE_K}; got {settings.purifier.k!r}."
            )
        # The suite chooses settings of the outermost detector alone: "auto" would stay what it happens to be.
        for name, choices in self.inner_class.auto_choices.items():
            if getattr(settings.inner, name) == "auto":
                raise DetectorError(
                    f"{self.name} cannot have its inner.{name} chosen; set it to a number, e.g. "
                    f"--set {self.name}.inner.{name}={choices[0]}."
                )

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> PurifySettings:
        """FreeRAD's network at the preset with DiffPure's k, before the inner detector at the same preset."""
        inner = cls.inner_class.settings_for(preset, image_size)
        return PurifySettings(PurifierSettings.of(FreeRAD.settings_for(preset, image_size)), inner)

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        self.purifier.may_take_shipped = self.inner.may_take_shipped = self.may_take_shipped
        # Nobody knows beforehand which half takes longer: each gets half of the bar.
        first, second = _half(progress, 0, "purifier: "), _half(progress, 1, "")
        self.purifier.fit(normals, seed=seed, progress=first, workdir=workdir, store=self.store)
        seen = normals if self.settings.fit_on == "clean" else self._purified(normals, seed)
        own = workdir / "inner" if workdir is not None else None  # the two must not find each other's files
        if own is not None:
            own.mkdir(parents=True, exist_ok=True)
        try:
            self.inner.fit(seen, seed=seed, progress=second, workdir=own, store=self.store)
        finally:
            if own is not None:
                with suppress(OSError):  # not empty: something to go on from, after a kill
                    own.rmdir()
        report = self.purifier.fit_report
        self.fit_report |= {"purifier": report, "inner": self.inner.fit_report}
        self.fit_report |= {key: report[key] for key in ("unet_from", "unet_fit") if key in report}

    @torch.no_grad()
    def _purified(self, normals: Tensor, seed: int) -> Tensor:
        """One purification of each normal. Clamped, unlike in the score: a fit refuses what is no image."""
        source = NoiseSeed(seed).source(_NORMALS, [str(i) for i in range(len(normals))])
        parts = [slice(start, start + _CHUNK) for start in range(0, len(normals), _CHUNK)]
        chunks = [self.purifier.reconstruct(normals[part], noise=source.pick(part)) for part in parts]
        return torch.cat(chunks).clamp(0, 1)

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        with self.purifier.trusting():  # whoever asked for this was asked already whether x lies in [0, 1]
            return self.purifier.reconstruct(x, noise=noise.sub(0))

    # A reconstruction may leave [0, 1], and a clamp would cut gradients: the inner detector takes it as it is.

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        with self.inner.trusting():
            return self.inner.score(self._reconstruct(x, noise), noise=noise.sub(1))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        with self.inner.trusting():
            return self.inner.surrogate_score(self._reconstruct(x, noise), noise=noise.sub(1))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        with self.inner.trusting():
            return self.inner.anomaly_map(self._reconstruct(x, noise), noise=noise.sub(1))

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inner detector's; the purifier has none."""
        return _under("inner.", self.inner.frozen_prefixes)

    @property
    def elastic_buffers(self) -> frozenset[str]:  # type: ignore[override]
        """The inner detector's."""
        return frozenset(_under("inner.", tuple(self.inner.elastic_buffers)))

    def frozen_hashes(self) -> dict[str, str]:
        """The inner detector's."""
        return self.inner.frozen_hashes()

    def stored_dtypes(self) -> dict[str, torch.dtype]:
        """Those of both parts."""
        parts = {"purifier.": self.purifier, "inner.": self.inner}
        return {prefix + key: dtype for prefix, part in parts.items() for key, dtype in part.stored_dtypes().items()}

    def _after_load(self) -> None:
        for name, part in (("purifier", self.purifier), ("inner", self.inner)):
            report = self.fit_report.get(name)
            part._take_over(report if isinstance(report, dict) else {})


def _under(prefix: str, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(prefix + key for key in keys)


def _half(progress: Progress, which: int, words: str) -> Progress:
    """The first (0) or second (1) half of a progress, for a job that counts its own steps."""

    def tell(done: int, total: int, note: str = "") -> None:
        progress(which * total + done, 2 * total, f"{words}{note}")

    return tell


def _member(name: str) -> type[Detector]:
    """The class of `purify:name`. Raises DetectorError."""
    inner = registry.get(name)
    if issubclass(inner, FreeRAD | Purify):
        raise DetectorError(
            f"{PREFIX}:{name} would purify twice, since {name} starts with FreeRAD's reconstruction itself; use {name}."
        )
    return _before(inner)


@cache  # one class for one name
def _before(inner: type[Detector]) -> type[Detector]:
    class Purified(Purify):
        inner_class = inner
        name = f"{PREFIX}:{inner.name}"
        title = f"FreeRAD's purifier + {inner.title}"
        paper = f"DiffPure (Nie et al. 2022), before {inner.paper}"
        training_is_chaotic = inner.training_is_chaotic
        trains_adversarially = inner.trains_adversarially
        has_extra_data = inner.has_extra_data
        # Revisions are only ever raised, so that their sum tells any two states of the code apart.
        revision = 1 + (FreeRAD.revision - 1) + (inner.revision - 1)

    Purified.__qualname__ = Purified.__name__ = f"Purified{inner.__name__}"
    return Purified


def _members() -> tuple[str, ...]:
    """Registered detectors that can stand behind the purifier; those of other families can, too."""
    return tuple(name for name in registry.names() if not issubclass(registry.get(name), FreeRAD | Purify))


registry.register_family(
    registry.Family(PREFIX, _members, _member, "FreeRAD's reconstruction as a purifier before any other detector")
)
