import numpy as np
import pytest
import torch
from attack_fakes import (
    Flat,
    Linear,
    NaNWhereDark,
    NoisyWavy,
    Saturated,
    Tent,
    Wavy,
    images,
    labels,
    optimum_of_linear,
    saturated_images,
    source,
)
from torch.utils._python_dispatch import TorchDispatchMode

from attacks import L2, PGD, LInf
from attacks.errors import AttackWarning, GradientCutError
from attacks.pgd import PGDSettings

THREATS = [LInf(2 / 255), L2(0.2)]


def pgd(threat, **settings):
    return PGD(threat, PGDSettings(**settings))


def signed_weight(detector, y):
    return y[:, None, None, None] * detector.weight.detach()


def gains(detector, x, y, threat, adversarial):
    """Of images found, and of the best there are, in float64."""
    weight = signed_weight(detector, y).double()
    clean, found = ((weight * z.double()).flatten(1).sum(1) for z in (x, adversarial))
    return found - clean, optimum_of_linear(detector, x, y, threat) - clean


# -- against exact solutions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["best", "last"])
def test_linf_finds_the_exact_optimum_of_a_linear_score_box_included(keep):
    detector, x, y = Linear(), saturated_images(20), labels(20)
    found = pgd(LInf(8 / 255), keep=keep)(detector, x, y)
    exact = (x + 8 / 255 * signed_weight(detector, y).sign()).clamp(0, 1)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_l2_finds_the_exact_optimum_of_a_linear_score_inside_the_box(keep):
    detector, x, y = Linear(), images(20, low=0.3, high=0.7), labels(20)
    direction = signed_weight(detector, y) / detector.weight.detach().norm()
    found = pgd(L2(0.5), keep=keep)(detector, x, y)
    torch.testing.assert_close(found, x + 0.5 * direction, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threat", THREATS)
def test_momentum_is_that_of_dong_et_al(threat):
    class Stochastic(Wavy):
        """Says so, and draws nothing."""

        is_stochastic = True

    detector, x, y = Stochastic(), images(6), labels(6)
    attack, expected = pgd(threat, steps=5, momentum=0.6, keep="last"), x
    direction = torch.zeros_like(x)
    for _ in range(5):
        leaf = expected.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad((y * detector.score(leaf)).sum(), leaf)
        direction = 0.6 * direction + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        expected = threat.project(expected + threat.steepest_step(direction, attack.step_size(threat)), x)
    torch.testing.assert_close(attack(detector, x, y), expected, rtol=0, atol=1e-6)


def test_a_deterministic_detector_has_no_momentum():
    x, y = images(6), labels(6)
    attack, plain = pgd(THREATS[0], steps=5, momentum=0.6), pgd(THREATS[0], steps=5)
    assert torch.equal(attack(Wavy(), x, y), plain(Wavy(), x, y))
    assert attack.settled(Wavy()).describe() == plain.settled(Wavy()).describe()
    assert attack.settled(NoisyWavy()).describe()["momentum"] == 0.6


def test_momentum_neither_loses_a_tiny_gradient_nor_lends_one():
    class Faint(Linear):
        """The first image's slope is 1e-42 of the others', the second has none."""

        is_stochastic = True  # it says so, and draws nothing

        def _score(self, x, noise):
            scale = torch.ones(len(x))
            scale[0], scale[1] = 1e-42, 0
            return super()._score(x, noise) * scale

    x, y = images(4), labels(4)
    with pytest.warns(AttackWarning, match="1 of 4 images"):
        found = pgd(LInf(0.1), momentum=0.75, keep="last")(Faint(), x, y)
    alike = pgd(LInf(0.1), keep="last")(Linear(), x, y)
    assert torch.equal(found[1], x[1]) and torch.equal(found[2:], alike[2:])
    assert ((found - x)[0].abs() > 0.05).float().mean() > 0.2  # denormal numbers: the smallest entries are lost


def test_l2_reaches_the_optimum_where_the_box_cuts_the_ball():
    detector, x, y = Linear(), saturated_images(10), labels(10)
    uncut = 3.0 * detector.weight.detach().double().norm()
    for settings, share in (({"steps": 20}, 0.98), ({"steps": 500, "step_size": 0.01}, 0.99)):
        gained, most = gains(detector, x, y, L2(3.0), pgd(L2(3.0), **settings)(detector, x, y))
        assert (most < 0.95 * uncut).all(), "the box matters here"
        assert (gained > share * most).all() and (gained <= most * (1 + 1e-5)).all()


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_normals_go_up_and_anomalies_go_down(threat):
    detector, x = Wavy(), images(10, low=0.2, high=0.8)
    for y in (1, -1):
        moved = detector.score(pgd(threat)(detector, x, torch.full((10,), y))) - detector.score(x)
        assert (y * moved > 0).all()


def test_one_step_from_the_clean_image_is_equation_3_1():
    detector, x, y = Wavy(), images(3), labels(3)
    leaf = x.clone().requires_grad_(True)
    (y * detector.score(leaf)).sum().backward()
    expected = (x + 0.01 * leaf.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(pgd(LInf(0.05), steps=1, step_size=0.01, keep="last")(detector, x, y), expected)


def test_default_step_size_can_cross_the_ball():
    attack = pgd(LInf(0.08), steps=20)
    assert attack.step_size(attack.threat) == pytest.approx(0.01)
    assert attack.describe()["step_size"] == pytest.approx(0.01)


# -- the ball ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", [Wavy(), NoisyWavy()], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("norm", [LInf, L2])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_pgd_stays_in_the_ball_and_the_box(detector, norm, keep):
    generator = np.random.default_rng(0)
    for case in range(8):
        epsilon = float(10 ** generator.uniform(-3, -0.1))
        x = saturated_images(50, seed=case)
        attack = pgd(norm(epsilon), steps=4, step_size=float(10 ** generator.uniform(-3, 1)), restarts=2, keep=keep)
        change = (attack(detector, x, labels(50), noise=source(50)).double() - x.double()).flatten(1)
        distance = change.abs().amax(1) if norm is LInf else change.norm(dim=1)
        assert (distance <= epsilon * (1 + 1e-5) + 1e-7).all()
        assert ((x + change.view_as(x) >= 0) & (x + change.view_as(x) <= 1)).all()


# -- gradients that are no use ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_no_gradient_gives_the_clean_image_no_nan_and_a_full_count(threat):
    x = images(2)
    result = pgd(threat).run(Flat(), x, labels(2))
    assert torch.equal(result.images, x)
    assert result.zero_gradients.tolist() == [1, 1]
    assert result.non_finite_gradients.tolist() == [0, 0]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_nan_gradients_are_counted_and_the_rest_of_the_gradient_is_used(threat):
    x = images(2, low=0.2, high=0.8)
    x[:, 2, -1, -1] = torch.tensor([0.9, 0.1])
    result = pgd(threat).run(NaNWhereDark(), x, torch.ones(2))
    assert result.non_finite_gradients.tolist() == [0, 1]
    assert result.zero_gradients.tolist() == [0, 0]
    assert (result.best_loss > result.clean_loss).all()
    assert result.images[1, 0, 0, 0] == x[1, 0, 0, 0]  # where the NaN was


def test_a_cut_gradient_stops_the_attack():
    class CutUnlessBright(Linear):
        def _score(self, x, noise):
            return super()._score(x.detach(), noise)

    with pytest.raises(GradientCutError):
        pgd(LInf(0.1))(CutUnlessBright(), images(2), labels(2))


def test_bpda_breaks_a_saturated_score_that_pgd_cannot():
    class Cliff(Saturated):
        """1 as soon as <w, x> has grown by 0.3 over that of the grey image, with no gradient on the way."""

        def _score(self, x, noise):
            return torch.sigmoid(1e9 * (self._surrogate_score(x - 0.5, noise) - 0.3))

    detector, x, y = Cliff(), torch.full((1, 3, 8, 8), 0.5), torch.ones(1)
    plain, bpda = (pgd(LInf(0.01), differentiate=which).run(detector, x, y) for which in ("score", "surrogate"))
    assert plain.zero_gradients.item() == 1 and detector.score(plain.images).item() == 0
    assert bpda.surrogate_zero_gradients.item() == 0 and detector.score(bpda.images).item() == 1
    assert bpda.zero_gradients.isnan().all()  # nobody looked at the score's
    assert bpda.best_loss.item() == 1  # the loss is the score's, not the surrogate's


# -- which iterate is kept --------------------------------------------------------------------------------------------


def test_best_is_better_than_last_on_a_score_that_oscillates():
    detector, x, y = Tent(), torch.full((1, 3, 8, 8), 0.47), torch.ones(1)
    settings = {"steps": 6, "step_size": 0.05}
    last, best = (pgd(LInf(0.2), keep=keep, **settings).run(detector, x, y) for keep in ("last", "best"))
    # .47 .52 .47 .52 ...: the last of the seven iterates is the clean image again.
    torch.testing.assert_close(last.images, x)
    torch.testing.assert_close(best.images, torch.full_like(x, 0.52))
    assert torch.equal(last.trace, best.trace) and last.trace.shape == (7, 1)
    torch.testing.assert_close(best.trace[:, 0], torch.tensor([-0.03, -0.02] * 3 + [-0.03]), rtol=0, atol=1e-6)
    for result in (last, best):  # the indicator "last worse than best" needs both, whichever is kept
        assert result.last_loss.item() == pytest.approx(-0.03, abs=1e-6)
        assert result.best_loss.item() == pytest.approx(-0.02, abs=1e-6)


def test_best_of_a_deterministic_detector_is_the_best_of_the_trace_and_costs_one_forward():
    detector, x, y = Wavy(), images(20), labels(20)
    result = pgd(LInf(0.3), steps=12, step_size=0.25).run(detector, x, y)
    assert torch.equal(result.best_loss, result.trace.amax(0))
    assert torch.equal(result.clean_loss, result.trace[0])
    assert torch.equal(result.last_loss, result.trace[-1])
    assert (result.forwards, result.gradients) == (13, 12)
    torch.testing.assert_close(y * detector.score(result.images), result.best_loss)
    assert (result.last_loss < result.best_loss).any()


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("threat", [LInf(0.3), L2(3.0)], ids=repr)
def test_best_is_never_worse_than_the_clean_image(random_start, threat):
    detector, x, y = Wavy(), images(20), labels(20)
    attack = pgd(threat, steps=2, step_size=5.0, random_start=random_start)
    result = attack.run(detector, x, y, noise=source(20))
    clean = y * detector.score(x)
    assert (y * detector.score(result.images) >= clean).all()
    assert torch.equal(result.clean_loss, clean)
    assert torch.equal(result.images[result.best_loss == clean], x[result.best_loss == clean])
    assert result.forwards == 3 + random_start


def test_a_last_iterate_whose_score_is_nan_is_not_replaced_by_the_clean_image():
    class BreaksAbove(Linear):
        def _score(self, x, noise):
            return super()._score(x, noise) + torch.where(x.flatten(1).amax(1) > 0.6, torch.nan, 0.0)

    x = images(2, low=0.4, high=0.5)
    last, best = (pgd(LInf(0.2), keep=keep).run(BreaksAbove(), x, labels(2)) for keep in ("last", "best"))
    assert last.last_loss.isnan().all() and not (last.images == x).flatten(1).all(1).any()
    assert not best.best_loss.isnan().any() and (best.best_loss > best.clean_loss).all()


def test_more_restarts_are_never_worse_and_the_trace_is_of_the_kept_one():
    detector, x, y = Wavy(), images(20), labels(20)
    one, four = (pgd(LInf(0.3), steps=5, restarts=r).run(detector, x, y, noise=source(20)) for r in (1, 4))
    assert (four.best_loss >= one.best_loss).all() and (four.best_loss > one.best_loss).any()
    assert four.trace.shape == (6, 20) and four.gradients == 20
    assert torch.equal(four.trace.amax(0), four.best_loss)
    last = pgd(LInf(0.3), steps=5, restarts=4, keep="last").run(detector, x, y, noise=source(20))
    assert torch.equal(last.trace[-1], last.last_loss) and (last.last_loss >= one.last_loss).all()
    torch.testing.assert_close(y * detector.score(last.images), last.last_loss)


def test_first_restart_is_as_configured_and_further_ones_are_random():
    starts = []

    class Watching(Wavy):
        def _score(self, x, noise):
            if x.requires_grad:
                starts.append(x.detach().clone())
            return super()._score(x, noise)

    x = images(2, low=0.2, high=0.8)
    pgd(LInf(0.1), steps=1, restarts=3).run(Watching(), x, labels(2), noise=source(2))
    assert torch.equal(starts[0], x)
    assert not torch.equal(starts[1], x) and not torch.equal(starts[1], starts[2])
    starts.clear()
    pgd(LInf(0.1), steps=1, random_start=True).run(Watching(), x, labels(2), noise=source(2))
    assert not torch.equal(starts[0], x)


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", [Wavy(), NoisyWavy()], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("threat", [LInf(0.1), L2(0.5)], ids=repr)
def test_nothing_is_copied_to_the_host_inside_the_loop(detector, threat):
    class Counter(TorchDispatchMode):
        syncs = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.syncs += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
            return func(*args, **(kwargs or {}))

    counts = []
    for steps in (2, 20):
        with Counter() as counter:
            pgd(threat, steps=steps, restarts=2).run(detector, images(2), labels(2))
        counts.append(counter.syncs)
    assert counts[0] == counts[1] > 0


def test_progress_counts_every_step_of_every_restart():
    told = []
    pgd(LInf(0.1), steps=3, restarts=2).run(
        Wavy(), images(1), labels(1), progress=lambda done, total, note="": told.append((done, total))
    )
    assert told == [(i, 6) for i in range(1, 7)]
