"""Records as a run would leave them, from scores that are drawn at random: for tests of what is made from records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bench.metrics import intervals, ranking
from bench.records import recount
from bench.records.cell import Cell
from bench.records.record import Record
from bench.records.score_table import Scores, ids_sha256
from bench.records.store import read, write

TITLES = {
    "freerad": "FreeRAD",
    "ae": "AE",
    "fastflow": "FastFlow",
    "cfa": "CFA",
    "spade": "SPADE",
    "cflow": "CFlow",
    "ocr-gan": "OCR-GAN",
    "brightness": "Brightness",
    "apae": "APAE",
    "pls": "PLS",
}


def make_scores(
    *,
    clean_shift: float = 2.5,
    robust_shift: float = 0.5,
    normals: int = 20,
    anomalies: int = 30,
    draws: int = 1,
    seed: int = 0,
) -> Scores:
    """Normals around 0, anomalies shifted, both with a spread of 1 in the image and 0.3 in the draw."""
    generator = np.random.default_rng(seed)
    count = normals + anomalies
    labels = np.array([1] * normals + [-1] * anomalies)
    base = generator.standard_normal(count)
    noise = 0.3 * generator.standard_normal((2, draws, count)) * (draws > 1)
    anomalous = labels == -1
    clean = base + clean_shift * anomalous + noise[0]
    robust = base + robust_shift * anomalous + noise[1]
    images = tuple(f"test/{'bad' if a else 'good'}/{i:03d}.png" for i, a in enumerate(anomalous))
    return Scores(images, labels, clean, robust)


def make_cell(
    *,
    detector: str = "ae",
    category: str = "mono",
    dataset: str = "elpv",
    preset: str = "quick",
    protocol: str = "quick",
    attack: str = "pgd-linf",
    norm: str = "linf",
    epsilon: float = 2 / 255,
    steps: int = 20,
    image_size: int = 128,
    normals: int = 20,
    anomalies: int = 30,
    draws: int = 1,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    detector_revision: int = 1,
    fingerprint: str = "f" * 64,
    fit_seed: int = 0,
    subset_sha256: str = "5" * 64,
    changed: dict[str, Any] | None = None,
    checkpoint: str = "c" * 64,
    frozen: dict[str, str] | None = None,
    **attack_fields: Any,
) -> Cell:
    document = {
        "protocol": {"name": protocol, "version": 1, "statement": "As printed.", "changed": changed or {}},
        "dataset": dataset,
        "fingerprint": fingerprint,
        "remark": "",
        "category": category,
        "subset": {"per_class": 30, "normals": normals, "anomalies": anomalies, "sha256": subset_sha256},
        "preset": preset,
        "image_size": image_size,
        "detector": {
            "name": detector,
            "title": TITLES.get(detector, detector),
            "revision": detector_revision,
            "settings": settings or {"width": 32},
            "checkpoint_sha256": checkpoint,
            "frozen": frozen or {},
        },
        "attack": {
            "name": attack,
            "revision": 1,
            "norm": norm,
            "epsilon": epsilon,
            "steps": steps,
            "step_size": 2.5 * epsilon / steps,
            "restarts": 1,
            "random_start": False,
            "keep": "last",
            "eot": 1,
            **attack_fields,
        },
        "draws": {"verdict": draws, "selection": draws},
        "seed": seed,
        "fit_seed": fit_seed,
    }
    return Cell.from_document(document)


def changed(cell: Cell, **entries: Any) -> Cell:
    """The cell with other entries in its document, of whatever type: a stranger's."""
    return Cell.from_document(cell.to_document() | entries)


def make_record(
    scores: Scores | None = None,
    *,
    written: str = "2025-11-22T10:00:00+00:00",
    full_run: bool = True,
    indicators: dict[str, Any] | None = None,
    brightness: float = 61.0,
    **cell_fields: Any,
) -> Record:
    """A record whose figures are those of the scores."""
    scores = make_scores() if scores is None else scores
    counts = {
        "normals": int((scores.labels == 1).sum()),
        "anomalies": int((scores.labels == -1).sum()),
        "draws": len(scores.clean),
        "subset_sha256": ids_sha256(scores.images),
    }
    cell = make_cell(**{**counts, **cell_fields})
    threshold = ranking.threshold_on_normals(scores.clean[:, scores.labels == 1])
    return Record(
        key=cell.key,
        status="ok",
        cell=cell,
        full_run=full_run,
        written=written,
        limits=[] if full_run else ["8 images per class"],
        checkpoint={"origin": "fitted", "key": "k" * 12, "seconds": 12.5},
        results={
            **recount.figures(scores, threshold),
            "threshold": threshold,
            "pixel": None,
            "brightness": {"separability": brightness, "flagged": brightness > 90},
        },
        indicators=indicators
        or {"zero_gradient_share": 0.0, "nonfinite_gradient_share": 0.0, "last_worse_than_best_share": 0.05},
        gate={"images": 4},
        licence="CC BY-NC-SA 4.0, ELPV dataset (Buerhop-Lutz et al. 2018)",
        environment={"python": "3.11", "torch": "2.11", "device": "cpu", "commit": "abc1234", "radbench": "0.1.0"},
        command="python -m bench run",
        seconds={"fit": 12.5, "attack": 4.0, "verdict": 0.5, "total": 17.0},
        peak_memory_mb=812.0,
    )


def make_failed(reason: str = "30 of 50 scores are NaN.", **cell_fields: Any) -> Record:
    cell = make_cell(**cell_fields)
    return dataclasses.replace(
        make_record(), key=cell.key, cell=cell, status="failed", reason=reason, results={}, indicators={}
    )


def with_auc(record: Record, *, clean: float, robust: float) -> Record:
    """The record with other figures than its scores' (for averages that must come out exactly): it stays in memory, for
    nobody would believe it from a file."""

    def figures(value: float) -> dict[str, float]:
        e = intervals.score_interval(value, record.subset.normals, record.subset.anomalies)
        return {"auc": value, "low": e.low, "high": e.high, "sd": 0.0, "strict_auc": value}

    return dataclasses.replace(record, results={**record.results, "clean": figures(clean), "robust": figures(robust)})


def write_record(folder: Path, scores: Scores | None = None, **fields: Any) -> Record:
    """Written to the folder and read back, so that it knows its path."""
    scores = make_scores() if scores is None else scores
    return read(write(make_record(scores, **fields), scores, folder))
