"""What every attack maximises: L(x) = y * A(x), with y = +1 for normal and -1 for anomalous images.

So normals are pushed up and anomalies down. A surrogate that is an increasing function of the score stands for it in
every comparison of candidates, unless the score's own gradient is followed: the order is the same, and it goes on where
the score has run out of digits. Images are independent: the gradient of the SUM of the losses holds each image's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from attacks.errors import AttackError, GradientCutError
from attacks.threat import largest_entry
from detectors.noise import Noise

if TYPE_CHECKING:
    from detectors.base import Detector

Differentiate = Literal["score", "surrogate", "map", "mean-map"]


LEAST_SPREAD = 1e-4  # of a map, in shares of its largest value


class Evaluation(NamedTuple):
    """The objective and its gradient at one batch of images.

    Attributes:
        loss: y * A(x) of the honest score, (B,); with "map" and "mean-map", of what is followed in its place.
        gradient: of y * A(x), or of what is followed in its place, (B, 3, H, W); entries that were not finite are zero.
        is_zero: whether the image's gradient was exactly zero everywhere, (B,) bool.
        is_finite: whether all of the image's gradient was finite before those entries were replaced, (B,) bool.
        followed: the value of what the gradient is of, with the sign of y, (B,).
    """

    loss: Tensor
    gradient: Tensor
    is_zero: Tensor
    is_finite: Tensor
    followed: Tensor


def loss(detector: Detector, x: Tensor, y: Tensor, noise: Noise, *, differentiate: Differentiate = "score") -> Tensor:
    """y * A(x) without a graph, (B,), for x (B, 3, H, W) in [0, 1] and y (B,) in {+1, -1}.

    Unless the score itself is followed, that of a surrogate that is monotone; any other one leaves the comparison to
    the score.
    """
    compared = detector.surrogate_score if _stands_for_the_score(detector, differentiate) else detector.score
    with torch.no_grad():
        return _signed(compared(x, noise=noise), x, y)


def _stands_for_the_score(detector: Detector, differentiate: Differentiate) -> bool:
    return differentiate != "score" and detector.has_surrogate and detector.surrogate_is_monotone


def _is_the_loss(detector: Detector, differentiate: Differentiate) -> bool:
    """Whether what is followed has the value by which images are compared, so that no other pass has to be made."""
    of_surrogate = detector.surrogate_is_monotone or detector.surrogate_holds_reconstruction
    return differentiate != "surrogate" or of_surrogate


def loss_and_gradient(
    detector: Detector,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    *,
    differentiate: Differentiate = "score",
    scale: Tensor | None = None,
    eot: int = 1,
) -> Evaluation:
    """y * A(x) and its gradient with respect to x, both averaged over `eot` draws `noise.sub(i)`.

    Works under an outer `torch.no_grad()` or `torch.inference_mode()`.

    Args:
        detector: only its `score` and `surrogate_score` are used.
        x: images, (B, 3, H, W) in [0, 1].
        y: +1 normal, -1 anomalous, (B,).
        noise: the attack's source for this step; draw i of the expectation over transformation uses `noise.sub(i)`.
        differentiate: "surrogate" takes the gradient of `surrogate_score` (BPDA, Athalye et al. 2018); the loss is
            that of the honest score all the same, at the price of one more forward pass, unless the surrogate is a
            monotone function of it. "map" takes that of a smooth maximum of the anomaly map (`smooth_maximum`),
            "mean-map" that of its mean.
        scale: of the smooth maximum, (B,); for "map".
        eot: number of draws (Athalye et al. 2018, EOT).

    Raises:
        GradientCutError: the score has no graph that leads to x.
        AttackError: the score is not one number per image.
    """
    total, largest = _usable_draw(detector, x, y, noise.sub(0), differentiate, scale)
    is_finite = largest.isfinite()
    for i in range(1, eot):
        draw, found = _usable_draw(detector, x, y, noise.sub(i), differentiate, scale)
        total = _Draw(*(a + b for a, b in zip(total, draw, strict=True)))
        is_finite = is_finite & found.isfinite()
    if eot > 1:
        largest = largest_entry(total.gradient)
        total = _Draw(*(value / eot for value in total))
    return Evaluation(total.loss, total.gradient, is_finite & (largest == 0), is_finite, total.followed)


class _Draw(NamedTuple):
    loss: Tensor
    gradient: Tensor
    followed: Tensor


def map_scale(detector: Detector, x: Tensor, noise: Noise) -> Tensor:
    """The standard deviation of each clean image's anomaly map over its pixels, (B,): the unit in which a difference
    between two pixels is large or small."""
    with torch.no_grad():
        maps = detector.anomaly_map(x, noise=noise).flatten(1)
    # A map that is the same everywhere deviates by rounding; in units of that, its sum of exponentials has no digits.
    least = LEAST_SPREAD * maps.abs().amax(dim=1)
    return maps.std(dim=1).maximum(least).clamp_min(torch.finfo(maps.dtype).tiny)


def smooth_maximum(maps: Tensor, scale: Tensor) -> Tensor:
    """scale * log sum exp(map / scale) over the pixels, (B, H, W) and (B,) to (B,): a maximum whose gradient reaches
    all pixels within some scales of the largest."""
    return scale * torch.logsumexp(maps.flatten(1) / scale[:, None], dim=1)


def _followed(
    detector: Detector, differentiate: Differentiate, scale: Tensor | None
) -> Callable[[Tensor, Noise], Tensor]:
    if differentiate == "surrogate":
        return lambda x, noise: detector.surrogate_score(x, noise=noise)
    if differentiate == "score":
        return lambda x, noise: detector.score(x, noise=noise)
    if differentiate == "mean-map":
        return lambda x, noise: detector.anomaly_map(x, noise=noise).flatten(1).mean(dim=1)
    if scale is None:
        raise AttackError("The smooth maximum of a map needs its scale; pass `map_scale` of the clean images.")
    return lambda x, noise: smooth_maximum(detector.anomaly_map(x, noise=noise), scale)


def _usable_draw(
    detector: Detector, x: Tensor, y: Tensor, noise: Noise, differentiate: Differentiate, scale: Tensor | None
) -> tuple[_Draw, Tensor]:
    """A draw whose gradient has no entries that are not finite, and each image's largest entry as it was, (B,)."""
    draw = _single_draw(detector, x, y, noise, differentiate, scale)
    # Only the bad entries: what is left of a gradient makes a stronger attack than none, and all of it is counted.
    return draw._replace(gradient=draw.gradient.nan_to_num(nan=0, posinf=0, neginf=0)), largest_entry(draw.gradient)


def _single_draw(
    detector: Detector, x: Tensor, y: Tensor, noise: Noise, differentiate: Differentiate, scale: Tensor | None
) -> _Draw:
    with torch.inference_mode(False), torch.enable_grad():
        # Clones: a tensor made under inference mode can't enter a graph.
        leaf = x.detach().clone().requires_grad_(True)
        sign = y.detach().clone()
        losses = _signed(_followed(detector, differentiate, scale)(leaf, noise), leaf, sign)
        gradient = _gradient(losses, leaf, detector, differentiate)
    followed = losses.detach()
    if not _is_the_loss(detector, differentiate):
        return _Draw(loss(detector, x, y, noise), gradient, followed)
    return _Draw(followed, gradient, followed)


def _gradient(losses: Tensor, leaf: Tensor, detector: Detector, differentiate: Differentiate) -> Tensor:
    gradient: Tensor | None = None
    if losses.requires_grad:
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
    if gradient is None:
        function = {"surrogate": "surrogate_score", "map": "anomaly_map", "mean-map": "anomaly_map"}.get(
            differentiate, "score"
        )
        raise GradientCutError(
            f"The {function} of {_name(detector)} has no gradient with respect to the image, so attacking it would "
            "report a robustness that isn't there; remove the detach(), no_grad() or NumPy step on its path."
        )
    return gradient


def _signed(scores: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # A score of shape (B, 1) would broadcast against y to (B, B) and mix the images without a word.
    if scores.shape != (len(x),):
        raise AttackError(f"A score must have the shape ({len(x)},), one number per image; got {tuple(scores.shape)}.")
    return y.to(x.dtype) * scores.to(x.dtype)


def _name(detector: Detector) -> str:
    return str(getattr(detector, "name", type(detector).__name__))


class Objective:
    """The objective of one attack on one batch, which counts what it is asked.

    Attributes:
        forwards: forward passes per image so far.
        gradients: backward passes so far of an image that took part in all of them.
    """

    def __init__(
        self,
        detector: Detector,
        y: Tensor,
        *,
        differentiate: Differentiate = "score",
        scale: Tensor | None = None,
    ) -> None:
        """Args as in `loss_and_gradient`; a deterministic detector's EOT draws are all the same, so one is taken."""
        self._detector, self._y = detector, y
        self._differentiate: Differentiate = differentiate
        self._scale = scale
        self.forwards = 0
        self.gradients = 0
        # Kept on the device: asking for their values inside an attack's loop would stall a GPU at every step.
        self._zero = torch.zeros(len(y), dtype=torch.long, device=y.device)
        self._non_finite = torch.zeros_like(self._zero)
        self._steps = torch.zeros_like(self._zero)

    @property
    def follows_a_map(self) -> bool:
        """Whether what is followed is made of the anomaly map, so that `gradient` gives its value as the loss."""
        return self._differentiate in ("map", "mean-map")

    def losses(self, x: Tensor, noise: Noise, draws: int, *, rows: Tensor | None = None) -> Tensor:
        """y * A(x) on each of the draws `noise.sub(i)`, (draws, B); (1, B) of a deterministic detector. With `rows` as
        in `gradient`."""
        y = self._y if rows is None else self._y[rows]
        return self._on_draws(lambda n: loss(self._detector, x, y, n, differentiate=self._differentiate), noise, draws)

    def followed_losses(self, x: Tensor, noise: Noise, draws: int) -> Tensor:
        """The same of what is followed."""
        value = _followed(self._detector, self._differentiate, self._scale)
        with torch.no_grad():
            return self._on_draws(lambda n: _signed(value(x, n), x, self._y), noise, draws)

    def _on_draws(self, value: Callable[[Noise], Tensor], noise: Noise, draws: int) -> Tensor:
        draws = draws if self._detector.is_stochastic else 1
        self.forwards += draws
        return torch.stack([value(noise.sub(i)) for i in range(draws)])

    def gradient(self, x: Tensor, noise: Noise, draws: int = 1, *, rows: Tensor | None = None) -> Evaluation:
        """y * A(x) and its gradient, finite, averaged over the draws `noise.sub(i)`; zero and non-finite gradients are
        counted. With `rows`, (B',), x and noise are of these images of the batch alone."""
        draws = draws if self._detector.is_stochastic else 1
        y = self._y if rows is None else self._y[rows]
        scale = self._scale if rows is None or self._scale is None else self._scale[rows]
        evaluation = loss_and_gradient(
            self._detector, x, y, noise, differentiate=self._differentiate, scale=scale, eot=draws
        )
        self.forwards += draws * (1 if _is_the_loss(self._detector, self._differentiate) else 2)
        self.gradients += draws
        which = slice(None) if rows is None else rows
        self._steps[which] += 1
        self._zero[which] += evaluation.is_zero
        self._non_finite[which] += ~evaluation.is_finite
        return evaluation

    @property
    def zero_gradients(self) -> Tensor:
        """Share of the gradient steps at which the image's gradient was exactly zero, (B,) in [0, 1]."""
        return self._zero / self._steps.clamp_min(1)

    @property
    def non_finite_gradients(self) -> Tensor:
        """Share of the gradient steps at which the image's gradient held a NaN or an infinity, (B,) in [0, 1]."""
        return self._non_finite / self._steps.clamp_min(1)

    @property
    def steps(self) -> Tensor:
        """Gradient steps of each image so far, (B,)."""
        return self._steps
