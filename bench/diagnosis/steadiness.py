"""Whether the score is one function of the image, a steady one, with the gradient that autograd gives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attacks.threat import ThreatModel
from bench.cell.attacking import keys_of
from bench.cell.more_draws import few
from bench.diagnosis.examined import Examined
from bench.report.signs import Sign
from detectors.contract.place import Place, Which
from detectors.noise import Noise, NoiseSeed, generator

SAME = 1e-3  # of the spread of clean scores: batches and kernels round otherwise
POINTS = 50  # around each image, at each of two radii
# In a tenth of the ball a score with a slope changes by a tenth of what it changes in all of it, one with curvature by
# less; one that jumps by a third, since so many fewer jumps are met, and they add up as their root.
PART, UNSTEADY = 0.1, 0.18
SLOPE_TOLERANCE, WRONG_SLOPES = 0.05, 0.1
LENGTHS = (1e-5, 1e-3, 1e-4, 1e-6, 1e-7)  # of the differences, on [0, 1]
DIRECTIONS = 2
INSET, GRAIN = 0.005, 1 / 255  # on [0, 1]


def signs(examined: Examined) -> Iterator[Sign]:
    """The signs; of a detector that sees no pixels the first alone, without a ball not what is asked all over it."""
    yield same_score(examined)
    if examined.attacking.detector.sees_pixels:
        if examined.attack.threat.at(examined.attacking.test.images.shape[-1]).is_ball:
            yield unsteady_score(examined)
        yield wrong_slopes(examined)


# -- one function of the image ----------------------------------------------------------------------------------------


def same_score(examined: Examined) -> Sign:
    """The same image under the same noise, asked in other ways: with a gradient, alone, backwards, once more."""
    x, noise = examined.attacking.test.pixels(), _noise(examined, "diagnosis-same")
    first = _scores(examined, x, noise)
    order = list(range(len(x)))
    ways = [
        _scores(examined, x, noise),
        _scores(examined, x, noise, follow=True),
        _scores(examined, x, noise, size=1),
        _scores(examined, x, noise, order=order[::-1]),
    ]
    apart = float(torch.stack([(way - first).abs().nan_to_num(torch.inf) for way in ways]).max())
    spread = max(float(first.std()), 1e-6 * float(first.abs().max()), torch.finfo(torch.float32).tiny)
    share = apart / spread
    sentence = (
        f"the same image's score moves by {100 * share:.2g} % of the spread of scores with batch, call or gradient mode"
    )
    return Sign(18, "same image, other score", share, f"<= {SAME:g}", not share <= SAME, sentence)


def _scores(
    examined: Examined,
    x: Tensor,
    noise: Noise,
    *,
    follow: bool = False,
    size: int | None = None,
    order: list[int] | None = None,
) -> Tensor:
    """Scores of images (N, 3, S, S), float64 (N,), in batches of a size, in an order, with a gradient to follow."""
    attacking = examined.attacking
    asked = attacking if size is None else replace(attacking, batch_size=size)
    places = list(range(len(x))) if order is None else order

    def work(part: list[int]) -> Tensor:
        images = x[part].to(attacking.device)
        with torch.set_grad_enabled(follow):
            leaf = images.clone().requires_grad_(follow)
            return attacking.detector.score(leaf, noise=noise.pick(part)).detach().double().cpu()

    found = torch.cat(list(asked.in_batches(places, work)))
    return found[torch.tensor(places).argsort()]


# -- a steady one -----------------------------------------------------------------------------------------------------


def unsteady_score(examined: Examined) -> Sign:
    """How much the score changes at random points of a tenth of the ball, as a share of what it changes in all of it.

    After Pintor et al. 2022, who take the change at 100 random points as a share of the loss itself. A score has no
    zero, so of that share nothing follows (on honest detectors it went from 1e-5 to 0.5); how it grows with the radius
    tells a slope from jumps. Around a random point of the ball: clean pictures lie in the middle of their grey levels.
    A declared surrogate is asked in the score's place, which may jump.
    """
    threat = examined.attack.threat.at(examined.attacking.test.images.shape[-1])
    near, far = (_change(examined, threat, type(threat)(scale * threat.epsilon)) for scale in (PART, 1.0))
    share = near / far if far > 0 else None
    sentence = (
        f"the score is unsteady: in a tenth of the ball it changes by {100 * (share or 0):.0f} % of what it changes in "
        "all of it"
    )
    return Sign(19, "change in a tenth of the ball", share, f"<= {UNSTEADY}", (share or 0) > UNSTEADY, sentence)


def _change(examined: Examined, threat: ThreatModel, ball: ThreatModel) -> float:
    """The mean change of the loss at random points of a ball around a random point of the threat model's, beyond
    rounding."""
    noise = _noise(examined, "diagnosis-points")
    x = examined.attacking.test.pixels()
    centre = threat.random_start(x, noise.sub(0))
    here = _smooth(examined, centre, noise)
    found = [_smooth(examined, ball.random_start(centre, noise.sub(1, n)), noise) - here for n in range(POINTS)]
    rounding = 4 * torch.finfo(torch.float32).eps * here.abs()
    return float((torch.stack(found).abs().mean(dim=0) - rounding).clamp_min(0).nan_to_num(0).mean())


def _smooth(examined: Examined, images: Tensor, noise: Noise) -> Tensor:
    """The surrogate, or the score where there is none, of images (N, 3, S, S) on one draw, float64 (N,)."""
    attacking = examined.attacking

    def work(part: list[int]) -> Tensor:
        with torch.no_grad():
            return attacking.detector.surrogate_score(images[part].to(attacking.device), noise=noise.pick(part))

    return torch.cat([found.double().cpu() for found in attacking.in_batches(range(len(images)), work)])


# -- with the gradient that autograd gives it -------------------------------------------------------------------------


def wrong_slopes(examined: Examined) -> Sign:
    """At how many of a few images, clean and attacked, the gradient that the attack follows is not the slope that
    differences in float64 show, by more than a twentieth of its size along one of two random directions."""
    test, attacking = examined.attacking.test, examined.attacking
    chosen = few(test)
    noise = _noise(examined, "diagnosis-slopes")
    followed = examined.attack.follows(attacking.detector)
    which: Which = "surrogate" if followed == "surrogate" else "score"
    draws = generator(attacking.draws.seed, "diagnosis", "directions")
    wrong = []
    for images in (test.pixels(), examined.adversarial):

        def work(part: list[int], images: Tensor = images) -> Tensor:
            x = _apart(images[part].double(), draws).to(attacking.device)
            y = test.labels[part].to(attacking.device).double()
            return _error(Place(attacking.detector, which, x, y, noise.pick(part)), draws).cpu()

        with attacking.detector.trusting():
            wrong += [error > SLOPE_TOLERANCE for error in attacking.in_batches(chosen, work)]
    share = float(torch.cat(wrong).double().mean())
    sentence = (
        f"the gradient is not the slope that differences show at {100 * share:.0f} % of {2 * len(chosen)} clean and "
        "attacked images"
    )
    return Sign(20, "gradients that are no slope", share, f"<= {WRONG_SLOPES}", share > WRONG_SLOPES, sentence)


def _apart(x: Tensor, draws: torch.Generator) -> Tensor:
    """Images (B, 3, S, S) off the bounds of [0, 1], where a score may clip, with a grain of half a grey level: of equal
    neighbours an absolute value or a maximum has no slope to both sides."""
    grain = torch.rand(x.shape, generator=draws, dtype=x.dtype) - 0.5
    return INSET + (1 - 2 * INSET) * x + GRAIN * grain


def _error(place: Place, draws: torch.Generator) -> Tensor:
    """Each image's largest error of <gradient, direction> as a share of the gradient's size, each direction at the
    length that suits it best, (B,)."""
    gradient = place.gradient(place.x)
    worst = torch.zeros(len(place.x), dtype=torch.float64, device=place.x.device)
    for _ in range(DIRECTIONS):
        way = torch.randn(place.x.shape, generator=draws, dtype=torch.float64).to(place.x.device)
        promise = (gradient * way).flatten(1).sum(dim=1)
        error, slope = torch.full_like(worst, torch.inf), torch.zeros_like(worst)
        for length in LENGTHS:
            seen = (place.value(place.x + length * way) - place.value(place.x - length * way)) / (2 * length)
            off = (seen - promise).abs().nan_to_num(torch.inf)
            slope, error = torch.where(off < error, seen, slope), torch.minimum(off, error)
            if bool((error <= SLOPE_TOLERANCE / 4 * gradient.flatten(1).norm(dim=1)).all()):
                break  # as good as it needs to be
        # Of random directions with one unit per pixel the slope is about the gradient's size.
        size = torch.maximum(gradient.flatten(1).norm(dim=1), slope.abs())
        worst = torch.maximum(worst, torch.where(error > 0, error / size, 0))
    return worst


def _noise(examined: Examined, purpose: str) -> Noise:
    test = examined.attacking.test
    return NoiseSeed(examined.attacking.draws.seed).source(purpose, keys_of(test, range(len(test))))
