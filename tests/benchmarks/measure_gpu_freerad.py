"""FreeRAD's U-Net on a GPU against what that GPU can do: a training step and a score's gradient, each in several ways.

    python tests/benchmarks/measure_gpu_freerad.py [--device cuda] [--side 256] [--only training,...]

Prints, as it goes: the ceilings (a matrix product in 16 bits and in TF32, a copy), the arithmetic of each step, the
median milliseconds of each variant, and how far its loss or gradient is from float32's or float64's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where the package is not installed

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.runner import deterministic
from detectors import registry
from detectors.freerad import FreeRAD, stepping
from detectors.freerad.diffusion import hybrid_loss, process
from detectors.freerad.unet import UNet
from detectors.noise import NoiseSeed, generator


def say(text: str) -> None:
    sys.stdout.write(f"[{time.perf_counter() - STARTED:6.1f} s] {text}\n")
    sys.stdout.flush()


STARTED = time.perf_counter()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(step: Callable[[], object], device: torch.device, *, rounds: int = 5, each: int = 8) -> float:
    """Median over rounds of the mean over a few steps in a row, which is how they run."""
    for _ in range(3):
        step()
    found = []
    for _ in range(rounds):
        wait(device)
        started = time.perf_counter()
        for _ in range(each):
            step()
        wait(device)
        found.append((time.perf_counter() - started) / each * 1e3)
    return statistics.median(found)


def ceilings(device: torch.device) -> None:
    size = 8192 if device.type == "cuda" else 512
    for name, dtype, tf32 in (("bfloat16", torch.bfloat16, False), ("TF32", torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        ms = milliseconds(lambda a=a, b=b: a @ b, device)
        say(f"matrix product {size}^3, {name}: {2 * size**3 / ms / 1e9:.0f} TFLOP/s")
    torch.backends.cuda.matmul.allow_tf32 = False
    block = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(block)
    ms = milliseconds(lambda: target.copy_(block), device)
    say(f"copy, bytes read plus written: {2 * block.numel() * 4 / ms / 1e9:.2f} TB/s")


def training(device: torch.device, detector: FreeRAD, which: list[str]) -> None:
    settings, side = detector.settings, detector.settings.work_size
    batch = settings.training.batch_size
    source = generator(0, "measure")
    x0 = (torch.rand(batch, 3, side, side, generator=source) * 2 - 1).to(device)
    noise = torch.randn(batch, 3, side, side, generator=source).to(device)
    index = torch.tensor([37, 612][:batch]).to(device)
    chain = process(settings.schedule).to(device)
    unet = UNet(settings.unet, side).to(device)

    def fresh() -> None:
        unet.initialise(generator(0, "measure-weights"))
        draws = torch.Generator().manual_seed(1)
        with torch.no_grad():  # nothing zero by initialisation: the comparison of losses would say nothing
            for weight in unet.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=draws).to(device)
        unet.to(memory_format=torch.contiguous_format)

    fresh()
    with FlopCounterMode(display=False) as counter:
        sum(hybrid_loss(unet, x0, index, noise, chain, 0.001)).mean().backward()
    flops = counter.get_total_flops()
    weights = sum(p.numel() for p in unet.parameters())
    say(f"a training step, batch {batch}: {flops / 1e12:.3f} TFLOP; {weights} weights")
    unet.zero_grad()
    torch.backends.cudnn.allow_tf32 = False
    exact = sum(hybrid_loss(unet, x0, index, noise, chain, 0.001)).detach()
    torch.backends.cudnn.allow_tf32 = True
    optimiser = torch.optim.Adam(unet.parameters(), lr=1e-4, fused=device.type == "cuda")
    average = [p.detach().clone() for p in unet.parameters()]

    def run(name: str, loss: stepping.Loss) -> None:
        found = sum(loss(x0, index, noise)).detach()
        torch._foreach_copy_(average, [p.detach() for p in unet.parameters()])

        def step() -> None:
            simple, variational = loss(x0, index, noise)
            optimiser.zero_grad(set_to_none=True)
            (simple + variational).mean().backward()
            optimiser.step()
            torch._foreach_lerp_(average, [p.detach() for p in unet.parameters()], 1e-4)

        ms = milliseconds(step, device)
        apart = float(((found - exact) / exact).abs().max())
        say(f"  {name}: {ms:.2f} ms a step, {flops / ms / 1e9:.0f} TFLOP/s; loss {apart:.1e} from float32's")
        fresh()

    def plain(a: Tensor, i: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return hybrid_loss(unet, a, i, z, chain, 0.001)

    if "shipped" in which:
        started = time.perf_counter()
        shipped = stepping.loss_function(unet, chain, 0.001, settings.training.precision, x0.shape, device)
        say(f"  compiled in {time.perf_counter() - started:.0f} s")
        run(f"what ships, {settings.training.precision}", shipped)
    if "benchmark" in which:
        torch.backends.cudnn.benchmark = True
        unet.to(memory_format=torch.channels_last)
        run("the same, cuDNN choosing by timing", shipped)
        torch.backends.cudnn.benchmark = False
    if "free" in which:
        torch.use_deterministic_algorithms(False)
        unet.to(memory_format=torch.channels_last)
        run("the same, algorithms that may be non-deterministic", shipped)
        deterministic(device)
    if "graphs" in which:
        unet.to(memory_format=torch.channels_last)
        torch._dynamo.reset()
        original = torch.compile
        torch.compile = lambda f: original(f, mode="reduce-overhead")  # type: ignore[assignment]
        run("with CUDA graphs", stepping.loss_function(unet, chain, 0.001, "bfloat16", x0.shape, device))
        torch.compile = original
    if "eager" in which:
        run("not compiled, float32 (TF32 convolutions)", plain)

        def half(a: Tensor, i: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(device.type, torch.bfloat16):
                return hybrid_loss(lambda x, t: tuple(o.float() for o in unet(x, t)), a, i, z, chain, 0.001)

        run("not compiled, bfloat16", half)


def gradients(device: torch.device, detector: FreeRAD, which: list[str], batch: int) -> None:
    side = detector.image_size
    detector.unet.initialise(generator(0, "measure-weights"))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in detector.unet.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=draws)
    detector._freeze()
    detector.to(device)
    x = torch.rand(batch, 3, side, side, generator=draws).to(device)
    noise = NoiseSeed(0).source("measure", [str(i) for i in range(batch)])

    def gradient(images: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(detector.score(leaf, noise=noise.pick(slice(0, len(images)))).sum(), leaf)[0]

    with FlopCounterMode(display=False) as counter:
        gradient(x)
    flops = counter.get_total_flops()
    say(f"a gradient of the score, batch {batch}: {flops / 1e12:.2f} TFLOP")
    exact = gradient(x[:1].double())
    detector.to(torch.float32)

    def run(name: str) -> None:
        apart = gradient(x)[:1].double()
        error = float((apart - exact).norm() / exact.norm())
        ms = milliseconds(lambda: gradient(x), device, rounds=3, each=2)
        say(
            f"  {name}: {ms:.0f} ms, {flops / ms / 1e9:.0f} TFLOP/s; {error:.1e} from float64's; "
            f"{torch.cuda.max_memory_allocated() / 2**30 if device.type == 'cuda' else 0:.0f} GiB"
        )

    if "score" in which:
        run("TF32 convolutions")
    if "exact" in which:
        torch.backends.cudnn.allow_tf32 = False
        run("float32 throughout")
        torch.backends.cudnn.allow_tf32 = True
    if "score-compiled" in which:
        torch._dynamo.reset()
        plain = detector.unet
        plain.to(memory_format=torch.channels_last)
        compiled = torch.compile(plain, dynamic=False)

        def network(images: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
            return compiled(images.contiguous(memory_format=torch.channels_last), timesteps)

        del detector._modules["unet"]
        object.__setattr__(detector, "unet", network)
        started = time.perf_counter()
        gradient(x)
        say(f"  compiled in {time.perf_counter() - started:.0f} s")
        run("TF32 convolutions, compiled, channels last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="images of a score's gradient")
    parser.add_argument("--only", default="ceilings,shipped,benchmark,free,graphs,eager,score,exact,score-compiled")
    asked = parser.parse_args()
    which, device = asked.only.split(","), torch.device(asked.device)
    deterministic(device)
    detector = registry.create("freerad", preset="paper", image_size=asked.side)
    assert isinstance(detector, FreeRAD)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    say(f"{name}, torch {torch.__version__}, {asked.side} px")
    if "ceilings" in which:
        ceilings(device)
    if {"shipped", "benchmark", "free", "graphs", "eager"} & set(which):
        training(device, detector, which)
    if {"score", "exact", "score-compiled"} & set(which):
        gradients(device, detector, which, asked.batch)


if __name__ == "__main__":
    main()
