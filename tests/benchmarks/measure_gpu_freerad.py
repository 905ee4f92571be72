"""FreeRAD's U-Net on a GPU: first whether what it computes there is right, then how long it takes.

    python tests/benchmarks/measure_gpu_freerad.py [--device cuda] [--side 256] [--only kernels,shipped,...]

Says PASS or FAIL of each comparison with float32 or float64, then median milliseconds, each line as soon as it is
known; a section that fails shows its error and the next one begins. On a CPU the parts that need a GPU are left out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "detectors"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where the package is not installed

import torch
from test_freerad_gpu import norm_errors
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.run.determinism import deterministic
from detectors import registry
from detectors.freerad import FreeRAD, stepping
from detectors.freerad.diffusion import process
from detectors.freerad.gpu import network
from detectors.freerad.gpu.graph import Replay, Step
from detectors.freerad.training import train_unet
from detectors.freerad.unet import UNet
from detectors.noise import NoiseSeed

STARTED = time.perf_counter()
TFLOP = 2.981  # of a step at 256 pixels, counted by PyTorch; without meaning at other sides
STEPS, LATE = ("shipped", "step-right", "profile", "fit", "nograph", "eager"), ("free", "benchmark")
SECTIONS = ("kernels", *STEPS, "score", *LATE)  # in this order


def say(text: str) -> None:
    sys.stdout.write(f"[{time.perf_counter() - STARTED:6.1f} s] {text}\n")
    sys.stdout.flush()


def claim(text: str, holds: bool) -> None:
    say(f"{'PASS' if holds else 'FAIL'} {text}")


def section(name: str, run: Callable[[], object]) -> None:
    say(f"-- {name}")
    try:
        run()
    except Exception:
        say("FAIL with an error:\n" + "\n".join(traceback.format_exc().splitlines()[-12:]))


def milliseconds(step: Callable[[], object], device: torch.device, *, rounds: int = 4, each: int = 8) -> float:
    """Median over rounds of the mean over a few steps in a row, which is how they run."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    rounds, each = (rounds, each) if device.type == "cuda" else (1, 1)
    step()
    found = []
    for _ in range(rounds):
        wait()
        started = time.perf_counter()
        for _ in range(each):
            step()
        wait()
        found.append((time.perf_counter() - started) / each * 1e3)
    return statistics.median(found)


@contextmanager
def plain() -> Iterator[None]:
    """PyTorch's own kernels."""
    honest, network.kernels = network.kernels, lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        network.kernels = honest


@contextmanager
def cudnn(flag: str, value: bool) -> Iterator[None]:
    before = getattr(torch.backends.cudnn, flag)
    setattr(torch.backends.cudnn, flag, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, flag, before)


def draw(unet: UNet) -> None:
    """Weights of which none is zero by initialisation: a comparison of zeros would say nothing."""
    draws = torch.Generator(next(unet.parameters()).device).manual_seed(1)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            drawn = torch.randn(weight.shape, generator=draws, device=weight.device)
            if weight.dim() > 1:
                weight.copy_(drawn * 0.6 * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.1 * drawn + float("norm" in name and name.endswith("weight")))


def kernels(device: torch.device) -> None:
    from detectors.freerad.gpu import launch

    whole = launch.WHOLE
    for kind, bound in (("bfloat16", 6e-3), ("float32", 2e-5)):
        for channels, side in ((128, 64), (512, 16), (512, 8)):
            for scaled, pre, past in ((0, False, True), (2, True, False), (1, True, False)):
                case = (2, channels, 32, side, side, scaled, pre, True, past, whole)
                errors = norm_errors(case, kind, str(device))
                worst = max(errors, key=lambda name: errors[name])
                text = f"{kind}, {channels} channels, side {side}, scale of {scaled}"
                claim(f"{text}: {worst} off by {errors[worst]:.1e}", errors[worst] < bound)


class Training:
    """The network, a batch, and a step in several ways."""

    def __init__(self, device: torch.device, detector: FreeRAD) -> None:
        self.device, self.settings = device, detector.settings.training
        self.unet = detector.unet.to(device, torch.float32).train().requires_grad_(True)
        draw(self.unet)
        side, count = detector.settings.work_size, self.settings.batch_size
        draws = torch.Generator(device).manual_seed(2)
        self.images = torch.rand(8, 3, side, side, generator=draws, device=device) * 2 - 1
        noise = torch.randn(count, 3, side, side, generator=draws, device=device)
        self.inputs = self.images[:count], torch.tensor([37, 612][:count], device=device), noise
        self.chain = process(detector.settings.schedule).to(device)
        self.shipped: Step | None = None

    def step(self, *, precision: str = "bfloat16", graph: bool = True) -> Step:
        shape = self.inputs[0].shape
        return stepping.step_function(self.unet, self.chain, 0.001, precision, shape, self.device, graph=graph)

    def eager(self) -> stepping._Direct:
        """On a copy in PyTorch's usual memory format: a recorded step knows its weights' place."""
        copied = copy.deepcopy(self.unet).to(memory_format=torch.contiguous_format)
        return stepping._Direct(copied, self.chain, 0.001)

    def whole(self, step: Step, unet: UNet | None = None) -> Callable[[], None]:
        """The step with optimiser and average, as `train_unet` does it; a rate of 0 keeps the weights."""
        weights = list((unet or self.unet).parameters())
        optimiser = torch.optim.Adam(weights, lr=0.0, fused=self.device.type == "cuda")
        average = [p.detach().clone() for p in weights]

        def run() -> None:
            step(*self.inputs)
            optimiser.step()
            torch._foreach_lerp_(average, [p.detach() for p in weights], 1e-4)

        return run

    def timed(self, name: str, step: Step, unet: UNet | None = None, **repeats: int) -> None:
        ms = milliseconds(self.whole(step, unet), self.device, **repeats)
        say(f"{name}: {ms:.2f} ms a step, {TFLOP / ms * 1e3:.0f} TFLOP/s")

    def run_shipped(self) -> None:
        started = time.perf_counter()
        self.shipped = self.step()
        say(f"made in {time.perf_counter() - started:.1f} s: {type(self.shipped).__name__}")
        if self.device.type == "cuda":
            claim("the step is recorded as a graph", isinstance(self.shipped, Replay))
        self.timed("what ships", self.shipped)
        ms = milliseconds(lambda: self.shipped and self.shipped(*self.inputs), self.device)
        say(f"of these, forward and backward: {ms:.2f} ms")

    def run_right(self) -> None:
        """16-bit and float32 steps of our kernels against PyTorch's in float32."""

        def gradients(step: Step, unet: UNet) -> tuple[float, dict[str, Tensor]]:
            loss = float(step(*self.inputs))
            named = {name: p.grad for name, p in unet.named_parameters()}
            return loss, {name: g.double().contiguous().flatten() for name, g in named.items() if g is not None}

        with cudnn("allow_tf32", False), plain():
            reference = self.eager()
            loss, expected = gradients(reference, reference.unet)
        ways = {"bfloat16": (self.shipped or self.step(), 2e-2, 0.9)}
        if self.device.type == "cuda":
            ways["float32"] = self.step(precision="float32", graph=False), 1e-4, 0.9999
        for name, (step, bound, least) in ways.items():
            with cudnn("allow_tf32", False):
                found, got = gradients(step, self.unet)
            cosines = {k: float(got[k] @ g / (got[k].norm() * g.norm() + 1e-30)) for k, g in expected.items()}
            lowest = min(cosines, key=lambda key: cosines[key])
            apart = sum(float((got[k] - g).square().sum()) for k, g in expected.items())
            apart = (apart / sum(float(g.square().sum()) for g in expected.values())) ** 0.5
            text = f"{name}: loss {found:.5f} for {loss:.5f}; gradient off by {apart:.1e}, least cosine"
            holds = abs(found / loss - 1) < bound and cosines[lowest] > least
            claim(f"{text} {cosines[lowest]:.5f} ({lowest})", holds)

    def run_profile(self) -> None:
        run = self.whole(self.shipped or self.step())
        run()
        cuda = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
            for _ in range(3):
                run()
            if cuda:
                torch.cuda.synchronize()
        kind = "self_device_time_total" if cuda else "self_cpu_time_total"
        own = DeviceType.CUDA if cuda else DeviceType.CPU  # kernels, not the calls that launched them
        rows = [row for row in found.key_averages() if row.device_type == own]
        rows.sort(key=lambda row: -getattr(row, kind))
        total = sum(getattr(row, kind) for row in rows)
        say(f"{total / 3e3:.2f} ms of kernels a step, {sum(row.count for row in rows) // 3} kernels; the largest:")
        for row in rows[:15]:
            say(f"  {getattr(row, kind) / 3e3:7.3f} ms {row.count // 3:5d} x  {row.key[:110]}")

    def run_fit(self) -> None:
        """The real loop, its host work included."""
        marks: dict[int, float] = {}

        def progress(done: int, total: int, note: str = "") -> None:
            marks[done] = time.perf_counter()  # the loop waits for the device once in 50 iterations

        steps = 150 if self.device.type == "cuda" else 2
        settings = replace(self.settings, iterations=steps)
        train_unet(self.unet, self.images, self.chain, settings, seed=0, progress=progress, workdir=None)
        if self.device.type == "cuda":
            say(f"train_unet: {(marks[150] - marks[50]) * 10:.2f} ms a step")
        draw(self.unet)

    def run_free(self) -> None:
        torch.use_deterministic_algorithms(False)
        try:
            self.timed("algorithms that may be non-deterministic", self.step())
        finally:
            deterministic(self.device)

    def run_benchmark(self) -> None:
        with cudnn("benchmark", True):
            self.timed("cuDNN choosing by timing", self.step())

    def run_eager(self) -> None:
        with plain():
            step = self.eager()
            self.timed("PyTorch's own kernels, float32 (TF32 convolutions)", step, step.unet, rounds=2, each=2)


def score(device: torch.device, detector: FreeRAD, batch: int) -> None:
    side = detector.image_size
    draw(detector.unet)
    detector._freeze()
    detector.to(device)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(3)).to(device)
    noise = NoiseSeed(0).source("measure", [str(i) for i in range(batch)])

    def gradient(images: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(detector.score(leaf, noise=noise.pick(slice(0, len(images)))).sum(), leaf)[0]

    exact = gradient(x[:1].double())
    detector.to(torch.float32)

    def timed(name: str) -> None:
        for tf32, bound in ((False, 1e-3), (True, 0.1)):
            with cudnn("allow_tf32", tf32):
                error = float((gradient(x[:1]).double() - exact).norm() / exact.norm())
            claim(f"{name}, {'TF32' if tf32 else 'float32'} convolutions: {error:.1e} from float64's", error < bound)
        ms = milliseconds(lambda: gradient(x), device, rounds=2, each=2)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
        say(f"{name}: {ms:.0f} ms a gradient of {batch} images; {peak:.0f} GiB at most so far")

    timed("our kernels, channels last")
    with plain():
        timed("PyTorch's own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="images of a score's gradient")
    parser.add_argument("--only", default=",".join(SECTIONS))
    asked = parser.parse_args()
    which, device = asked.only.split(","), torch.device(asked.device)
    deterministic(device)
    on_gpu = device.type == "cuda"
    say(f"{torch.cuda.get_device_name(device) if on_gpu else 'CPU'}, torch {torch.__version__}, {asked.side} px")
    if "kernels" in which and on_gpu:
        section("kernels", lambda: kernels(device))
    detector = registry.create("freerad", preset="paper", image_size=asked.side)
    assert isinstance(detector, FreeRAD)
    steps(device, detector, [name for name in STEPS if name in which])
    if "score" in which:
        section("score", lambda: score(device, detector, asked.batch if on_gpu else 1))
    steps(device, detector, [name for name in LATE if name in which])
    say("done")


def steps(device: torch.device, detector: FreeRAD, names: list[str]) -> None:
    """Sections about the training step; the recording's memory is free again after them."""
    if not names:
        return
    training = Training(device, detector)
    todo = {
        "shipped": training.run_shipped,
        "step-right": training.run_right,
        "profile": training.run_profile,
        "fit": training.run_fit,
        "benchmark": training.run_benchmark,
        "free": training.run_free,
        "nograph": lambda: training.timed("without a graph", training.step(graph=False)),
        "eager": training.run_eager,
    }
    for name in names:
        section(name, todo[name])


if __name__ == "__main__":
    main()
