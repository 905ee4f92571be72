"""What a record says about where it was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from bench.text import one_line

if sys.platform != "win32":
    import resource

PACKAGES = ("radbench", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "elpv-dataset")
CODE = ("bench", "detectors", "attacks", "certificates")


@cache
def commit() -> str:
    """The commit of this source tree, with "+changes" where the code differs from it; "" outside a repository.

    As it was when this process first asked, which a run does when it begins: the tree may move on while it computes.

    RADBENCH_COMMIT, where it is set, stands instead and is marked as told: a copy of the tree on another machine may
    lie in a repository that knows nothing of it.
    """
    if os.environ.get("RADBENCH_COMMIT"):
        return one_line(os.environ["RADBENCH_COMMIT"], 60) + " (told)"
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout

    try:
        if not (here / ".git").exists():
            return ""
        # Whatever the user's git is told to show or to ignore: a new detector's file is code that no commit tells of.
        changed = git("status", "--porcelain", "--untracked-files=all", "--", *CODE).strip()
        strange = [name for name in git("ls-files", "--others", "-z", "--", *CODE).split("\0") if name.endswith(".py")]
        return git("rev-parse", "HEAD").strip() + ("+changes" if changed or strange else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe(device: torch.device) -> dict[str, str | int]:
    """Versions, machine and device."""
    found: dict[str, str | int] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    found["cpu"] = _processor()
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.index is not None:  # of several alike, which
        found["device_index"] = device.index
    if device.type == "cuda":  # 10-bit mantissas, PyTorch's default for convolutions alone
        found["tf32"] = ", ".join(
            name
            for name, on in (
                ("convolutions", torch.backends.cudnn.allow_tf32),
                ("matrix products", torch.backends.cuda.matmul.allow_tf32),
            )
            if on
        )
    found["threads"] = torch.get_num_threads()
    found["commit"] = commit()
    return found


def peak_memory_mb(device: torch.device) -> float | None:
    """The most memory that this process has held so far, in MiB (of the device, where that is a GPU), if known."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
