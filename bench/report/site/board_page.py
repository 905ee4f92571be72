"""What the page of a leaderboard says: its heading, its tables with links, its charts and its notes. It needs no
script, so that whoever has none misses nothing but sorting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.records.record import Record
from bench.report import certificates
from bench.report.leaderboard import Leaderboard, Row
from bench.report.site import charts, names
from bench.report.site.found import Found
from bench.report.site.index import AVERAGE, IndexRow
from bench.report.site.svg import Chart
from bench.report.tables import places, tables
from bench.text import one_line


@dataclass(frozen=True)
class LinkedTable:
    """A table whose first column leads somewhere; links has "" where it does not."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...]


@dataclass(frozen=True)
class BoardPage:
    """One leaderboard."""

    title: str
    path: str
    paragraphs: tuple[tuple[str, ...], ...]
    tables: tuple[LinkedTable, ...]
    charts: tuple[Chart, ...]
    notes: tuple[str, ...]
    curves: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ChartsPage:
    """Charts alone, with tables where there are some."""

    title: str
    path: str
    charts: tuple[Chart, ...]
    tables: tuple[LinkedTable, ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()


def pages(found: Found, rows: Sequence[IndexRow], curves: Sequence[ChartsPage]) -> list[BoardPage]:
    """One for each leaderboard, with links to the security curves (`curve_pages`) that its figures are on."""
    by_board: dict[int, list[IndexRow]] = {}
    for row in rows:
        by_board.setdefault(row.board, []).append(row)
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, board in enumerate(found.boards):
        alike.setdefault(_ball(board), []).append(number)
    groups = _groups(found, curves)
    made = []
    for number, board in enumerate(found.boards):
        of_ball = [found.boards[other] for other in alike[_ball(board)]]
        made.append(
            BoardPage(
                title=one_line(board.title, 200),
                path=names.board(board.slug),
                paragraphs=board.paragraphs,
                tables=tuple(_tables(board)),
                charts=tuple(_charts(board, by_board.get(number, []), of_ball)),
                notes=tuple(board.notes()),
                curves=tuple(
                    dict.fromkeys(groups[r.key] for row in board.rows for r in _shown(row) if r.key in groups)
                ),
            )
        )
    return made


def _shown(row: Row) -> list[Record]:
    return [cell.record for standing in row.standings.values() for cell in standing.cells.values()]


def _groups(found: Found, curves: Sequence[ChartsPage]) -> dict[str, tuple[str, str]]:
    """By a record's key the page of security curves that it is on, and its title."""
    titles = {page.path: page.title for page in curves}
    return {
        record.key: (path, titles[path])
        for key, records in found.groups.items()
        if (path := names.curves(key)) in titles
        for record in records
    }


def _ball(board: Leaderboard) -> tuple[object, ...]:
    record = next(cell.record for row in board.rows for cell in row.cells.values())
    return record.dataset, record.preset, record.image_size, record.norm, record.epsilon


def _tables(board: Leaderboard) -> list[LinkedTable]:
    shown = places(board)
    made = []
    for number, table in enumerate(tables(board)):
        links = [""] * len(table.rows)
        if number < len(shown):  # of a place, in the leaderboard's order; those of ensembles follow
            links = [_link(board, n, shown[number]) for n in range(len(board.rows))]
        rows = tuple(tuple(one_line(cell, 200) for cell in row) for row in table.rows)
        made.append(LinkedTable(one_line(table.heading, 200), tuple(table.header), rows, tuple(links)))
    return made


def _link(board: Leaderboard, number: int, place: str) -> str:
    row = board.rows[number]
    if place == AVERAGE:
        return f"../{names.detector(row.name)}"
    cell = row.ranked.cells.get(place)
    return "" if cell is None else f"../{names.cell(cell.record)}"


def _charts(board: Leaderboard, own: Sequence[IndexRow], of_ball: Sequence[Leaderboard]) -> list[Chart]:
    record = next(cell.record for row in board.rows for cell in row.cells.values())
    made = []
    for place in places(board):
        where = charts.where_of(board.dataset, place, record.epsilon, record.norm)
        scatter = charts.clean_against_robust([row for row in own if row.place == place], where)
        cost = charts.cost_against_strength(of_ball, place, where)
        made += [chart for chart in (scatter, cost) if chart is not None]
    return made


def curve_pages(found: Found) -> list[ChartsPage]:
    """Of groups in which some detector was attacked at several radii."""
    made = []
    for key, records in found.groups.items():
        if len({record.epsilon for record in records if record.ok}) < 2:
            continue
        first = next(record for record in records if record.ok)
        title = (
            f"Security curves: {one_line(first.dataset, 40)}, {one_line(first.attack_family, 40)}, protocol "
            f"{one_line(first.protocol, 20)}, {first.image_size} px"
        )
        drawn = charts.security_curves(records)
        if drawn:
            made.append(ChartsPage(title, names.curves(key), tuple(drawn)))
    return made


def certificates_page(found: Found) -> ChartsPage | None:
    """Of all certificates; None where there is none."""
    boards = certificates.boards(found.certificates, found.revisions)
    if not boards:
        return None
    drawn, tabled, notes = [], [], []
    for board in boards:
        base = certificates.base_lines(found.records, board.rows[0]) if board.norm == "l2" else {}
        drawn.append(charts.certified_against_attacked(board, base))
        tabled.append(_certified(board, {record.detector_name for record in found.records}))
        notes.append(tuple(board.notes()))
    return ChartsPage("Certified against attacked", names.CERTIFICATES, tuple(drawn), tuple(tabled), tuple(notes))


def _certified(board: certificates.Board, known: set[str]) -> LinkedTable:
    """Links of detectors that have a page: of records, not of certificates alone."""
    from_radii: Mapping[float, str] = {radius: f"radius {radius:g}" for radius in board.shown_radii(9)}
    rows = []
    for row in board.rows:
        figures = [
            "" if radius not in row.claim.radii else certificates.figure(certificates.estimate(row, radius))
            for radius in from_radii
        ]
        rows.append((f"{one_line(certificates.label(row), 100)} {board.marks(row)}".strip(), *figures))
    own = [row.claim.detector.name for row in board.rows]
    links = tuple(names.detector(name) if name in known else "" for name in own)
    return LinkedTable(one_line(board.title, 200), ("detector", *from_radii.values()), tuple(rows), links)
