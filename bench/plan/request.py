"""What a user asked for, checked once."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attacks import registry as attack_registry
from bench import files
from bench.data.reading import Reading
from bench.errors import BenchError
from bench.names import nearest
from bench.plan import presets, protocols
from bench.plan.devices import ALL
from bench.text import one_line

SMALLEST_SIDE, LARGEST_SIDE = 8, 4096  # as for the checkpoints that `detectors.load` takes
LARGEST_SEED = 2**63 - 1  # what a table column and a random generator hold
LARGEST = 2**63  # of a setting: what PyTorch and files hold
FIT_SEEDS_FOR = ("all", "chaotic")
DEVICES = ("cpu", "cuda", "xpu")  # "mps" has no float64


def default_cache() -> Path:
    """RADBENCH_CACHE, or a folder in the user's cache. Raises BenchError where the user has no home folder."""
    base = os.environ.get("RADBENCH_CACHE")
    if base:
        return files.at_home(base)
    try:
        return files.at_home(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radbench"
    except RuntimeError:  # a container's user may be a number that nobody knows
        raise BenchError(
            "There is no home folder to keep checkpoints in (HOME is not set, and the system knows none of this "
            "user); say where with --cache DIR or RADBENCH_CACHE."
        ) from None


@dataclass(frozen=True)
class Override:
    """`--set DETECTOR.SETTING[@CATEGORY]=VALUE`."""

    detector: str
    setting: str
    category: str | None
    value: Any

    @classmethod
    def parse(cls, text: str) -> Override:
        """Raises BenchError where the text has another form."""
        left, equals, value = text.partition("=")
        path, at, category = left.partition("@")
        detector, dot, setting = path.partition(".")
        if not (equals and dot and detector and setting and value) or (at and not category):
            raise BenchError(f"--set takes DETECTOR.SETTING=VALUE or DETECTOR.SETTING@CATEGORY=VALUE; got {text!r}.")
        return cls(detector, setting, category or None, _value(value))


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if not abs(number) < LARGEST:  # so written that NaN is refused, too
            raise BenchError(f"--set takes numbers below 2^63; got {one_line(text, 60)!r}.")
        return number
    return text


@dataclass(frozen=True)
class RunConfig:
    """A run: which cells, how, and where its files go.

    Attributes:
        detectors, attacks: registry names.
        dataset, data_root, categories: what is tested; categories None means all.
        preset, protocol: names.
        epsilons: per attack; empty means each attack's default. l-inf in [0, 1] units.
        sweep: start each of several epsilons from what was found at the next smaller one.
        attack_settings: of the attacks' settings those that the user asked for; the others are the protocol's (the
            record says what was used).
        complete: attack every image to the end, also one that has lost all its pairs already.
        seed: of attack, selection and verdict noise. fit_seed: of fitting.
        fit_seeds: of several fits of each detector, instead of `fit_seed`; empty means that one alone.
        fit_seeds_for: "all" detectors whose fit is random get all of `fit_seeds`, or only those whose training is
            "chaotic" (`Detector.training_is_chaotic`); the others get the first.
        holdout: training normals kept from every fit (a tenth at most); None means the preset's.
        group_pattern, bit_depth: how a folder's pictures are read (`bench.data.reading`).
        allow_leaks: go on with test pictures that are training pictures or are in both classes; marked in the record.
        limit: at most this many training normals, and test images per class; marked in the record.
        device: "auto", "cpu", "cuda", "cuda:1"; several are for `bench.plan.devices` to tell apart first.
        refit: fit again even where a checkpoint is there.
        keep_images: keep the adversarial images beside each record, for whoever verifies it.
        out: results folder. cache: checkpoints.
    """

    detectors: tuple[str, ...]
    attacks: tuple[str, ...] = ("pgd-linf",)
    dataset: str = "elpv"
    data_root: Path | None = None
    categories: tuple[str, ...] | None = None
    group_pattern: str = ""
    bit_depth: int | None = None
    allow_leaks: bool = False
    preset: str = "quick"
    protocol: str = "quick"
    epsilons: tuple[float, ...] = ()
    sweep: bool = False
    attack_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    complete: bool = False
    seed: int = 0
    fit_seed: int = 0
    fit_seeds: tuple[int, ...] = ()
    fit_seeds_for: str = "all"
    holdout: int | None = None
    limit: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    refit: bool = False
    keep_images: bool = False
    overrides: tuple[Override, ...] = ()
    out: Path = Path("results")
    cache: Path = field(default_factory=default_cache)

    def __post_init__(self) -> None:
        presets.get(self.preset)
        protocols.get(self.protocol)
        _ = self.reading  # which checks itself
        protocols.check_asked(self.attack_settings)
        for name in ("limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchError(f"--{name.replace('_', '-')} must be at least 1; got {value}.")
        if self.holdout is not None and self.holdout < 0:
            raise BenchError(f"--holdout is a number of images, 0 or more; got {self.holdout}.")
        if self.sweep and len({epsilon for epsilon in self.epsilons if epsilon > 0}) < 2:
            raise BenchError("--sweep needs several radii above 0: --epsilon 0.5/255,1/255,2/255.")
        if self.image_size is not None and not SMALLEST_SIDE <= self.image_size <= LARGEST_SIDE:
            raise BenchError(f"--image-size must lie in {SMALLEST_SIDE}..{LARGEST_SIDE} pixels; got {self.image_size}.")
        seeds = (self.seed, self.fit_seed, *self.fit_seeds)
        if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
            raise BenchError(f"A seed is a whole number; got {', '.join(map(repr, seeds)):.100}.")
        if any(abs(seed) > LARGEST_SEED for seed in seeds):
            raise BenchError(f"A seed is a whole number up to {LARGEST_SEED}; give a smaller one.")
        if self.fit_seeds and self.fit_seed:
            raise BenchError("--fit-seed is for one fit and --fit-seeds for several; give one of them.")
        if min(self.fit_seeds, default=0) < 0:
            raise BenchError(f"--fit-seeds are whole numbers, 0 or more; got {min(self.fit_seeds)}.")
        if self.fit_seeds_for not in FIT_SEEDS_FOR:
            raise BenchError(f"--fit-seeds-for is one of {', '.join(FIT_SEEDS_FOR)}; got {self.fit_seeds_for!r}.")

    @property
    def reading(self) -> Reading:
        """How the dataset is to be read."""
        return Reading(self.group_pattern, self.bit_depth)

    def overrides_for(self, detector: str, category: str) -> dict[str, Any]:
        """The settings that the user set for a detector; those for the category win."""
        general = {o.setting: o.value for o in self.overrides if o.detector == detector and o.category is None}
        special = {o.setting: o.value for o in self.overrides if o.detector == detector and o.category == category}
        return general | special

    def torch_device(self) -> torch.device:
        """The device to compute on. Raises BenchError where it is not there."""
        if "," in self.device or self.device.endswith(ALL):
            raise BenchError(
                f"Several devices ({one_line(self.device, 60)}) share a run, a process each; here name one of them."
            )
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            if device.type not in DEVICES:  # torch also knows devices that compute nothing ("meta")
                raise RuntimeError
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise BenchError(f"This machine has no device {self.device!r}; use --device cpu.") from None
        return device


def check_overrides(overrides: tuple[Override, ...], detectors: tuple[str, ...], categories: tuple[str, ...]) -> None:
    """Raise BenchError for a `--set` that could touch nothing."""
    for override in overrides:
        pairs = [("detector", override.detector, detectors)]
        if override.category is not None:
            pairs.append(("category", override.category, categories))
        for kind, name, known in pairs:
            if name not in known and name in attack_registry.names():
                raise BenchError(
                    f"--set is for detectors, and {name!r} is an attack: its settings are options of their own "
                    "(--steps, --eot, ...) or given from Python (bench.evaluate)."
                )
            if name not in known:
                raise BenchError(
                    f"--set names the {kind} {name!r}, which is not in this run; did you mean {nearest(name, known)!r}?"
                )


def command_line() -> str:
    """The command as the user typed it, for records."""
    program = Path(sys.argv[0]).name
    name = "python -m bench" if program == "__main__.py" else program
    return shlex.join([*name.split(), *sys.argv[1:]])
