"""FreeRAD's U-Net against what the machine can do: GFLOP/s of a training step and of an attack step, beside those of a
matrix product, in one run.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_freerad.py -s
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.costs import matrix_gflops
from detectors.freerad.detector import quick_settings
from detectors.freerad.diffusion import hybrid_loss, process
from detectors.freerad.unet import UNet
from detectors.noise import generator

BATCH = 8


def _gflops(step: Callable[[], None]) -> tuple[float, float]:
    """GFLOP of one step, and GFLOP/s over five."""
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops() / 1e9
    started = time.perf_counter()
    for _ in range(5):
        step()
    return flops, 5 * flops / (time.perf_counter() - started)


def test_unet_steps_use_a_fair_share_of_the_arithmetic() -> None:
    settings = quick_settings(128)
    unet = UNet(settings.unet, settings.work_size)
    unet.initialise(generator(0, "benchmark"))
    chain = process(settings.schedule)
    images = torch.randn(BATCH, 3, settings.work_size, settings.work_size)
    index = torch.arange(BATCH) * 100

    def train() -> None:
        simple, variational = hybrid_loss(unet, images, index, torch.randn_like(images), chain, 0.001)
        (simple + variational).mean().backward()
        unet.zero_grad()

    def attack() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(unet(leaf, torch.tensor([50]))[0].square().sum(), leaf)

    limit = matrix_gflops()
    lines = [f"matrix product {limit:.0f} GFLOP/s"]
    shares = []
    for name, step in (("training", train), ("attack", attack)):
        unet.requires_grad_(name == "training")
        flops, speed = _gflops(step)
        shares.append(speed / limit)
        lines.append(f"{name} step, batch {BATCH}: {flops:.1f} GFLOP at {speed:.0f} GFLOP/s, {100 * shares[-1]:.0f} %")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert min(shares) > 0.15
