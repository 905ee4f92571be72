"""Our GPU kernels, and the U-Net through them, against PyTorch in float64, run by Triton's interpreter on the CPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from freerad_small import shake
from torch import Tensor

from detectors.freerad.gpu.network import FusedUNet, for_training
from detectors.freerad.unet import UNet, UNetSettings

# Batch, channels, groups, height, width, images of scale and shift (0: none), a bias to add, SiLU, a gradient past the
# norm, and how many values a program may hold: few take the way of large feature maps.
Case = tuple[int, int, int, int, int, int, bool, bool, bool, int]
CASES: dict[str, Case] = {
    "as a block begins": (2, 16, 4, 16, 16, 0, False, True, True, 16384),
    "as a block goes on": (2, 32, 2, 8, 8, 2, True, True, False, 16384),
    "as attention begins": (2, 128, 4, 8, 8, 0, False, False, True, 16384),
    "one timestep for all": (2, 36, 3, 7, 9, 1, True, True, False, 16384),
    "in chunks, a block begins": (2, 256, 8, 7, 9, 0, False, True, True, 0),
    "in chunks, a block goes on": (2, 96, 8, 7, 9, 2, True, True, False, 0),
    "in chunks, one timestep": (2, 32, 8, 9, 9, 1, True, True, False, 0),
    "in chunks, attention begins": (1, 1024, 32, 2, 3, 0, False, False, True, 0),
    "in chunks, lone channels": (1, 4, 4, 16, 12, 1, False, True, False, 0),
}
TYPES = {"float32": (torch.float32, 1e-5), "bfloat16": (torch.bfloat16, 6e-3)}


def _plain(inputs: dict[str, Tensor], groups: int, *, silu: bool) -> Tensor:
    x, pre, scale_shift = inputs["x"], inputs.get("pre"), inputs.get("scale_shift")
    x = x if pre is None else x + pre[:, None, None]
    h = F.group_norm(x, groups, inputs["weight"], inputs["bias"], 1e-5)
    if scale_shift is not None:
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return F.silu(h) if silu else h


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


def norm_errors(case: Case, kind: str, device: str = "cpu") -> dict[str, float]:
    """Relative errors of the result and of every gradient."""
    from detectors.freerad.gpu import launch

    batch, channels, groups, height, width, scaled, has_pre, silu, has_past, launch.WHOLE = case
    dtype, draws = TYPES[kind][0], torch.Generator().manual_seed(1)

    def drawn(*shape: int, mean: float = 0.0, dtype: torch.dtype = dtype) -> Tensor:
        return (mean + torch.randn(shape, generator=draws)).to(device, dtype)

    # A mean far from 0: a mean of squares less a squared mean would show.
    inputs = {"x": drawn(batch, channels, height, width, mean=20.0)}
    inputs |= {name: drawn(channels, dtype=torch.float32) for name in ("weight", "bias")}  # as a 16-bit step has them
    if scaled:
        inputs["scale_shift"] = drawn(scaled, 2 * channels)
    if has_pre:
        inputs["pre"] = drawn(channels)
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    exact = {name: value.double().requires_grad_() for name, value in inputs.items()}
    optional = [leaves.get("scale_shift"), leaves.get("pre")]
    y, past = launch.FusedNorm.apply(leaves["x"], leaves["weight"], leaves["bias"], *optional, groups, 1e-5, silu)
    expected = _plain(exact, groups, silu=silu)
    given = [drawn(*y.shape) for _ in range(1 + has_past)]
    found = torch.autograd.grad([y, past][: len(given)], list(leaves.values()), given)
    gradients = torch.autograd.grad(
        [expected, exact["x"] * 1][: len(given)], list(exact.values()), [g.double() for g in given]
    )
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    errors = {name: _apart(f, g) for name, f, g in zip(leaves, found, gradients, strict=True)}
    return errors | {"y": _apart(y, expected)}


def add_errors(kind: str) -> dict[str, float]:
    from detectors.freerad.gpu import launch

    dtype, draws = TYPES[kind][0], torch.Generator().manual_seed(2)
    shapes = [(2, 96, 9, 8), (2, 96, 9, 8), (96,), (96,)]
    leaves = [torch.randn(shape, generator=draws).to(dtype).requires_grad_() for shape in shapes]
    given = torch.randn(shapes[0], generator=draws).to(dtype)
    errors = {}
    for name, (first, second) in {"both": (1, 1), "first": (1, 0), "none": (0, 0)}.items():
        used = [*leaves[:2], *([leaves[2]] * first), *([leaves[3]] * second)]
        out = launch.FusedAdd.apply(*leaves[:2], leaves[2] if first else None, leaves[3] if second else None)
        wide = [leaf.double() if leaf.dim() == 4 else leaf.double()[:, None, None] for leaf in used]
        total = sum(wide, torch.zeros((), dtype=torch.float64))
        errors[name] = _apart(out, total)
        for i, gradient in enumerate(torch.autograd.grad(out, used, given)):
            expected = given.double() if i < 2 else given.double().sum(dim=(0, 2, 3))
            errors[f"{name}, gradient {i}"] = _apart(gradient, expected)
    return errors


def network_errors() -> dict[str, float]:
    """Of the outputs and of all gradients of a small U-Net."""
    from detectors.freerad.gpu import launch

    launch.WHOLE = 16384
    unet = UNet(UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(4,), unshuffle=2), 16)
    shake(unet, seed=0)
    fused = FusedUNet(unet, launch)
    assert [name for name, _ in fused.named_parameters()] == [name for name, _ in unet.named_parameters()]
    x, timesteps = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([7, 900])
    found: list[dict[str, Tensor]] = []
    for network in (fused, copy.deepcopy(unet).double()):
        dtype = next(network.parameters()).dtype
        leaf = x.to(dtype).requires_grad_()
        noise, variance = network(leaf, timesteps)
        named = {"x": leaf, **dict(network.named_parameters())}
        gradients = torch.autograd.grad(noise.square().sum() + variance.sin().sum(), list(named.values()))
        found.append({"noise": noise, "variance": variance, **dict(zip(named, gradients, strict=True))})
    # A norm takes some biases away: what is zero but for rounding is measured by the largest.
    floor = 1e-3 * max(float(value.detach().norm()) for value in found[1].values())
    return {
        name: float((value - found[1][name]).detach().norm()) / max(floor, float(found[1][name].detach().norm()))
        for name, value in found[0].items()
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """All errors, from a process of its own: Triton reads before it is imported whether to interpret."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed: it is not made for this system.")
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parent), str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(here)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_group_norm_and_all_its_gradients(
    case: str, kind: str, measured: dict[str, dict[str, float]]
) -> None:
    errors = measured[f"{case}, {kind}"]
    assert {"x", "weight", "bias", "y"} <= set(errors)
    assert max(errors.values()) < TYPES[kind][1], errors


@pytest.mark.parametrize("kind", TYPES)
def test_kernels_add_with_biases(kind: str, measured: dict[str, dict[str, float]]) -> None:
    errors = measured[f"add, {kind}"]
    assert len(errors) == 3 + 4 + 3 + 2
    assert max(errors.values()) < TYPES[kind][1], errors


def test_the_network_through_the_kernels_is_the_plain_one(measured: dict[str, dict[str, float]]) -> None:
    errors = measured["network"]
    assert {"noise", "variance", "x", "norm_out.weight", "conv_in.bias"} <= set(errors)
    assert max(errors.values()) < 1e-4, errors


def test_without_a_gpu_the_network_itself_is_trained() -> None:
    unet = UNet(UNetSettings(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(8,)), 16)
    assert for_training(unet, torch.device("cpu")) is unet


if __name__ == "__main__":
    results = {f"{case}, {kind}": norm_errors(CASES[case], kind) for case in CASES for kind in TYPES}
    results["network"] = network_errors()
    print(json.dumps(results | {f"add, {kind}": add_errors(kind) for kind in TYPES}))
