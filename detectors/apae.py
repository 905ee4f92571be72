"""APAE: the approximate projection autoencoder, a defence at test time.

Goodge, Hooi, Ng & Ng 2020, "Robustness of Autoencoders for Anomaly Detection Under Adversarial Impact" (IJCAI). The
latent code z = E(x) is moved by gradient descent towards the code that reconstructs x best (approximate projection onto
the decoder's manifold), then every feature's error is divided by what it is on training data (feature weighting).
Their public code weights the errors from before the projection, which so never reaches the score; here it does.

Facts kept from the paper and its code: plain gradient descent on half the sum of the squared errors (on [0, 1] that is
their smooth L1 loss), 1000 steps at rate 1e-2, weights 1 / (median training error + 1e-3) of the autoencoder without
projection. Ours: a convolutional network (theirs are fully connected, for sensor data), squared errors in the score as
in the other rows of autoencoders, weights scaled to mean 1, and no step larger than what descends (`rate` below). Their
code never clears the latent gradient between steps, so that it sums up; ours follows the paper's formula.

The medians and the curvature are taken over training normals whether held out or not: only early stopping, which is
what holding out is for, could be flattered by that, and it is over by then.

Convergence is slow, and what it brings is small: on held-out normals of ELPV mono (the quick network) 5 steps lower
the error by 4 %, 10 by 7 %, 100 by 18 %, 1000 by 28 %, while the AUC against painted copies moves by 0.2 (65.8 without
any step, 65.7 after 5, 65.6 after 1000). `quick` takes 5, with which a gradient takes three times as long.

The gradient of the score is the unrolled one, through every step. `surrogate_score` is the score without the projection
(BPDA, Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.functional import jvp, vjp
from torch.utils.checkpoint import checkpoint

from detectors.base import Progress
from detectors.errors import DetectorError
from detectors.noise import Noise, generator
from detectors.parts import presets
from detectors.parts.autoencoder import AutoencoderDetector, AutoencoderSettings, base_settings, chunks
from detectors.registry import register

_SAMPLE = 32  # training images on which the curvature and the projection's progress are measured
_POWER_ITERATIONS = 10
_KEPT_VALUES = 100_000  # of an image times steps, up to which what the way back needs is kept
Decode = Callable[[Tensor], Tensor]  # codes to images


@dataclass(frozen=True)
class APAESettings(AutoencoderSettings):
    """Settings of APAE: the autoencoder's, and

    Attributes:
        steps: of the projection; 0 leaves the weighted autoencoder.
        rate: length of a step at most, per unit of the slope of half the sum of squared errors. Where the decoder is
            so steep that this would climb, the fit takes 1 / (the largest curvature at training codes) instead.
        weight_floor: what is added to the median training error before it divides.
    """

    steps: int = 1000
    rate: float = 1e-2
    weight_floor: float = 1e-3


@register
class APAE(AutoencoderDetector):
    """score = mean of the weighted squared errors of D(z), z projected (module docstring)."""

    name = "apae"
    title = "APAE"
    paper = "Goodge et al. 2020, IJCAI, doi 10.24963/ijcai.2020/173"
    revision = 4  # last bits: every gradient is PyTorch's own, of the plain formula
    training_is_chaotic = True

    weights: Tensor
    rate: Tensor

    def __init__(self, settings: APAESettings, image_size: int) -> None:
        """Raises DetectorError for settings that cannot be."""
        super().__init__(settings, image_size)
        if settings.steps < 0:
            raise DetectorError(f"apae's steps must not be negative; got {settings.steps}.")
        for field in ("rate", "weight_floor"):
            if not getattr(settings, field) > 0:
                raise DetectorError(f"apae's {field} must be above 0; got {getattr(settings, field)}.")
        self.has_surrogate = settings.steps > 0
        self.register_buffer("weights", torch.ones(3, settings.work_size, settings.work_size))
        self.register_buffer("rate", torch.tensor(settings.rate))

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> APAESettings:
        """`quick`: 5 steps (module docstring). `paper`: 1000 of 1e-2."""
        presets.check(preset)
        base = base_settings(preset, image_size)
        return APAESettings(**base, steps=5, rate=0.05) if preset == "quick" else APAESettings(**base)

    def _rebuild(self, small: Tensor) -> Tensor:
        return self._projected(small, self.settings.steps)

    def _weighted(self, errors: Tensor) -> Tensor:
        return self.weights * errors

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        small = self._work(x)
        rebuilt: Tensor = self.network(small)
        return self._weighted((small - rebuilt).square()).mean(dim=(1, 2, 3))

    def _projected(self, small: Tensor, steps: int) -> Tensor:
        """Reconstructions of images at the work size after `steps` steps of projection."""
        return project(self.network.image_of, self.network.latent_of(small), small, steps=steps, rate=self.rate)

    def _fit(self, normals: Tensor, *, seed: int, progress: Progress, workdir: Path | None) -> None:
        settings: APAESettings = self.settings
        images = self._small(normals)
        self._train_or_take_over(images, seed=seed, progress=progress)
        self.network.requires_grad_(False)
        with torch.no_grad():
            errors = torch.cat([(chunk - self.network(chunk)).square() for chunk in chunks(images)])
            weights = 1 / (errors.median(dim=0).values + settings.weight_floor)
            self.weights.copy_(weights / weights.mean())
            sample = images[:_SAMPLE]
            codes = self.network.latent_of(sample)
            start = torch.randn(codes.shape, generator=generator(seed, "apae-curvature")).to(codes.device)
            steepest = curvature(self.network.image_of, codes, start)
            self.rate.copy_(torch.minimum(1 / steepest.max(), torch.tensor(settings.rate, device=images.device)))
            table = []
            for steps in sorted({settings.steps * i // 5 for i in range(6)}):
                table.append([steps, float((sample - self._projected(sample, steps)).square().mean())])
        self.fit_report |= {
            "curvature": float(steepest.max()),
            "rate": float(self.rate),
            "projection": table,
            "weights": [float(self.weights.min()), float(self.weights.max())],
        }


def project(decode: Decode, start: Tensor, target: Tensor, *, steps: int, rate: Tensor) -> Tensor:
    """D of the code after gradient descent on |D(z) - target|^2 / 2, image by image; differentiable through each step.

    Args:
        decode: D.
        start: z before the first step, (B, latent, s, s).
        target: what is to be reconstructed, (B, 3, S, S).
        steps: how many.
        rate: of each step, a scalar.

    Returns:
        Images like the target.
    """

    def descended(code: Tensor, target: Tensor) -> Tensor:
        error = 0.5 * (decode(code) - target).square().sum()
        (slope,) = torch.autograd.grad(error, code, create_graph=is_followed)
        return code - rate * slope

    is_followed = torch.is_grad_enabled() and (start.requires_grad or target.requires_grad)
    if is_followed:
        # Counted for each image: never by the size of the batch. A step that is not kept is computed again on the way
        # back, to the same bits.
        keeps = steps * target[0].numel() <= _KEPT_VALUES
        code = start if start.requires_grad else start.detach().requires_grad_()
        for _ in range(steps):
            code = descended(code, target) if keeps else _checkpointed(descended, code, target)
        return decode(code)
    with torch.inference_mode(False):  # on a code born in inference mode nobody could descend
        code, target = start.detach().clone(), target.detach().clone()
        for _ in range(steps):
            with torch.enable_grad():
                code = descended(code.requires_grad_(), target).detach()
        with torch.no_grad():
            return decode(code)


def _checkpointed(step: Callable[[Tensor, Tensor], Tensor], code: Tensor, target: Tensor) -> Tensor:
    """What the step returns, without what its way back needs: that is made anew when it is wanted."""
    found: Tensor = checkpoint(step, code, target, use_reentrant=False, preserve_rng_state=False)
    return found


def curvature(decode: Decode, code: Tensor, start: Tensor) -> Tensor:
    """The largest eigenvalue of J^T J, J the decoder's Jacobian at each code, (B,), by power iteration from below.

    Descent on |decode(z) - x|^2 / 2 needs a rate below 2 / that; the second derivatives of the decoder are left out.
    """
    direction, found = start, start.new_zeros(len(start))
    for _ in range(_POWER_ITERATIONS):
        unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
        pushed = jvp(decode, code, unit)[1]  # type: ignore[no-untyped-call]
        direction = vjp(decode, code, pushed)[1]  # type: ignore[no-untyped-call]
        found = direction.flatten(1).norm(dim=1)
    return found
