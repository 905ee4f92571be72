"""FAB: the distance to a threshold, against closed forms and exact solvers; and the projection that it stands on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from attack_fakes import (
    Detached,
    Fake,
    Flat,
    Linear,
    NaNWhereDark,
    PureNoise,
    Saturated,
    Wavy,
    images,
    labels,
    saturated_images,
    source,
)
from scipy.optimize import linprog, minimize
from torch import Tensor

from attacks import AttackError, ThreatModelError
from attacks.errors import GradientCutError
from attacks.fab import FAB, Distances, FABSettings
from attacks.hyperplane import nearest_on_plane, time_to_plane

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
SHORT = FABSettings(iterations=20, starts=1)


def length(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).abs().amax(dim=1) if norm == "linf" else change.flatten(1).norm(dim=1)


def by_a_solver(x: Tensor, normal: Tensor, need: float, norm: str) -> float | None:
    """The distance from x to the hyperplane within [0, 1]; None where they do not meet."""
    start, w, count = x.flatten().numpy(), normal.flatten().numpy(), x.numel()
    if norm == "linf":  # least t with -t <= z - x <= t
        eye, ones = np.eye(count), np.ones((count, 1))
        found = linprog(
            np.r_[np.zeros(count), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.r_[start, -start],
            A_eq=np.r_[w, 0][None],
            b_eq=[need + w @ start],
            bounds=[(0, 1)] * count + [(0, None)],
        )
        return None if found.x is None else float(found.fun)
    found = minimize(
        lambda z: ((z - start) ** 2).sum(),
        start,
        jac=lambda z: 2 * (z - start),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda z: w @ (z - start) - need, "jac": lambda z: w},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return math.sqrt(found.fun) if found.success else None


# -- the projection ---------------------------------------------------------------------------------------------------


@NORMS
@pytest.mark.parametrize("is_narrow", [False, True], ids=["free", "many pixels at the border"])
def test_the_nearest_point_of_a_hyperplane_is_a_solvers(norm: str, is_narrow: bool) -> None:
    draws = torch.Generator().manual_seed(0)
    compared = 0
    for number in range(25):
        x = torch.rand(1, 3, 2, 3, generator=draws, dtype=torch.float64)
        if is_narrow:
            x = (2 * x - 0.5).clamp(0, 1)
        normal = torch.randn(1, 3, 2, 3, generator=draws, dtype=torch.float64)
        most = torch.where(normal > 0, 1 - x, -x).mul(normal).sum()
        need = float(most * (number + 1) / 26) * (1 if number % 2 else -0.3)
        exact = by_a_solver(x, normal, need, norm)
        if exact is None:
            continue
        compared += 1
        found = nearest_on_plane(x, normal, torch.tensor([need], dtype=torch.float64), norm)
        assert float(found.min()) >= 0 and float(found.max()) <= 1
        assert float((normal * (found - x)).sum()) == pytest.approx(need, rel=1e-10)
        assert float(length(found - x, norm)) == pytest.approx(exact, rel=1e-5)
    assert compared >= 20


@NORMS
def test_a_hyperplane_that_misses_the_range_leads_to_its_nearest_corner(norm: str) -> None:
    x, normal = images(2).double(), Linear().weight.double().expand(2, -1, -1, -1)
    found = nearest_on_plane(x, normal, torch.tensor([1e4, -1e4], dtype=torch.float64), norm)
    assert torch.equal(found, torch.stack([(normal[0] > 0).double(), (normal[1] < 0).double()]))


@NORMS
def test_no_normal_no_need_and_no_number_move_nothing(norm: str) -> None:
    x, normal = images(3), Linear().weight.detach().expand(3, -1, -1, -1).clone()
    normal[0] = 0
    found = nearest_on_plane(x, normal, torch.tensor([1.0, 0.0, math.nan]), norm)
    assert torch.equal(found, x)


@NORMS
def test_a_tiny_gradient_leads_to_the_same_plane(norm: str) -> None:
    x, normal = images(2), Linear().weight.detach().expand(2, -1, -1, -1)
    need = torch.tensor([0.3, -2.0])
    plain = nearest_on_plane(x, normal, need, norm)
    assert torch.allclose(nearest_on_plane(x, normal * 1e-25, need.double() * 1e-25, norm), plain, atol=1e-6)


@NORMS
def test_a_path_wins_what_is_asked_for_and_its_neighbours_change_no_bit(norm: str) -> None:
    x, normal = saturated_images(5), torch.stack([Linear(seed).weight.detach() for seed in range(5)])
    need = torch.tensor([0.1, 3.0, -5.0, 1e5, 20.0])
    path, t = time_to_plane(x, normal, need, norm)
    for i in range(5):
        alone, own = time_to_plane(x[i : i + 1], normal[i : i + 1], need[i : i + 1], norm)
        assert torch.equal(own[0], t[i]) and torch.equal(alone.at(own)[0], path.at(t)[i])


# -- linear scores: closed forms --------------------------------------------------------------------------------------


def on_a_line(norm: str, x: Tensor, threshold: float, settings: FABSettings = SHORT) -> tuple[Distances, Tensor]:
    """What FAB finds of a linear score, and the exact distances."""
    detector, y = Linear(), labels(len(x))
    found = FAB(norm, settings).run(detector, x, y, threshold, noise=source(len(x)))
    scores = detector.score(x).detach()
    wrong = torch.where(y > 0, scores > threshold, scores <= threshold)
    assert torch.equal(found.was_wrong, wrong) and 0 < int(wrong.sum()) < len(x)
    normal = detector.weight.detach().double().expand(len(x), -1, -1, -1)
    exact = [
        0.0 if w else by_a_solver(i[None].double(), n[None], threshold - float(s), norm)
        for i, n, s, w in zip(x, normal, scores, wrong.tolist(), strict=True)
    ]
    return found, torch.tensor(exact, dtype=torch.float64)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_far_from_the_border_the_distance_is_the_scores_over_the_dual_norm(norm: str, dual: int) -> None:
    x = images(6, low=0.3, high=0.7)
    found, _ = on_a_line(norm, x, 2.0)
    weight = Linear().weight.detach()
    exact = (Linear().score(x).detach() - 2.0).abs() / torch.linalg.vector_norm(weight.flatten(), ord=dual)
    right = ~found.was_wrong
    assert torch.allclose(found.distance[right], exact[right], rtol=5e-4)
    assert bool((found.distance[right] >= exact[right] * (1 - 1e-5)).all())


@NORMS
def test_at_the_border_of_the_range_the_distance_is_a_solvers(norm: str) -> None:
    found, exact = on_a_line(norm, saturated_images(6), 3.0)
    assert torch.allclose(found.distance.double(), exact, rtol=5e-4)


@NORMS
def test_an_image_that_is_wrong_already_has_the_distance_0_and_is_its_own_witness(norm: str) -> None:
    x = images(6, low=0.3, high=0.7)
    found, _ = on_a_line(norm, x, 2.0)
    wrong = found.was_wrong
    assert torch.equal(found.distance == 0, wrong) and torch.equal(found.images[wrong], x[wrong])
    assert bool(found.zero_gradients[wrong].isnan().all()) and not bool(found.zero_gradients[~wrong].isnan().any())


def test_at_the_threshold_itself_a_normal_is_right_and_an_anomaly_wrong() -> None:
    """An image is called anomalous where its score is GREATER, as `bench score` and the verdict have it."""
    x = images(1)
    at_it = float(Linear().score(x))
    wrong = [bool(FAB("linf", SHORT).run(Linear(), x, torch.tensor([y]), at_it).was_wrong) for y in (1, -1)]
    assert wrong == [False, True]


# -- scores that are not linear ---------------------------------------------------------------------------------------


class Sphere(Fake):
    """A(x) = |x - 1/2|^2: in l2 the distance to a threshold h is the difference of the radii."""

    def _score(self, x: Tensor, noise: object) -> Tensor:
        return (x - 0.5).square().flatten(1).sum(1)


def test_a_quadratic_score_has_the_distance_between_two_spheres() -> None:
    x, y = images(6, low=0.3, high=0.7), labels(6)
    radii = Sphere().score(x).sqrt()
    threshold = float(radii.median()) ** 2
    found = FAB("l2", SHORT).run(Sphere(), x, y, threshold, noise=source(6))
    exact = torch.where(found.was_wrong, 0.0, (radii - threshold**0.5).abs())
    assert 0 < int(found.was_wrong.sum()) < 6
    assert torch.allclose(found.distance, exact, rtol=1e-3, atol=1e-5)


def test_a_quadratic_score_in_l_inf_is_reached_by_an_equal_change_of_every_pixel() -> None:
    """Outwards: all pixels by t, sum (|d| + t)^2 = h. Inwards: each by t at most, sum max(|d| - t, 0)^2 = h."""
    x = images(2, low=0.3, high=0.7)
    d = (x - 0.5).abs().flatten(1).double()
    for sign, factor in ((1, 1.3), (-1, 0.7)):
        y, threshold = torch.tensor([sign, sign]), float(d.square().sum(1).mean() * factor)
        found = FAB("linf", FABSettings(starts=1)).run(Sphere(), x, y, threshold, noise=source(2))
        for i in range(2):
            t = float(found.distance[i])
            reached = [(d[i] + sign * s).clamp_min(0).square().sum() for s in (t * 0.98, t * 1.001)]
            assert min(reached) <= threshold <= max(reached), (sign, t)


@NORMS
def test_every_distance_has_a_witness_and_bounds_what_a_longer_search_finds(norm: str) -> None:
    x, y, detector = images(8), labels(8), Wavy()
    threshold = float(detector.score(x).median())
    few, many = (
        FAB(norm, FABSettings(iterations=n, starts=s)).run(detector, x, y, threshold, noise=source(8))
        for n, s in ((5, 1), (60, 3))
    )
    for found in (few, many):
        assert bool(found.distance.isfinite().all())
        scores = detector.score(found.images)
        assert bool(torch.where(y > 0, scores > threshold, scores <= threshold).all())
        assert torch.allclose(length(found.images - x, norm), found.distance)
        assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    assert float(many.distance.mean()) <= float(few.distance.mean()) * 1.01


def test_a_distance_is_at_most_that_of_any_attack_in_a_ball() -> None:
    """PGD that flips the decision in a ball of radius r bounds the distance by r, and FAB finds that much."""
    from attacks import PGD, LInf
    from attacks.pgd import PGDSettings

    x, detector = images(12), Wavy()
    y, threshold = labels(12), float(detector.score(x).median())
    found = FAB("linf").run(detector, x, y, threshold, noise=source(12))
    for radius in (0.002, 0.005, 0.01):
        scores = detector.score(PGD(LInf(radius), PGDSettings(steps=40))(detector, x, y, noise=source(12)))
        flipped = torch.where(y > 0, scores > threshold, scores <= threshold)
        assert bool((found.distance[flipped] <= radius + 1e-6).all())


class Peak(Fake):
    """The largest brightness of a pixel: its gradient is one pixel's, and all the bright ones have to be lowered."""

    def _score(self, x: Tensor, noise: object) -> Tensor:
        return x.mean(dim=1).flatten(1).amax(dim=1)


@NORMS
def test_a_maximum_of_many_slopes_is_lowered_one_by_one(norm: str) -> None:
    """With the paper's pull towards the clean image, which undoes other steps, no flip is found."""
    x = images(4, low=0.4, high=0.8)
    threshold = 0.57
    found = FAB(norm, FABSettings(starts=1)).run(Peak(), x, -torch.ones(4), threshold, noise=source(4))
    beyond = (x.mean(dim=1) - threshold).clamp_min(0).flatten(1)  # (B, pixels)
    exact = beyond.amax(dim=1) if norm == "linf" else (3 * beyond.square().sum(dim=1)).sqrt()
    assert int((beyond > 0).sum(dim=1).min()) > 20, "each image has so many of them"
    assert bool((found.distance >= exact * (1 - 1e-4)).all())
    assert bool((found.distance <= exact * 1.01).all()), found.distance / exact


@NORMS
def test_a_flat_score_is_not_found(norm: str) -> None:
    x = images(2)
    found = FAB(norm, SHORT).run(Flat(), x, torch.tensor([1, -1]), 2.0, noise=source(2))
    assert found.distance.tolist() == [math.inf, 0.0] and found.zero_gradients[0] == 1
    assert not bool(found.was_wrong[0]) and bool(found.was_wrong[1])


def test_a_threshold_that_no_image_reaches_is_not_found_and_the_nearest_image_is_shown() -> None:
    x, detector = images(2), Linear()
    found = FAB("linf", SHORT).run(detector, x, torch.tensor([1, 1]), 1e5, noise=source(2))
    assert found.distance.tolist() == [math.inf, math.inf]
    highest = detector.weight.clamp_min(0).sum()
    assert torch.allclose(found.loss, highest, rtol=1e-4) and torch.allclose(detector.score(found.images), highest)


# -- neighbours, noise, gradients that are no numbers, surrogates -----------------------------------------------------


@NORMS
def test_an_images_distance_is_its_own(norm: str) -> None:
    x, y, detector = images(6), labels(6), Wavy()
    threshold = float(detector.score(x).median())
    settings = FABSettings(iterations=10, starts=2)
    together = FAB(norm, settings).run(detector, x, y, threshold, noise=source(6))
    for i in range(6):
        alone = FAB(norm, settings).run(
            detector, x[i : i + 1], y[i : i + 1], threshold, noise=source(6).pick(slice(i, i + 1))
        )
        assert torch.allclose(alone.distance[0], together.distance[i], rtol=1e-3, atol=1e-6)


def test_the_same_call_gives_the_same_bits_and_leaves_the_images_alone() -> None:
    x, y, detector = images(4), labels(4), Wavy()
    before = x.clone()
    with torch.no_grad():
        first, second = (
            FAB("linf", SHORT).run(detector, x, y, float(detector.score(x).median()), noise=source(4)) for _ in range(2)
        )
    assert torch.equal(x, before)
    for field in dataclasses.fields(Distances):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert one == other if isinstance(one, int) else torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def test_gradients_that_are_no_numbers_cost_their_entries_alone_and_are_counted() -> None:
    x = images(2, low=0.3, high=0.7)
    x[:, 2, -1, -1] = torch.tensor([0.3, 0.7])  # dark, bright
    x[:, 0, 0, 0] = 0.0
    detector = NaNWhereDark()
    threshold = float(detector.score(x).max()) + 5
    found = FAB("linf", SHORT).run(detector, x, torch.ones(2), threshold, noise=source(2))
    assert bool(found.distance.isfinite().all())
    assert found.non_finite_gradients[0] > 0 and found.non_finite_gradients[1] == 0


class Squashed(Saturated):
    """Its surrogate is an increasing function of the score, and goes on where that is 0 or 1."""

    surrogate_is_monotone = True

    def _score(self, x: Tensor, noise: object) -> Tensor:
        return torch.sigmoid(1e3 * Linear._score(self, x, noise))  # type: ignore[arg-type]


def test_a_monotone_surrogate_is_followed_and_the_score_decides() -> None:
    x, y = images(4, low=0.3, high=0.7), torch.tensor([1, 1, -1, -1])
    found = FAB("l2", SHORT).run(Squashed(), x, y, 0.5, surrogate_threshold=0.0, noise=source(4))
    level = Linear().score(x)
    exact = torch.where(found.was_wrong, 0.0, level.abs() / Linear().weight.norm())
    assert torch.allclose(found.distance, exact, rtol=5e-3, atol=1e-6) and bool((exact > 0).any())
    alone = FAB("l2", dataclasses.replace(SHORT, differentiate="score")).run(Squashed(), x, y, 0.5, noise=source(4))
    assert bool((alone.zero_gradients.nan_to_num(0) > 0.5).any())


def test_without_its_own_threshold_a_monotone_surrogate_is_a_sentence() -> None:
    with pytest.raises(AttackError, match="pass surrogate_threshold"):
        FAB("linf", SHORT).run(Squashed(), images(2), labels(2), 0.5)


def test_any_other_surrogate_is_followed_beside_the_score() -> None:
    """A step of <w, x>: its own gradient is zero, and the surrogate's leads across it."""
    x, y = images(4), torch.tensor([1, 1, 1, 1])
    lowered = type("Lowered", (Saturated,), {"_score": lambda s, x, n: (Linear._score(s, x, n) > 4.0) + 0.0 * x.sum()})
    found = FAB("linf", SHORT).run(lowered(), x, y, 0.5, noise=source(4))
    exact = ((4.0 - Linear().score(x)) / Linear().weight.abs().sum()).clamp_min(0)
    assert bool(found.distance.isfinite().all()) and bool((found.distance >= exact - 1e-6).all())
    assert float((found.distance - exact).max()) < 0.25 * float(exact.max())


class NoisyLine(Linear):
    """<w, x> and noise that is the same for all images of a draw's stream."""

    is_stochastic = True

    def _score(self, x: Tensor, noise: object) -> Tensor:
        return super()._score(x, noise) + noise.normal((), stream="fake", like=x)  # type: ignore[arg-type, attr-defined]


def test_a_stochastic_decision_is_by_the_mean_over_fixed_draws() -> None:
    x, y = images(4, low=0.3, high=0.7), torch.tensor([1, 1, 1, 1])
    noise, detector = source(4), NoisyLine()
    threshold = float(Linear().score(x).max()) + 3
    settings = dataclasses.replace(SHORT, draws=7)
    found = FAB("l2", settings).run(detector, x, y, threshold, noise=noise)
    mean = torch.stack([detector.score(x, noise=noise.sub(0, draw)) for draw in range(7)]).mean(0)
    assert torch.allclose(found.distance, (threshold - mean) / detector.weight.norm(), rtol=1e-3)


def test_noise_that_no_image_moves_is_no_distance() -> None:
    x = images(4)
    found = FAB("linf", SHORT).run(PureNoise(), x, torch.ones(4), 3.0, noise=source(4))
    assert bool(found.distance.isinf().all())


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iterations": 0}, "at least 1"),
        ({"starts": 0}, "at least 1"),
        ({"draws": 0}, "at least 1"),
        ({"polishes": -1}, "0 or more"),
        ({"beta": 1.5}, "share from 0 to 1"),
        ({"alpha_max": math.nan}, "share from 0 to 1"),
        ({"eta": 0.9}, "eta of at least 1"),
        ({"reach": 0.0}, "reach in"),
        ({"differentiate": "map"}, "FAB follows one of"),
    ],
)
def test_settings_that_make_no_sense_are_sentences(changes: dict[str, object], words: str) -> None:
    with pytest.raises(AttackError, match=words):
        FABSettings(**changes)  # type: ignore[arg-type]


def test_bad_input_is_a_sentence() -> None:
    fab, x, y = FAB("linf", SHORT), images(2), labels(2)
    with pytest.raises(ThreatModelError, match="no norm"):
        FAB("l1")
    with pytest.raises(AttackError, match=r"in \[0, 1\]"):
        fab.run(Linear(), x + 1, y, 0.0)
    with pytest.raises(AttackError, match=r"\+1"):
        fab.run(Linear(), x, torch.zeros(2), 0.0)
    for threshold in (math.nan, math.inf):
        with pytest.raises(AttackError, match="finite score"):
            fab.run(Linear(), x, y, threshold)
    with pytest.raises(AttackError, match="noise source"):
        fab.run(Linear(), x, y, 0.0, noise=source(3))
    with pytest.raises(GradientCutError):
        fab.run(Detached(), x, torch.ones(2), 1e4)
