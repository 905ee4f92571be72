"""How one training step is computed: its precision, its memory format, and whether it is compiled.

On a GPU a step of the paper's U-Net at 256 pixels is 3 TFLOP between a few hundred small passes over memory. The
16-bit matrix units do the first, and a compiler that joins the second into few kernels leaves them something to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from detectors.freerad.diffusion import Process, hybrid_loss
from detectors.freerad.unet import UNet
from detectors.noise import generator

log = logging.getLogger(__name__)
Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (x0, index, noise) to L_simple and L_vb, each (B,)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def loss_function(
    unet: UNet, process: Process, vb_weight: float, precision: str, shape: torch.Size, device: torch.device
) -> Loss:
    """The hybrid loss of a batch, differentiable in the weights; compiled on a GPU.

    Args:
        unet: on the device; on a GPU its weights get another memory format (and keep their values).
        process: on the device.
        vb_weight: of L_vb in L_hybrid.
        precision: "bfloat16" computes the network's convolutions and matrix products in 16 bits; weights, their
            gradients, the optimiser and the loss stay in float32.
        shape: of the batches, (B, 3, H, W).
        device: where to compute.
    """
    dtype = PRECISIONS[precision]
    on_gpu = device.type == "cuda"

    def denoiser(xt: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if on_gpu:
            xt = xt.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype) if dtype is not None else nullcontext():
            noise, raw = unet(xt, timesteps)
        return noise.to(xt.dtype), raw.to(xt.dtype)

    def loss(x0: Tensor, index: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return hybrid_loss(denoiser, x0, index, noise, process, vb_weight)

    if not on_gpu:
        return loss
    # What cuDNN's 16-bit convolutions want: else each transposes its input and its output.
    unet.to(memory_format=torch.channels_last)
    return _compiled(loss, unet, shape, device)


def _compiled(plain: Loss, unet: UNet, shape: torch.Size, device: torch.device) -> Loss:
    """The compiled function, tried once there and back; the plain one where the compiler cannot work."""
    compiled: Loss = torch.compile(plain)
    try:
        simple, variational = compiled(
            torch.zeros(shape, device=device), torch.zeros(shape[0], dtype=torch.long, device=device),
            torch.zeros(shape, device=device),
        )  # fmt: skip
        (simple + variational).mean().backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, the C compiler behind it and their caches may raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("The training step cannot be compiled (%s); it goes on without, slower.", first)
        return plain
    finally:
        unet.zero_grad(set_to_none=True)
    return compiled


def draw_step(
    shape: torch.Size, steps: int, source: torch.Generator, key: tuple[int, str, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The 0-based timesteps (B,) and the noise of one iteration, on the device.

    Args:
        shape: of the batch.
        steps: timesteps are drawn from so many.
        source: the iteration's CPU generator; a CPU draws both from it.
        key: seed and purpose of the iteration; a GPU draws its noise itself, from a generator with this key.
        device: where to.
    """
    index = torch.randint(steps, (shape[0],), generator=source)
    if device.type == "cpu":
        return index, torch.randn(shape, generator=source)
    own = generator(*key, "noise", device=device)
    return moved(index, device), torch.randn(shape, generator=own, device=device)


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Small values from the CPU to the device without waiting for what it is still computing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
