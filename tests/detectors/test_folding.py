"""Backbones made faster: the same outputs and the same gradients as timm's own network, at odd and even sides."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from detectors.noise import generator
from detectors.parts.backbone import POOLED, Backbone, _random_state, features
from detectors.parts.folding import simplified

LITE0, LAYERS = "tf_efficientnet_lite0", ("blocks.1", "blocks.2", "blocks.4")


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """timm's network with weights that make folding matter."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(LITE0, pretrained=False).eval()
    state = _random_state(network.state_dict(), generator(3, "simplified"))
    for key, value in state.items():
        draws = torch.Generator().manual_seed(len(key))
        if key.endswith("running_mean"):
            value.uniform_(-0.5, 0.5, generator=draws)
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=draws)
    network.load_state_dict(state)
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def fast(plain: nn.Module) -> nn.Module:
    network, mirrored = simplified(copy.deepcopy(plain), lambda n, x: features(n, x, LAYERS))
    assert mirrored
    assert not {nn.BatchNorm2d, Conv2dSame} & {type(module) for module in network.modules()}
    return network


def gradient(network: nn.Module, x: Tensor, mirrored: bool) -> tuple[list[Tensor], Tensor]:
    leaf = x.clone().requires_grad_()
    found = features(network, leaf.flip(2, 3) if mirrored else leaf, LAYERS)
    found = [f.flip(2, 3) if mirrored else f for f in found]
    total = sum((f * torch.arange(f.numel(), dtype=f.dtype).view_as(f).cos()).sum() for f in found)
    return [f.detach() for f in found], torch.autograd.grad(total, leaf)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [64, 65, 70, 96])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_outputs_and_gradients_are_those_of_timm(
    plain: nn.Module, fast: nn.Module, side: int, dtype: torch.dtype, tolerance: float
) -> None:
    """The folded weights were rounded to float32 once."""
    expected, slope = gradient(copy.deepcopy(plain).double(), pictures(side), mirrored=False)
    found, fast_slope = gradient(copy.deepcopy(fast).to(dtype), pictures(side).to(dtype), mirrored=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * float(b.abs().max()))
    error = (fast_slope.double() - slope).norm() / slope.norm()
    assert float(error) < 10 * tolerance, "a pixel whose clip decides otherwise counts in the whole gradient"


def test_a_network_without_same_padding_is_not_mirrored() -> None:
    assert not Backbone("resnet18", ("layer1",), weights="random").is_mirrored


def test_networks_that_want_even_sides_are_taken() -> None:
    backbone = Backbone("dla34", ("level3",), weights="random")
    assert backbone(pictures(64).float())[0].shape == (2, 128, 8, 8)


class Strange(nn.Module):
    """ "Same" padding beside what is not the same from both ends."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (Conv2dSame(3, 4, 3, stride=2), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1)),
        lambda: (Conv2dSame(3, 4, 3, stride=2), nn.Conv2d(4, 4, 2, stride=2)),
        lambda: (Conv2dSame(3, 4, 3, stride=3),),
        lambda: (Conv2dSame(3, 4, 3, dilation=2),),
        lambda: (Conv2dSame(3, 4, 2, stride=2),),
    ],
    ids=["pooling", "even kernel behind", "stride 3", "dilation", "even kernel"],
)
def test_what_mirroring_would_change_is_not_mirrored(layers: Callable[[], tuple[nn.Module, ...]]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Strange(*layers())
    _, mirrored = simplified(network, lambda n, x: [n.layers(x)])  # type: ignore[operator]
    assert not mirrored


def test_a_nan_in_one_image_stays_a_nan_in_its_features_alone() -> None:
    """An operation that clipped a NaN to a bound would give a broken image an ordinary score."""
    backbone = Backbone(LITE0, (*LAYERS, POOLED))
    x = pictures(64, 3).float()
    clean = backbone(x)
    x[1, 0, 5, 7] = torch.nan
    for found, expected in zip(backbone(x), clean, strict=True):
        assert bool(found[1].isnan().any())
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
