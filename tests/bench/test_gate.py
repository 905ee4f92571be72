"""The gate: a detector that breaks the contract fails its cell with the reason, and gets no figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bench_fakes as fakes
import gate_fakes as astray
import pytest
import torch
from torch import Tensor

import bench
from attacks.errors import GradientCutError
from attacks.threat import L2, LInf, Threat
from bench.cell import gate
from bench.errors import CellError
from detectors.noise import Noise, NoiseSeed

Register = Callable[..., None]
CPU = torch.device("cpu")
THREAT = LInf(2 / 255)
SIDE = 16
TEST = fakes.image_set(3, 3, side=SIDE)


def passes(cls: type[fakes.Fake]) -> None:
    gate.check(fakes.fitted(cls, SIDE), TEST, CPU, THREAT)


def squares(x: Tensor) -> Tensor:
    return (x - 0.4).square().mean(dim=(1, 2, 3))


# -- what it lets pass ------------------------------------------------------------------------------------------------


class Kinky(fakes.Fake):
    """Absolute values, a maximum and a ReLU: honest, and without a derivative where neighbours are equal."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        steps = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return steps + torch.nn.functional.max_pool2d(x, 4).mean(dim=(1, 2, 3)) + (1 - x).relu().amax(dim=(1, 2, 3))


class SingleInside(fakes.Fake):
    """Computes in float32, whatever comes in: unclean, but its gradient is true."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.float()).to(x.dtype)


class Saturated(fakes.Fake):
    """Has no gradient here, and autograd says so: for the indicators to tell."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return torch.exp(-1e6 * squares(x))


class NoiseInside(fakes.Noisy):
    """Its gradient depends on the draw, as that of a diffusion detector."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + 0.3 * noise.normal(x.shape[1:], stream="blur", like=x))


class Exponential(fakes.Fake):
    """As FastFlow's: a score that runs out of digits, and an increasing function of it that does not."""

    has_surrogate = True
    surrogate_is_monotone = True
    steepness = 3.0

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return -torch.exp(-self.steepness * squares(x))

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x)


class SaturatedExponential(Exponential):
    steepness = 1e5


HONEST = (
    fakes.Fake, fakes.Linear, fakes.PureNoise, fakes.Noisy, Kinky, SingleInside, Saturated, NoiseInside, Exponential,
    SaturatedExponential, astray.Declared, astray.FarAway, astray.Blind,
)


@pytest.mark.parametrize("honest", HONEST)
def test_an_honest_detector_passes(honest: type[fakes.Fake]) -> None:
    passes(honest)


def test_flat_pictures_of_black_and_white_are_no_trap() -> None:
    images = torch.zeros_like(TEST.images)
    images[:, :, : SIDE // 2] = 255
    flat = type(TEST)(TEST.ids, images, TEST.labels, TEST.defects, None)
    gate.check(fakes.fitted(Kinky, SIDE), flat, CPU, THREAT)


def test_it_says_what_it_looked_at() -> None:
    found = gate.check(fakes.fitted(Exponential, SIDE), TEST, CPU, THREAT).describe()
    assert json.loads(json.dumps(found)) == found
    assert found["images"] == 4 and found["unaccounted"] < 0.01
    for which in ("score", "surrogate"):
        assert found[which]["gradient_error"] < 1e-4 and found[which]["float32_cosine"] > 0.9999
    for step in found["steps"].values():
        # A nearly linear score: the step keeps its promise, and no noise can do more.
        assert step["kept"] == pytest.approx(1, abs=0.1) and step["noise"] < 1 and step["beaten"] == 0
    blind = gate.check(fakes.fitted(astray.Blind, SIDE), TEST, CPU, THREAT).describe()
    assert blind == {"images": 4, "remark": "it sees no pixels"}


def test_one_image_of_each_class_is_enough() -> None:
    few = TEST.subset([0, 5])
    assert gate.check(fakes.fitted(Kinky, SIDE), few, CPU, THREAT).images == 2


# -- what it stops ----------------------------------------------------------------------------------------------------


class HalfDetached(fakes.Fake):
    """Two equal terms, of which one is cut: half the gradient, in the true direction."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) + squares(x.detach())


class CutTeacher(fakes.Fake):
    """As STFPM's gradient: the student's features have one, the teacher's were made without a graph."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        student = torch.nn.functional.avg_pool2d(x, 2)
        with torch.no_grad():
            teacher = torch.nn.functional.max_pool2d(x, 2)
        return (student - teacher).square().mean(dim=(1, 2, 3))


class StraightThrough(fakes.Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + ((x * 255).round() / 255 - x).detach())


class NoGradient(fakes.Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x.detach()) + 0 * x.mean(dim=(1, 2, 3))


class OtherNoiseBehind(fakes.Noisy):
    """The gradient is that of another draw than the score's."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        def noisy(source: Noise) -> Tensor:
            return squares(x + 0.3 * source.normal(x.shape[1:], stream="blur", like=x))

        seen, behind = noisy(noise), noisy(noise.at(5))
        return behind + (seen - behind).detach()


@pytest.mark.parametrize("wrong", [HalfDetached, CutTeacher, StraightThrough, NoGradient, OtherNoiseBehind])
def test_a_wrong_gradient_is_stopped(wrong: type[fakes.Fake]) -> None:
    with pytest.raises(CellError, match=r"gradient is wrong by \d+ % of its size.*artefact"):
        passes(wrong)


ASTRAY = {
    # On fine stairs even the differences notice.
    r"knows nothing of .* noise inside the ball|gradient is wrong by 100 %": (
        *(astray.grey_levels(n) for n in (12, 32, 64, 256)), astray.FeatureLevels, astray.NarrowStairs,
    ),
    "noise is a better attack": (astray.DeclaredIdle,),
    "gradient in float32, which attacks follow": (astray.CutInFloat32,),
    "score in float32, which is attacked and judged": (astray.OtherInFloat32,),
    r"gradient is wrong by \d+ %": (
        astray.ReversedLeft, astray.BorrowedGradient, astray.CleanOnly, astray.Undeclared,
    ),
    "sees_pixels = False, which excuses it": (astray.Blindfold,),
}  # fmt: skip


@pytest.mark.parametrize("threat", [LInf(2 / 255), L2(0.1)], ids=["linf", "l2"])
@pytest.mark.parametrize(
    ("sentence", "wrong"), [pytest.param(s, w, id=w.name) for s, all_of in ASTRAY.items() for w in all_of]
)
def test_a_gradient_that_leads_astray_is_stopped(sentence: str, wrong: type[fakes.Fake], threat: Threat) -> None:
    with pytest.raises(CellError, match=sentence):
        gate.check(fakes.fitted(wrong, 32), fakes.image_set(3, 3, side=32), CPU, threat)


def test_a_file_in_the_detectors_folder_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    insider = astray.grey_levels(12)
    monkeypatch.setattr(insider, "__module__", "detectors.insider")
    with pytest.raises(CellError, match="its score jumps"):
        passes(insider)


def test_a_surrogate_that_is_not_monotone_is_stopped() -> None:
    class Corner(Exponential):
        """Attacks would follow the mean of a corner, and compare by it."""

        def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
            return x[..., :8, :8].mean(dim=(1, 2, 3))

    class Falling(Exponential):
        def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
            return -squares(x)

    for wrong in (Corner, Falling):
        with pytest.raises(CellError, match=r"no increasing function of its score .*surrogate_is_monotone = False"):
            passes(wrong)

    class Stairs(Corner):
        """Its own gradient is zero everywhere, so that there is no other to compare the surrogate's with."""

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return (squares(x) * 1e4).floor() + 0 * squares(x)

    with pytest.raises(CellError, match=r"order \d+ % of pairs of pictures differently"):
        passes(Stairs)

    class HonestStairs(Stairs):
        def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
            return squares(x)

    passes(HonestStairs)

    class Admitted(Corner):
        surrogate_is_monotone = False

    passes(Admitted)


def test_what_says_that_it_sees_no_pixels_must_not_see_one() -> None:
    """What is excused from a gradient is not attacked: whatever it sees would be robust."""

    class BesideANumber(astray.Blind):
        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return super().value(x, noise) + 1e7 + squares(x.detach())

    class Rarely(astray.Blind):
        """Sees what none of the gate's pictures has."""

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return super().value(x, noise) + (x == 0.5).any(dim=(1, 2, 3)).to(x)

    with pytest.raises(CellError, match="sees_pixels = False, which excuses it"):
        passes(BesideANumber)
    rarely = fakes.fitted(Rarely, SIDE)
    gate.check(rarely, TEST, CPU, THREAT)
    x = TEST.pixels()
    gate.check_blind(rarely, x, NoiseSeed(0).source("blind", TEST.ids))
    x[2, 0, 3, 4] = 0.5
    with pytest.raises(CellError, match="sees_pixels = False, which excuses it"):
        gate.check_blind(rarely, x, NoiseSeed(0).source("blind", TEST.ids))


def test_who_had_no_finite_score_at_the_gate_must_have_none_later() -> None:
    class OnlyBytes(fakes.Fake):
        """Finite on pictures of 8 bits alone."""

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            whole = ((x * 255).round() - x * 255).abs().amax(dim=(1, 2, 3)) < 1e-3
            return torch.where(whole, squares(x), torch.nan)

    passed = gate.check(fakes.fitted(OnlyBytes, SIDE), TEST, CPU, THREAT)
    with pytest.raises(CellError, match="was not on the same with a little grain"):
        passed.confirm("only-bytes")


def test_noise_that_is_not_declared_is_stopped() -> None:
    class Undeclared(NoiseInside):
        is_stochastic = False

    with pytest.raises(CellError, match="draws noise and is_stochastic is False"):
        passes(Undeclared)


def test_the_sentence_says_how_wrong_the_gradient_is() -> None:
    # Of 2 g only g is there: the missing half is half of the true gradient's size, up to the luck of four directions.
    with pytest.raises(CellError, match=r"wrong by (2\d|3\d|4\d|5\d|6\d|7\d|8\d) %"):
        passes(HalfDetached)
    with pytest.raises(CellError, match=r"wrong by 100 %"):
        passes(NoGradient)


def test_a_score_without_a_graph_is_stopped_by_the_attacks_own_sentence() -> None:
    class Cut(fakes.Fake):
        def value(self, x: Tensor, noise: Noise) -> Tensor:
            return squares(x.detach())

    with pytest.raises(GradientCutError, match="no gradient"):
        passes(Cut)


class BatchMaximum(fakes.Fake):
    """CFlow's official score: its constants are those of the batch."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x) / squares(x).max().detach()


class BatchMean(fakes.Fake):
    """A BatchNorm that was left in training mode would do this."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x - 0.01 * x.mean(dim=0, keepdim=True).detach())


class BatchSize(fakes.Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x).sum() / len(x) + 0 * squares(x) if len(x) > 2 else squares(x)


@pytest.mark.parametrize("coupled", [BatchMaximum, BatchMean, BatchSize])
def test_a_score_that_depends_on_its_neighbours_is_stopped(coupled: type[fakes.Fake]) -> None:
    with pytest.raises(CellError, match=r"other images of its batch.*artefact"):
        passes(coupled)


class GlobalNoise(fakes.Fake):
    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x + 0.01 * torch.randn_like(x))


class Learning(fakes.Fake):
    """Moves towards what it scores, as a moving average does."""

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        self.level.lerp_(x.detach().mean(), 0.1)
        return squares(x) + self.level


@pytest.mark.parametrize("unsteady", [GlobalNoise, Learning])
def test_a_score_that_changes_from_call_to_call_is_stopped(unsteady: type[fakes.Fake]) -> None:
    with pytest.raises(CellError, match=r"another score at another call.*artefact"):
        passes(unsteady)


class WrongSurrogate(fakes.Fake):
    has_surrogate = True

    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return HalfDetached.value(self, x, noise)  # type: ignore[arg-type]


class SecretSurrogate(fakes.Fake):
    def _surrogate_score(self, x: Tensor, noise: Noise) -> Tensor:
        return squares(x)


def test_a_surrogate_with_a_wrong_gradient_or_that_is_kept_secret_is_stopped() -> None:
    with pytest.raises(CellError, match="surrogate's gradient is wrong by"):
        passes(WrongSurrogate)
    with pytest.raises(CellError, match="set has_surrogate = True"):
        passes(SecretSurrogate)


# -- where it stands --------------------------------------------------------------------------------------------------


def test_a_stopped_detector_has_a_reason_and_no_figure_and_the_others_go_on(
    tmp_path: Path, folder: Path, register: Register
) -> None:
    class Wrong(HalfDetached):
        name = "wrong"

    register(Wrong, fakes.Fake)
    run = fakes.config(tmp_path, folder, "wrong", "fake", categories=("bolt",))
    wrong, fake = fakes.run(run).records
    assert (wrong.status, wrong.robust, wrong.clean) == ("failed", None, None)
    assert "wrong breaks the contract" in wrong.reason and "%" in wrong.reason
    assert fake.ok


def test_evaluate_refuses_it_too(folder: Path) -> None:
    detector = HalfDetached(fakes.FakeSettings(), SIDE).fit(torch.rand(4, 3, SIDE, SIDE), seed=0)
    with pytest.raises(CellError, match="gradient is wrong"):
        bench.evaluate(detector, "folder", "bolt", data_root=folder, limit=2)
