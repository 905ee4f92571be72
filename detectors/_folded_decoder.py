"""The decoder of `_autoencoder` for whoever descends on its codes: values, slopes and curvature written out by hand.

Autograd can differentiate a descent through all of its steps, but most of its time goes to copies and to the many small
operations that the second derivative of SiLU takes. Here a pass is one convolution per layer and a product or two per
SiLU, and the convolutions are folded; it is the same function up to rounding:

- Upsampling by 2 and then a 3 x 3 convolution is one 2 x 2 convolution of the small map, since three neighbouring rows
  of the large map come from two of the small one. That is half the products. Each place between four small pixels
  yields the 2 x 2 large pixels around it, a cell.
- The last convolution reads cells, not pixels, and writes blocks of 4 x 4 pixels, so that nothing needs shuffling. It
  multiplies by some zeros and still takes less time, thin convolutions being slow.
- D's (y + 1) / 2 is in the last weights.

A map of side s between the layers is (B, C, s + 2, s + 2), with a ring of zeros around it that is the next
convolution's padding; in cells (B, 4 C, s / 2 + 1, s / 2 + 1), their channels ordered as (row, column, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors._cells import DEAD, cells_of, kill_ring, of_upsampling, over_cells, packed, pixels_of


@dataclass(frozen=True)
class Expansion:
    """|D(z) - x|^2 / 2 around a code, to second order.

    Attributes:
        fronts: what stands in front of each SiLU.
        half_bends: of each SiLU half the second derivative, times what pulls at it.
    """

    fronts: list[Tensor]
    half_bends: list[Tensor]


class FoldedDecoder:
    """D(z) of an `Autoencoder.decode` with its weights of now, which get no gradient.

    Images (B, 3, S, S) are in blocks here: (B, 48, S / 4, S / 4), or by twos where the decoder has no upsampling. J is
    D's Jacobian, H the second derivative of |D(z) - x|^2 / 2 over z.
    """

    def __init__(self, decode: nn.Sequential) -> None:
        first, *middle, last = (layer for layer in decode if isinstance(layer, nn.Conv2d))
        self._last = len(middle) + 1
        self._block = 4 if middle else 2
        with torch.no_grad():
            layers = [_parameters(first), *(_to_cells(*_parameters(layer)) for layer in middle)]
            weight, bias = _from_cells_to_blocks(*_parameters(last)) if middle else _parameters(last)
            layers.append((weight / 2, (bias + 1) / 2))
            self._weights = [packed(weight) for weight, _ in layers]
            self._biases = [bias for _, bias in layers]
            # The transpose of a convolution is one with the kernel turned round.
            self._turned = [packed(weight.transpose(0, 1).flip(2, 3)) for weight, _ in layers]

    def blocks_of(self, image: Tensor) -> Tensor:
        """Images in blocks."""
        return packed(F.pixel_unshuffle(image, self._block))

    def image_of(self, blocks: Tensor) -> Tensor:
        """The images that the blocks are."""
        return F.pixel_shuffle(blocks.contiguous(), self._block)  # shuffling is faster with channels apart

    def value(self, code: Tensor) -> tuple[Tensor, list[Tensor]]:
        """D(z) in blocks, and what stands in front of each SiLU: there `push` and `pull` are to be taken."""
        value, fronts, _ = self._run(code)
        return value, fronts

    def push(self, tangent: Tensor, fronts: list[Tensor]) -> Tensor:
        """J v in blocks, for v like a code."""
        return self._push(tangent, fronts)[0]

    def pull(self, blocks: Tensor, fronts: list[Tensor]) -> Tensor:
        """J^T u, for u in blocks."""
        return self._pull(blocks, fronts)[0]

    def slope(self, code: Tensor, blocks: Tensor, *, second: bool) -> tuple[Tensor, Expansion]:
        """The slope J^T (D(z) - x) of |D(z) - x|^2 / 2, the same bits with `second`, and with it what `curve` needs."""
        value, fronts, backs = self._run(code)
        slope, bends = self._pull(value.sub_(blocks), fronts, backs=backs if second else None)
        return slope, Expansion(fronts, bends)

    def curve(self, tangent: Tensor, at: Expansion) -> tuple[Tensor, Tensor]:
        """H v for v like a code, and J v in blocks."""
        pushed, tangents = self._push(tangent, at.fronts)
        changes = [tangent.mul_(bend) for tangent, bend in zip(tangents, at.half_bends, strict=True)]
        return self._pull(pushed, at.fronts, half_changes=changes)[0], pushed

    def _run(self, code: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """D(z) in blocks, and what is in front of and behind each SiLU."""
        fronts: list[Tensor] = []
        backs = [packed(code)]
        for layer in range(self._last):
            fronts.append(self._forward(layer, backs[-1], self._biases[layer]))
            _kill_ring(fronts[-1], in_cells=layer > 0)
            backs.append(F.silu(fronts[-1]))
        return self._forward(self._last, backs[-1], self._biases[-1]), fronts, backs[1:]

    def _push(self, tangent: Tensor, fronts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """J v, and the tangents in front of each SiLU."""
        tangents: list[Tensor] = []
        tangent = packed(tangent)
        for layer, front in enumerate(fronts):
            tangents.append(self._forward(layer, tangent))
            tangent = _times_slope(tangents[-1], front)
        return self._forward(self._last, tangent), tangents

    def _pull(
        self,
        blocks: Tensor,
        fronts: list[Tensor],
        *,
        backs: list[Tensor] | None = None,
        half_changes: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """J^T u, given what is behind each SiLU also the half bends; twice the half changes join in front of each."""
        half_bends: list[Tensor] = []
        pull = self._backward(self._last, blocks)
        for layer in reversed(range(self._last)):
            ahead = _times_slope(pull, fronts[layer])
            if backs:
                # Of h(a) = a s, with s' = s (1 - s): h'' = (2 h' - h)(1 - s). Here u h'' / 2, u h' being at hand.
                half = torch.addcmul(ahead, backs[layer], pull, value=-0.5)
                half_bends.append(half.addcmul_(half, torch.sigmoid(fronts[layer]), value=-1))
            if half_changes:
                ahead.add_(half_changes[layer], alpha=2)
            pull = self._backward(layer, ahead)
        return pull, half_bends[::-1]

    def _forward(self, layer: int, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A layer up to its SiLU; without its bias, the linear part."""
        if 1 < layer < self._last:
            x = pixels_of(x)
        return packed(F.conv2d(x, self._weights[layer], bias, padding=int(layer == 0)))  # 1: room for a ring

    def _backward(self, layer: int, y: Tensor) -> Tensor:
        """The transpose of `_forward`."""
        if layer == 0:
            return F.conv2d(y[:, :, 1:-1, 1:-1], self._turned[0])
        turned = self._turned[layer]
        x = packed(F.conv2d(y, turned, padding=turned.shape[-1] - 1))
        return cells_of(x) if 1 < layer < self._last else x


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight, layer.bias


def _times_slope(x: Tensor, front: Tensor) -> Tensor:
    """x SiLU'(front), in one pass."""
    found: Tensor = torch.ops.aten.silu_backward(x, front)
    return found


def _to_cells(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Upsampling and a 3 x 3 convolution as one from pixels to cells."""
    return of_upsampling(weight), bias.repeat(4)


def _from_cells_to_blocks(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A 3 x 3 convolution and a pixel shuffle, (4 O, C, 3, 3), as a 2 x 2 convolution of cells, (16 O, 4 C, 2, 2)."""
    folded = over_cells(weight).reshape(2, 2, 2, 2, 2, 2, -1, 2, 2, weight.shape[1])
    folded = folded.permute(6, 0, 7, 1, 8, 3, 5, 9, 2, 4)  # (O, rows, columns; a cell's row, column, C; kernel)
    places = bias.reshape(-1, 1, 2, 1, 2).expand(-1, 2, 2, 2, 2)
    return folded.flatten(5, 7).flatten(0, 4), places.flatten()


def _kill_ring(x: Tensor, *, in_cells: bool) -> None:
    """Put `DEAD` on the outermost pixels, in place."""
    if in_cells:
        kill_ring(x)
        return
    for part in (x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1]):
        part.fill_(DEAD)
