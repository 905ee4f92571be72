"""What a certificate's bounds decide: computed when it is written, and once more when it is read.

The certified AUC at a radius is the ordinary AUC of the worst score of each image, upper bounds of normals and lower
ones of anomalies: an adversary moves each image on its own. Each of these numbers depends on its own image alone, so
the interval over test images is that of any AUC (`bench.metrics.intervals`): it covers the choice of test images, and
alpha the noise of the certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.errors import CellError, RecordError
from bench.metrics import intervals
from bench.records import recount
from bench.records.bounds_table import BoundsTable
from bench.records.certificate import Claim, radius_name
from bench.records.score_table import ids_sha256
from certificates.rules import worst


def figures(table: BoundsTable, threshold: float | None) -> dict[str, Any]:
    """Every figure that follows from the bounds, in per cent.

    Args:
        table: the bounds.
        threshold: from held-out normals, above which an image is called anomalous; None: there is none.

    Returns:
        clean: auc with low and high, of the score that is bounded. radii, for each:
            auc, low, high: certified, and its 95 % interval over test images.
            abstained: the share of images whose worst score is not bounded.
            tpr, fpr, accuracy: at the threshold; who abstains is on the wrong side.
            attacked_auc, attacked_low, attacked_high: of the same smoothed detector, attacked.
            crossed: how many attacked images lie beyond their bound by more than the noise of both.

    Raises:
        CellError: a class without images.
    """
    anomalous = table.labels == -1
    at_worst = worst(table.bounds, table.labels)
    clean = intervals.mean_single_draw_interval(table.scores, table.labels)
    found: dict[str, Any] = {}
    for row, radius in enumerate(table.radii):
        auc = intervals.mean_single_draw_interval(at_worst[row], table.labels)
        entry: dict[str, float | int | None] = {
            "auc": auc.value,
            "low": auc.low,
            "high": auc.high,
            "abstained": 100.0 * float(np.isinf(at_worst[row]).mean()),
        }
        if threshold is not None:
            flagged = at_worst[row] > threshold
            entry |= {
                "tpr": 100.0 * float(flagged[anomalous].mean()),
                "fpr": 100.0 * float(flagged[~anomalous].mean()),
                "accuracy": 100.0 * float((flagged == anomalous).mean()),
            }
        if table.is_attacked[row]:
            under = intervals.mean_single_draw_interval(table.attacked[row], table.labels)
            beyond = (table.attacked_low[row] > table.upper[row]) | (table.attacked_high[row] < table.lower[row])
            entry |= {
                "attacked_auc": under.value,
                "attacked_low": under.low,
                "attacked_high": under.high,
                "crossed": int(beyond.sum()),
            }
        found[radius_name(radius)] = entry
    return {"clean": {"auc": clean.value, "low": clean.low, "high": clean.high}, "radii": found}


def check(claim: Claim, results: Mapping[str, Any], table: BoundsTable) -> None:
    """Hold a certificate against its bounds: the images and radii of its claim, then every figure of `figures`.

    Raises:
        RecordError: they do not belong together.
    """
    again, subset, attack = "run the command again.", claim.subset, claim.attack
    counted = {
        "claim.subset.normals": (subset.normals, int((table.labels == 1).sum())),
        "claim.subset.anomalies": (subset.anomalies, int((table.labels == -1).sum())),
        "claim.subset.sha256": (subset.sha256, ids_sha256(table.images)),
        "claim.radii": ([float(radius) for radius in claim.radii], list(table.radii)),
        "claim.attack.radii": (
            [float(radius) for radius in attack.get("radii", [])],
            [radius for radius, was in zip(table.radii, table.is_attacked, strict=True) if was],
        ),
    }
    for where, (stated, counts) in counted.items():
        if stated != counts:
            raise RecordError(f"{where} is {stated!r:.80} and its bounds say {counts!r:.80}; {again}")
    threshold = results.get("threshold")
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise RecordError(f"results.threshold should be a number and is {threshold!r:.60}; {again}")
    try:
        computed = figures(table, threshold)
    except CellError as error:
        raise RecordError(f"no figure follows from its bounds ({error}); {again}") from None
    stated_radii = results.get("radii")
    if not isinstance(stated_radii, dict) or stated_radii.keys() != computed["radii"].keys():
        raise RecordError(f"results.radii are not those of its bounds; {again}")
    for name, entry in stated_radii.items():
        if not isinstance(entry, dict) or entry.keys() != computed["radii"][name].keys():
            raise RecordError(f"results.radii.{name:.30} has other figures than its bounds; {again}")
    recount.compare("results", results, computed)
