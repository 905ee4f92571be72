"""Exact certificates of `python -m bench certify`: who may claim a Lipschitz constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bench_fakes as fakes
import pytest
import torch
from certify_fakes import LENGTH, RADII, SIDE, Steady, made, only, shifted_auc
from conftest import Said
from torch import Tensor

from detectors.noise import Noise


def test_an_exact_certificate_needs_no_samples_and_lies_above_the_smoothed_one(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify("--linf-radii", "0,1/255", names="steady").code == 0
    exact, table = only(tmp_path / "out", "exact")
    smooth, _ = only(tmp_path / "out", "percentile")
    assert exact.claim.smoothing.constant == pytest.approx(LENGTH) and exact.claim.alpha == 0
    for row, radius in enumerate(RADII):
        assert table.upper[row] == pytest.approx(table.scores + LENGTH * radius)
        assert exact.at(radius)["auc"] == pytest.approx(shifted_auc(table.scores, table.labels, LENGTH * radius))
        assert exact.at(radius)["auc"] >= smooth.at(radius)["auc"]
    other, pixelwise = only(tmp_path / "out", "exact", "linf")
    assert other.claim.radii == [0.0, 1 / 255]
    total = float(fakes.linear_weights(SIDE).abs().sum())
    assert pixelwise.lower[1] == pytest.approx(pixelwise.scores - total / 255)


@pytest.mark.parametrize("constant", [-1.0, float("nan"), float("inf")])
def test_a_constant_that_no_score_has_is_a_sentence(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: float
) -> None:
    monkeypatch.setattr(Steady, "lipschitz", lambda self, norm: constant)
    said = certify(names="steady")
    assert said.code == 2 and "declare 0 or more, or None" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}


class Liar(fakes.Linear):
    """Says that it moves a thousand times more slowly than it does."""

    name = "liar"

    def lipschitz(self, norm: str) -> float | None:
        return {"l2": LENGTH / 1000}.get(norm)


class NearlyHonest(fakes.Linear):
    """Says so of a tenth, which two images at random do not show: only the steepest way does."""

    name = "nearly-honest"

    def lipschitz(self, norm: str) -> float | None:
        return {"l2": 0.9 * LENGTH}.get(norm)


@pytest.mark.parametrize("liar", [Liar, NearlyHonest])
def test_a_constant_that_is_a_lie_is_no_exact_certificate(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path, liar: type[fakes.Linear]
) -> None:
    register(liar)
    said = certify(names=liar.name)
    assert said.code == 2 and "certificate would be void; correct the constant" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}


def test_infinite_scores_have_no_lipschitz_constant(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(self: Steady, x: Tensor, noise: Noise) -> Tensor:
        return fakes.linear_weights(SIDE).to(x).mul(x).sum(dim=(1, 2, 3)) + torch.inf

    monkeypatch.setattr(Steady, "value", value)
    said = certify(names="steady")
    assert said.code == 2 and "are not finite, which no Lipschitz constant bounds" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} <= {"percentile"}


def test_a_random_detector_has_no_exact_certificate_whatever_it_claims(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify(names="drawing").code == 0
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}
