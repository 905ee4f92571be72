"""The U-Net: the paper's architecture, its start, and bits that do not depend on the batch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from freerad_small import random_images, shake
from torch import Tensor, nn

from detectors.freerad.unet import (
    AttentionBlock,
    Downsample,
    ResidualBlock,
    UNet,
    UNetSettings,
    Upsample,
    timestep_embedding,
)
from detectors.noise import generator

TINY = UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(8,))


def _tiny(settings: UNetSettings = TINY, side: int = 16, *, seed: int = 0) -> UNet:
    unet = UNet(settings, side)
    unet.initialise(generator(seed, "test"))
    shake(unet, seed=seed)
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def paper() -> UNet:
    """The paper's network at 256 pixels, without memory."""
    with torch.device("meta"):
        return UNet(UNetSettings(), 256)


def _sides(unet: UNet, kind: type[nn.Module], x: Tensor) -> list[int]:
    found: list[int] = []
    hooks = [
        module.register_forward_hook(lambda m, args, out: found.append(args[0].shape[-1]))
        for module in unet.modules()
        if isinstance(module, kind)
    ]
    noise, raw = unet(x, torch.ones(1, device=x.device))
    for hook in hooks:
        hook.remove()
    assert noise.shape == raw.shape == x.shape
    return found


def test_the_papers_network_has_the_papers_shape(paper: UNet) -> None:
    x = torch.zeros(2, 3, 256, 256, device="meta")
    # Two blocks down and three up at 16 x 16, as everywhere, and the one between the middle's residual blocks (8 x 8).
    assert _sides(paper, AttentionBlock, x) == [16, 16, 8, 16, 16, 16]
    assert _sides(paper, Downsample, x) == [256, 128, 64, 32, 16]
    assert _sides(paper, Upsample, x) == [8, 16, 32, 64, 128]
    assert _sides(paper, ResidualBlock, x) == [
        256,
        256,
        128,
        128,
        64,
        64,
        32,
        32,
        16,
        16,
        8,
        8,
        8,
        8,
        8,
        8,
        8,
        16,
        16,
        16,
        32,
        32,
        32,
        64,
        64,
        64,
        128,
        128,
        128,
        256,
        256,
        256,
    ]
    assert {block.heads for block in paper.modules() if isinstance(block, AttentionBlock)} == {1}
    assert paper.conv_in.weight.shape == (128, 3, 3, 3) and paper.conv_out.weight.shape == (6, 128, 3, 3)
    widths = [block.conv_out.out_channels for block in paper.down.modules() if isinstance(block, ResidualBlock)]
    assert widths == [128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512]
    assert {norm.num_groups for norm in paper.modules() if isinstance(norm, nn.GroupNorm)} == {32}


def _residual(inputs: int, outputs: int, embedding: int) -> int:
    """Parameters: two norms, two 3 x 3 convolutions, scale and shift, a 1 x 1 skip where the width changes."""
    count = 2 * inputs + 9 * inputs * outputs + outputs + (embedding + 1) * 2 * outputs
    count += 2 * outputs + 9 * outputs**2 + outputs
    return count + ((inputs + 1) * outputs if inputs != outputs else 0)


def _attention(width: int) -> int:
    return 2 * width + (width + 1) * 3 * width + (width + 1) * width


def test_the_papers_network_has_the_parameters_that_its_description_implies(paper: UNet) -> None:
    widths, embedding = [128 * m for m in (1, 1, 2, 2, 4, 4)], 512
    expected = (128 + 1) * 512 + (512 + 1) * 512 + (27 + 1) * 128  # embedding, first convolution
    width, skips = 128, [128]
    for level, out in enumerate(widths):
        for _ in range(2):
            expected += _residual(width, out, embedding) + (_attention(out) if level == 4 else 0)
            width = out
            skips.append(width)
        if level < 5:
            expected += (9 * width + 1) * width
            skips.append(width)
    expected += 2 * _residual(512, 512, embedding) + _attention(512)
    for level, out in reversed(list(enumerate(widths))):
        for _ in range(3):
            expected += _residual(width + skips.pop(), out, embedding) + (_attention(out) if level == 4 else 0)
            width = out
        if level > 0:
            expected += (9 * width + 1) * width
    expected += 2 * 128 + (9 * 128 + 1) * 6
    assert sum(p.numel() for p in paper.parameters()) == expected
    assert not list(paper.buffers()), "the average of the weights holds parameters only"


def test_every_block_starts_as_the_identity_and_the_network_as_zero() -> None:
    unet = UNet(TINY, 16)
    unet.initialise(generator(0, "test"))
    h, embedding = torch.randn(2, 8, 8, 8), torch.randn(2, 32)
    residual = next(m for m in unet.modules() if isinstance(m, ResidualBlock) and isinstance(m.skip, nn.Identity))
    assert torch.equal(residual(h, embedding), h)
    attention = next(m for m in unet.modules() if isinstance(m, AttentionBlock))
    wide = torch.randn(2, attention.project.out_channels, 8, 8)
    assert torch.equal(attention(wide, embedding), wide)
    noise, raw = unet(torch.randn(2, 3, 16, 16), torch.tensor([1, 1000]))
    assert not bool(noise.any()) and not bool(raw.any())


def test_initialise_depends_on_its_generator_only() -> None:
    """Not on torch's global state, and not on what an earlier fit left in the norms."""
    torch.manual_seed(1)
    first, second = UNet(TINY, 16), UNet(TINY, 16)
    shake(second, seed=3)
    first.initialise(generator(5, "test"))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second.initialise(generator(5, "test"))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = UNet(TINY, 16)
    other.initialise(generator(6, "test"))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} depends on more than the generator"
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_one_timestep_for_all_images_equals_one_for_each() -> None:
    unet = _tiny()
    x = random_images(3, 16).float()
    for a, b in zip(unet(x, torch.tensor([70])), unet(x, torch.tensor([70, 70, 70])), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    a, b = unet(x, torch.tensor([70]))[0], unet(x, torch.tensor([71]))[0]
    assert not torch.equal(a, b), "the timestep is not heard"


def test_timesteps_of_a_batch_stay_with_their_images() -> None:
    unet = _tiny().double()
    x = random_images(2, 16)
    together = unet(x, torch.tensor([10, 900]))[0]
    for i, timestep in enumerate([10, 900]):
        alone = unet(x[i : i + 1], torch.tensor([timestep]))[0]
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-9)


def test_timestep_embedding_is_cosines_and_sines_of_falling_frequencies() -> None:
    found = timestep_embedding(torch.tensor([1.0, 1000.0], dtype=torch.float64), 8)
    for row, timestep in enumerate([1, 1000]):
        angles = [timestep * 10000 ** (-i / 4) for i in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        torch.testing.assert_close(found[row], torch.tensor(expected, dtype=torch.float64))


def test_attention_is_softmax_of_scaled_products() -> None:
    block = AttentionBlock(8, heads=2)
    shake(block, seed=1, size=0.5)
    h = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(2))
    normalised = F.group_norm(h, block.norm.num_groups, block.norm.weight, block.norm.bias)
    qkv = F.conv2d(normalised, block.qkv.weight, block.qkv.bias).flatten(2)
    heads = []
    for head in range(2):
        q, k, v = (qkv[:, part * 8 + head * 4 : part * 8 + head * 4 + 4] for part in range(3))  # (B, 4, positions)
        weights = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(4), dim=-1)
        heads.append(torch.einsum("bqk,bck->bcq", weights, v))
    attended = torch.cat(heads, dim=1).reshape(h.shape)
    expected = h + F.conv2d(attended, block.project.weight, block.project.bias)
    torch.testing.assert_close(block(h, torch.zeros(1)), expected)


def test_unshuffle_folds_and_unfolds_the_same_pixels() -> None:
    """A change of one pixel of a folded network's last features moves that pixel's output only."""
    folded = UNetSettings(channels=8, multipliers=(1,), blocks=1, attention_sides=(), unshuffle=2)
    unet = _tiny(folded, 16)
    assert unet.conv_in.in_channels == 12 and unet.conv_out.out_channels == 24
    x = random_images(1, 16).float()
    noise, raw = unet(x, torch.tensor([5]))
    features = torch.cat([noise, raw], dim=1)
    bias = torch.zeros_like(unet.conv_out.bias)
    bias[2 * 4 + 1] = 1.0  # channel 2, row 0 and column 1 of each square
    unet.conv_out.bias.add_(bias)
    moved = torch.cat(unet(x, torch.tensor([5])), dim=1) - features
    expected = torch.zeros_like(moved)
    expected[:, 2, 0::2, 1::2] = 1.0
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "multiple"),
    [(UNetSettings(), 32), (UNetSettings(multipliers=(1, 2, 2), unshuffle=2), 8), (UNetSettings(multipliers=(1,)), 1)],
)
def test_side_multiple_is_what_the_levels_need(settings: UNetSettings, multiple: int) -> None:
    assert settings.side_multiple() == multiple
    with torch.device("meta"):
        unet = UNet(settings, 2 * multiple)
        assert unet(torch.zeros(1, 3, 2 * multiple, 2 * multiple), torch.ones(1))[0].shape[-1] == 2 * multiple
