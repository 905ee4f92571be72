"""How one training step is computed: its precision, its memory format, and through which kernels (`gpu`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from detectors.freerad.diffusion import Process, hybrid_loss
from detectors.freerad.gpu.graph import Step, recorded
from detectors.freerad.gpu.network import for_training
from detectors.freerad.unet import UNet
from detectors.noise import generator

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def step_function(
    unet: UNet,
    process: Process,
    vb_weight: float,
    precision: str,
    shape: torch.Size,
    device: torch.device,
    *,
    graph: bool = True,
) -> Step:
    """Forward and backward of one batch.

    Args:
        unet: on the device; on a GPU its weights get another memory format (and keep their values and identities).
        process: on the device.
        vb_weight: of L_vb in L_hybrid.
        precision: "bfloat16" computes the network but its norms' statistics and its embedding in 16 bits, on copies of
            the weights; weights, their gradients, the optimiser and the loss stay in float32.
        shape: of the batches, (B, 3, H, W).
        device: where to compute.
        graph: on a GPU, whether to record the step and replay it. Then `.grad` are the same tensors at each step.
    """
    dtype = PRECISIONS[precision]
    if device.type == "cuda":  # what cuDNN's convolutions want, else they transpose their weights at each step
        unet.to(memory_format=torch.channels_last)
    network = for_training(unet, device)
    step = _Direct(network, process, vb_weight) if dtype is None else _Halved(network, process, vb_weight, dtype)
    return recorded(step, unet, shape, device) if graph and device.type == "cuda" else step


class _Direct:
    """The step on the weights themselves."""

    def __init__(self, network: nn.Module, process: Process, vb_weight: float) -> None:
        self.network, self.process, self.vb_weight = network, process, vb_weight

    def __call__(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        parameters = list(self.network.parameters())
        simple, variational = hybrid_loss(self.network, x0, index, noise, self.process, self.vb_weight)
        _keep(parameters, torch.autograd.grad((simple + variational).mean(), parameters))
        return simple.detach().mean()


class _Halved:
    """The step on 16-bit copies of the weights of convolutions and of the timestep's linear layers.

    The norms' weights and the embedding, a thousandth of all, stay as they are.
    """

    def __init__(self, network: nn.Module, process: Process, vb_weight: float, dtype: torch.dtype) -> None:
        self.network, self.process, self.vb_weight, self.dtype = network, process, vb_weight, dtype
        named = dict(network.named_parameters())
        norms = {id(p) for m in network.modules() if isinstance(m, torch.nn.GroupNorm) for p in m.parameters()}
        kept = {name for name, p in named.items() if id(p) in norms or name.startswith("embed.")}
        self.masters: list[Tensor] = [p for name, p in named.items() if name not in kept]
        self.copies = [torch.empty_like(p, dtype=dtype).requires_grad_() for p in self.masters]
        names = [name for name in named if name not in kept]
        self.weights = {name: named[name] for name in kept} | dict(zip(names, self.copies, strict=True))

    def __call__(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.masters)
        simple, variational = hybrid_loss(self._denoise, x0, index, noise, self.process, self.vb_weight)
        parameters = dict(self.network.named_parameters())
        leaves = [self.weights[name] for name in parameters]
        _keep(list(parameters.values()), torch.autograd.grad((simple + variational).mean(), leaves))
        return simple.detach().mean()

    def _denoise(self, xt: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        noise, raw = functional_call(self.network, self.weights, (xt.to(self.dtype), timesteps))
        return noise.to(xt.dtype), raw.to(xt.dtype)


def _keep(parameters: Sequence[Tensor], gradients: tuple[Tensor, ...]) -> None:
    """Write gradients into `.grad`, in the weights' own types and strides: a fused optimiser takes nothing else."""
    alike: dict[object, list[tuple[Tensor, Tensor]]] = {}  # PyTorch copies many at once if each is like its target
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        kind = gradient.dtype, gradient.stride() == parameter.stride()
        alike.setdefault(kind, []).append((parameter.grad, gradient))
    with torch.no_grad():
        for pairs in alike.values():
            torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])


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
