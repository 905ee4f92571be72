"""Affine coupling blocks as single operations with gradients of their own, for vectors and for maps.

    h = relu(first x1 + ...),   (s, t) = pace * (last h + last_bias),   log_scale = clamp * tanh(s),
    u = (x1, x2 * exp(log_scale) + t),   y = R (gain * u + offset)

Out of PyTorch's operations the same takes longer: most of it is passes over memory, the halves of the channels are
split and joined, and every step keeps a tensor for the backward pass. Here what is no longer needed is overwritten.
There is no second derivative; asking for that of a likelihood raises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detectors._first_order import first_order


class VectorBlock(torch.autograd.Function):
    """x (C, ...), the columns, to y (C, ...) and the sum of the log-scales (...,).

    As columns, the halves of the channels lie one after the other in memory. Args of `apply`: x; first (H, k) for the
    first k channels; what is added to its product, (H, ...), broadcast against the columns; last (2 (C - k), H) and its
    bias; rotation (C, C); gain and offset (C,); clamp; pace.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first: Tensor, addend: Tensor, last: Tensor, last_bias: Tensor, rotation: Tensor,
        gain: Tensor, offset: Tensor, clamp: float, pace: float,
    ) -> tuple[Tensor, Tensor]:
        columns = x.reshape(len(x), -1)  # (C, N)
        kept = first.shape[1]
        moved = len(x) - kept
        hidden = first @ columns[:kept]
        hidden.view(-1, *x.shape[1:]).add_(addend)
        hidden.relu_()
        last = pace * last
        out = torch.addmm(pace * last_bias[:, None], last, hidden)
        tanh, shift = out[:moved].tanh_(), out[moved:]
        scale = (clamp * tanh).exp_()
        u = torch.empty_like(columns)
        u[:kept] = columns[:kept]
        torch.addcmul(shift, columns[kept:], scale, out=u[kept:])
        matrix = rotation * gain  # R (gain * u + offset) = (R diag(gain)) u + R offset
        y = torch.addmm((rotation @ offset)[:, None], matrix, u)
        ctx.save_for_backward(columns, first, addend, last, rotation, matrix, gain, hidden, tanh, scale, u)
        ctx.clamp, ctx.pace = clamp, pace
        return y.view(x.shape), (clamp * tanh.sum(dim=0)).view(x.shape[1:])

    @staticmethod
    @first_order
    def backward(ctx: Any, by_y: Tensor, by_log_scale: Tensor) -> tuple[Tensor | None, ...]:
        columns, first, addend, last, rotation, matrix, gain, hidden, tanh, scale, u = ctx.saved_tensors
        kept, shape = first.shape[1], by_y.shape
        by_y = by_y.reshape(columns.shape)
        by_u = matrix.T @ by_y
        by_x = torch.empty_like(columns)
        torch.mul(by_u[kept:], scale, out=by_x[kept:])
        by_scale = torch.addcmul(by_log_scale.reshape(1, -1), by_x[kept:], columns[kept:])
        by_out = torch.cat([torch.ops.aten.tanh_backward(by_scale.mul_(ctx.clamp), tanh), by_u[kept:]])
        by_hidden = last.T @ by_out
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)  # ReLU's
        torch.addmm(by_u[:kept], first.T, by_hidden, out=by_x[:kept])
        if not any(ctx.needs_input_grad[1:]):  # a fitted detector: images alone
            return by_x.view(shape), *[None] * 9
        return (
            by_x.view(shape),
            by_hidden @ columns[:kept].T,
            by_hidden.view(-1, *shape[1:]).sum_to_size(addend.shape),
            (hidden @ by_out.T).T.mul(ctx.pace),  # the larger matrix first: BLAS takes half the time
            by_out.sum(dim=1).mul_(ctx.pace),
            None,
            (u * by_u).sum(dim=1) / gain,
            rotation.T @ by_y.sum(dim=1),
            None,
            None,
        )


class MapBlock(torch.autograd.Function):
    """x (B, C, h, w), channels-last, to y like it and the sum of the log-scales (B, h, w).

    Args of `apply`: x; first (H, k, f, f) for the first k channels, and its bias; last (2 (C - k), H, f, f) and its
    bias; rotation (C, C); gain and offset (C,); clamp; pace.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first: Tensor, first_bias: Tensor, last: Tensor, last_bias: Tensor, rotation: Tensor,
        gain: Tensor, offset: Tensor, clamp: float, pace: float,
    ) -> tuple[Tensor, Tensor]:
        kept = _dense(x[:, : first.shape[1]])
        moved = x[:, first.shape[1] :]
        first, last, matrix = _dense(first), _dense(pace * last), (rotation * gain)[:, :, None, None]
        padding = first.shape[-1] // 2
        hidden = torch.conv2d(kept, first, first_bias, padding=padding).relu_()
        out = torch.conv2d(hidden, last, pace * last_bias, padding=padding)
        # Of half the channels in place, tanh takes ten times longer than of a copy.
        tanh = _dense(out[:, : moved.shape[1]]).tanh_()
        scale = (clamp * tanh).exp_()
        u = torch.cat([kept, torch.addcmul(out[:, moved.shape[1] :], moved, scale)], dim=1)
        y = torch.conv2d(u, matrix, rotation @ offset)
        ctx.save_for_backward(kept, moved, first, last, rotation, matrix, gain, hidden, tanh, scale, u)
        ctx.clamp, ctx.pace = clamp, pace
        return y, clamp * tanh.sum(dim=1)

    @staticmethod
    @first_order
    def backward(ctx: Any, by_y: Tensor, by_log_scale: Tensor) -> tuple[Tensor | None, ...]:
        kept, moved, first, last, rotation, matrix, gain, hidden, tanh, scale, u = ctx.saved_tensors
        trains = any(ctx.needs_input_grad[1:])
        by_y = _dense(by_y)
        # No gradient by the bias here: oneDNN would make the one by the matrix as well.
        by_u, _, _ = _by_convolution(by_y, u, matrix, [True, False, False])
        by_gain = (u * by_u).sum(dim=(0, 2, 3)) / gain if trains else None
        by_shift = by_u[:, kept.shape[1] :]
        by_moved = by_shift * scale
        by_scale = torch.addcmul(by_log_scale[:, None], by_moved, moved).mul_(ctx.clamp)
        by_out = torch.cat([torch.ops.aten.tanh_backward(by_scale, tanh), by_shift], dim=1)
        by_hidden, by_last, by_last_bias = _by_convolution(by_out, hidden, last, [True, trains, trains])
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)  # ReLU's
        by_kept, by_first, by_first_bias = _by_convolution(by_hidden, kept, first, [True, trains, trains])
        by_x = torch.cat([by_kept.add_(by_u[:, : kept.shape[1]]), by_moved], dim=1)
        if not trains:  # a fitted detector: images alone
            return by_x, *[None] * 9
        return (
            by_x, by_first, by_first_bias, by_last.mul_(ctx.pace), by_last_bias.mul_(ctx.pace), None, by_gain,
            rotation.T @ by_y.sum(dim=(0, 2, 3)), None, None,
        )  # fmt: skip


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _by_convolution(by_y: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> Any:
    """The gradient of a convolution that keeps the size: by x, by its weights, by its bias."""
    padding = weight.shape[-1] // 2
    return torch.ops.aten.convolution_backward(
        by_y, x, weight, [len(weight)], [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, wanted
    )
