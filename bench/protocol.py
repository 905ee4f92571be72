"""Protocols: how hard an attack tries and how a verdict is taken. Versioned, and named in every record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.names import unknown


@dataclass(frozen=True)
class Protocol:
    """One way of measuring robustness.

    Attributes:
        name, version: both go into every record; the version rises whenever figures could change.
        steps: gradient steps of PGD.
        eot: noise draws that each gradient of a stochastic detector is averaged over.
        momentum: of PGD's steps on a stochastic detector.
        keep: "best" (the strongest iterate) or "last" (the paper).
        per_class: normal and anomalous test images per category at most, chosen by a hash of their names; None: all.
        verdict_draws: noise draws of a stochastic detector's verdict.
        selection_draws: noise draws on which iterates are compared.
        column: what the robust column is called, with its limits.
        statement: what a reader must know.
    """

    name: str
    version: int
    steps: int
    eot: int
    momentum: float
    keep: str
    per_class: int | None
    verdict_draws: int
    selection_draws: int
    column: str
    statement: str

    def attack_settings(self) -> dict[str, Any]:
        """What it sets of an attack that has such settings."""
        return {
            "steps": self.steps, "eot": self.eot, "momentum": self.momentum, "keep": self.keep,
            "selection_draws": self.selection_draws,
        }


PROTOCOLS = (
    Protocol(
        "quick", 3, steps=20, eot=2, momentum=0.75, keep="best", per_class=60, verdict_draws=10, selection_draws=3,
        column="PGD-20, upper bound",
        statement="PGD with 20 steps (step size 2.5 epsilon / 20, no random start; gradients of stochastic detectors "
        "averaged over 2 noise draws and, with momentum 0.75, over the steps), strongest iterate, on at most 60 normal "
        "and 60 anomalous test images per category: an upper bound on the robust AUC.",
    ),
    Protocol(
        "paper", 1, steps=40, eot=1, momentum=0.0, keep="last", per_class=None, verdict_draws=10, selection_draws=3,
        column="PGD-40, last iterate",
        statement="What the paper did, as far as it says: plain PGD, last iterate, all test images. Steps (40) and "
        "step size (2.5 epsilon / 40) are ours: the paper gives neither.",
    ),
)


def get(name: str) -> Protocol:
    """The protocol of that name. Raises UnknownNameError."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise unknown("protocol", name, [p.name for p in PROTOCOLS])
