"""`--p auto`: the percentile that tells held-out normals best from painted copies, as far as it can be shown."""

from __future__ import annotations

import bench_fakes as fakes
import numpy as np
import pytest
import torch

from bench.cell.choose_percentile import choose, painted_copies
from bench.errors import BenchError
from bench.plan.certify import CANDIDATES, CertifyConfig
from certificates.rules import Percentile

SIGMA = 0.1
DRAWS = np.random.default_rng(0)


def asked(samples: int = 10_000, radii: tuple[float, ...] = (0.0, 0.02, 0.05)) -> CertifyConfig:
    return CertifyConfig(sigmas=(SIGMA,), samples=samples, radii=radii)


def samples_of(often: float, seldom: float, share: float, count: int = 1000, images: int = 20) -> np.ndarray:
    """Sorted scores that lie about one place, and with this probability about another."""
    away = DRAWS.random((images, count)) < share
    return np.sort(np.where(away, seldom, often) + 0.1 * DRAWS.normal(size=away.shape), axis=1)


def test_a_defect_that_shows_on_three_of_ten_samples_is_seen_by_a_high_percentile() -> None:
    """The median sees normals and defects alike; at half a sigma even the 75th percentile is not certain of the 70th,
    below which they are alike, and the 90th is (Phi(1.28 - 0.5) = 0.78)."""
    found = choose(samples_of(0, 0, 0), samples_of(0, 5, 0.3), asked(), sigma=SIGMA, images=120)
    table = {row["p"]: row["mean_certified_auc"] for row in found["table"]}
    assert found["chosen"] == 0.9
    assert table[0.9] > 99 and table[0.5] < 60
    assert found["samples"] == 1000


def test_a_normal_that_is_seldom_far_away_is_told_by_a_low_percentile() -> None:
    found = choose(samples_of(0, 9, 0.3), samples_of(1, 1, 0), asked(), sigma=SIGMA, images=120)
    assert found["chosen"] in (0.1, 0.25)


def test_where_it_makes_no_difference_it_is_the_median() -> None:
    found = choose(samples_of(0, 0, 0), samples_of(9, 9, 0), asked(radii=(0.0,)), sigma=SIGMA, images=120)
    assert {row["mean_certified_auc"] for row in found["table"]} == {100.0} and found["chosen"] == CANDIDATES[0] == 0.5


def test_few_samples_show_what_all_will() -> None:
    """0.27 is 2.7 sigma, which 10,000 samples can show of the median and of no other; 1,000 of them at their own risk
    could not."""
    normals, painted = samples_of(0, 0, 0), samples_of(9, 9, 0)
    found = choose(normals, painted, asked(radii=(0.0, 0.27)), sigma=SIGMA, images=120)
    table = {row["p"]: row["mean_certified_auc"] for row in found["table"]}
    assert table[0.5] == 100 and table[0.9] == table[0.1] == 50


def test_a_percentile_that_so_few_samples_cannot_show_at_all_is_not_chosen() -> None:
    few = asked(samples=100, radii=(0.0,))
    found = choose(samples_of(0, 0, 0, 100), samples_of(0, 5, 0.3, 100), few, sigma=SIGMA, images=120)
    table = {row["p"]: row["mean_certified_auc"] for row in found["table"]}
    assert table[0.9] == 0 and table[0.75] > 0
    assert few.needed(Percentile(0.9), SIGMA, 120) > 100 >= few.needed(Percentile(0.75), SIGMA, 120)


def test_painted_copies_have_names_and_defects_of_their_own() -> None:
    normals = fakes.image_set(5, 0)
    painted = painted_copies(normals, seed=0)
    assert not set(painted.ids) & set(normals.ids)
    x, copies = normals.pixels(), painted.pixels(slice(None))
    assert (copies != x).flatten(1).any(dim=1).all()
    assert torch.equal(copies, painted_copies(normals, 0).pixels(slice(0, 5)))


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_held_out_normals_are_a_sentence(count: int) -> None:
    auto = CertifyConfig(ps=("auto",))
    with pytest.raises(BenchError, match=f"there are {count}"):
        auto.check_held_out(count)
    auto.check_held_out(4)
    CertifyConfig().check_held_out(count)
