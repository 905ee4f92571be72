"""FreeRAD's U-Net against what the machine can do: GFLOP/s of a training step and of an attack step, beside those of a
matrix product, in one run.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_freerad.py -s
"""

from __future__ import annotations

import sys

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from bench.run.costs import matrix_gflops
from detectors.freerad.detector import quick_settings
from detectors.freerad.diffusion import hybrid_loss, process
from detectors.freerad.unet import UNet
from detectors.noise import generator

BATCH = 8


@pytest.mark.parametrize("name", ["training", "attack"])
def test_unet_steps_use_a_fair_share_of_the_arithmetic(name: str, benchmark: BenchmarkFixture) -> None:
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

    unet.requires_grad_(name == "training")
    step = train if name == "training" else attack
    with FlopCounterMode(display=False) as counter:
        step()
    flops, limit = counter.get_total_flops() / 1e9, matrix_gflops()
    benchmark.pedantic(step, rounds=5, iterations=1, warmup_rounds=1)
    speed = flops / benchmark.stats.stats.median
    benchmark.extra_info.update(gflop=flops, gflops=speed, share_of_matrix_product=speed / limit)
    sys.stdout.write(
        f"\n{name} step, batch {BATCH}: {flops:.1f} GFLOP at {speed:.0f} GFLOP/s, {100 * speed / limit:.0f} % of a "
        f"matrix product's {limit:.0f}\n"
    )
    assert speed / limit > 0.15
