"""The contract of a detector as plain functions that raise AssertionError.

`test_contract.py` runs them over the whole registry; `test_contract_bites.py` shows that broken detectors fail them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from attacks.threat import largest_entry
from detectors.base import Detector
from detectors.errors import DetectorError, NoAnomalyMapError
from detectors.noise import Noise, NoiseSeed

Score = Callable[..., Tensor]


def source(count: int, *, purpose: str = "test", seed: int = 7) -> Noise:
    return NoiseSeed(seed).source(purpose, [f"image-{i}" for i in range(count)])


def gradient(score: Score, x: Tensor, noise: Noise) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(score(leaf, noise=noise).sum(), leaf)
    return found


def check_score_has_one_number_per_image(detector: Detector, x: Tensor) -> None:
    before = x.clone()
    scores = detector.score(x, noise=source(len(x)))
    assert scores.shape == (len(x),) and scores.dtype == x.dtype
    assert bool(scores.isfinite().all()), "a score is not finite"
    assert torch.equal(x, before), "score() changed its input"
    assert len(set(scores.tolist())) == len(x), "different images get the same score"


def check_gradient_lives(detector: Detector, x: Tensor, *, score: Score | None = None) -> None:
    found = gradient(score or detector.score, x, source(len(x)))
    assert bool(found.isfinite().all()), "the gradient is not finite"
    sizes = found.flatten(1).norm(dim=1)
    assert bool((sizes > 1e-7).all()), f"the gradient vanishes: {sizes.tolist()}"


def check_finite_differences(
    detector: Detector, x: Tensor, *, score: Score | None = None, directions: int = 3, tolerance: float = 1e-4
) -> None:
    """The gradient in float64 against second-order differences under replayed noise.

    Differences are one-sided, and into [0, 1] at pixels on its bounds: a detector may clip what lies outside. A network
    of ReLUs has so many kinks that some lie within any long step, so the step shrinks until none does: the error of a
    true gradient then falls to rounding, that of a wrong one stays where it is.
    """
    compared = score or detector.score
    x = x.double()
    noise = source(len(x))
    found = gradient(compared, x, noise)
    draws = torch.Generator().manual_seed(11)
    size = found.flatten(1).norm(dim=1)
    with torch.no_grad():
        here = compared(x, noise=noise)
        for _ in range(directions):
            v = torch.randn(x.shape, generator=draws, dtype=torch.float64)
            v = torch.where(x <= 0.01, v.abs(), torch.where(x >= 0.99, -v.abs(), v))
            promised = (found * v).flatten(1).sum(dim=1)
            error = torch.full_like(here, float("inf"))
            for step in (1e-6, 1e-7, 1e-8, 1e-9):
                once, twice = compared(x + step * v, noise=noise), compared(x + 2 * step * v, noise=noise)
                difference = (4 * once - twice - 3 * here) / (2 * step)
                # v has one unit per pixel, so a random direction sees about |gradient|: the scale of the error.
                error = torch.minimum(error, (difference - promised).abs() / torch.maximum(size, promised.abs()))
                if bool((error < tolerance).all()):
                    break
            assert bool((error < tolerance).all()), f"the gradient is wrong by {error.max():.2e} of its size"


def check_float32_gradient(detector: Detector, x: Tensor, *, score: Score | None = None, least: float = 0.999) -> None:
    """The gradient in float32, which attacks follow, points where the one in float64 does, which is checked above.

    Measured over all detectors, at test images, strong anomalies and the edge of the ball: 0.999999 and more, wherever
    neither a maximum nor a nearest neighbour is another one in float32 (that costs SPADE up to 0.001). Where an image
    has such a kink, a point beside it has none: each image's best of three counts. One that float32 has no digits for
    says so by a gradient of zero, or of less than 1e-34.
    """
    compared = score or detector.score
    noise, draws = source(len(x)), torch.Generator().manual_seed(12)
    best = torch.full((len(x),), -1.0, dtype=torch.float64)
    for point in range(3):
        grain = torch.rand(x.shape, generator=draws) - 0.5
        there = x.float() if point == 0 else (x.float() + grain / 255).clamp(0, 1)
        single, double = gradient(compared, there, noise).double(), gradient(compared, there.double(), noise)
        # Scaled to a largest entry of 1 first: the squares of a saturated score's gradient are zero.
        rows = [found.flatten(1) / largest_entry(found).clamp_min(1e-300)[:, None] for found in (single, double)]
        cosine = torch.nn.functional.cosine_similarity(*rows, dim=1)
        best = torch.maximum(best, torch.where(largest_entry(single) > 1e-34, cosine, 1.0))
        if bool((best >= least).all()):
            return
    assert bool((best >= least).all()), f"the gradient in float32 is another one: cosines {best.tolist()}"


def check_ignores_batch_neighbours(detector: Detector, x: Tensor) -> bool:
    """Alone, in the batch and among strangers: the same. Returns whether it is so to the last bit in float32."""
    noise = source(len(x))
    strangers = torch.stack([torch.zeros_like(x[0]), torch.ones_like(x[0]), 1 - x[0]])
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.float64, 1e-9)):
        batch = x.to(dtype)
        with torch.no_grad():
            together = detector.score(batch, noise=noise)
            alone = torch.cat([detector.score(batch[i : i + 1], noise=noise.pick([i])) for i in range(len(x))])
            reversed_ = detector.score(batch.flip(0), noise=noise.pick(range(len(x) - 1, -1, -1))).flip(0)
            mixed = torch.cat([batch[:1], strangers.to(dtype)])
            ids = Noise(noise.key, (noise.image_ids[0], "a", "b", "c"))
            among_strangers = detector.score(mixed, noise=ids)[:1]
        scale = float(together.abs().max())
        for name, other in (("alone", alone), ("reversed", reversed_)):
            assert float((together - other).abs().max()) <= tolerance * scale, f"scores differ {name} in {dtype}"
        gap = float((together[:1] - among_strangers).abs())
        assert gap <= tolerance * scale, f"scores differ among strangers by {gap:.2e} in {dtype}"
        if dtype == torch.float32:
            same_bits = torch.equal(together, alone)
    leaf = x.double().requires_grad_()
    (crossed,) = torch.autograd.grad(detector.score(leaf, noise=noise)[0], leaf)
    assert float(crossed[1:].abs().max()) == 0.0, "an image's score has a gradient to its neighbours"
    return same_bits


def check_ignores_gradient_mode(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    with torch.enable_grad():
        with_graph = detector.score(x.clone().requires_grad_(), noise=noise).detach()
        without_leaf = detector.score(x, noise=noise)
    with torch.no_grad():
        silent = detector.score(x, noise=noise)
    with torch.inference_mode():
        inference = detector.score(x, noise=noise).clone()
    for other in (without_leaf, silent, inference):
        _assert_equal(with_graph, other, "the score depends on the gradient mode")


def check_ignores_its_history(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    first = detector.score(x, noise=noise)
    for other in (torch.zeros_like(x), torch.ones_like(x), x.flip(0)):
        detector.score(other, noise=source(len(x), purpose="other"))
    gradient(detector.score, x, noise)
    if detector.has_map:
        detector.anomaly_map(x, noise=noise)
    for _ in range(3):
        _assert_equal(first, detector.score(x, noise=noise), "the score depends on earlier calls")


def check_stays_in_evaluation_mode(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    before = detector.score(x, noise=noise)
    detector.train()
    _assert_equal(before, detector.score(x, noise=noise), "train() changes the score")
    detector.eval()


def check_ignores_global_randomness(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = _global_states()
        scores.append(detector.score(x, noise=noise))
        if not detector.is_stochastic:
            scores.append(detector.score(x))
        assert _global_states() == before, "score() touched a global random state"
    for other in scores[1:]:
        _assert_equal(scores[0], other, "the score depends on a global random state")


def check_noise_is_honest(detector: Detector, x: Tensor) -> None:
    """A stochastic score follows its source and nothing else; a deterministic one ignores it."""
    noise = source(len(x))
    first = detector.score(x, noise=noise)
    _assert_equal(first, detector.score(x, noise=noise), "replayed noise gives another score")
    others = {
        "another draw": detector.score(x, noise=noise.at(1)),
        "another purpose": detector.score(x, noise=source(len(x), purpose="verdict")),
        "another seed": detector.score(x, noise=source(len(x), seed=8)),
        "fresh noise": detector.score(x),
        "fresh noise again": detector.score(x),
    }
    for name, other in others.items():
        if detector.is_stochastic:
            assert not bool((first == other).any()), f"{name} changes nothing"
        else:
            _assert_equal(first, other, f"{name} changes a deterministic score")
    if detector.is_stochastic:
        assert not bool((others["fresh noise"] == others["fresh noise again"]).any()), "noise=None repeats itself"
        copies = detector.score(x[:1].expand(4, -1, -1, -1).contiguous(), noise=source(4))
        assert len(set(copies.tolist())) == 4, "images of one batch share their noise"


def check_follows_the_dtype(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    single = detector.score(x, noise=noise)
    double = detector.score(x.double(), noise=noise)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    gap = float((single.double() - double).abs().max() / double.abs().max())
    assert gap < 1e-3, f"float32 and float64 differ by {gap:.1e}"
    _assert_equal(single, detector.score(x, noise=noise), "a visit to float64 changed the float32 score")


def check_refuses_what_is_no_image(detector: Detector, x: Tensor) -> None:
    side = detector.image_size
    wrong = [
        x[0], x[:0], x[:, :1], x[..., : side - 1], (x * 255).to(torch.uint8), x.half(),
        torch.zeros(1, 3, side, side + 8),
    ]
    for bad in wrong:
        with pytest.raises(DetectorError, match=r"\w+.*\.$"):
            detector.score(bad)
    with pytest.raises(DetectorError, match="noise source"):
        detector.score(x, noise=source(len(x) + 1))


def check_passes_nan_on(detector: Detector, x: Tensor) -> None:
    """A broken image must never get an ordinary score, nor spoil its neighbours'."""
    noise = source(len(x))
    clean = detector.score(x, noise=noise)
    for broken in (torch.full_like(x[0], float("nan")), _one_nan(x[0])):
        scores = detector.score(torch.cat([broken[None], x[1:]]), noise=noise)
        assert not bool(scores[0].isfinite()), "an image with NaN got an ordinary score"
        assert float((scores[1:] - clean[1:]).abs().max()) <= 2e-4 * float(clean.abs().max()), "NaN spread in the batch"


def check_map(detector: Detector, x: Tensor) -> None:
    noise = source(len(x))
    if not detector.has_map:
        with pytest.raises(NoAnomalyMapError):
            detector.anomaly_map(x, noise=noise)
        return
    found = detector.anomaly_map(x, noise=noise)
    assert found.shape == (len(x), *x.shape[-2:]) and bool(found.isfinite().all())

    def map_mean(images: Tensor, *, noise: Noise) -> Tensor:
        return detector.anomaly_map(images, noise=noise).mean(dim=(1, 2))

    check_gradient_lives(detector, x, score=map_mean)
    check_finite_differences(detector, x, score=map_mean, directions=1)


def check_surrogate_is_declared(detector: Detector, x: Tensor) -> None:
    """Attacks follow a surrogate only where there is said to be one."""
    noise = source(len(x))
    same = torch.equal(detector.surrogate_score(x, noise=noise), detector.score(x, noise=noise))
    assert same != detector.has_surrogate, f"has_surrogate is {detector.has_surrogate}"


def auc(detector: Detector, normals: Tensor, anomalies: Tensor) -> float:
    """Area under the ROC curve in per cent."""
    images = torch.cat([normals, anomalies])
    labels = [0] * len(normals) + [1] * len(anomalies)
    with torch.no_grad():
        return 100 * float(roc_auc_score(labels, detector.score(images, noise=source(len(images))).numpy()))


def check_beats(detector: Detector, normals: Tensor, anomalies: Tensor, floor: float) -> None:
    found = auc(detector, normals, anomalies)
    assert found >= floor, f"AUC {found:.1f} is below {floor}"


def check_fit_is_reproducible(build: Callable[[], Detector], fitted: Detector, normals: Tensor, *, seed: int) -> None:
    """Another fit with the same seed, whatever the global random state and whatever the object was fitted on before:
    the same bits, and that state untouched."""
    torch.manual_seed(12345)
    np.random.seed(12345)
    random.seed(12345)
    before = _global_states()
    kept = normals.clone()
    again = build()
    again.fit(1 - normals[: max(again.min_normals, len(normals) // 2)], seed=seed + 1)
    with torch.no_grad():  # a caller's gradient mode must not matter either
        again.fit(normals, seed=seed)
    assert _global_states() == before, "building or fitting touched a global random state"
    assert torch.equal(kept, normals), "fit() changed the training images"
    mine, theirs = fitted.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert torch.equal(value.float(), theirs[key].float()), f"{key} differs between two fits with the same seed"
    assert not any(parameter.requires_grad for parameter in again.parameters()), "weights still ask for gradients"


def _assert_equal(a: Tensor, b: Tensor, message: str) -> None:
    assert torch.equal(a.detach(), b.detach()), f"{message} (by {float((a - b).abs().max()):.2e})"


def _global_states() -> tuple[bytes, str, object]:
    return torch.random.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()


def _one_nan(picture: Tensor) -> Tensor:
    broken = picture.clone()
    broken[0, broken.shape[1] // 2, broken.shape[2] // 2] = float("nan")
    return broken
