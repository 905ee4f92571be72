"""Draws of noise: enough of them in a verdict, and a sign that an attack averaged too few."""

from __future__ import annotations

from dataclasses import replace

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from fake_records import make_record
from torch import Tensor

import attacks
from bench.cell import more_draws as module
from bench.cell.attack import Draws
from bench.cell.verdict import MOST_DRAWS, NOISE_SHARE, Judge, is_settled
from bench.metrics import intervals
from bench.report.caveats import failure_flags
from detectors.base import Detector
from detectors.noise import Noise, NoiseSeed

CPU = torch.device("cpu")
SIDE = 16


class Drowned(fakes.Noisy):
    """<w + 9 z, x>: its useful slope drowns in a random one."""

    name = "drowned"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        w = fakes.linear_weights(SIDE).to(x)
        return ((w + 9 * noise.normal(x.shape[1:], stream="slope", like=x)) * (x - 0.5)).sum(dim=(1, 2, 3))


class Steady(fakes.Noisy):
    """The same slope under all noise."""

    name = "steady"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        w = fakes.linear_weights(SIDE).to(x)
        return (w * x).sum(dim=(1, 2, 3)) + noise.normal((), stream="offset", like=x)


def more(detector: Detector, **settings: object) -> module.FoundMore | None:
    test = fakes.image_set(8, 8, side=SIDE)
    attack = attacks.get("pgd-linf", epsilon=0.05, image_size=SIDE, **settings)
    found = attack.run(detector, test.pixels(), test.labels, noise=NoiseSeed(0).source("attack", test.ids))
    return module.more_draws(detector, attack, test, found.images, 0, CPU)


def test_an_attack_that_averages_too_little_noise_is_told_so() -> None:
    found = more(fakes.fitted(Drowned, SIDE), steps=3, keep="last")
    assert found is not None and found.speaks
    assert found.gain > 0.2 and found.standard_errors > 3 and found.images == 6


def test_one_whose_gradient_has_no_noise_is_not() -> None:
    found = more(fakes.fitted(Steady, SIDE), steps=10, keep="last")
    assert found is not None and not found.speaks and found.gain == pytest.approx(0, abs=1e-3)
    pure = more(fakes.fitted(fakes.PureNoise, SIDE), steps=3)
    assert pure is not None and not pure.speaks


def test_a_deterministic_detector_has_no_draws_to_compare() -> None:
    assert more(fakes.fitted(fakes.Fake, SIDE), steps=3) is None


def test_the_few_images_are_of_both_classes_and_spread_over_the_set() -> None:
    assert module.few(fakes.image_set(9, 6)) == [1, 4, 7, 10, 12, 14]
    assert module.few(fakes.image_set(1, 2)) == [0, 1, 2]


def test_the_comparison_uses_noise_that_neither_attack_nor_verdict_has() -> None:
    fakes.PureNoise.sources.clear()
    more(fakes.fitted(fakes.PureNoise, SIDE), steps=3)
    used = {source.key for source in fakes.PureNoise.sources[-16 * 3 :]}
    root = NoiseSeed(0)
    known = {root.source(purpose, ["a"]).key for purpose in ("attack", "selection", "verdict")}
    assert used == {root.source("more-draws-verdict", ["a"]).key} and not used & known


def test_the_flag_says_how_much_more_was_found() -> None:
    record = make_record()
    told = {"factor": 4, "images": 6, "gain_share": 0.31, "standard_errors": 5.0, "speaks": True}
    (flag,) = failure_flags(replace(record, indicators={"more_draws": told}))
    assert "4 times as many" in flag and "31 % more on 6 images" in flag
    assert failure_flags(replace(record, indicators={"more_draws": told | {"speaks": False}})) == []


# -- the verdict ------------------------------------------------------------------------------------------------------


def judge(detector: Detector, verdict: int = 10) -> Judge:
    return Judge(detector, Draws(verdict, 0), 20, CPU)


def test_a_verdict_takes_more_draws_while_their_noise_is_more_than_its_share_of_the_interval() -> None:
    test = fakes.image_set(40, 40, side=SIDE)
    labels = test.labels.numpy().astype(np.int64)

    class Widely(fakes.Noisy):
        """All images of a draw share half of the noise of their class: the AUC of a draw is anywhere."""

        name = "widely"

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            shift = torch.tensor(float(np.random.default_rng(noise.draw[0]).normal(0, 2)))
            anomalous = torch.tensor([int(i[5:8]) >= 40 for i in noise.image_ids])
            return noise.normal((), stream="own", like=x) + shift * anomalous

    clean, robust = judge(fakes.fitted(Widely, SIDE)).both(test, test.pixels())
    assert clean.shape == robust.shape and len(clean) > 10
    first = intervals.summary(clean[:10], labels)
    assert first["sd"] / 10**0.5 > NOISE_SHARE * (first["high"] - first["low"]) / 2
    assert len(clean) <= MOST_DRAWS * 10 and len(clean) % 10 == 0
    settled = is_settled([clean, robust], labels)
    assert settled or len(clean) == MOST_DRAWS * 10
    again, _ = judge(fakes.fitted(Widely, SIDE)).both(test, test.pixels())
    np.testing.assert_array_equal(clean, again)


def test_a_quiet_verdict_takes_the_protocols_draws_and_a_deterministic_one_a_single() -> None:
    test = fakes.image_set(6, 6, side=SIDE)
    clean, robust = judge(fakes.fitted(Steady, SIDE), verdict=4).both(test, test.pixels())
    assert clean.shape == robust.shape == (4, 12)
    assert judge(fakes.fitted(fakes.Fake, SIDE)).both(test, test.pixels())[0].shape == (1, 12)


def test_images_that_no_attack_has_changed_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    test, detector = fakes.image_set(6, 6, side=SIDE), fakes.fitted(Steady, SIDE)
    scored: list[int] = []
    usual = detector.score

    def counted(x: Tensor, *, noise: Noise | None = None) -> Tensor:
        scored.append(len(x))
        return usual(x, noise=noise)

    monkeypatch.setattr(detector, "score", counted)
    at = judge(detector, verdict=4)
    clean, robust = at.both(test, test.pixels())
    once = sum(scored)
    one_off = test.pixels()
    one_off[-1] = 1 - one_off[-1]
    other_clean, other_robust = at.both(test, one_off)
    np.testing.assert_array_equal(clean, robust)
    np.testing.assert_array_equal(clean, other_clean)
    np.testing.assert_array_equal(clean[:, :-1], other_robust[:, :-1])
    assert (clean[:, -1] != other_robust[:, -1]).all()
    assert once == 4 * 12 and sum(scored) == 3 * once


def test_more_draws_that_find_something_where_the_attack_found_nothing_are_flagged() -> None:
    """The weakest attack of all must not be the one that nothing is said of."""
    found = module.FoundMore(4, images=6, gain=None, standard_errors=5.0)
    assert found.speaks and found.describe()["gain_share"] is None
    assert not module.FoundMore(4, images=6, gain=None, standard_errors=1.0).speaks
    (flag,) = failure_flags(replace(make_record(), indicators={"more_draws": found.describe()}))
    assert "4 times as many the attack gained something, and with these nothing, on 6 images" in flag


def test_an_attack_in_the_wrong_direction_leaves_no_gain_to_take_a_share_of() -> None:
    test, detector = fakes.image_set(8, 8, side=SIDE), fakes.fitted(Drowned, SIDE)
    attack = attacks.get("pgd-linf", epsilon=0.05, image_size=SIDE, steps=3, keep="last")
    w = fakes.linear_weights(SIDE)
    backwards = (test.pixels() - 0.05 * test.labels[:, None, None, None] * w.sign()).clamp(0, 1)
    found = module.more_draws(detector, attack, test, backwards, 0, CPU)
    assert found is not None and found.gain is None and found.speaks


def test_few_images_at_a_time_change_nothing() -> None:
    test, detector = fakes.image_set(8, 8, side=SIDE), fakes.fitted(Drowned, SIDE)
    attack = attacks.get("pgd-linf", epsilon=0.05, image_size=SIDE, steps=3, keep="last")
    whole, parts = (
        module.more_draws(detector, attack, test, test.pixels(), 0, CPU, batch_size=size) for size in (6, 2)
    )
    assert whole is not None and parts is not None
    assert parts.standard_errors == pytest.approx(whole.standard_errors, rel=1e-3)


class Plateau(fakes.Noisy):
    """The largest value of a map, of which half of the pixels lie a little lower and know another direction.

    Its smooth maximum leads where the plateau goes; the score itself hangs on one pixel.
    """

    name = "plateau"
    has_map = score_is_map_maximum = True

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return self._heights(x, noise)[0]

    def _heights(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(3)
        way = (torch.randint(0, 2, (3, SIDE, SIDE), generator=draws) * 2 - 1).to(x)
        other = torch.where(torch.rand(way.shape, generator=draws) < 0.4, -way, way)
        peak = 10 + (x * way).mean(dim=(1, 2, 3)) + 0.002 * noise.normal((), stream="peak", like=x)
        return peak, 9 + torch.tanh((x * other).mean(dim=(1, 2, 3)))

    def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
        peak, plateau = self._heights(x, noise)
        half = SIDE * SIDE // 2
        parts = [peak[:, None], plateau[:, None].expand(-1, half - 1), torch.full((len(x), half), 2.0).to(x)]
        return torch.cat(parts, dim=1).view(-1, SIDE, SIDE)


def test_a_smooth_maximum_that_leads_elsewhere_is_found_out_by_the_scores_own_gradient() -> None:
    """It keeps the contract, and along its map alone it would look robust."""
    settings = {"steps": 8, "eot": 2, "momentum": 0.9, "schedule": "cosine"}
    test, detector = fakes.image_set(8, 8, side=SIDE), fakes.fitted(Plateau, SIDE)
    for smooth, is_there in ((True, True), (False, False)):
        attack = attacks.get("pgd-linf", epsilon=2 / 255, image_size=SIDE, smooth_map=smooth, **settings)
        found = attack.run(detector, test.pixels(), test.labels, noise=NoiseSeed(0).source("attack", test.ids))
        own = module.own_gradient(detector, attack, test, found.images, 0, CPU)
        assert (own is not None) is is_there
        if own is not None:
            assert own.speaks and own.gain is not None and own.gain > 0.5
            record = replace(make_record(), indicators={"own_gradient": own.describe()})
            (flag,) = failure_flags(record)
            assert flag.startswith("along the score's own gradient the attack gained")


def test_a_smooth_maximum_that_leads_to_the_same_place_is_not() -> None:
    class Flat(Plateau):
        """All pixels know one direction."""

        def _anomaly_map(self, x: Tensor, noise: Noise) -> Tensor:
            peak, _ = self._heights(x, noise)
            return torch.cat([peak[:, None], peak[:, None].expand(-1, SIDE * SIDE - 1) - 0.1], 1).view(-1, SIDE, SIDE)

    attack = attacks.get("pgd-linf", epsilon=2 / 255, image_size=SIDE, smooth_map=True, steps=8, momentum=0.9)
    test, detector = fakes.image_set(8, 8, side=SIDE), fakes.fitted(Flat, SIDE)
    found = attack.run(detector, test.pixels(), test.labels, noise=NoiseSeed(0).source("attack", test.ids))
    own = module.own_gradient(detector, attack, test, found.images, 0, CPU)
    assert own is not None and not own.speaks
