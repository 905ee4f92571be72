"""The record of a certificate: what was claimed, of what, and what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cell.fitting import Fitted
from bench.cell.pictures import Category
from bench.cell.record_of import ALLOW_LEAKS
from bench.cell.smoothed_attack import Attacked
from bench.cell.verdict import CALIBRATION_FPR, threshold_of
from bench.plan import presets, request
from bench.plan.plan import Plan
from bench.records import certificate_store, environment
from bench.records.bounds_table import BoundsTable
from bench.records.cell import CellDetector
from bench.records.certificate import Certificate, Claim, Smoothing
from bench.records.certificate_figures import figures
from certificates.rules import Bounds
from detectors.settings import described

Floats = NDArray[np.float64]


def claim_of(
    plan: Plan,
    category: Category,
    fitted: Fitted,
    smoothing: Smoothing,
    radii: Sequence[float],
    alpha: float,
    attack: Mapping[str, Any],
) -> Claim:
    """Everything that a certificate's figures depend on; its hash is the key."""
    run, detector = plan.run, fitted.detector
    return Claim(
        dataset=plan.dataset.name,
        fingerprint=plan.dataset.fingerprint(category.name),
        remark=plan.dataset.remark(category.name),
        category=category.name,
        subset=category.subset,
        preset=run.preset,
        image_size=plan.image_size,
        detector=CellDetector(
            name=detector.name,
            title=detector.title,
            revision=detector.revision,
            settings=described(detector.settings),
            checkpoint_sha256=fitted.tensors_sha256,
            frozen=detector.frozen_hashes(),
            is_stochastic=detector.is_stochastic,
        ),
        smoothing=smoothing,
        radii=[float(radius) for radius in radii],
        alpha=alpha,
        seed=run.seed,
        fit_seed=run.fit_seed,
        holdout=None if run.holdout == presets.get(run.preset).holdout else run.holdout,
        attack=attack,
    )


def written(
    plan: Plan,
    category: Category,
    fitted: Fitted,
    claim: Claim,
    scores: Floats,
    bounds: Bounds,
    held_out: Floats,
    under: Mapping[float, Attacked],
    *,
    folder: Path,
    seconds: Mapping[str, float],
    limits: Sequence[str] = (),
    choice: Mapping[str, Any] | None = None,
    samples: Floats | None = None,
) -> Certificate:
    """Write the certificate of a claim, and read it back.

    Args:
        plan, category, fitted: whose it is.
        claim: it.
        scores: what is bounded, of each test image, (N,).
        bounds: at each of the claim's radii.
        held_out: scores of held-out normals, (M,), for the threshold.
        under: by radius what an attack has left.
        folder: of certificates.
        seconds: what took how long.
        limits: why it is less than a full one, beside what the plan says.
        choice: how p was chosen.
        samples: the sorted samples that the bounds come from, (N, n).

    Raises:
        DiskError: the disk refuses.
    """
    nothing = np.full(len(scores), np.nan)
    columns = [
        np.stack([getattr(under[radius], name) if radius in under else nothing for radius in claim.radii])
        for name in ("score", "low", "high")
    ]
    labels = category.test.labels.numpy().astype(np.int64)
    table = BoundsTable(category.test.ids, labels, scores, tuple(claim.radii), bounds.lower, bounds.upper, *columns)
    threshold = threshold_of(held_out[None])
    results = figures(claim, table, threshold)
    if threshold is not None:
        rule = f"{100 * CALIBRATION_FPR:.0f} % of {len(held_out)} held-out training normals above it"
        results |= {"threshold": threshold, "threshold_rule": rule}
    seen, device = category.inspection, plan.run.torch_device()
    found = plan.limits_of(claim.detector.name, claim.category)
    found += [*(f"{ALLOW_LEAKS}: {sentence}" for sentence in seen.refusals), *limits]
    certificate = Certificate(
        key=claim.key,
        claim=claim,
        full_run=not found,
        limits=found,
        remarks=[*seen.remarks, *(f"attack within {r:g}: {one.remark}" for r, one in under.items() if one.remark)],
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        results=results,
        checkpoint=fitted.describe(),
        choice=dict(choice or {}),
        licence=plan.dataset.licence,
        environment=dict(environment.describe(device)),
        command=request.command_line(),
        seconds={name: round(value, 2) for name, value in seconds.items()},
        samples_sha256="" if samples is None else hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest(),
    )
    return certificate_store.read(certificate_store.write(certificate, table, folder))
