"""The certified column of a leaderboard: what is guaranteed beside what attacks have left of the very same fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.metrics.intervals import Estimate, average_interval
from bench.records.cell import CellDetector
from bench.records.certificate import NORMS, STRICT_ALPHA, Certificate, best_of
from bench.records.record import Revisions
from bench.report.caveats import counts_ties_as_lost
from bench.report.certificates import MARKS, Board, estimate, label, stale_keys
from bench.report.standing import Cell


class Certified(NamedTuple):
    """A certified AUC for a leaderboard.

    Attributes:
        auc: with its interval over test images, in per cent.
        radius: that it holds for, at least the one that was asked for.
        label: by which certificate.
        of: from how many it is the best; with k of them all hold with confidence 1 - `alpha`.
        alpha: the sum of their risks.
        marks: what a reader must know of it, as signs.
    """

    auc: Estimate
    radius: float
    label: str
    of: int
    alpha: float
    marks: str


def certified_at(
    certificates: Iterable[Certificate],
    radius: float,
    *,
    dataset: str,
    category: str,
    preset: str,
    detector: str | CellDetector,
    norm: str = "l2",
    subset_sha256: str | None = None,
    fingerprint: str | None = None,
    image_size: int | None = None,
    ties_lost: bool = False,
    revisions: Revisions | None = None,
) -> Certified | None:
    """The best certified AUC of a detector at a radius, smoothed or exact; None where there is none.

    A certificate at a larger radius holds at a smaller one, so of each the nearest radius that is not smaller counts.
    None with a greater risk than `STRICT_ALPHA` does: it would stand there by what it dares.

    Args:
        certificates: among which it is looked for.
        radius: that it must hold for.
        dataset, category, preset, norm: that it must be of.
        detector: its name, or as a record has it: then settings, revision, tensors and pretrained weights are the same.
        subset_sha256, fingerprint, image_size: test images, data and size of the record beside which it stands.
        ties_lost: whether a tie counts as lost, as in the figure beside which it stands.
        revisions: today's, for the mark of those that are stale.
    """
    found = []
    usual = [c for c in certificates if c.claim.smoothing.is_certified and c.claim.alpha <= STRICT_ALPHA]
    own = [
        one
        for one in best_of(usual)
        if (one.claim.dataset, one.claim.category, one.claim.preset) == (dataset, category, preset)
        and _is_the_same(one.claim.detector, detector)
        and one.claim.smoothing.norm == norm
        and subset_sha256 in (None, one.claim.subset.sha256)
        and fingerprint in (None, one.claim.fingerprint)
        and image_size in (None, one.claim.image_size)
    ]
    for one in own:
        at = min((r for r in one.claim.radii if r >= radius), default=None)
        if at is not None:
            found.append((estimate(one, at, ties_lost=ties_lost), at, one))
    if not found:
        return None
    auc, at, best = max(found, key=lambda entry: entry[0].value)
    alpha = sum(one.claim.alpha for *_, one in found)
    stale = stale_keys([best], revisions)
    marks = Board("", norm, (best,), stale).marks(best)
    return Certified(auc, at, label(best, detector=False), len(found), alpha, marks)


def _is_the_same(own: CellDetector, detector: str | CellDetector) -> bool:
    """Whatever its title: `spade` with one neighbour and with five has the same tensors."""
    if isinstance(detector, str):
        return own.name == detector
    return all(
        getattr(own, name) == getattr(detector, name)
        for name in ("name", "revision", "settings", "checkpoint_sha256", "frozen")
    )


def certified_average(found: Sequence[Certified | None]) -> Certified | None:
    """Over categories; None unless each has one, and all are of the same kind (`label`): means of several smoothed
    detectors would be of none."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found) or len({one.label for one in known}) > 1:
        return None
    return Certified(
        average_interval([one.auc for one in known]),
        min(one.radius for one in known),
        known[0].label,
        sum(one.of for one in known),
        sum(one.alpha for one in known),
        "".join(mark for mark in MARKS.values() if any(mark in one.marks for one in known)),
    )


def certified_beside(
    rows: Mapping[str, Mapping[str, Cell]],
    categories: Sequence[str],
    certificates: Sequence[Certificate],
    revisions: Revisions | None = None,
) -> dict[tuple[str, str], Certified]:
    """What is certified beside each cell by which a row is ranked, and beside its average.

    Args:
        rows: cells by a row's label and the category.
        categories: of the leaderboard.
        certificates: whatever there are.
        revisions: today's.
    """
    found: dict[tuple[str, str], Certified] = {}
    for row, cells in rows.items() if certificates else ():
        for category, cell in cells.items():
            record = cell.record
            if not record.ok or record.norm not in NORMS:
                continue
            one = certified_at(
                certificates,
                record.epsilon,
                dataset=record.dataset,
                category=category,
                preset=record.preset,
                detector=record.detector,
                norm=record.norm,
                subset_sha256=record.subset.sha256,
                fingerprint=record.fingerprint,
                image_size=record.image_size,
                ties_lost=counts_ties_as_lost(record),
                revisions=revisions,
            )
            if one is not None:
                found[row, category] = one
        known = [found.get((row, category)) for category in categories]
        over_all = certified_average(known) if len(categories) > 1 else None
        found |= {} if over_all is None else {(row, "average"): over_all}
    return found
