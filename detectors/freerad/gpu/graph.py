"""A training step recorded once, as a CUDA graph, and replayed.

On a GPU a step of the paper's U-Net at 256 pixels is 3 TFLOP in some two thousand kernels, which a CPU cannot name as
fast as they are done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from detectors.freerad.unet import UNet

log = logging.getLogger(__name__)
# (x0, index, noise) to the mean of L_simple, (), with the gradients of the hybrid loss left in the weights' `.grad`.
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
WARM_UP = 3  # steps before a recording: libraries choose and allocate in the first ones


def recorded(step: Step, unet: UNet, shape: torch.Size, device: torch.device) -> Step:
    """The step as a CUDA graph; the step itself, with a warning, where it cannot be recorded."""
    for parameter in unet.parameters():  # before the recording: what it allocates is the recording's own
        parameter.grad = torch.empty_like(parameter)
    try:
        return Replay(step, unet, shape, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("The training step cannot be recorded as a CUDA graph (%s); it goes on without, slower.", first)
        unet.zero_grad(set_to_none=True)  # what a broken recording has allocated must not be used
        return step


class Replay:
    """A recorded step: reads from and writes to memory that stays where it is."""

    def __init__(self, step: Step, unet: UNet, shape: torch.Size, device: torch.device) -> None:
        # A graph knows addresses: what lies there must live as long as it does.
        self.kept = step, unet, [parameter.grad for parameter in unet.parameters()]
        self.x0, self.noise = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self.index = torch.zeros(shape[0], dtype=torch.long, device=device)
        inputs = (self.x0, self.index, self.noise)
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):  # as PyTorch's documentation asks
            for _ in range(WARM_UP):
                step(*inputs)
        torch.cuda.current_stream(device).wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=beside):  # its own would be on whatever device is current
            self.simple = step(*inputs)

    def __call__(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        self.x0.copy_(x0)
        self.index.copy_(index)
        self.noise.copy_(noise)
        self.graph.replay()
        return self.simple.clone()  # the next replay writes over it
