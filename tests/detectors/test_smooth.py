"""Smoothed detectors: the statement on noisy scores that they make, its samples, its gradient, its family."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from detector_pictures import anomalous_pictures, normal_pictures
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from certificates.rules import Exceedance, Percentile
from detectors import loading, registry, smooth
from detectors.errors import CheckpointError, DetectorError
from detectors.noise import Noise, NoiseSeed
from detectors.smooth import Smoothed, SmoothSettings, noisy_scores

SIDE = 16
NORMALS = normal_pictures(8, SIDE, seed=1)
IMAGES = torch.cat([normal_pictures(2, SIDE, seed=2), anomalous_pictures(2, SIDE, seed=3)])
SMALL_AE = {"inner.epochs": 2, "inner.work_size": 8}
SIGMA = 0.2


def source(count: int = len(IMAGES), purpose: str = "test") -> Noise:
    return NoiseSeed(7).source(purpose, [f"image-{i}" for i in range(count)])


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.names()
    known = {"linear": zoo.Linear, "squares": zoo.Smooth, "noise-inside": zoo.NoiseInside, "logarithmic": Logarithmic}
    for name, cls in known.items():
        monkeypatch.setitem(registry._REGISTRY, name, cls)


class Logarithmic(zoo.Fake):
    """A score that hides its gradient, and a surrogate in quite other units, as flows have them."""

    name = "logarithmic"
    has_surrogate = True
    surrogate_is_monotone = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return -torch.exp(-self._surrogate_score(x, noise))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return 100 * x.mean(dim=(1, 2, 3))


def smoothed(member: str, **settings: Any) -> Smoothed:
    """Fitted."""
    found = registry.create(f"smooth:{member}", image_size=SIDE, **{"sigma": SIGMA, **settings})
    assert isinstance(found, Smoothed)
    found.fit(NORMALS, seed=0)
    return found


def noisy(x: Tensor, own: Noise, sigma: float = SIGMA) -> Tensor:
    return torch.add(x, own.normal(x.shape[1:], stream="smoothing", like=x), alpha=sigma)


def samples_of(detector: Smoothed, score: Any, count: int, noise: Noise, x: Tensor = IMAGES) -> Tensor:
    """(count, B), drawn here one by one."""
    with torch.no_grad(), detector.inner.trusting():
        drawn = []
        for i in range(count):
            own = noise.sub(i)
            drawn.append(score(noisy(x, own), noise=own))
    return torch.stack(drawn)


# -- the statement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("samples", [1, 7, 40])
def test_the_percentile_is_numpys_and_the_certificates_on_the_same_samples(p: float, samples: int) -> None:
    detector = smoothed("linear", p=p, samples=samples)
    found = samples_of(detector, detector.inner.score, samples, source()).numpy()
    expected = np.quantile(found, p, axis=0, method="inverted_cdf")
    score = detector.score(IMAGES, noise=source())
    np.testing.assert_array_equal(score.numpy(), expected.astype(np.float32))
    np.testing.assert_array_equal(score.numpy(), Percentile(p).estimate(np.sort(found.T, axis=1)))


def test_the_exceedance_is_the_certificates_on_the_same_samples() -> None:
    detector = smoothed("linear", rule="exceedance", exceeds=0.6, samples=50)
    found = samples_of(detector, detector.inner.score, 50, source()).double().numpy()
    expected = Exceedance(float(detector.threshold)).estimate(found.T)
    assert 0 < (found > float(detector.threshold)).mean() < 1
    np.testing.assert_allclose(detector.score(IMAGES, noise=source()).numpy(), expected, rtol=1e-5)


def test_the_threshold_is_a_quantile_of_the_training_normals_under_noise() -> None:
    """Linear scores of them are Gaussian, with known means and one standard deviation."""
    detector = smoothed("linear", rule="exceedance", exceeds=0.8, samples=2000)
    slope = float(zoo.linear_weights(SIDE).norm())
    means = detector.inner.score(NORMALS).double().numpy()
    below = ndtr((float(detector.threshold) - means) / (slope * SIGMA)).mean()
    assert below == pytest.approx(0.8, abs=0.01)
    assert float(detector.edge) == pytest.approx(smooth.SOFTNESS * slope * SIGMA, rel=0.05)


def test_of_a_linear_score_median_and_exceedance_have_closed_forms() -> None:
    """<w, x + d> is Gaussian around <w, x> with |w| sigma."""
    count, slope = 2000, float(zoo.linear_weights(SIDE).norm())
    median = smoothed("linear", samples=count)
    clean = median.inner.score(IMAGES)
    error = slope * SIGMA * math.sqrt(math.pi / 2 / count)  # of the median of so many
    assert float((median.score(IMAGES, noise=source()) - clean).abs().max()) < 4 * error
    high = smoothed("linear", samples=count, p=0.8).score(IMAGES, noise=source())
    torch.testing.assert_close(high - clean, torch.full_like(clean, slope * SIGMA * ndtri(0.8)), rtol=0, atol=6 * error)
    exceedance = smoothed("linear", samples=count, rule="exceedance")
    expected = (clean - exceedance.threshold) / (slope * SIGMA)
    seen = expected.abs() < 2  # beyond it so few samples say little
    assert bool(seen.any())
    gap = (exceedance.score(IMAGES, noise=source()) - expected).abs()[seen]
    assert float(gap.max()) < 4 * 2.8 / math.sqrt(count)  # sqrt(P (1 - P)) / phi at two standard deviations


# -- samples ----------------------------------------------------------------------------------------------------------


def draw(x: Tensor, noise: Noise, samples: range) -> Tensor:
    detector = smoothed("noise-inside")

    def score(images: Tensor, own: Noise) -> Tensor:
        with detector.inner.trusting():
            return detector.inner.score(images, noise=own)

    return noisy_scores(score, x, noise, sigma=SIGMA, samples=samples)


def test_a_sample_depends_on_its_image_and_its_number_alone() -> None:
    """Of a detector that draws noise of its own, too."""
    whole = draw(IMAGES, source(), range(6))
    assert whole.shape == (6, len(IMAGES)) and len(set(whole.flatten().tolist())) == whole.numel()
    assert torch.equal(draw(IMAGES, source(), range(9))[:6], whole), "more samples extend the same ones"
    assert torch.equal(draw(IMAGES, source(), range(4, 6)), whole[4:])
    assert torch.equal(draw(IMAGES, source(), range(5, -1, -1)).flip(0), whole)
    torch.testing.assert_close(draw(IMAGES[2:3], source().pick([2]), range(6)), whole[:, 2:3], rtol=1e-6, atol=0)
    assert not bool((draw(IMAGES, source(purpose="other"), range(6)) == whole).any())


def test_the_noise_is_what_it_says() -> None:
    """Gaussian of sigma on [0, 1], independent over pixels and samples, not cut to [0, 1]."""
    seen: list[Tensor] = []

    def remember(images: Tensor, own: Noise) -> Tensor:
        seen.append(images)
        return images.sum(dim=(1, 2, 3))

    white = torch.ones(2, 3, 64, 64)
    noisy_scores(remember, white, source(2), sigma=0.25, samples=range(8))
    noise = (torch.stack(seen) - 1) / 0.25
    assert float(torch.stack(seen).max()) > 1.5
    assert float(noise.mean().abs()) < 0.02 and float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(torch.corrcoef(noise.flatten(1)).triu(1).abs().max()) < 0.04
    assert float((noise.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.002)


def test_a_broken_sample_has_no_ordinary_score() -> None:
    class SometimesBroken(zoo.Linear):
        def value(self, x: Tensor, noise: Noise) -> Tensor:
            found = super().value(x, noise)
            return torch.where(x[:, 0, 0, 0] > 0.9, torch.nan, found)

    registry._REGISTRY["linear"] = SometimesBroken  # put back by the fixture
    detector = smoothed("linear", rule="exceedance", samples=20)
    detector.threshold.fill_(0.0)
    images = IMAGES.clone()
    images[:, 0, 0, 0] = torch.tensor([0.0, 0.9, 0.0, 0.0])
    assert detector.score(images, noise=source()).isnan().tolist() == [False, True, False, False]


# -- gradients --------------------------------------------------------------------------------------------------------


def gradient(score: Any, x: Tensor, noise: Noise) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(score(leaf, noise=noise).sum(), leaf)[0]


def plainly(score: Any, x: Tensor, noise: Noise, *, sigma: float, samples: range) -> Tensor:
    """`noisy_scores` in one graph, without computing anything twice."""
    return torch.stack([score(noisy(x, noise.sub(i), sigma), noise.sub(i)) for i in samples])


@pytest.mark.parametrize("which", ["score", "surrogate_score"])
@pytest.mark.parametrize("settings", [{"p": 0.4}, {"rule": "exceedance", "exceeds": 0.5}], ids=["p", "t"])
def test_computing_samples_again_changes_no_bit_of_a_gradient(
    which: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = smoothed("ae", samples=12, **SMALL_AE, **settings)
    found = gradient(getattr(detector, which), IMAGES, source())
    monkeypatch.setattr(smooth, "noisy_scores", plainly)
    assert torch.equal(found, gradient(getattr(detector, which), IMAGES, source()))
    is_flat = which == "score" and "rule" in settings
    assert bool((found == 0).all()) == is_flat


@pytest.mark.parametrize("settings", [{}, {"rule": "exceedance", "exceeds": 0.5}], ids=["p", "t"])
def test_the_gradient_is_that_of_differences_under_the_same_noise(settings: dict[str, Any]) -> None:
    detector = smoothed("ae", samples=12, **SMALL_AE, **settings)
    x = IMAGES.double()
    for which in ("score", "surrogate_score") if not settings else ("surrogate_score",):
        score = getattr(detector, which)
        slope = gradient(score, x, source())
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        with detector.trusting():
            seen = (score(x + 1e-6 * way, noise=source()) - score(x - 1e-6 * way, noise=source())) / 2e-6
        torch.testing.assert_close(seen, (slope * way).sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-9)


def test_the_gradient_of_a_median_is_that_of_the_sample_in_the_middle() -> None:
    detector = smoothed("squares", samples=9)
    middle = samples_of(detector, detector.inner.score, 9, source()).argsort(dim=0)[4].tolist()
    x = IMAGES.clone()
    for image, number in enumerate(middle):
        expected = 2 * (noisy(x, source().sub(number)) - 0.4) / x[0].numel()  # of `zoo.squares`
        torch.testing.assert_close(gradient(detector.score, x, source())[image], expected[image])


def test_a_surrogate_averages_around_the_quantile_and_softens_the_threshold() -> None:
    detector = smoothed("linear", samples=20, p=0.7)
    found = samples_of(detector, detector.inner.score, 20, source()).sort(dim=0).values
    expected = found[13 - 2 : 13 + 3].mean(dim=0)
    torch.testing.assert_close(detector.surrogate_score(IMAGES, noise=source()), expected)
    soft = smoothed("linear", samples=20, rule="exceedance")
    found = samples_of(soft, soft.inner.score, 20, source())
    expected = (0.5 + torch.atan((found - soft.threshold) / soft.edge) / math.pi).mean(dim=0)
    torch.testing.assert_close(soft.surrogate_score(IMAGES, noise=source()), expected)


def test_of_few_samples_there_is_no_second_gradient_to_follow() -> None:
    assert not smoothed("linear", samples=4).has_surrogate
    assert smoothed("linear", samples=6).has_surrogate and smoothed("logarithmic", samples=4).has_surrogate
    assert smoothed("linear", samples=1, rule="exceedance").has_surrogate


def test_an_exceedance_follows_an_inner_surrogate_in_that_ones_units() -> None:
    """A score of -exp(-s) and the surrogate s exceed corresponding thresholds together."""
    detector = smoothed("logarithmic", rule="exceedance", samples=30, exceeds=0.7)
    assert -math.exp(-float(detector.soft_threshold)) == pytest.approx(float(detector.threshold), rel=0.1)
    x = torch.full((1, 3, SIDE, SIDE), float(detector.soft_threshold) / 100)
    assert float(detector.surrogate_score(x, noise=source(1))) == pytest.approx(0.5, abs=0.2)
    assert float(gradient(detector.surrogate_score, x, source(1)).norm()) > 0.1


CRASHER = """
import torch
from detectors import registry
from detectors.noise import NoiseSeed

detector = registry.create("smooth:ae", image_size=16, samples=8, **{"inner.epochs": 1})
detector.fit(torch.rand(8, 3, 16, 16), seed=0)
inner, calls = type(detector.inner)._score, []

def interrupted(self, x, noise):
    calls.append(1)
    if len(calls) > 10:  # on the way back
        raise KeyboardInterrupt
    return inner(self, x, noise)

type(detector.inner)._score = interrupted
x = torch.rand(2, 3, 16, 16, requires_grad=True)
try:
    torch.autograd.grad(detector.score(x, noise=NoiseSeed(0).source("test", "ab")).sum(), x)
except KeyboardInterrupt:
    print("interrupted on the way back:", len(calls))
"""


def test_an_exception_on_the_way_back_lets_the_process_end_in_peace() -> None:
    """PyTorch's queue of unfinished work, freed after Python's end, would be a segmentation fault."""
    root = Path(smooth.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", CRASHER],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "interrupted on the way back: 11\n"
    assert (done.returncode, done.stderr) == (0, "")


# -- fits and checkpoints ---------------------------------------------------------------------------------------------


def test_the_inner_detector_is_the_one_that_is_fitted_alone() -> None:
    detector = smoothed("ae", **SMALL_AE)
    alone = registry.create("ae", image_size=SIDE, epochs=2, work_size=8).fit(NORMALS, seed=0)
    assert torch.equal(detector.inner.score(IMAGES), alone.score(IMAGES))
    assert detector.fit_report["inner"] == alone.fit_report


@pytest.mark.parametrize("rule", smooth.RULES)
def test_a_checkpoint_is_loaded_by_its_name_alone(rule: str, tmp_path: Path) -> None:
    detector = smoothed("ae", rule=rule, samples=6, **SMALL_AE)
    loaded = loading.load(detector.save(tmp_path / "smooth.safetensors"))
    assert loaded.settings == detector.settings and loaded.name == "smooth:ae"
    assert torch.equal(loaded.score(IMAGES, noise=source()), detector.score(IMAGES, noise=source()))
    with pytest.raises(CheckpointError, match="settings"):
        registry.create("smooth:ae", image_size=SIDE, rule=rule, sigma=0.3, samples=6, **SMALL_AE).load(
            tmp_path / "smooth.safetensors"
        )


@pytest.mark.parametrize("rule", smooth.RULES)
def test_a_fitted_detector_is_smoothed_without_a_fit(rule: str) -> None:
    """With the scores of its normals it is the detector that a fit would have made."""
    fitted = smoothed("ae", rule=rule, samples=8, **SMALL_AE)
    inner = registry.create("ae", image_size=SIDE, epochs=2, work_size=8).fit(NORMALS, seed=0)
    other = registry.create("smooth:ae", image_size=SIDE, rule=rule, samples=8, sigma=SIGMA)
    assert isinstance(other, Smoothed)
    given = [f"{i}" for i in range(len(NORMALS))]
    with inner.trusting():
        scores = noisy_scores(
            lambda x, own: inner.score(x, noise=own),
            NORMALS,
            NoiseSeed(0).source("smoothing-normals", given),
            sigma=SIGMA,
            samples=range(8),
        )
    assert other.around(inner, scores if rule == "exceedance" else None) is other
    assert other.settings == fitted.settings, "they say what is smoothed"
    assert torch.equal(other.score(IMAGES, noise=source()), fitted.score(IMAGES, noise=source()))
    assert torch.equal(other.surrogate_score(IMAGES, noise=source()), fitted.surrogate_score(IMAGES, noise=source()))
    assert other.fit_report["inner"] == inner.fit_report and other.fit_report["normals"] == len(NORMALS)


def test_what_cannot_be_smoothed_so_is_a_sentence() -> None:
    made = registry.create("smooth:ae", image_size=SIDE, rule="exceedance", **SMALL_AE)
    unfitted = registry.create("ae", image_size=SIDE, epochs=1, work_size=8)
    assert isinstance(made, Smoothed)
    with pytest.raises(DetectorError, match=r"smooth:ae smooths ae, not linear\."):
        made.around(zoo.fitted(zoo.Linear, SIDE))
    with pytest.raises(DetectorError, match="ae is not fitted yet; call fit"):
        made.around(unfitted)
    larger = registry.create("ae", image_size=32, epochs=1).fit(normal_pictures(8, 32, seed=1), seed=0)
    with pytest.raises(DetectorError, match="for 16 pixels and this ae for 32; build it at the same size"):
        made.around(larger)
    with pytest.raises(DetectorError, match="needs a threshold; give ae's scores of normals under noise"):
        made.around(unfitted.fit(NORMALS, seed=0))
    exceedance = registry.create("smooth:logarithmic", image_size=SIDE, rule="exceedance")
    assert isinstance(exceedance, Smoothed)
    with pytest.raises(DetectorError, match="give logarithmic's surrogate_score of normals"):
        exceedance.around(zoo.fitted(Logarithmic, SIDE), torch.zeros(4, 4))


def test_one_normal_and_one_sample_make_a_threshold() -> None:
    detector = registry.create("smooth:mean-image", image_size=SIDE, rule="exceedance", samples=1)
    detector.fit(NORMALS[:1], seed=0)
    assert bool(detector.score(IMAGES, noise=source()).isfinite().all())
    assert bool(detector.surrogate_score(IMAGES, noise=source()).isfinite().all())


# -- the family -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("smooth:file-order", "noise to pictures that file-order never sees; use file-order"),
        ("smooth:smooth:ae", "smooth:smooth:ae would smooth twice; use smooth:ae with a larger sigma"),
        ("smooth:purify:smooth:ae", "would smooth twice"),
        ("smooth:mean-imge", "did you mean 'mean-image'"),
        ("smoth:spade", "did you mean 'smooth:spade'"),
        ("smooth:nonsense", "There is no detector 'nonsense'; did you mean"),
        ("smooth:", "did you mean"),
    ],
)
def test_what_is_no_member_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(DetectorError, match=sentence):
        registry.get(name)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": 0.0}, r"smooth:ae's sigma must be a number above 0, on the \[0, 1\] scale; got 0.0"),
        ({"sigma": -0.1}, "sigma must be a number above 0"),
        ({"sigma": math.nan}, "sigma must be a number above 0"),
        ({"sigma": math.inf}, "sigma must be a number above 0"),
        ({"rule": "mean"}, "rule must be percentile or exceedance; got 'mean'"),
        ({"p": 0.0}, "p must lie between 0 and 1; got 0.0"),
        ({"p": 1.0}, "p must lie between 0 and 1"),
        ({"exceeds": math.nan}, "exceeds must lie between 0 and 1"),
        ({"samples": 0}, "samples must be a whole number of at least 1; got 0"),
        ({"smaples": 5}, "no setting 'smaples'; did you mean 'samples'"),
        ({"inner.epocs": 5}, "did you mean 'epochs'"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DetectorError, match=sentence):
        registry.create("smooth:ae", image_size=SIDE, **settings)


def test_members_are_one_class_each_with_what_their_detector_declares() -> None:
    members = next(f for f in registry.families() if f.prefix == "smooth").members()
    assert {"ae", "mean-image", "freerad"} < set(members) and "file-order" not in members
    assert registry.get("smooth:ae") is registry.get("smooth:ae")
    assert registry.get("smooth:ae").training_is_chaotic and not registry.get("smooth:spade").training_is_chaotic
    # The noise under which a threshold is measured comes from the seed.
    assert registry.get("smooth:mean-image").fit_is_seeded
    assert registry.get("smooth:mean-image").settings_for("quick", SIDE) == SmoothSettings(
        registry.get("mean-image").settings_for("quick", SIDE)
    )


def test_what_the_suite_would_choose_is_a_number_here() -> None:
    """It chooses settings of the outermost detector alone."""
    cls = registry.get("smooth:freerad")
    assert cls.settings_for("quick", 64).inner.k == 100
    detector = registry.create("smooth:freerad", image_size=64, **{"inner.k": "auto"})
    with pytest.raises(DetectorError, match=r"--set smooth:freerad\.inner\.k=25"):
        detector.fit(torch.rand(8, 3, 64, 64), seed=0)


@pytest.mark.parametrize("member", ["purify:mean-image", "anomalib:padim"])
def test_members_of_other_families_are_smoothed_like_any_other(member: str) -> None:
    side = 32
    settings: dict[str, Any] = {}
    if member.startswith("anomalib"):
        pytest.importorskip("anomalib")
    else:
        settings = {
            f"inner.purifier.{key}": value
            for key, value in {
                "work_size": side,
                "unet.channels": 8,
                "unet.multipliers": (1, 2),
                "training.iterations": 1,
                "training.batch_size": 2,
            }.items()
        }
    detector = registry.create(f"smooth:{member}", image_size=side, samples=3, **settings)
    detector.fit(normal_pictures(8, side, seed=1), seed=0)
    x = normal_pictures(2, side, seed=2)
    found = detector.score(x, noise=source(2))
    assert found.shape == (2,) and bool(found.isfinite().all())
    assert float(gradient(detector.score, x, source(2)).abs().amax(dim=(1, 2, 3)).min()) > 0


def test_a_smoothed_detector_holds_its_inner_one_once() -> None:
    detector = smoothed("ae", **SMALL_AE)
    assert isinstance(detector.inner, nn.Module)
    weights = {id(p) for p in detector.parameters()}
    assert weights == {id(p) for p in detector.inner.parameters()}
    assert set(dict(detector.named_buffers(recurse=False))) == {"threshold", "soft_threshold", "edge"}
