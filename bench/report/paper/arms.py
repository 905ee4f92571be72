"""A line of a table of the paper, and a line with its figures: a detector with its settings under an attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.metrics.intervals import Estimate
from bench.text import epsilon_text, norm_text

PRINTED_TO = 0.05 + 1e-9  # tables are printed to one decimal


def option(setting: str) -> str:
    """How the command line calls a setting of an attack."""
    return "--gradient" if setting == "differentiate" else f"--{setting.replace('_', '-')}"


@dataclass(frozen=True)
class Threat:
    """One attack of a table.

    Attributes:
        attack, norm: by name.
        epsilon: on the [0, 1] scale at the recipe's resolution; 0 where only clean images count.
        also: a second radius whose figure is shown beside it (Table 14: the radius that has equal energy per pixel).
        eot: draws that each gradient is averaged over; None: the protocol's.
        bpda: whether the surrogate's gradient is followed alone.
        options: what else is asked of the attack, by the names of `bench.plan.request.RunConfig.attack_settings`.
        protocol: None: the recipe's.
        title: as a heading names it; "": by attack and norm.
    """

    attack: str
    norm: str
    epsilon: float
    also: float | None = None
    eot: int | None = None
    bpda: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    protocol: str | None = None
    title: str = ""

    def __str__(self) -> str:
        if self.epsilon == 0:
            return "clean images"
        name = self.title or f"{norm_text(self.norm)} PGD"
        return f"{name}, epsilon {epsilon_text(self.epsilon, self.norm)}"

    @property
    def asked(self) -> dict[str, Any]:
        """The attack settings that a run is asked for."""
        found = dict(self.options)
        if self.eot is not None:
            found["eot"] = self.eot
        if self.bpda:
            found["differentiate"] = "surrogate"
        return found

    def scaled(self, scale: float) -> Threat:
        """The same at another resolution: an l2 radius scales with the side, an l-inf radius stays."""
        if self.norm != "l2" or scale == 1.0:
            return self
        return replace(self, epsilon=self.epsilon * scale, also=None if self.also is None else self.also * scale)


@dataclass(frozen=True)
class Arm:
    """One line of a table in every category: a detector, its settings, and what attacks it.

    Attributes:
        detector: by name.
        threat: what attacks it.
        settings: what is changed of the preset's settings, e.g. (("k", 25),).
        label: what tells it from the table's other arms of the detector.
    """

    detector: str
    threat: Threat
    settings: tuple[tuple[str, Any], ...] = ()
    label: str = ""

    def __str__(self) -> str:
        return f"{self.detector} {self.label}".rstrip()


@dataclass(frozen=True)
class Row:
    """One cell or one average, AUCs in per cent.

    `paper_*` is None where unreadable or lost, `measured_*` where not run; what was measured is the mean over `fits`
    fits. An average's `computed_*` is the mean of the printed rows, None where one of them is unreadable; `measured_*`
    of an average is None unless every category was run. `chosen` is a setting that was chosen by itself, `seconds` the
    time of one pass of one image, `spread` the standard deviation of the robust AUC over single noise draws.
    """

    category: str
    arm: Arm
    paper_clean: float | None = None
    paper_robust: float | None = None
    measured_clean: Estimate | None = None
    measured_robust: Estimate | None = None
    also_robust: Estimate | None = None
    computed_clean: float | None = None
    computed_robust: float | None = None
    chosen: int | None = None
    seconds: float | None = None
    spread: float | None = None
    status: str = ""
    fits: int = 1

    @property
    def detector(self) -> str:
        return self.arm.detector

    @property
    def norm(self) -> str:
        return self.arm.threat.norm

    @property
    def epsilon(self) -> float:
        return self.arm.threat.epsilon

    @property
    def clean_difference(self) -> float | None:
        """Measured minus printed."""
        return _minus(self.measured_clean, self.paper_clean)

    @property
    def robust_difference(self) -> float | None:
        return _minus(self.measured_robust, self.paper_robust)

    @property
    def disagrees(self) -> bool:
        """Whether a printed average does not follow from the printed rows, beyond rounding."""
        pairs = ((self.paper_clean, self.computed_clean), (self.paper_robust, self.computed_robust))
        # The rows are rounded as well: their mean may be off by as much again.
        return any(p is not None and c is not None and abs(p - c) > 2 * PRINTED_TO for p, c in pairs)


def _minus(measured: Estimate | None, printed: float | None) -> float | None:
    return None if measured is None or printed is None else measured.value - printed
