"""What the noise of a stochastic detector is worth: figures that stand beside its robust AUC (docs/verdict.md).

`best of 10`: each image was submitted ten times and its worst answer counts. `known noise`: attack and verdict on the
same fixed noise, which is left when the noise is no secret.
"""

from __future__ import annotations

from bench.metrics.best_of import RESUBMISSIONS
from bench.metrics.intervals import Estimate
from bench.records.record import Record
from bench.report.caveats import counts_ties_as_lost

TITLES = {"best_of": f"best of {RESUBMISSIONS}", "known_noise": "known noise"}
MEANING = {
    "best_of": f"{TITLES['best_of']}: the robust AUC where each image is submitted {RESUBMISSIONS} times and its worst "
    "answer counts; for detectors that draw noise.",
    "known_noise": f"{TITLES['known_noise']}: the AUC that an attack leaves which knows the noise of the verdict; for "
    "detectors that draw noise.",
}


def noise_estimate(record: Record, which: str) -> Estimate | None:
    """ "best_of" or "known_noise" of a record with its interval, ties counted as its robust AUC counts them; None where
    it does not have it."""
    found = record.noise_figures(which)
    strict = ("strict_auc", "strict_low", "strict_high")
    names = strict if counts_ties_as_lost(record) and all(name in found for name in strict) else ("auc", "low", "high")
    values = [found.get(name) for name in names]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 100 for v in values):
        return None
    return Estimate(*map(float, values))  # type: ignore[arg-type]
