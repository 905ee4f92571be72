"""RAE: its shrinkages are the proximal operators, and what does not belong in training images ends up in S."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_pictures import anomalous_pictures, normal_pictures
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from detectors import registry
from detectors.errors import DetectorError
from detectors.rae import RAE, shrink_rows, soft_threshold

TRAIN = normal_pictures(48, 32, seed=1)
TEST = normal_pictures(16, 32, seed=2)
TRAINING = {"epochs": 60, "patience": 60, "round_epochs": 10}


def rae(**settings: object) -> RAE:
    detector = registry.create("rae", image_size=32, **settings)
    assert isinstance(detector, RAE)
    return detector


def planted(images: Tensor) -> tuple[Tensor, Tensor]:
    """Every 25th pixel or so (all its channels) turned white or black: the images, and where."""
    draws = torch.Generator().manual_seed(7)
    drawn = torch.rand(len(images), 1, *images.shape[-2:], generator=draws)
    where = (drawn < 0.04).expand_as(images)
    return torch.where(where, (drawn < 0.02).to(images.dtype), images), where


@pytest.fixture(scope="module")
def spotted() -> tuple[RAE, Tensor, Tensor]:
    """RAE fitted on images with planted outliers, the images, and where the outliers are."""
    images, where = planted(TRAIN)
    return rae(sparsity=0.15, **TRAINING).fit(images, seed=0), images, where


@pytest.mark.parametrize("threshold", [0.1, 0.7])
def test_soft_threshold_minimises_its_objective(threshold: float) -> None:
    residual = torch.tensor([-2.0, -0.7, -0.3, 0.0, 0.05, 0.4, 1.5], dtype=torch.float64)
    expected = [
        minimize_scalar(
            lambda s, r=r: 0.5 * (s - r) ** 2 + threshold * abs(s),
            bounds=(-3, 3),
            method="bounded",
            options={"xatol": 1e-10},
        ).x
        for r in residual.tolist()
    ]
    np.testing.assert_allclose(soft_threshold(residual, threshold).numpy(), expected, atol=1e-6)
    # The closed form: nothing below the threshold, and the rest moved by exactly it.
    assert soft_threshold(torch.tensor([threshold / 2]), threshold).item() == 0


def test_shrink_rows_minimises_its_objective() -> None:
    residual = torch.randn(4, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    residual[0] *= 0.1  # its norm is below the threshold: the whole row goes
    threshold = 1.0

    def objective(s: np.ndarray, r: np.ndarray) -> float:
        return float(0.5 * ((s - r) ** 2).sum() + threshold * np.sqrt((s**2).sum()))

    found = shrink_rows(residual, threshold)
    assert bool((found[0] == 0).all()) and bool((found[1:].flatten(1).norm(dim=1) > 0).all())
    for row, shrunk in zip(residual.flatten(1).numpy(), found.flatten(1).numpy(), strict=True):
        best = minimize(
            objective,
            row * 0.5,
            args=(row,),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000, "maxfev": 20000},
        )
        assert objective(shrunk, row) <= best.fun + 1e-9
        np.testing.assert_allclose(shrunk, best.x, atol=1e-4)
    assert bool((shrink_rows(torch.zeros(2, 3), 1.0) == 0).all()), "a row of zeros stays one, and is not NaN"


@pytest.mark.parametrize("norm", ["l1", "l21"])
def test_held_out_objective_is_the_least_over_s(norm: str) -> None:
    detector = rae(norm=norm, sparsity=0.2)
    residual = 0.3 * torch.randn(3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def value(s: Tensor) -> Tensor:
        fit = (residual - s).square().flatten(1).mean(dim=1)
        size = s.abs().flatten(1).mean(dim=1) if norm == "l1" else s.flatten(1).square().mean(dim=1).sqrt()
        return fit + 2 * 0.2 * size

    best = detector._shrink(residual)
    claimed = detector._objective(residual).view(3, -1).mean(dim=1)
    torch.testing.assert_close(claimed, value(best))
    for seed in range(20):
        step = torch.randn(best.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert bool((value(best + 0.01 * step) > claimed).all())


def test_planted_outliers_end_up_in_s(spotted: tuple[RAE, Tensor, Tensor]) -> None:
    detector, images, where = spotted
    low, sparse = detector.decompose(images)
    torch.testing.assert_close(low + sparse, images)
    found = sparse != 0
    visible = where & ((images - TRAIN).abs() > 0.35)
    assert float(found[visible].float().mean()) > 0.95, "outliers were missed"
    assert float(where[found].float().mean()) > 0.95, "ordinary pixels were taken for outliers"
    # And in the fit itself: S shrinks to about the share that was planted, once the stripes have been learned.
    shares = [row["nonzero"] for row in detector.fit_report["rounds"]]
    assert shares[-1] == pytest.approx(float(where.float().mean()), rel=0.2)


def test_it_learns_more_of_spotted_images_than_the_autoencoder(spotted: tuple[RAE, Tensor, Tensor]) -> None:
    detector, images, _ = spotted
    plain = registry.create("ae", image_size=32, epochs=60, patience=60).fit(images, seed=0)
    assert float(detector.score(TEST).mean()) < 0.9 * float(plain.score(TEST).mean())


def test_l21_takes_out_whole_images() -> None:
    images = torch.cat([TRAIN, anomalous_pictures(4, 32, seed=5)])
    detector = rae(norm="l21", sparsity=0.05, **TRAINING).fit(images, seed=0)
    _, sparse = detector.decompose(images)
    taken = sparse.flatten(1).abs().amax(dim=1) > 0
    assert not bool(taken[: len(TRAIN)].any()) and bool(taken[len(TRAIN) :].all()), taken.nonzero().flatten().tolist()


def test_with_nothing_sparse_enough_it_is_the_autoencoder() -> None:
    schedule = {"epochs": 6, "patience": 6}
    robust = rae(sparsity=10.0, round_epochs=2, **schedule).fit(TRAIN, seed=0)
    plain = registry.create("ae", image_size=32, **schedule).fit(TRAIN, seed=0)
    assert torch.equal(robust.score(TEST), plain.score(TEST))
    assert [row["nonzero"] for row in robust.fit_report["rounds"]] == [0.0, 0.0, 0.0]


def test_report_tells_every_round(spotted: tuple[RAE, Tensor, Tensor]) -> None:
    report = spotted[0].fit_report
    assert [row["epoch"] for row in report["rounds"]] == [10, 20, 30, 40, 50, report["best_epoch"] + 1]
    assert report["rounds"][-1]["change"] < report["rounds"][0]["change"], "S does not settle"
    assert report["rounds"][-1]["loss"] < report["rounds"][0]["loss"]


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"norm": "l2"}, {"sparsity": 0.0}, {"round_epochs": 0}):
        with pytest.raises(DetectorError, match=next(iter(wrong))):
            rae(**wrong)
