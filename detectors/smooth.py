"""Randomised smoothing before any other detector (`smooth:spade`, `smooth:mean-image`, ...).

The score of an image is a statement on the inner detector's scores A(x + d) under Gaussian noise d ~ N(0, sigma^2 I) on
the [0, 1] scale: their p-quantile (Chiang et al. 2020; p = 1/2: the median), or Phi^-1 of the share of them that exceed
a threshold (after Salman et al. 2019). Either has an l2 certificate (`certificates.rules`, `python -m bench certify`);
this is the same score as any other detector's, estimated from a few samples, so that it can be attacked and ranked.

The noisy image is not cut to [0, 1]: the certificate is of x + d. A detector that draws noise of its own draws it
afresh for each sample, and the quantile is that over both.

What an attack follows: a quantile of N samples has the gradient of one of them, and a share has none. So both declare a
surrogate, the mean of the samples around the quantile, and a share with soft edges; of the inner detector's surrogate,
where it has one.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detectors import registry
from detectors.base import Detector, Progress, Settings
from detectors.errors import DetectorError
from detectors.noise import Noise, NoiseSeed

PREFIX = "smooth"
RULES = ("percentile", "exceedance")
_CHUNK, _STREAM, _NORMALS = 16, "smoothing", "smoothing-normals"
WIDTH = 0.1  # of the window on either side of the quantile that the surrogate averages, as a share of the samples
SOFTNESS = 0.25  # of the surrogate's edge, in standard deviations of a training normal's samples


@dataclass(frozen=True)
class SmoothSettings(Settings):
    """Settings of a smoothed detector.

    Attributes:
        inner: the detector's own.
        sigma: standard deviation of the noise, on [0, 1].
        rule: "percentile" or "exceedance".
        p: of the percentile: which one, between 0 and 1.
        exceeds: of the exceedance: its threshold is this quantile of the training normals' scores under noise.
        samples: that a score is estimated from.
    """

    inner: Settings = field(default_factory=Settings)
    sigma: float = 0.1
    rule: str = "percentile"
    p: float = 0.5
    exceeds: float = 0.9
    samples: int = 32


def noisy_scores(
    score: Callable[[Tensor, Noise], Tensor], x: Tensor, noise: Noise, *, sigma: float, samples: range
) -> Tensor:
    """Scores of x + d, one for each sample, (len(samples), B).

    Sample i of an image depends on `noise.sub(i)` and the image's name alone: in which order samples are drawn, and how
    many at a time, changes nothing. Memory for a gradient is that of one sample.

    Args:
        score: of images (B, 3, H, W), which leave [0, 1], under a source of noise. For a gradient it is asked again on
            the way back, long after this has returned.
        x: images (B, 3, H, W) in [0, 1].
        noise: their source.
        sigma: standard deviation on [0, 1].
        samples: the numbers of the samples.
    """

    def one(images: Tensor, number: int) -> Tensor:
        own = noise.sub(number)
        noisy = torch.add(images, own.normal(images.shape[1:], stream=_STREAM, like=images), alpha=sigma)
        return score(noisy, own)

    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.stack([one(x, number) for number in samples])
    _empty_the_queue_at_exit()
    # Each sample is computed again on the way back: its noise is the same, since it is drawn from its own source.
    found = [checkpoint(one, x, number, use_reentrant=False, preserve_rng_state=False) for number in samples]
    return torch.stack(found)


@cache
def _empty_the_queue_at_exit() -> None:
    """A backward pass that an exception ends (Ctrl-C, too little memory) leaves the samples whose turn had not come in
    PyTorch's queue, which frees them when Python is gone already: the process would crash at its very end. Work that is
    older than they are comes after them, so doing some at exit empties the queue in time."""
    leaf = torch.zeros((), requires_grad=True)
    atexit.register(torch.autograd.grad, 1 * leaf, leaf)


class Smoothed(Detector):
    """A detector under noise (module docstring); `inner_class` is what a member of the family adds."""

    inner_class: ClassVar[type[Detector]]
    is_stochastic = True
    threshold: Tensor  # of the exceedance, in units of the inner detector's score
    soft_threshold: Tensor  # the same quantile of what the surrogate follows, in its units
    edge: Tensor  # half the width of the surrogate's edge, in the same units

    def __init__(self, settings: SmoothSettings, image_size: int) -> None:
        """Raises DetectorError for settings that cannot be, and what the inner detector raises."""
        super().__init__(settings, image_size)
        _check_settings(settings, self.name)
        self.inner = self.inner_class(settings.inner, image_size)
        self.min_normals = self.inner.min_normals
        # Of few samples the mean around the quantile is that of the quantile alone.
        self.has_surrogate = settings.rule == "exceedance" or self._half > 0 or self.inner.has_surrogate
        for name in ("threshold", "soft_threshold", "edge"):
            self.register_buffer(name, torch.ones(()))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> SmoothSettings:
        """The median at sigma 0.1 of the inner detector at the preset; what the suite would choose for that one is the
        middle one of its choices here."""
        inner = cls.inner_class.settings_for(preset, image_size)
        middle = {name: choices[len(choices) // 2] for name, choices in cls.inner_class.auto_choices.items()}
        return SmoothSettings(replace(inner, **{name: middle[name] for name in _open(inner, cls.inner_class)}))

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: SmoothSettings = self.settings
        # The suite chooses settings of the outermost detector alone: "auto" would stay what it happens to be.
        for name in _open(settings.inner, self.inner_class):
            choice = self.inner_class.auto_choices[name][0]
            raise DetectorError(
                f"{self.name} cannot have its inner.{name} chosen; set it to a number, e.g. "
                f"--set {self.name}.inner.{name}={choice}."
            )
        self.inner.may_take_shipped = self.may_take_shipped
        self.inner.fit(normals, seed=seed, progress=progress, workdir=workdir, store=self.store)
        self.fit_report |= {"inner": self.inner.fit_report}
        if settings.rule == "exceedance":
            scores = self._of_normals(self.inner.score, normals, seed)
            has_other = self.inner.has_surrogate
            self._set_threshold(
                scores, self._of_normals(self.inner.surrogate_score, normals, seed) if has_other else scores
            )

    def _set_threshold(self, scores: Tensor, followed: Tensor) -> None:
        """From normals' scores under noise, and from what an attack follows of them, (D, N)."""
        share = self.settings.exceeds
        self.threshold.fill_(_quantile(scores, share))
        self.soft_threshold.fill_(_quantile(followed, share))
        found = followed.double()
        spread = float(found.std(dim=0).mean() if len(found) > 1 else found.std(correction=0))
        self.edge.fill_(max(SOFTNESS * spread, torch.finfo(torch.float32).tiny))

    @torch.no_grad()
    def _of_normals(self, score: Callable[..., Tensor], normals: Tensor, seed: int) -> Tensor:
        """The training normals' scores under noise, (D, N)."""
        source = NoiseSeed(seed).source(_NORMALS, [str(i) for i in range(len(normals))])
        parts = [slice(start, start + _CHUNK) for start in range(0, len(normals), _CHUNK)]
        return torch.cat([self._samples(score, normals[part], source.pick(part)) for part in parts], dim=1)

    # -- scoring ------------------------------------------------------------------------------------------------------

    def _samples(self, score: Callable[..., Tensor], x: Tensor, noise: Noise) -> Tensor:
        """(D, B)."""

        def trusted(images: Tensor, own: Noise) -> Tensor:
            with self.inner.trusting():  # in here: a sample is computed again when the caller's context is gone
                return score(images, noise=own)

        settings: SmoothSettings = self.settings
        return noisy_scores(trusted, x, noise, sigma=settings.sigma, samples=range(settings.samples))

    def _score(self, x: Tensor, noise: Noise) -> Tensor:
        if self.settings.rule == "percentile":
            middle: Tensor = self._samples(self.inner.score, x, noise).sort(dim=0).values[self._place]
            return middle
        with torch.no_grad():  # it goes in steps: there is no gradient that a graph could lead to
            found = self._samples(self.inner.score, x, noise)
        share = ((found > self.threshold).to(found).sum(dim=0) + 0.5) / (len(found) + 1)
        exceedance: Tensor = torch.special.ndtri(share.where(~found.isnan().any(dim=0), torch.nan))
        # Of the image all the same: a score without a graph would be taken for one that was cut off.
        return exceedance + 0 * x.sum(dim=(1, 2, 3))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        found = self._samples(self.inner.surrogate_score, x, noise)
        if self.settings.rule == "percentile":
            window = found.sort(dim=0).values[max(self._place - self._half, 0) : self._place + self._half + 1]
            return window.mean(dim=0)
        # An edge whose slope dies away slowly: that of a sigmoid is zero to the last bit where all samples lie far off.
        return (0.5 + torch.atan((found - self.soft_threshold) / self.edge) / math.pi).mean(dim=0)

    @property
    def _place(self) -> int:
        """Of the quantile among the sorted samples."""
        settings: SmoothSettings = self.settings
        # 0.55 * 100 is 55.00000000000001 in floats.
        return max(math.ceil(round(settings.p * settings.samples, 9)), 1) - 1

    @property
    def _half(self) -> int:
        """How many samples on either side of the quantile the surrogate averages."""
        samples: int = self.settings.samples
        return round(WIDTH * samples)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @property
    def frozen_prefixes(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inner detector's."""
        return tuple(f"inner.{key}" for key in self.inner.frozen_prefixes)

    @property
    def elastic_buffers(self) -> frozenset[str]:  # type: ignore[override]
        """The inner detector's."""
        return frozenset(f"inner.{key}" for key in self.inner.elastic_buffers)

    def frozen_hashes(self) -> dict[str, str]:
        """The inner detector's."""
        return self.inner.frozen_hashes()

    def stored_dtypes(self) -> dict[str, torch.dtype]:
        """The inner detector's."""
        return {f"inner.{key}": dtype for key, dtype in self.inner.stored_dtypes().items()}

    def _after_load(self) -> None:
        report = self.fit_report.get("inner")
        self.inner._take_over(report if isinstance(report, dict) else {})

    def around(self, inner: Detector, scores: Tensor | None = None, followed: Tensor | None = None) -> Smoothed:
        """This one, fitted, with a fitted detector in the place of its own.

        Args:
            inner: fitted; it stays as it is.
            scores: of the exceedance: normals' scores under noise, (D, N), of which its threshold is a quantile.
            followed: the same of `inner.surrogate_score`, where the inner detector has one.

        Raises:
            DetectorError: another detector than it smooths, one of another size or not fitted, or scores that lack.
        """
        if not isinstance(inner, self.inner_class):
            raise DetectorError(f"{self.name} smooths {self.inner_class.name}, not {inner.name}.")
        if inner.image_size != self.image_size:
            raise DetectorError(
                f"{self.name} was built for {self.image_size} pixels and this {inner.name} for {inner.image_size}; "
                "build it at the same size."
            )
        inner._require_fitted()
        if self.settings.rule == "exceedance":
            followed = followed if inner.has_surrogate else scores
            if scores is None or followed is None:
                lacking = "scores" if scores is None else "surrogate_score"
                raise DetectorError(
                    f"The exceedance of {self.name} needs a threshold; give {inner.name}'s {lacking} of normals under "
                    "noise."
                )
            self._set_threshold(scores, followed)
        self.settings = replace(self.settings, inner=inner.settings)
        self.inner = inner
        told = {key: inner.fit_report[key] for key in ("normals", "seed") if key in inner.fit_report}
        self.fit_report = told | {"inner": inner.fit_report}
        self._freeze()
        return self


def _open(settings: Settings, cls: type[Detector]) -> list[str]:
    """The settings that the suite would choose."""
    return [name for name in cls.auto_choices if getattr(settings, name) == "auto"]


def _quantile(scores: Tensor, share: float) -> float:
    return float(np.quantile(scores.double().numpy(force=True), share))


def _check_settings(settings: SmoothSettings, name: str) -> None:
    if not (math.isfinite(settings.sigma) and settings.sigma > 0):
        raise DetectorError(f"{name}'s sigma must be a number above 0, on the [0, 1] scale; got {settings.sigma!r}.")
    if settings.rule not in RULES:
        raise DetectorError(f"{name}'s rule must be {' or '.join(RULES)}; got {settings.rule!r}.")
    for setting in ("p", "exceeds"):
        if not 0 < getattr(settings, setting) < 1:
            raise DetectorError(f"{name}'s {setting} must lie between 0 and 1; got {getattr(settings, setting)!r}.")
    if not isinstance(settings.samples, int) or isinstance(settings.samples, bool) or settings.samples < 1:
        raise DetectorError(f"{name}'s samples must be a whole number of at least 1; got {settings.samples!r}.")


def _member(name: str) -> type[Detector]:
    """The class of `smooth:name`. Raises DetectorError."""
    inner = registry.get(name)
    beneath: type[Detector] | None = inner
    while beneath is not None:  # the members of families may have one inside
        if issubclass(beneath, Smoothed):
            raise DetectorError(f"{PREFIX}:{name} would smooth twice; use {name} with a larger sigma.")
        beneath = getattr(beneath, "inner_class", None)
    if not inner.sees_pixels:
        raise DetectorError(f"{PREFIX}:{name} would add noise to pictures that {name} never sees; use {name}.")
    return _under_noise(inner)


@cache  # one class for one name
def _under_noise(inner: type[Detector]) -> type[Detector]:
    class Member(Smoothed):
        inner_class = inner
        name = f"{PREFIX}:{inner.name}"
        title = f"Smoothed {inner.title}"
        paper = f"randomised smoothing (Cohen et al. 2019; Chiang et al. 2020) of {inner.paper}"
        training_is_chaotic = inner.training_is_chaotic
        trains_adversarially = inner.trains_adversarially
        has_extra_data = inner.has_extra_data
        # fit_is_seeded stays True: the noise under which an exceedance's threshold is measured comes from the seed.
        revision = inner.revision  # the family's own is added once it has changed

    Member.__qualname__ = Member.__name__ = f"Smoothed{inner.__name__}"
    return Member


def _members() -> tuple[str, ...]:
    """Registered detectors that see pixels; those of other families can be smoothed, too."""
    return tuple(name for name in registry.names() if registry.get(name).sees_pixels)


registry.register_family(
    registry.Family(PREFIX, _members, _member, "any other detector under Gaussian noise, which has an l2 certificate")
)
