"""What a comparison of detectors on one category says of where its figures come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench.cell import group
from bench.cell.fitting import Fitted
from bench.cell.group import Reporter
from bench.cell.pictures import Category
from bench.plan import request
from bench.plan.plan import Plan
from bench.records import environment


def about(plan: Plan, category: Category, fits: Mapping[str, Fitted]) -> dict[str, Any]:
    """Data, images, checkpoints, seeds, machine and command, ready for JSON.

    Args:
        plan: what is done.
        category: its pictures.
        fits: the detectors that could be had.
    """
    run = plan.run
    return {
        "dataset": plan.dataset.name,
        "category": category.name,
        "fingerprint": plan.dataset.fingerprint(category.name),
        "subset": category.subset.to_document(),
        "remarks": category.inspection.remarks,
        "preset": run.preset,
        "protocol": run.protocol,
        "image_size": plan.image_size,
        "seed": run.seed,
        "limits": plan.limits + [f"--allow-leaks: {sentence}" for sentence in category.inspection.refusals],
        "checkpoints": {name: _checkpoint(fitted) for name, fitted in fits.items()},
        "licence": plan.dataset.licence,
        "environment": environment.describe(run.torch_device()),
        "command": request.command_line(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _checkpoint(fitted: Fitted) -> dict[str, Any]:
    detector = fitted.detector
    return {
        "title": detector.title,
        "revision": detector.revision,
        "settings": asdict(detector.settings),
        "sha256": fitted.tensors_sha256,
        **fitted.describe(),
    }


def fitted_ones(plan: Plan, category: Category, reporter: Reporter) -> Iterator[tuple[str, Fitted | str]]:
    """Each detector of the plan, fitted with its first seed, or why it cannot be had. Raises RecordError where the disk
    refuses."""
    for name in plan.detectors:
        seeded = plan.at(plan.fit_seeds(name)[0])
        yield name, group.obtain(seeded, category.name, category.training, name, reporter)
