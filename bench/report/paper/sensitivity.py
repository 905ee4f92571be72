"""How FreeRAD's figures move with what the paper leaves open: steps, step size, iterate, gradient, draws, k, filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.report.paper.arms import Arm
from bench.report.paper.recipe import Recipe
from bench.report.paper.tables import EOT, FREERAD_K, LINF
from bench.text import plural


def sensitivity(categories: Sequence[str]) -> Recipe:
    """How FreeRAD's figures move with what the paper leaves open, one thing at a time."""
    arms = [Arm("freerad", LINF, (), "as it is")]
    for name, value, label in (
        ("steps", 10, "10 steps"),
        ("steps", 100, "100 steps"),
        ("step_size", LINF.epsilon / 64, "step eps/64"),
        ("step_size", LINF.epsilon / 4, "step eps/4"),
        ("keep", "last", "last iterate"),
        ("keep", "best", "best iterate"),
        ("differentiate", "score", "score's gradient"),
        ("differentiate", "map", "map's gradient"),
    ):
        arms.append(Arm("freerad", replace(LINF, options=((name, value),), title=f"l-inf PGD, {label}"), (), label))
    arms += [
        Arm("freerad", replace(LINF, eot=eot, title=f"l-inf PGD, {plural(eot, 'draw')}"), (), plural(eot, "draw"))
        for eot in (1, EOT)
    ]
    arms += [Arm("freerad", LINF, settings, label) for _, settings, label in FREERAD_K]
    arms += [Arm("freerad", LINF, (("filter_size", size),), f"filter {size}") for size in (3, 7, 15)]
    arms += [Arm("freerad", LINF, (("score_draws", 4),), "4 noises a score")]
    return Recipe(
        "sensitivity",
        f"How FreeRAD's figures on {', '.join(categories)} move with what the paper leaves open",
        "",
        "mvtec",
        tuple(categories),
        tuple(arms),
        shows=("clean", "robust", "change", "spread"),
        averages=False,
        notes=(
            "One thing is changed at a time; 'as it is' has the protocol's attack and the preset's settings. 'change' "
            "is of the robust AUC, beside it the interval as if both were of other images.",
        ),
    )
