"""What the page of a detector says: its card, all its cells, its charts, and the history of its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.record import Record, is_stale
from bench.report import fits
from bench.report.caveats import estimate, failure_flags
from bench.report.site import charts, names, sources
from bench.report.site.facts import LONG, Fact, flat, number
from bench.report.site.found import Found
from bench.report.site.index import IndexRow, is_chosen
from bench.report.site.svg import Chart
from bench.text import interval_text, one_line, plural, threat_text
from detectors import loading
from detectors.base import Detector

ORIGINS = {
    "fitted": "fitted in the run that made the record",
    "cached": "fitted in an earlier run",
    "shipped": "shipped with the package",
}


@dataclass(frozen=True)
class Entry:
    """A record in the history: where its page lies, and what it found."""

    link: str
    written: str
    where: str
    how: str
    fit: int
    revision: int
    clean: str
    robust: str
    why: str


@dataclass(frozen=True)
class Variant:
    """Settings that records were made with, and how many."""

    where: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DetectorPage:
    """One detector of the registry, with all rows that are named after it.

    Attributes:
        name, title, path, method, paper, paper_link: its names, its page, what it does, where that comes from.
        card: facts.
        how: to get it, in one line of Python each.
        rows: its rows of the first page.
        history: all its records, the newest first, with what became of each.
        charts: clean against robust over its cells, security curves.
        variants: the settings.
    """

    name: str
    title: str
    path: str
    method: str
    paper: str
    paper_link: str
    card: tuple[Fact, ...]
    how: tuple[str, ...]
    rows: tuple[IndexRow, ...]
    history: tuple[Entry, ...]
    charts: tuple[Chart, ...]
    variants: tuple[Variant, ...]


def pages(found: Found, rows: Sequence[IndexRow]) -> list[DetectorPage]:
    """One for each detector that has a record, by name."""
    records: dict[str, list[Record]] = {}
    for record in found.records:
        records.setdefault(record.detector_name, []).append(record)
    standings = (standing for board in found.boards for row in board.rows for standing in row.standings.values())
    shown = {record.key for standing in standings for cell in standing.cells.values() for record in cell.records}
    by_name: dict[str, list[IndexRow]] = {}
    for row in rows:
        by_name.setdefault(row.detector, []).append(row)
    return [_page(found, name, own, by_name.get(name, []), shown) for name, own in sorted(records.items())]


def _page(
    found: Found, name: str, records: Sequence[Record], rows: Sequence[IndexRow], shown: set[str]
) -> DetectorPage:
    cls = sources.installed(name)
    return DetectorPage(
        name=one_line(name, 80),
        title=one_line(records[0].detector_title, 80),
        path=names.detector(name),
        method=sources.method(name),
        paper=sources.paper(name),
        paper_link=sources.paper_link(name),
        card=tuple(_card(name, records, cls)),
        how=tuple(_how(name, records, cls)),
        rows=tuple(rows),
        history=tuple(
            _entry(found, r, r.key in shown) for r in sorted(records, key=lambda r: (r.written, r.key), reverse=True)
        ),
        charts=tuple(_charts(found, name, rows)),
        variants=tuple(_variants(records)),
    )


def _card(name: str, records: Sequence[Record], cls: type[Detector] | None) -> list[Fact]:
    stochastic = any(r.detector.is_stochastic for r in records)
    frozen = sorted({part for r in records for part in r.detector.frozen})
    origins = sorted({one_line(r.checkpoint["origin"], 60) for r in records if r.checkpoint.get("origin")})
    licences = sorted({one_line(r.licence, LONG) for r in records if r.licence})
    seconds = [s for r in records if (s := number(r.seconds.get("fit"))) is not None]
    facts = [
        Fact("name", one_line(name, 80), is_code=True),
        Fact("noise", "draws noise for each image: figures are means over draws" if stochastic else "none"),
        Fact("pretrained", f"yes: {', '.join(map(_frozen, frozen))}" if frozen else "no weights from elsewhere"),
        Fact(
            "open settings",
            "chosen on painted defects of held-out normals"
            if any(is_chosen(r.detector.settings) for r in records)
            else "",
        ),
        Fact(
            "training",
            "chaotic: another seed moves AUCs by more than the brackets"
            if cls is not None and cls.training_is_chaotic
            else "",
        ),
        Fact("fit", _fit(cls)),
        Fact("weights", "; ".join(ORIGINS.get(origin, origin) for origin in origins)),
        Fact("licence of the data, and of weights fitted on it", "; ".join(licences)),
        Fact("seconds to fit", f"{min(seconds):,.0f} to {max(seconds):,.0f}" if seconds else ""),
        Fact("revision", _revision(records, cls)),
    ]
    return [fact for fact in facts if fact.value]


def _frozen(part: str) -> str:
    licence = sources.weights_licence(part)
    return one_line(part, 60) + (f" (ImageNet weights by way of timm, {licence})" if licence else "")


def _fit(cls: type[Detector] | None) -> str:
    if cls is None:
        return "not installed here: whether it takes attacked or other pictures is not known"
    attacked = "attacks its training images" if cls.trains_adversarially else "no adversarial training"
    return f"{attacked}, {'other pictures, too' if cls.has_extra_data else 'no extra data'}"


def _revision(records: Sequence[Record], cls: type[Detector] | None) -> str:
    made = "/".join(map(str, sorted({r.detector.revision for r in records})))
    return f"records of {made}" + (f"; the code's is {cls.revision}" if cls is not None else "")


def _how(name: str, records: Sequence[Record], cls: type[Detector] | None) -> list[str]:
    """Of a detector that is not installed here nothing: who wrote the record may have named it anything."""
    if cls is None:
        return []
    lines = [
        f"detectors.load({shipped!r})"
        for shipped in sorted(loading.shipped())
        if shipped.startswith(f"{name}-") and any(r.checkpoint.get("origin") == "shipped" for r in records)
    ]
    places = sorted({(r.dataset, r.category, r.preset) for r in records})
    dataset, category, preset = places[0]
    more = "" if preset == "quick" else f", preset={preset!r}"
    return [*lines, f"bench.fit({name!r}, {dataset!r}, {category!r}{more})"]


def _entry(found: Found, record: Record, is_shown: bool) -> Entry:
    clean, robust = estimate(record, "clean"), estimate(record, "robust")
    return Entry(
        link=names.cell(record),
        written=one_line(record.written, 40)[:16].replace("T", " "),
        where=f"{one_line(record.dataset, 40)}, {one_line(record.category, 40)}, {one_line(record.preset, 20)}",
        how=f"{one_line(record.protocol, 20)} {record.cell.protocol.version}, {one_line(record.attack_name, 40)}, "
        f"{one_line(threat_text(record.epsilon, record.norm, short=True), 40)}",
        fit=fits.fit_seed(record),
        revision=record.detector.revision,
        clean="" if clean is None else interval_text(*clean),
        robust="" if robust is None else interval_text(*robust),
        why="; ".join(_why(found, record, is_shown)),
    )


def _why(found: Found, record: Record, is_shown: bool) -> Iterable[str]:
    """Why a figure counts, or does not."""
    if not record.ok:
        yield f"failed: {one_line(record.reason, 200)}"
    if is_stale(record, found.revisions):
        yield "stale: detector, attack or protocol has been revised since"
    if not record.full_run:
        yield "no full run"
    if not is_shown:
        yield "another record of this cell counts: stronger attack, newer revision or newer fit"
    flags = len(failure_flags(record))
    if flags:
        yield plural(flags, "flag")


def _charts(found: Found, name: str, rows: Sequence[IndexRow]) -> list[Chart]:
    made: list[Chart] = []
    whole = [_named(found, row) for row in rows if row.robust is not None]
    scatter = charts.clean_against_robust(whole, f"{one_line(name, 40)} in all its cells")
    made += [scatter] if scatter is not None else []
    for records in found.groups.values():
        own = [record for record in records if record.detector_name == name]
        if len({record.epsilon for record in own if record.ok}) > 1:
            made += charts.security_curves(own)
    return made


def _named(found: Found, row: IndexRow) -> IndexRow:
    """Called by its place, for a chart of one detector alone."""
    board = found.boards[row.board]
    sides = "/".join(sorted({f"{record.image_size} px" for record in row.records}))
    where = f"{one_line(board.dataset, 20)} {one_line(row.place, 20)} ({one_line(row.protocol, 20)}, {sides})"
    return dataclasses.replace(row, label=where)


def _variants(records: Sequence[Record]) -> list[Variant]:
    by_settings: dict[tuple[tuple[str, str], ...], list[Record]] = {}
    for record in records:
        by_settings.setdefault(tuple(flat(record.detector.settings)), []).append(record)
    return [
        Variant(
            f"{plural(len(own), 'record')}: "
            + ", ".join(sorted({f"{one_line(r.dataset, 30)} {one_line(r.category, 30)}" for r in own})[:12]),
            settings,
        )
        for settings, own in by_settings.items()
    ]
