"""The log domain is the exponential one, where that one still has digits; beyond, it goes on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.errors import DetectorError
from detectors.noise import generator
from detectors.parts.likelihood import anomaly_map, check_domain, log_likelihood, log_upsample


def logs(scale: float, *sides: int) -> list[Tensor]:
    draws = generator(0, "maps")
    return [-scale * torch.rand(3, side, side, generator=draws, dtype=torch.float64) for side in sides]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("side", "size"), [(4, 32), (8, 20), (5, 5), (1, 7), (9, 4)])
def test_upsampling_equals_torchs_on_the_exponentials(side: int, size: int, align_corners: bool) -> None:
    (log,) = logs(5, side)
    expected = F.interpolate(log.exp()[:, None], size=(size, size), mode="bilinear", align_corners=align_corners)[:, 0]
    torch.testing.assert_close(log_upsample(log, size, align_corners=align_corners).exp(), expected)


@pytest.mark.parametrize("align_corners", [True, False])
def test_scales_are_summed_as_likelihoods(align_corners: bool) -> None:
    scales = logs(5, 8, 4, 2)
    expected = sum(
        F.interpolate(s.exp()[:, None], size=(16, 16), mode="bilinear", align_corners=align_corners)[:, 0]
        for s in scales
    )
    torch.testing.assert_close(log_likelihood(scales, 16, align_corners=align_corners).exp(), expected)


def test_the_sum_of_the_logarithms_would_be_another_ranking() -> None:
    """The trap that this module avoids: interpolating and averaging log-likelihoods instead of likelihoods."""
    scales = logs(20, 8, 4)
    ours = log_likelihood(scales, 16, align_corners=False).flatten()
    naive = sum(F.interpolate(s[:, None], size=(16, 16), mode="bilinear")[:, 0] for s in scales).flatten()
    assert not torch.equal(ours.argsort(), naive.argsort())


def test_it_neither_underflows_nor_loses_its_gradient() -> None:
    scales = [s.float().requires_grad_() for s in logs(1e4, 8, 4)]
    found = anomaly_map(log_likelihood(scales, 16, align_corners=False), "log").amax(dim=(1, 2))
    gradients = torch.autograd.grad(found.sum(), scales)
    assert bool(found.isfinite().all()) and float(found.min()) > 200
    total = torch.stack([g.flatten(1).sum(1) for g in gradients]).sum(0)
    torch.testing.assert_close(total, -torch.ones(3))  # log-sum-exp weights sum to one
    saturated = anomaly_map(log_likelihood(scales, 16, align_corners=False), "exp").amax(dim=(1, 2))
    assert float(saturated.abs().max()) == 0, "the saturation that the log domain is there for is gone"


def test_an_unknown_domain_is_refused() -> None:
    check_domain("x", "exp")
    with pytest.raises(DetectorError, match="score_domain"):
        check_domain("x", "sqrt")
