"""What CI asks beyond `contract.check`: each case by its name, to the last bit where it can be had.

For small detectors on a CPU: seconds of a cheap one at 32 pixels, a minute of one that trains.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from detectors.contract import fits, gradients, quick
from detectors.contract import scores as questions
from detectors.contract.ball import far_corners
from detectors.contract.findings import NO_PIXELS
from detectors.contract.lipschitz import check_lipschitz
from detectors.contract.place import Place, Which
from detectors.contract.scores import scores
from detectors.contract.subject import CLEAN, Subject
from detectors.errors import ContractError, DetectorError, NoAnomalyMapError, NoReconstructionError
from detectors.noise import NoiseSeed

LEAST_GRADIENT = 1e-7  # length of an image's; below it nothing is left to follow
# Where a maximum or a neighbour may be another one in float32; at clean normals it is `gradients.FLOAT32_COSINE`.
FLOAT32_COSINE_ELSEWHERE = 0.99
# Shares of the largest score by which a lone image may differ: other kernels may be at work.
IN_A_BATCH = {torch.float32: 2e-4, torch.float64: 1e-9}
_FROM_THE_SOURCE = "draw all randomness from the noise source"


def score_has_one_number_per_image(s: Subject) -> None:
    """Finite, in the images' dtype, another one for another image (of a score in steps: for some other image); the
    images stay as they are."""
    found = questions.check_shape(s.detector, s.images, s.noise)
    given = s.images.clone()
    scores(s.detector, given, s.noise)
    _require(s, torch.equal(s.images, given), "score() changes its input", "compute on a copy")
    _require(s, found.dtype == s.images.dtype, f"its score is {found.dtype}", "return it in the dtype of the images")
    _require(s, bool(found.isfinite().all()), "a score is not finite", "look for a logarithm or a division by zero")
    apart = len(set(found.tolist()))
    enough = apart > 1 if _goes_in_steps(s) else apart == len(found)
    _require(s, enough, "different images get the same score", "look at the image")


def gradient_is_finite_and_not_zero(s: Subject) -> None:
    """At the images and at corners of a ball around them; the surrogate's, too, at the images; the surrogate's alone of
    a score in steps."""
    if not _goes_in_steps(s):
        _require_alive(s.everywhere("score"), s.images)
        _require_alive(s.everywhere("score"), far_corners(s.images))
    _require_alive(s.everywhere("surrogate"), s.images)


def gradient_is_the_derivative(s: Subject) -> None:
    """Of the score, by finite differences in float64 under replayed noise; of the surrogate in one direction."""
    for place in s.places("score").values():
        gradients.check_derivative(place, gradients.STRICT)
    if not s.detector.surrogate_holds_reconstruction:  # whose gradient is none of its values', on purpose
        gradients.check_derivative(s.mixed("surrogate"), gradients.STRICT, directions=1)


def gradient_in_float32_is_the_one_in_float64(s: Subject) -> None:
    """Of the score and of its surrogate: attacks follow it in float32, and differences can be had in float64 alone."""
    followed: tuple[Which, ...] = ("score", "surrogate") if s.detector.has_surrogate else ("score",)
    for which in followed:
        for where, place in s.places(which).items():
            least = gradients.FLOAT32_COSINE if where == CLEAN else FLOAT32_COSINE_ELSEWHERE
            gradients.check_float32(place, least)


def surrogate_is_declared(s: Subject) -> None:
    """There is another function to follow exactly where one is declared."""
    same = questions.check_surrogate_is_declared(s.detector, s.images, s.noise, tolerance=0)
    twice = "its surrogate_score is its score and has_surrogate is True, so attacks would follow one gradient twice"
    _require(s, not (same and s.detector.has_surrogate), twice, "set has_surrogate = False")


def score_ignores_batch_neighbours(s: Subject) -> None:
    """Alone, in the batch and among strangers the same; no image has a gradient to another one."""
    for dtype, tolerance in IN_A_BATCH.items():
        questions.check_neighbours(s.detector, s.images.to(dtype), s.noise, tolerance=tolerance, crowd=tolerance)
    leaf = s.images.double().requires_grad_()
    first = s.detector.score(leaf, noise=s.noise)[0]
    crossed = torch.autograd.grad(first, leaf)[0][1:] if first.requires_grad else leaf.new_zeros(1)
    apart = float(crossed.abs().max()) == 0.0
    _require(s, apart, "an image's score has a gradient to its batch neighbours", "take no statistic over the batch")


def score_ignores_the_gradient_mode(s: Subject) -> None:
    """Under grad, no_grad and inference_mode, and for a leaf that asks for gradients."""
    leaf = s.images.clone().requires_grad_()
    with torch.enable_grad():
        with_graph = s.detector.score(leaf, noise=s.noise).detach()
        others = [s.detector.score(s.images, noise=s.noise).detach()]
    with torch.no_grad():
        others.append(s.detector.score(s.images, noise=s.noise))
    with torch.inference_mode():
        others.append(s.detector.score(s.images, noise=s.noise).clone())
    same = all(torch.equal(with_graph, other) for other in others)
    _require(s, same, "its score depends on the gradient mode", "do not ask whether gradients are enabled")


def score_ignores_earlier_calls(s: Subject) -> None:
    """Of other images, of its gradient, of its map."""
    first, other = scores(s.detector, s.images, s.noise), NoiseSeed(0).source("other", s.names)
    for images in (torch.zeros_like(s.images), torch.ones_like(s.images), s.images.flip(0)):
        scores(s.detector, images, other)
    if s.detector.sees_pixels:
        s.everywhere("score").autograd(s.images)
    if s.detector.has_map:
        s.detector.anomaly_map(s.images, noise=s.noise)
    for _ in range(3):
        questions.check_repeats(s.detector, s.images, s.noise, first, tolerance=0)


def train_changes_nothing(s: Subject) -> None:
    """Whoever calls `train()` on a fitted detector does not couple its images by their statistics."""
    before = scores(s.detector, s.images, s.noise)
    s.detector.train()
    after = scores(s.detector, s.images, s.noise)
    s.detector.eval()
    _require(s, torch.equal(before, after), "train() changes its score", "leave train() as Detector has it")


def score_ignores_global_randomness(s: Subject) -> None:
    """Neither reads nor moves the random states of torch, NumPy and Python."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = fits.global_states()
        found.append(scores(s.detector, s.images, s.noise))
        if not s.detector.is_stochastic:
            found.append(scores(s.detector, s.images, None))
        _require(s, fits.global_states() == before, "score() touches a global random state", _FROM_THE_SOURCE)
    same = all(torch.equal(found[0], other) for other in found[1:])
    _require(s, same, "its score depends on a global random state", _FROM_THE_SOURCE)


def noise_is_honest(s: Subject) -> None:
    """A stochastic score follows its source and nothing else; a deterministic one ignores it."""
    first = scores(s.detector, s.images, s.noise)
    questions.check_repeats(s.detector, s.images, s.noise, first, tolerance=0)
    others = {
        "another draw": s.noise.at(1),
        "another purpose": NoiseSeed(0).source("other", s.names),
        "another seed": NoiseSeed(8).source("gate", s.names),
        "fresh noise": None,
        "fresh noise again": None,
    }
    questions.check_noise_is_declared(s.detector, s.images, first, others.values(), tolerance=0)
    if not s.detector.is_stochastic:
        return
    # Of a score in steps another draw may give an image the same one: its surrogate sees the same noise.
    ask = s.detector.surrogate_score if _goes_in_steps(s) else s.detector.score
    copies = s.images[:1].expand(4, -1, -1, -1).contiguous()
    with torch.no_grad():
        first = ask(s.images, noise=s.noise)
        found = {which: ask(s.images, noise=noise) for which, noise in others.items()}
        of_copies = ask(copies, noise=NoiseSeed(0).source("gate", "abcd"))
    for which, other in found.items():
        moved = not bool((first == other).any())
        _require(s, moved, f"it says is_stochastic = True and {which} changes nothing", "set is_stochastic = False")
    repeats = bool((found["fresh noise"] == found["fresh noise again"]).any())
    _require(s, not repeats, "without a noise source its score repeats itself", "leave score() as Detector has it")
    apart = len(set(of_copies.tolist())) == 4
    _require(s, apart, "images of one batch share their noise", "draw an image's noise by noise.normal or .uniform")


def score_follows_the_dtype(s: Subject) -> None:
    """float32 in, float32 out, and so in float64; about the same; and a visit to float64 leaves no trace."""
    single = scores(s.detector, s.images, s.noise)
    double = scores(s.detector, s.images.double(), s.noise)
    follows = (single.dtype, double.dtype) == (torch.float32, torch.float64)
    _require(s, follows, f"its score of float64 images is {double.dtype}", "let it compute in the dtype of the image")
    questions.check_float32(s.detector, single, double)
    questions.check_repeats(s.detector, s.images, s.noise, single, tolerance=0)


def what_is_no_image_is_refused(s: Subject) -> None:
    """By a sentence, and so is a noise source for another number of images."""
    x, side = s.images, s.detector.image_size
    wrong = (
        *(x[0], x[:0], x[:, :1], x[..., : side - 1]),
        *((x * 255).to(torch.uint8), x.half(), x.new_zeros(1, 3, side, side + 8)),
    )
    for bad in wrong:
        what = f"a {bad.dtype} tensor of shape {tuple(bad.shape)} as {side}x{side} images"
        _require_refusal(s, partial(s.detector.score, bad), DetectorError, f"it accepts {what}")
    many = NoiseSeed(0).source("gate", (*s.names, "one more"))
    call = partial(s.detector.score, x, noise=many)
    _require_refusal(s, call, DetectorError, "it accepts a noise source for another number of images")


def nan_never_becomes_an_ordinary_score(s: Subject) -> None:
    """A broken image has no score, and does not spoil its neighbours'."""
    clean, broken = scores(s.detector, s.images, s.noise), s.images[:1].clone()
    broken[0, 0, broken.shape[2] // 2, broken.shape[3] // 2] = float("nan")
    for first in (torch.full_like(broken, float("nan")), broken):
        found = scores(s.detector, torch.cat([first, s.images[1:]]), s.noise)
        is_lost = not bool(found[0].isfinite())
        _require(s, is_lost, "an image with a NaN gets an ordinary score", "let NaN through, without nan_to_num")
        gap = float((found[1:] - clean[1:]).abs().max())
        is_alone = gap <= IN_A_BATCH[torch.float32] * float(clean.abs().max())
        _require(s, is_alone, "a NaN in one image changes its neighbours' scores", "take no statistic over the batch")


def lipschitz_constant_holds(s: Subject) -> None:
    """Where one is declared; at all images, as they are, and after longer ascents."""
    check_lipschitz(s.everywhere("score"), steps=40)


def map_has_the_size_of_the_image(s: Subject) -> None:
    """Finite, with a true gradient; whoever has none says so."""
    if not s.detector.has_map:
        call = partial(s.detector.anomaly_map, s.images, noise=s.noise)
        _require_refusal(s, call, NoAnomalyMapError, "it says has_map = False and has a map")
        return
    place = s.mixed("map")
    found = s.detector.anomaly_map(place.x.float(), noise=place.noise)
    fits_the_image = found.shape == (len(place.x), *place.x.shape[-2:])
    _require(s, fits_the_image, f"its anomaly map is {tuple(found.shape)}", "resize it to (B, H, W)")
    _require(s, bool(found.isfinite().all()), "its anomaly map is not finite", "look for a logarithm or a division")
    _require_alive(place, place.x.float())
    gradients.check_derivative(place, gradients.STRICT, directions=1)


def reconstruction_has_the_size_of_the_image(s: Subject) -> None:
    """And is finite; whoever has none says so."""

    def reconstruct() -> Tensor:
        with torch.no_grad():
            return s.detector.reconstruct(s.images, noise=s.noise)

    if not s.detector.has_reconstruction:
        _require_refusal(s, reconstruct, NoReconstructionError, "it says has_reconstruction = False and has one")
        return
    found = reconstruct()
    fits_the_image = found.shape == s.images.shape
    _require(s, fits_the_image, f"its reconstruction is {tuple(found.shape)}", "return (B, 3, h, w)")
    _require(s, bool(found.isfinite().all()), "its reconstruction is not finite", "look for a division by zero")


def fit_repeats_itself(s: Subject) -> None:
    """A fit with the same seed gives the same bits; see `fits.check_fit_repeats`."""
    if s.normals is not None:
        fits.check_fit_repeats(s.detector, s.normals)


def checkpoint_gives_the_same_scores(s: Subject) -> None:
    """Saved and loaded again; see `fits.check_checkpoint`."""
    fits.check_checkpoint(s.detector, s.images, s.noise)


@dataclass(frozen=True)
class Case:
    """One thing that is asked of a detector, by name: call it with a `Subject`; it raises ContractError.

    Attributes:
        ask: the function.
        is_of_pixels: whether it says nothing of a baseline that sees none.
    """

    ask: Callable[[Subject], object]
    is_of_pixels: bool = True

    @property
    def name(self) -> str:
        return self.ask.__name__

    def __call__(self, subject: Subject) -> None:
        if subject.detector.sees_pixels or not self.is_of_pixels:
            self.ask(subject)


def quick_look(s: Subject) -> None:
    """What every detector is asked before it is attacked."""
    found = quick.look(s)
    _require(s, found.remark in ("", NO_PIXELS), found.remark, "look for a logarithm, a division or an overflow")


CASES = (
    Case(score_has_one_number_per_image),
    Case(score_ignores_global_randomness),
    Case(noise_is_honest),
    Case(score_ignores_earlier_calls, is_of_pixels=False),
    Case(score_ignores_the_gradient_mode),
    Case(train_changes_nothing, is_of_pixels=False),
    Case(score_ignores_batch_neighbours),
    Case(score_follows_the_dtype, is_of_pixels=False),
    Case(nan_never_becomes_an_ordinary_score),
    Case(what_is_no_image_is_refused, is_of_pixels=False),
    Case(gradient_is_finite_and_not_zero),
    Case(gradient_is_the_derivative),
    Case(gradient_in_float32_is_the_one_in_float64),
    Case(surrogate_is_declared),
    Case(lipschitz_constant_holds),
    Case(map_has_the_size_of_the_image),
    Case(reconstruction_has_the_size_of_the_image, is_of_pixels=False),
    Case(quick_look, is_of_pixels=False),
    Case(checkpoint_gives_the_same_scores, is_of_pixels=False),
    Case(fit_repeats_itself),  # whoever sees names alone is fitted on these
)


def _require(s: Subject, kept: bool, what: str, todo: str) -> None:
    if not kept:
        raise ContractError(f"{s.detector.name} breaks the contract: {what}; {todo}.")


def _goes_in_steps(s: Subject) -> bool:
    """Whether the score has no gradient anywhere and says so: it declares a surrogate."""
    return s.detector.has_surrogate and s.everywhere("score").is_dead()


def _require_alive(place: Place, x: Tensor) -> None:
    found = place.autograd(x)
    size = found.flatten(1).norm(dim=1)
    if not bool((found.isfinite().flatten(1).all(dim=1) & (size > LEAST_GRADIENT)).all()):
        raise ContractError(
            f"{place.detector.name} breaks the contract: its {place.name} vanishes or is not finite (lengths "
            f"{', '.join(f'{one:.1e}' for one in size.tolist())}), so attacks would follow nothing; look for a clamp, "
            "a saturated function, or a root or logarithm of zero."
        )


def _require_refusal(s: Subject, call: Callable[[], object], error: type[DetectorError], accepted: str) -> None:
    todo = f"raise {error.__name__} with a sentence, as Detector does"
    try:
        call()
    except error as found:
        _require(s, re.search(r"\w+.*\.$", str(found)) is not None, f"it refuses by {str(found)!r}", todo)
    except Exception as found:
        raise ContractError(
            f"{s.detector.name} breaks the contract: where {accepted} it raises {type(found).__name__}; {todo}."
        ) from found
    else:
        _require(s, False, accepted, todo)
