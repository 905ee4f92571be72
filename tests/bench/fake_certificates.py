"""Certificates as a run would leave them, of scores that are made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.bounds_table import BoundsTable
from bench.records.cell import CellDetector, Subset
from bench.records.certificate import Certificate, Claim, Smoothing
from bench.records.certificate_figures import figures
from bench.records.certificate_store import read, write
from bench.records.score_table import ids_sha256

RADII = (0.0, 0.1, 0.25)


def make_table(
    *,
    radii: tuple[float, ...] = RADII,
    normals: int = 10,
    anomalies: int = 12,
    shift: float = 3.0,
    speed: float = 2.0,
    seed: int = 0,
    attacked: tuple[float, ...] = (),
    attack_gains: float = 0.5,
    lost_from: float = np.inf,
) -> BoundsTable:
    """Scores that move by `speed` for each unit of the radius, of which attacks find a share; nothing is bounded from a
    radius on."""
    labels = np.array([1] * normals + [-1] * anomalies)
    scores = np.random.default_rng(seed).normal(size=len(labels)) + shift * (labels == -1)
    moved = np.where(np.array(radii) >= lost_from, np.inf, speed * np.array(radii))[:, None] + 0.01
    under = np.full((len(radii), len(labels)), np.nan)
    for row, radius in enumerate(radii):
        if radius in attacked:
            under[row] = scores + labels * attack_gains * speed * radius
    images = tuple(f"test/{'good' if label == 1 else 'bad'}/{n:03}.png" for n, label in enumerate(labels))
    return BoundsTable(images, labels, scores, radii, scores - moved, scores + moved, under, under - 0.02, under + 0.02)


def make_certificate(
    table: BoundsTable | None = None,
    *,
    detector: str = "spade",
    category: str = "mono",
    preset: str = "quick",
    written: str = "2026-11-28T10:00:00+00:00",
    full_run: bool = True,
    choice: dict[str, Any] | None = None,
    fit_seed: int = 0,
    alpha: float = 0.001,
    revision: int = 1,
    threshold: float | None = 1.5,
    settings: dict[str, Any] | None = None,
    frozen: dict[str, str] | None = None,
    **smoothing: Any,
) -> Certificate:
    """A certificate whose figures are those of its bounds."""
    table = make_table() if table is None else table
    told = {"rule": "percentile", "norm": "l2", "sigma": 0.1, "samples": 10_000, "p": 0.5} | smoothing
    if told["rule"] != "percentile":
        del told["p"]
    if told["rule"] == "exceedance":
        told["threshold"] = 1.0
    if told["rule"] == "exact":
        told, alpha = {"rule": "exact", "norm": told["norm"], "constant": 2.0}, 0.0
    hit = [radius for radius, was in zip(table.radii, table.is_attacked, strict=True) if was]
    attack = {"name": "apgd-l2", "revision": 1, "norm": "l2", "steps": 10, "radii": hit, "samples": 32}
    claim = Claim(
        dataset="elpv",
        fingerprint="f" * 64,
        category=category,
        subset=Subset(
            normals=int((table.labels == 1).sum()),
            anomalies=int((table.labels == -1).sum()),
            sha256=ids_sha256(table.images),
        ),
        preset=preset,
        image_size=128,
        detector=CellDetector(
            name=detector,
            title=detector.upper(),
            revision=revision,
            settings=settings or {"width": 32},
            checkpoint_sha256="c" * 64,
            frozen=frozen or {},
        ),
        smoothing=Smoothing(**told),
        radii=list(table.radii),
        alpha=alpha,
        seed=0,
        fit_seed=fit_seed,
        attack=attack | {"judged_on": 1000} if hit else {},
    )
    results = figures(claim, table, threshold) | ({} if threshold is None else {"threshold": threshold})
    return Certificate(
        key=claim.key,
        claim=claim,
        full_run=full_run,
        limits=[] if full_run else ["--samples 300: fewer than 10,000"],
        written=written,
        results=results,
        choice=choice or {},
        licence="CC BY-NC-SA 4.0",
        environment={"python": "3.11"},
        command="python -m bench certify",
        seconds={"samples": 1.0},
        samples_sha256="5" * 64,
    )


def write_certificate(folder: Path, table: BoundsTable | None = None, **fields: Any) -> Certificate:
    """Written to the folder and read back, so that it knows its path."""
    table = make_table() if table is None else table
    return read(write(make_certificate(table, **fields), table, folder))


def with_auc(certificate: Certificate, radius: float, auc: float) -> Certificate:
    """With another figure than its bounds': it stays in memory."""
    results = {**certificate.results, "radii": {**certificate.results["radii"]}}
    results["radii"][repr(radius)] = {**certificate.at(radius), "auc": auc}
    return dataclasses.replace(certificate, results=results)
