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
        steps: gradient steps of PGD on a deterministic detector.
        stochastic_steps: on a stochastic one.
        eot, eot_last: noise draws that the first and the last gradient of a stochastic detector are averaged over.
        momentum: of PGD's steps on a stochastic detector.
        schedule: of the sizes of its steps there.
        smooth_map: whether they follow a smooth maximum of the map there, where the score is the map's maximum.
        keep: "best" (the strongest iterate) or "last" (the paper).
        per_class: normal and anomalous test images per category at most, chosen by a hash of their names; None: all.
        verdict_draws: noise draws of a stochastic detector's verdict at least; more where their spread asks for it.
        selection_draws: noise draws on which iterates are compared.
        column: what the robust column is called, with its limits.
        statement: what a reader must know.
    """

    name: str
    version: int
    steps: int
    stochastic_steps: int
    eot: int
    eot_last: int
    momentum: float
    schedule: str
    smooth_map: bool
    keep: str
    per_class: int | None
    verdict_draws: int
    selection_draws: int
    column: str
    statement: str

    def attack_settings(self, **changed: Any) -> dict[str, Any]:
        """What it sets of an attack that has such settings, and what the user changed of it: a number of steps or of
        draws that the user gives stands for both of the protocol's."""
        names = (
            "steps", "stochastic_steps", "eot", "eot_last", "momentum", "schedule", "smooth_map", "keep",
            "selection_draws",
        )  # fmt: skip
        both = {"stochastic_steps": changed.get("steps"), "eot_last": changed.get("eot")}
        paired = {name: value for name, value in both.items() if value is not None}
        return {name: getattr(self, name) for name in names} | paired | changed


PROTOCOLS = (
    Protocol(
        "quick", 5, steps=20, stochastic_steps=30, eot=2, eot_last=6, momentum=0.9, schedule="cosine", smooth_map=True,
        keep="best", per_class=60, verdict_draws=10, selection_draws=16, column="PGD-20, upper bound",
        statement="PGD with 20 steps (step size 2.5 epsilon / 20, no random start, strongest iterate); of a stochastic "
        "detector with 30 steps that fall from epsilon / 2 to epsilon / 50, momentum 0.9, gradients averaged over 2 "
        "noise draws at first and 6 at last (120 in all), along a smooth maximum of its anomaly map where the score is "
        "the map's maximum, last iterate unless another is better by more than noise; on "
        "at most 60 normal and 60 anomalous test images per category: an upper bound on the robust AUC, for a random "
        "defence in particular.",
    ),
    Protocol(
        "paper", 2, steps=40, stochastic_steps=40, eot=1, eot_last=1, momentum=0.0, schedule="constant",
        smooth_map=False, keep="last", per_class=None, verdict_draws=10, selection_draws=16,
        column="PGD-40, last iterate",
        statement="What the paper did, as far as it says: plain PGD, last iterate, all test images. Steps (40) and "
        "step size (2.5 epsilon / 40) are ours: the paper gives neither. Of a random defence this is a weak attack: it "
        "averages no noise.",
    ),
)


def get(name: str) -> Protocol:
    """The protocol of that name. Raises UnknownNameError."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise unknown("protocol", name, [p.name for p in PROTOCOLS])
