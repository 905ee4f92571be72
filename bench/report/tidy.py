"""Records as a tidy table: one line per cell with all of its figures, failed and stale ones included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.records.record import Record, Revisions, is_stale
from bench.records.schema import Figures
from bench.report import budget, fits
from bench.report.caveats import estimate, failure_flags
from bench.report.noise_worth import TITLES

if TYPE_CHECKING:  # imported where it is needed: what a run shows before its end needs no tables
    import pandas as pd

_LEVELS = (
    "separability",
    "robust_accuracy",
    "attack_success",
    "normals_only_auc",
    "anomalies_only_auc",
    "threshold",
)
_ATTACK_COLUMNS = ("steps", "step_size", "restarts", "random_start", "keep", "eot", "momentum")
_PIXEL = ("auroc", "aupro", "robust_auroc", "robust_aupro")


def tidy(records: Iterable[Record], revisions: Revisions | None = None) -> pd.DataFrame:
    """One line per cell; empty where a figure is not known."""
    import pandas as pd

    return pd.DataFrame([_line(record, revisions or Revisions()) for record in records])


def _line(record: Record, revisions: Revisions) -> dict[str, object]:
    cell, attack, results = record.cell, record.attack, record.results
    spent = budget.of_record(record)
    line: dict[str, object] = {
        "dataset": record.dataset,
        "category": record.category,
        "preset": record.preset,
        "image_size": record.image_size,
        "protocol": record.protocol,
        "protocol_version": cell.protocol.version,
        "detector": record.detector_name,
        "detector_revision": cell.detector.revision,
        "seed": record.seed,
        "fit_seed": fits.fit_seed(record),
        "attack": record.attack_name,
        "norm": record.norm,
        "epsilon": record.epsilon,
        **{name: attack.settings.get(name) for name in _ATTACK_COLUMNS},
        "gradients_per_image": None if spent is None else spent.gradients,
        "forward_passes_per_image": None if spent is None else spent.forwards,
        "verdict_draws": cell.draws.verdict,
        "normals": record.subset.normals,
        "anomalies": record.subset.anomalies,
        "status": record.status,
        "reason": record.reason,
        "full_run": record.full_run,
        "stale": is_stale(record, revisions),
        "brightness_flagged": record.separated_by("brightness"),
        "file_order_flagged": record.separated_by("file_order"),
        "flags": "; ".join(failure_flags(record)),
    }
    for which, figures in (("clean", record.clean), ("robust", record.robust)):
        values = dataclasses.asdict(figures) if figures is not None else {}
        line |= {f"{which}_{f.name}": values.get(f.name) for f in dataclasses.fields(Figures)}
        ranked = estimate(record, which)
        line |= {f"{which}_ranked": ranked.value if ranked is not None else None}
    for which in TITLES:
        stated = record.noise_figures(which)
        line |= {f"{which}_{name}": stated.get(name) for name in ("auc", "low", "high")}
    pixel, brightness = _table(results.get("pixel")), _table(results.get("brightness"))
    line |= {name: results.get(name, brightness.get(name)) for name in _LEVELS}
    line |= {f"pixel_{name}": pixel.get(name) for name in _PIXEL}
    line |= {f"seconds_{name}": record.seconds.get(name) for name in ("fit", "attack", "verdict", "total")}
    return line | {
        "peak_memory_mb": record.peak_memory_mb,
        "commit": record.environment.get("commit"),
        "written": record.written,
        "key": record.key,
    }


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
