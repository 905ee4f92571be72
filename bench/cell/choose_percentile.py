"""`p: auto`: which percentile is certified, chosen without looking at test data.

Any p is sound, and which one is best depends on how widely normal and anomalous images spread under noise. Held-out
normals stand beside painted copies of themselves (`bench.cell.painted_defects`), and each candidate is judged by the
mean of its certified AUC over the radii.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.cell.painted_defects import paint
from bench.cell.samples import Pictures
from bench.data.base import ANOMALOUS, NORMAL, ImageSet
from bench.metrics import ranking
from bench.plan.certify import CANDIDATES, CertifyConfig
from certificates.rules import Percentile, worst

Floats = NDArray[np.float64]


def painted_copies(held_out: ImageSet, seed: int) -> Pictures:
    """Of the held-out normals, with names of their own, so that their noise is theirs."""
    made: list[torch.Tensor] = []

    def pixels(part: slice) -> torch.Tensor:
        if not made:
            made.append(paint(held_out.pixels(), held_out.ids, seed=seed))
        return made[0][part]

    return Pictures("painted", painted_ids(held_out.ids), pixels)


def painted_ids(ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name} painted" for name in ids)


def choose(normals: Floats, painted: Floats, asked: CertifyConfig, *, sigma: float, images: int) -> dict[str, Any]:
    """The best candidate for p.

    Args:
        normals, painted: sorted samples of held-out normals and of their painted copies, (M, n) each.
        asked: the certificate that it is for.
        sigma: of the noise.
        images: of the test set, on which the risk of one bound depends.

    Returns:
        `chosen`, the `table` of candidates and their mean certified AUC, and what it was `judged_on`.
    """
    samples = np.concatenate([normals, painted])
    labels = np.array([NORMAL] * len(normals) + [ANOMALOUS] * len(painted))
    table = []
    for p in CANDIDATES:
        rule = Percentile(p)
        # With fewer samples, and a risk that is greater by as much, the same radii can be shown as by all: what shows
        # anything at all is a power of the risk.
        risk = asked.risk(rule, images) ** (samples.shape[1] / asked.samples)
        bounds = rule.bounds(samples, sigma=sigma, radii=asked.all_radii, alpha=risk)
        mean = float(ranking.auc(worst(bounds, labels), labels).mean())
        can_be_shown = asked.needed(rule, sigma, images) <= asked.samples
        table.append({"p": p, "mean_certified_auc": round(mean if can_be_shown else 0.0, 2)})
    best = max(table, key=lambda row: row["mean_certified_auc"])
    return {
        "setting": "p",
        "chosen": best["p"],
        "table": table,
        "judged_on": f"{len(normals)} held-out training normals and painted copies of them",
        "samples": samples.shape[1],
    }
