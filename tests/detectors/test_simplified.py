"""Backbones made faster: the same outputs and the same gradients as timm's own network, at odd and even sides."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from detectors._chains import Chain
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
    assert not {nn.BatchNorm2d, nn.ReLU6, Conv2dSame} & {type(module) for module in network.modules()}
    chains = [module for module in network.modules() if isinstance(module, Chain)]
    # Stem and head; a separable block; 15 inverted residuals, whose last convolution is not clipped.
    assert [chain.clips for chain in chains] == [(True,), (True, False), *15 * [(True, True, False)], (True,)]
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
    """In float32 through oneDNN's fused convolutions; the folded weights were rounded to float32 once."""
    expected, slope = gradient(copy.deepcopy(plain).double(), pictures(side), mirrored=False)
    found, fast_slope = gradient(copy.deepcopy(fast).to(dtype), pictures(side).to(dtype), mirrored=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * float(b.abs().max()))
    error = (fast_slope.double() - slope).norm() / slope.norm()
    assert float(error) < 10 * tolerance, "a pixel whose clip decides otherwise counts in the whole gradient"


def test_a_clipped_convolution_is_a_convolution_and_relu6() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
    with torch.no_grad():
        convolution.weight.mul_(20)  # so that both bounds are reached
    clipped = Chain([convolution.requires_grad_(False)], [True])
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 8, 11, 13, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, expected = clipped(ours), F.relu6(convolution(theirs))
        assert bool((found == 0).any()) and bool((found == 6).any()) and bool(((found > 0) & (found < 6)).any())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(
            torch.autograd.grad((found * weights).sum(), ours)[0],
            torch.autograd.grad((expected * weights).sum(), theirs)[0], rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        with torch.no_grad():
            assert torch.equal(clipped(x), found), "the verdict must see what the attack saw"


def test_weights_that_could_be_trained_get_their_gradient() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    Chain([convolution], [True])(torch.ones(1, 3, 5, 5)).sum().backward()
    assert convolution.weight.grad is not None


def test_a_layer_inside_a_pair_keeps_what_timm_gives_there() -> None:
    """Clipping within the convolution would give another output at the convolution: that change is left out."""
    inside = Backbone(LITE0, ("blocks.1.0.conv_dw",))
    assert not any(isinstance(m, Chain) for m in inside.network.modules())
    assert float(inside(pictures(64).float())[0].min()) < 0


def test_a_network_without_same_padding_is_not_mirrored() -> None:
    assert not Backbone("resnet18", ("layer1",), weights="random").is_mirrored


def test_networks_that_want_even_sides_are_taken() -> None:
    backbone = Backbone("dla34", ("level3",), weights="random")
    assert backbone(pictures(64).float())[0].shape == (2, 128, 8, 8)


class Strange(nn.Module):
    """"Same" padding beside what is not the same from both ends."""

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
    """oneDNN clips a NaN to a bound, which would give a broken image an ordinary score."""
    backbone = Backbone(LITE0, (*LAYERS, POOLED))
    x = pictures(64, 3).float()
    clean = backbone(x)
    x[1, 0, 5, 7] = torch.nan
    for found, expected in zip(backbone(x), clean, strict=True):
        assert bool(found[1].isnan().all())
        assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_a_chain_is_its_convolutions_one_after_the_other_and_keeps_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(6, 24, 1), nn.Conv2d(24, 24, 5, stride=2, padding=2, groups=24), nn.Conv2d(24, 8, 1)]
    with torch.no_grad():
        layers[0].weight.mul_(20)
        layers[1].weight.mul_(5)
    weights = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(2))
    x = torch.randn(3, 6, 9, 7, generator=torch.Generator().manual_seed(1))
    for clips in ([True, True, False], [True, False, True], [False, True, True]):
        chain = Chain([layer.requires_grad_(False) for layer in layers], clips)
        ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        found, exact = chain(ours), theirs
        for layer, clip in zip(layers, clips, strict=True):
            exact = copy.deepcopy(layer).double()(exact)
            exact = F.relu6(exact) if clip else exact
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
        (expected,) = torch.autograd.grad((exact * weights).sum(), theirs)
        (slope,) = torch.autograd.grad((found * weights).sum(), ours, retain_graph=True)
        torch.testing.assert_close(slope.double(), expected, rtol=1e-3, atol=1e-3)
        (again,) = torch.autograd.grad((found * weights).sum(), ours, retain_graph=True)
        assert torch.equal(slope, again), "a kept graph gives the same gradient twice"
        with pytest.raises(RuntimeError, match="create_graph"):
            torch.autograd.grad(found.sum(), ours, create_graph=True)
        alive = weakref.ref(found)
        del found
        assert alive() is None, "an operation that holds its own output is freed by the garbage collector alone"


def test_a_padded_convolution_of_one_pixel_is_no_matrix_product() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 1, padding=1), nn.Conv2d(8, 4, 3)]
    leaf = pictures(8).float().requires_grad_()
    (found,) = torch.autograd.grad(Chain([c.requires_grad_(False) for c in layers], [False, False])(leaf).sum(), leaf)
    (expected,) = torch.autograd.grad(layers[1](layers[0](leaf)).sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
