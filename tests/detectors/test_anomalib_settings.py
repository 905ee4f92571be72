"""What `anomalib:` offers and refuses before any fit, and the parts that its models share."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detector_pictures import normal_pictures

from detectors import anomalib_family, registry
from detectors.anomalib_family import FAMILY
from detectors.anomalib_family.likelihood import surprise
from detectors.base import Detector
from detectors.errors import DetectorError

SIZE = 32
installed = pytest.mark.skipif(importlib.util.find_spec("anomalib") is None, reason="the extra is not installed")


def test_without_the_extra_the_family_is_there_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.anomalib_family.find_spec", lambda name: None)
    assert FAMILY in registry.families() and FAMILY.members() == ()
    assert not any(":" in name for name in registry.names()), "a family is never part of all"
    with pytest.raises(DetectorError, match=r"anomalib is not installed; pip install 'radbench\[anomalib\]'"):
        registry.get("anomalib:patchcore")
    with pytest.raises(DetectorError, match="anomalib:winclip is refused"):
        registry.get("anomalib:winclip")


def test_a_typo_gets_the_nearest_member() -> None:
    with pytest.raises(DetectorError, match="did you mean 'anomalib:patchcore'"):
        registry.get("anomalib:patchcor")


@pytest.mark.parametrize("module", ["__init__", "fence", "refusals"])
def test_listing_the_family_does_not_import_anomalib(module: str) -> None:
    """It takes seconds: these are the modules that every command loads."""
    path = Path(str(anomalib_family.__file__)).with_name(f"{module}.py")
    assert not re.search(r"^\s*(import|from) anomalib", path.read_text(), re.MULTILINE)


@installed
@pytest.mark.parametrize(
    ("member", "settings", "said"),
    [
        ("draem", {"input_size": 40}, "multiple of 32"),
        ("ganomaly", {"input_size": 48}, "16, 32, 64"),
        ("csflow", {"input_size": 32}, "larger power of two"),
        ("cfa", {"layers": ("blocks.2",)}, "takes 3 of"),
        ("csflow", {"layers": ("blocks.3", "blocks.4")}, "takes 1 of .* got 2"),
        ("dfm", {"layers": ("blocks.3", "blocks.4")}, "takes 1 of .* got 2"),
        ("fre", {"layers": ("blocks.3", "blocks.4")}, "takes 1 of .* got 2"),
        ("fastflow", {"input_size": 100}, "multiple of 16"),
        ("uflow", {"input_size": 100}, "multiple of 16"),
        ("reverse_distillation", {"input_size": 100}, "multiple of 32"),
        ("reverse_distillation", {"input_size": 48}, "multiple of 32"),
        ("padim", {"layers": ("blocks.2", "pooled")}, "no feature maps"),
        ("dfkde", {"layers": ("pooled",)}, "no feature maps"),
        ("patchcore", {"layers": ("classifier",)}, "without its layer"),
        ("reverse_distillation", {"decoder": "vgg"}, "decoder is one of"),
        ("reverse_distillation", {"layers": ("blocks.4", "blocks.4", "blocks.4")}, "wants"),
        ("dfkde", {"backbone": "nothing"}, "timm has no model"),
    ],
)
def test_impossible_settings_are_refused_before_any_fit(member: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DetectorError, match=said):
        registry.create(f"anomalib:{member}", image_size=SIZE, **settings)


@installed
@pytest.mark.parametrize(("member", "side"), [("fastflow", 48), ("uflow", 48), ("reverse_distillation", 96)])
def test_a_size_that_is_not_refused_can_be_scored(member: str, side: int) -> None:
    detector = registry.create(f"anomalib:{member}", image_size=SIZE, input_size=side)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        score, found = detector._judge(images)
    assert score.shape == (2,) and found.shape == (2, 1, side, side)


@installed
def test_dfkde_needs_more_normals_than_it_has_components() -> None:
    def build() -> Detector:
        return registry.create("anomalib:dfkde", image_size=SIZE, components=4)

    detector, train = build(), normal_pictures(5, SIZE, seed=1)
    assert detector.min_normals == 5 and registry.create("anomalib:dfkde", image_size=SIZE).min_normals == 17
    assert bool(detector.fit(train, seed=0).score(train).isfinite().all())
    with pytest.raises(DetectorError, match="at least 5 normal training images, got 4"):
        build().fit(train[:4], seed=0)


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
def test_surprise_is_minus_the_logarithm_of_the_mean_of_interpolated_probabilities(align_corners: bool) -> None:
    draws = torch.Generator().manual_seed(0)
    logs = [3 * torch.randn(2, 1, side, side, generator=draws, dtype=torch.float64) for side in (4, 6)]
    scales = [F.interpolate(log.exp(), size=(7, 7), mode="bilinear", align_corners=align_corners) for log in logs]
    expected = -torch.stack(scales).mean(dim=0).log()
    torch.testing.assert_close(surprise(logs, 7, align_corners=align_corners), expected)


def test_surprise_keeps_its_gradient_where_probabilities_underflow() -> None:
    logs = (torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 1e4).requires_grad_()
    found = surprise([logs, 2 * logs], 8)
    assert torch.equal((logs.exp() == 0), torch.ones_like(logs, dtype=torch.bool)), "the trap this test is about"
    (gradient,) = torch.autograd.grad(found.amax(), logs)
    assert bool(found.isfinite().all()) and float(gradient.abs().sum()) == pytest.approx(1.0, rel=1e-4)
    assert float(surprise([torch.zeros(1, 1, 2, 2)] * 3, 4).abs().max()) < 1e-6
