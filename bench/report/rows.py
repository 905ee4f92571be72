"""Which records make a row: of one fit the one that counts, and what tells the rows of one detector apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.record import Record, Revisions, is_stale
from bench.report import fits
from bench.report.caveats import estimate
from bench.text import one_line


def strongest(records: list[Record], revisions: Revisions) -> tuple[list[Record], int]:
    """Of records of one fit of a detector (settings, seeds) in one category: current before stale, a success before a
    failure, full before partial, then the one in which the attack found most. What differs among them (EOT, momentum,
    the gradient that is followed) must never let a weaker attack that ran later hide a stronger one. Fits do not
    compete, or the unluckiest would win: neither those of several seeds, nor those of one seed on several processors,
    of which the latest counts. Also returns how many records are left out."""
    best: dict[tuple[str, ...], dict[int, Record]] = {}
    latest = _latest_fits(records, revisions)

    def worth(record: Record) -> tuple[bool, bool, bool, float, str]:
        robust = estimate(record, "robust")
        found = -robust.value if robust is not None else 0.0
        return (not is_stale(record, revisions), record.ok, record.full_run, found, record.written)

    for record in records:
        if record.ok and latest.get(_fit_of(record), _checkpoint(record)) != _checkpoint(record):
            continue
        by_fit = best.setdefault((record.detector_name, _variant(record), record.category), {})
        seed = fits.fit_seed(record)
        if seed not in by_fit or worth(record) > worth(by_fit[seed]):
            by_fit[seed] = record
    shown = [r for by_fit in best.values() for r in fits.comparable(list(by_fit.values()), revisions)]
    return shown, len(records) - len(shown)


def _latest_fits(records: Sequence[Record], revisions: Revisions) -> dict[tuple[object, ...], str]:
    """Of each detector, category and fit seed the checkpoint that the latest record is of: among those that are not
    stale, and among full ones, where there are any."""

    def order(record: Record) -> tuple[bool, bool, str]:
        return (not is_stale(record, revisions), record.full_run, record.written)

    return {_fit_of(r): _checkpoint(r) for r in sorted((r for r in records if r.ok), key=order)}


def _fit_of(record: Record) -> tuple[object, ...]:
    return record.detector_name, _variant(record), record.category, fits.fit_seed(record)


def _checkpoint(record: Record) -> str:
    return record.detector.checkpoint_sha256


def _variant(record: Record) -> str:
    """What makes a row of its own; the seed of the fit does not."""
    return json.dumps([record.detector.settings, record.seed], sort_keys=True, default=str)


def rows_by_label(records: list[Record]) -> dict[str, list[Record]]:
    """Records by row, those of several fits in one. Settings may differ from category to category (FreeRAD's timestep
    does); only where one category has several settings do they become rows of their own, named by what differs."""
    rows: dict[str, list[Record]] = {}
    for name in sorted({r.detector_name for r in records}):
        own = [r for r in records if r.detector_name == name]
        title = own[0].detector_title
        if title in rows:
            title = f"{title} ({name})"
        variants = {(r.category, r.epsilon, _variant(r)) for r in own}
        if len({(category, epsilon) for category, epsilon, _ in variants}) == len(variants):
            rows[title] = own
            continue
        for record in own:
            rows.setdefault(f"{title} ({_difference(record, own)})", []).append(record)
    return rows


def _difference(record: Record, others: Sequence[Record]) -> str:
    own, flat = _flat(record.detector.settings), [_flat(r.detector.settings) for r in others]
    keys = sorted({key for settings in flat for key in settings})
    parts = [f"{k}={own.get(k, 'null')}" for k in keys if len({settings.get(k, "null") for settings in flat}) > 1]
    if len({r.seed for r in others}) > 1:
        parts.append(f"seed={record.seed}")
    return one_line(", ".join(parts), 120)


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Settings by the dotted names that `--set` takes, each value as JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{within}{name}.")
        else:
            flat[within + name] = json.dumps(value, default=str)
    return flat
