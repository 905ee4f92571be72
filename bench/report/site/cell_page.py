"""What the page of one cell says: all that its record holds, in words where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.errors import CellError, RecordError
from bench.metrics.intervals import Estimate
from bench.records.record import Record, is_stale
from bench.records.schema import Figures
from bench.records.score_table import Scores
from bench.records.store import read_scores
from bench.report import defects, fits, members
from bench.report.best_known import BestKnown, Known
from bench.report.caveats import all_signs, counts_ties_as_lost, failure_flags
from bench.report.noise_worth import TITLES, noise_estimate
from bench.report.site import charts, names
from bench.report.site.facts import LONG, Fact, flat, number, of_cell, of_origin
from bench.report.site.found import Found
from bench.report.site.svg import Chart
from bench.report.site.worst import Worst, worst
from bench.text import interval_text, one_line, threat_text


@dataclass(frozen=True)
class Look:
    """An indicator in words: what was looked at, found and borne, and whether it is up."""

    name: str
    found: str
    limit: str
    is_up: bool
    sentence: str
    flag: int


@dataclass(frozen=True)
class CellPage:
    """One record.

    Attributes:
        record, path, title, told, detector: whose it is, where its page lies, its heading, the line beneath, the
            detector's page.
        is_stale: made with an older revision.
        figures: metric, clean, robust.
        flags: sentences that make it no claim.
        looks: all indicators; members: of an ensemble.
        best: the lowest robust AUC that any record states of the same fit and images; maybe its own.
        siblings: other records of the same detector in the category: link, words.
        cell, made, settings: facts.
        kinds: of defect, what the attack leaves least of first: kind, images, clean AUC, robust AUC, what was lost;
            empty where there is one kind alone.
        histograms, worst: from its scores; empty where they cannot be had.
        picture, licence: a panel of examples, where there is one and its licence is known.
        downloads: link, words.
    """

    record: Record
    path: str
    title: str
    told: str
    detector: str
    is_stale: bool
    figures: tuple[tuple[str, str, str], ...]
    flags: tuple[str, ...]
    looks: tuple[Look, ...]
    members: tuple[str, ...]
    best: BestKnown | None
    siblings: tuple[tuple[str, str], ...]
    cell: tuple[Fact, ...]
    made: tuple[Fact, ...]
    settings: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[str, ...], ...] = ()
    histograms: tuple[Chart, ...] = ()
    worst: tuple[Worst, ...] = ()
    picture: str = ""
    licence: str = ""
    downloads: tuple[tuple[str, str], ...] = field(default=())


def page(record: Record, found: Found, known: Known, siblings: Sequence[Record], *, copied: frozenset[str]) -> CellPage:
    """What is to be said of a record; `copied`: the files beside the pages, of which its own are linked."""
    scores = _scores(record)
    files = [
        (names.document(record), "the record (JSON)"),
        (names.scores(record), "scores of every image (CSV)"),
        (names.scores_as_text(record), "scores of every image (as text: some names would run in a spreadsheet)"),
    ]
    return CellPage(
        record=record,
        path=names.cell(record),
        title=", ".join(one_line(text, 60) for text in (record.detector_title, record.dataset, record.category)),
        told=told(record),
        detector=names.detector(record.detector_name),
        is_stale=is_stale(record, found.revisions),
        figures=tuple(_figures(record)),
        flags=tuple(failure_flags(record)),
        looks=tuple(_looks(record)),
        members=tuple(_share(share) for share in members.of_record(record)),
        best=known.of_record(record),
        siblings=tuple((names.cell(other), told(other)) for other in siblings if other.key != record.key),
        cell=tuple(of_cell(record)),
        made=tuple(of_origin(record)),
        settings=tuple(flat(record.detector.settings)),
        kinds=() if scores is None else tuple(_kinds(record, scores)),
        histograms=() if scores is None else tuple(charts.score_histograms(scores)),
        worst=() if scores is None else tuple(worst(scores)),
        picture=names.picture(record) if names.picture(record) in copied else "",
        licence=one_line(record.licence, LONG),
        downloads=tuple(entry for entry in files if entry[0] in copied),
    )


def _share(share: members.Share) -> str:
    return f"{share.member}{'' if share.robust_auc is None else ':'} {share}"


def told(record: Record) -> str:
    """A record in a line: "quick, pgd-linf at l-inf epsilon 2/255, fit 1: robust 20.2"."""
    threat = one_line(threat_text(record.epsilon, record.norm), 60)
    figures = record.robust
    robust = f"robust {figures.auc:.1f}" if figures is not None else f"failed: {one_line(record.reason, 100)}"
    attack = one_line(record.attack_name, 40)
    return f"{one_line(record.protocol, 20)}, {attack}, {threat}, fit {fits.fit_seed(record)}: {robust}"


def _scores(record: Record) -> Scores | None:
    if not record.ok or record.path is None:
        return None
    try:
        return read_scores(record)
    except RecordError:  # who read the record has said what is wrong with them
        return None


def _figures(record: Record) -> list[tuple[str, str, str]]:
    """Metric, clean, robust, as far as they are stated."""
    clean, robust = record.clean, record.robust
    if clean is None or robust is None:
        return []
    rows = [("AUC", _interval(clean, ""), _interval(robust, ""))]
    if clean.strict_auc is not None and robust.strict_auc is not None:
        name = "strict AUC (ranks)" if counts_ties_as_lost(record) else "strict AUC"
        rows.append((name, _interval(clean, "strict_"), _interval(robust, "strict_")))
    for which in TITLES:
        estimate = noise_estimate(record, which)
        if estimate is not None:
            rows.append((TITLES[which], "", interval_text(*estimate)))
    for attribute, name in (("aupr", "AUPR"), ("fpr95", "FPR at 95 % TPR"), ("sd", "spread over draws")):
        pair = [getattr(figures, attribute) for figures in (clean, robust)]
        if any(value is not None for value in pair) and (attribute != "sd" or any(pair)):
            rows.append((name, *("" if value is None else f"{value:.1f}" for value in pair)))  # type: ignore[arg-type]
    results = record.results
    told_of = {"robust_accuracy": "robust accuracy", "attack_success": "attack success"}
    told_of |= {"normals_only_auc": "normals alone attacked", "anomalies_only_auc": "anomalies alone attacked"}
    rows += [
        (word, "", f"{value:.1f}") for name, word in told_of.items() if (value := number(results.get(name))) is not None
    ]
    pixel = results.get("pixel")
    for name, word in (("auroc", "pixel AUROC"), ("aupro", "AUPRO")):
        if isinstance(pixel, dict) and number(pixel.get(name)) is not None:
            pair = [number(pixel.get(f"{which}{name}")) for which in ("", "robust_")]
            rows.append((word, *("" if value is None else f"{value:.1f}" for value in pair)))  # type: ignore[arg-type]
    return rows


def _kinds(record: Record, scores: Scores) -> list[tuple[str, ...]]:
    try:
        found = defects.estimates(scores, defects.kinds_of(record, scores))
    except CellError:  # scores that are no numbers, or no normals
        return []
    ordered = sorted(found.items(), key=lambda item: (item[1][3].value, item[0]))
    rows: list[tuple[str, ...]] = [
        (
            one_line(kind, 60),
            str(anomalies),
            interval_text(*clean),
            interval_text(*robust),
            f"{clean.value - robust.value:.1f}",
        )
        for kind, (anomalies, _, clean, robust) in ordered
    ]
    return rows if len(rows) > 1 else []


def _interval(figures: Figures, prefix: str) -> str:
    values = [getattr(figures, f"{prefix}{name}") for name in ("auc", "low", "high")]
    return interval_text(*(Estimate(*values) if None not in values else values[:1]))


def _looks(record: Record) -> list[Look]:
    return [
        Look(s.name, "" if s.number is None else f"{s.number:.3g}", s.limit, s.is_up, s.sentence, s.flag)
        for s in all_signs(record)
    ]
