"""Fitting the U-Net: hybrid objective, Adam, an exponential moving average of the weights.

Everything random in iteration i comes from a generator keyed by (seed, i), so that a fit which was killed and goes on
from its last snapshot ends with the same bits as an unbroken one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from detectors.base import Progress
from detectors.checkpoint import write_atomically
from detectors.freerad.diffusion import Process
from detectors.freerad.stepping import draw_step, moved, step_function
from detectors.freerad.unet import UNet
from detectors.noise import generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How the U-Net is trained (the defaults are the paper's, appendix C.1).

    Attributes:
        iterations: optimiser steps.
        batch_size: images per step.
        learning_rate: Adam's, after the warm-up.
        warmup: iterations over which the rate rises linearly from 0.
        decay: fraction of the iterations, at the end, over which the rate falls to 0 along a cosine.
        ema: decay of the moving average of the weights; the average is what is used.
        vb_weight: weight of L_vb in L_hybrid (Nichol & Dhariwal: 0.001).
        gradient_norm: gradients are scaled down to this norm where they are larger; 0 turns it off.
        flip: mirror images at random, left-right and up-down. Only right where a mirrored part is as normal.
        largest_timestep: timesteps are drawn from 1..this; T in the paper.
        precision: "float32", or "bfloat16" for the network's convolutions and matrix products in 16 bits (weights and
            optimiser stay in float32).
    """

    iterations: int = 30_000
    batch_size: int = 2
    learning_rate: float = 1e-4
    warmup: int = 0
    decay: float = 0.0
    ema: float = 0.9999
    vb_weight: float = 0.001
    gradient_norm: float = 0.0
    flip: bool = False
    largest_timestep: int = 1000
    precision: str = "float32"


SNAPSHOT, SNAPSHOT_SECONDS = "freerad-snapshot.safetensors", 60.0
SNAPSHOT_SHARE = 0.02  # of the time, which writing snapshots may take: those of the paper's network have 1.8 GB


def train_unet(
    unet: UNet,
    images: Tensor,
    process: Process,
    settings: TrainingSettings,
    *,
    seed: int,
    progress: Progress,
    workdir: Path | None,
) -> dict[str, Any]:
    """Train in place and leave the averaged weights in the network.

    Args:
        unet: freshly initialised.
        images: normal images on [-1, 1], (N, 3, H, W), on the device to train on.
        process: the whole diffusion process.
        settings: see TrainingSettings.
        seed: the source of all randomness.
        progress: told the loss.
        workdir: where snapshots go; None keeps none.

    Returns:
        What a checkpoint should tell: the loss over time.
    """
    device = images.device
    process = process.to(device)
    shape = torch.Size((settings.batch_size, *images.shape[1:]))
    step = step_function(unet, process, settings.vb_weight, settings.precision, shape, device)
    parameters = dict(unet.named_parameters())
    # Copied only now: the step may have changed the weights' memory format, which optimiser and average share.
    average = {name: value.detach().clone() for name, value in parameters.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=device.type == "cuda")
    snapshot = _Snapshot(workdir, images, process, settings, unet, seed)
    done, history = snapshot.restore(unet, average, optimiser)
    recent: list[Tensor] = []  # read from the device once in 50 iterations
    saved, pause = time.monotonic(), SNAPSHOT_SECONDS
    for iteration in range(done, settings.iterations):
        key = (seed, "freerad-train", iteration)
        source = generator(*key)
        batch = _batch(images, iteration, settings, source, seed)
        index, noise = draw_step(batch.shape, settings.largest_timestep, source, key, device)
        recent.append(step(batch, index, noise.to(batch.dtype)))
        if settings.gradient_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters.values(), settings.gradient_norm)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _rate(iteration, settings)
        optimiser.step()
        # The average forgets its random start: its decay grows from 0 to the one that is set (as in TensorFlow's EMA).
        decay = min(settings.ema, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        if len(recent) == 50 or iteration + 1 == settings.iterations:
            history.append([iteration + 1, round(float(torch.stack(recent).mean()), 6)])
            recent.clear()
        progress(iteration + 1, settings.iterations, f"loss {history[-1][1]:.4f}" if history else "")
        last = iteration + 1 == settings.iterations
        if not recent and (last or time.monotonic() - saved > pause):
            began = time.monotonic()
            snapshot.save(iteration + 1, unet, average, optimiser, history)
            saved = time.monotonic()
            pause = max(SNAPSHOT_SECONDS, (saved - began) / SNAPSHOT_SHARE)
    unet.load_state_dict(average)
    unet.to(memory_format=torch.contiguous_format)  # as one that is loaded: what is scored next must have its bits
    # The last snapshot stays until the caller has stored the weights (`remove_snapshot`): a full disk loses nothing.
    return {"loss": history, "iterations": settings.iterations}


def remove_snapshot(workdir: Path) -> None:
    """Forget the snapshot of a fit whose weights are stored."""
    (workdir / SNAPSHOT).unlink(missing_ok=True)


def _rate(iteration: int, settings: TrainingSettings) -> float:
    """The learning rate at an iteration as a fraction of the full one."""
    rate = min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else 1.0
    start = settings.iterations * (1 - settings.decay)
    if settings.decay and iteration > start:
        along = torch.tensor((iteration - start) / (settings.iterations - start))
        rate *= float(0.5 * (1 + torch.cos(torch.pi * along)))
    return rate


def _batch(images: Tensor, iteration: int, settings: TrainingSettings, source: torch.Generator, seed: int) -> Tensor:
    """The iteration's images: without replacement within an epoch, mirrored at random where that is wanted."""
    indices = torch.tensor(list(_indices(len(images), iteration, settings.batch_size, seed)))
    batch = images[moved(indices, images.device)]
    if settings.flip:
        for dim in (-1, -2):
            mirrored = moved(torch.rand(len(batch), generator=source), batch.device) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(dim), batch)
    return batch


def _indices(count: int, iteration: int, batch_size: int, seed: int) -> Iterator[int]:
    for position in range(iteration * batch_size, (iteration + 1) * batch_size):
        epoch, offset = divmod(position, count)
        order = torch.randperm(count, generator=generator(seed, "freerad-order", epoch))
        yield int(order[offset])


class _Snapshot:
    """The state of a fit on disk, so that a kill costs a minute (or fifty times what writing it takes) at most."""

    def __init__(
        self, workdir: Path | None, images: Tensor, process: Process, settings: TrainingSettings, unet: UNet, seed: int
    ) -> None:
        self.path = workdir / SNAPSHOT if workdir else None
        # A snapshot of another fit must never be taken over.
        content = sha256(images.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        schedule = sha256(process.alpha_bar.cpu().numpy().tobytes()).hexdigest()
        kind = images.device.type  # a GPU draws other noise
        described = [asdict(settings), asdict(unet.settings), seed, content, schedule, kind]
        self.owner = json.dumps(described, sort_keys=True)

    def save(
        self, done: int, unet: UNet, average: dict[str, Tensor], optimiser: torch.optim.Adam, history: list[list[float]]
    ) -> None:
        if self.path is None:
            return
        tensors = {f"weights.{k}": v for k, v in unet.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.items()}
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        metadata = {"owner": self.owner, "done": str(done), "history": json.dumps(history)}
        try:
            write_atomically(self.path, save_tensors(tensors, metadata | {"sha256": _digest(tensors, metadata)}))
        except OSError as error:
            log.warning("No snapshot of the fit could be written (%s); it goes on, but a kill would lose it.", error)

    def restore(
        self, unet: UNet, average: dict[str, Tensor], optimiser: torch.optim.Adam
    ) -> tuple[int, list[list[float]]]:
        if self.path is None or not self.path.is_file():
            return 0, []
        device = next(unet.parameters()).device
        try:
            data = self.path.read_bytes()
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if header["owner"] != self.owner:
                return 0, []
            tensors = load_tensors(data)
            if header.pop("sha256") != _digest(tensors, header):
                raise ValueError("SHA-256 differs")
            tensors = {k: v.to(device) for k, v in tensors.items()}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("The snapshot %s is damaged (%s); the fit starts again from its beginning.", self.path, error)
            return 0, []
        unet.load_state_dict({k: tensors[f"weights.{k}"] for k in unet.state_dict()})
        for key in average:
            average[key].copy_(tensors[f"average.{key}"])
        parameters = list(unet.parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                # A fused optimiser wants the strides of the weights, which a file does not keep.
                kept = value.cpu() if name == "step" else torch.empty_like(parameters[int(i)]).copy_(value)
                state.setdefault(int(i), {})[name] = kept
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(header["done"]), json.loads(header["history"])


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of a snapshot's content: one that the disk has changed would train on, to another detector."""
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
