"""Painted defects: what they depend on, and that they are small, visible and inside [0, 1]."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.cell.painted_defects import paint

SIDE = 32
IDS = [f"train/good/{i:03}.png" for i in range(30)]


def _photographs(count: int, *, side: int = SIDE, seed: int = 0) -> Tensor:
    """Smooth random textures that touch both ends of [0, 1]."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=draws)
    return (1.4 * torch.nn.functional.interpolate(coarse, size=side, mode="bilinear") - 0.2).clamp(0, 1)


def _changed(painted: Tensor, images: Tensor) -> Tensor:
    """Which pixels differ in some channel, (N, S, S)."""
    return (painted != images).any(dim=1)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_image_gets_one_small_visible_defect(side: int, dtype: torch.dtype) -> None:
    images = _photographs(30, side=side).to(dtype)
    before = images.clone()
    painted = paint(images, IDS, seed=1)
    assert torch.equal(images, before), "the originals were painted over"
    assert painted.shape == images.shape and painted.dtype == dtype
    assert float(painted.min()) >= 0 and float(painted.max()) <= 1
    share = _changed(painted, images).float().mean(dim=(1, 2))
    assert float(share.min()) > 0 and float(share.max()) < 0.07, share
    strongest = (painted - images).abs().amax(dim=(1, 2, 3))
    assert float(strongest.min()) > 4 / 255, "a defect that the attack's ball could hide on its own"


def test_the_three_kinds_come_in_turn() -> None:
    """Patches are rectangles along the axes, scars are thin, blobs need no straight line."""
    images = _photographs(30)
    where = _changed(paint(images, IDS, seed=1), images)
    for i, mask in enumerate(where):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        if i % 3 == 0:
            assert int(mask.sum()) >= 0.8 * height * width, "a patch fills its box"
        elif i % 3 == 1:
            assert int(mask.sum()) <= 3.5 * max(height, width), "a scar is thin"
            assert max(height, width) <= 0.3 * SIDE + 2


def test_what_is_painted_depends_on_seed_and_id_only() -> None:
    images = _photographs(6)
    ids = IDS[:6]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = paint(images, ids, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    assert torch.equal(first, paint(images, ids, seed=1))
    other_seed = paint(images, ids, seed=2)
    other_ids = paint(images, IDS[6:12], seed=1)
    for i in range(6):
        assert not torch.equal(first[i], other_seed[i])
        assert not torch.equal(first[i], other_ids[i])
    # Cut and pasted defects come from the image itself: its neighbours do not matter, nor how many there are.
    alone = paint(images[[0, 1, 5]], [ids[0], ids[1], ids[5]], seed=1)
    assert torch.equal(alone[:2], first[:2])


def test_a_blob_shows_another_image_where_its_mask_is() -> None:
    images = _photographs(3)
    elsewhere = images.clone()
    elsewhere[0] = 1 - elsewhere[0]  # the blob of image 2 shows image 0
    first, second = paint(images, IDS[:3], seed=1), paint(elsewhere, IDS[:3], seed=1)
    assert not torch.equal(first[2], second[2])
    a, b = _changed(first, images)[2], _changed(second, elsewhere)[2]
    assert float((a & b).sum()) > 0.9 * float((a | b).sum()), "the place depends on (seed, id), not on the pixels"
