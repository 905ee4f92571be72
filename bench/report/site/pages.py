"""The pages' text: templates filled with what was collected, everything escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.report import noise_worth
from bench.report.best_known import Known
from bench.report.leaderboard import Leaderboard
from bench.report.site import board_page, cell_page, charts, detector_page, index, names, trust
from bench.report.site.found import Found
from bench.report.site.svg import Chart
from bench.report.site.texts import texts
from bench.text import interval_text, plural

# No script but the files beside the pages, no style but theirs, nothing from anywhere else. In a page that is opened
# from a disk 'self' is the disk.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)

GLANCES = 4  # charts of the first page


@dataclass(frozen=True)
class Page:
    """A file's place in the folder, and its text."""

    path: str
    text: str


def render(found: Found, *, copied: frozenset[str] = frozenset()) -> Iterator[Page]:
    """All pages, the first one last: whoever finds it finds all that it leads to. `copied`: files that lie beside
    them."""
    rows = index.rows(found)
    curves = board_page.curve_pages(found)
    certified = board_page.certificates_page(found)
    detectors = detector_page.pages(found, rows)
    boards = board_page.pages(found, rows, curves)
    parts = trust.pages(found, rows, copied)
    menu = _menu(found, parts, certified is not None)
    for page in cells(found, copied):
        yield _page("cell.html", page.path, menu, page=page)
    for detector in detectors:
        yield _page("detector.html", detector.path, menu, page=detector, found=found)
    for board in boards:
        yield _page("board.html", board.path, menu, page=board)
    for drawn in [*curves, *([certified] if certified is not None else [])]:
        yield _page("charts.html", drawn.path, menu, page=drawn)
    for part in parts:
        yield _page("parts.html", part.path, menu, page=part)
    if found.matrices:
        yield _page("transfer.html", names.TRANSFER, menu, matrices=found.matrices)
    yield _page("meaning.html", names.MEANING, menu, noise=noise_worth.MEANING.values())
    yield first_page(found, rows, menu, curves)


def first_page(
    found: Found,
    rows: list[index.IndexRow],
    menu: list[tuple[str, str]],
    curves: list[board_page.ChartsPage],
) -> Page:
    """The one with the table."""
    return _page(
        "index.html",
        names.INDEX,
        menu,
        data=index.payload(found, rows),
        boards=sorted(found.boards, key=_order),
        curves=curves,
        counts=_counts(found),
        glance=_glance(found, rows),
    )


def cells(found: Found, copied: frozenset[str]) -> Iterator[cell_page.CellPage]:
    """One by one: their scores need not be in memory together."""
    known = Known(found.records, found.revisions)
    alike: dict[tuple[str, ...], list[Any]] = {}
    for record in found.records:
        alike.setdefault((record.detector_name, record.dataset, record.category, record.preset), []).append(record)
    for record in found.records:
        siblings = alike[record.detector_name, record.dataset, record.category, record.preset]
        siblings.sort(key=lambda r: (r.protocol, r.attack_name, r.epsilon, r.cell.fit_seed, r.key))
        yield cell_page.page(record, found, known, siblings[:60], copied=copied)


def _menu(found: Found, parts: list[trust.PartsPage], has_certificates: bool) -> list[tuple[str, str]]:
    menu = [(names.INDEX, "Leaderboard")]
    menu += [(part.path, "Which to trust" if len(parts) == 1 else part.title) for part in parts]
    menu += [(names.CERTIFICATES, "Certificates")] if has_certificates else []
    menu += [(names.TRANSFER, "Transfer")] if found.matrices else []
    return [*menu, (names.MEANING, "What it means")]


def _order(board: Leaderboard) -> tuple[str, str, float, str]:
    """Of a list: by data set, norm, and the size of the ball."""
    record = next(cell.record for row in board.rows for cell in row.cells.values())
    return board.dataset, record.norm, record.epsilon, board.title


def _glance(found: Found, rows: list[index.IndexRow]) -> list[Chart]:
    """Clean against robust of the first leaderboard of each data set, of the first few."""
    made: dict[str, Chart] = {}
    by_board: dict[int, list[index.IndexRow]] = {}
    for row in rows:
        if row.is_main:
            by_board.setdefault(row.board, []).append(row)
    for number, own in sorted(by_board.items(), key=lambda entry: index.weight(found.boards[entry[0]])):
        board, record = found.boards[number], own[0].records[0]
        where = charts.where_of(board.dataset, own[0].place, record.epsilon, record.norm)
        chart = None if board.dataset in made else charts.clean_against_robust(own, where)
        if chart is not None and len(made) < GLANCES:
            made[board.dataset] = chart
    return list(made.values())


def _counts(found: Found) -> str:
    detectors = len({record.detector_name for record in found.records})
    datasets = len({record.dataset for record in found.records})
    written = max((record.written for record in found.records), default="")[:10]
    counted = f"{plural(len(found.records), 'cell')}, {plural(detectors, 'detector')}, {plural(datasets, 'data set')}"
    return f"{counted}; newest of {written}" if written else counted


def _page(template: str, path: str, menu: list[tuple[str, str]], **values: Any) -> Page:
    text = (
        _environment()
        .get_template(template)
        .render(up="../" * path.count("/"), path=path, menu=menu, policy=POLICY, **values)
    )
    return Page(path, text)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("bench.report.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words: Mapping[str, Any] = {
        "texts": texts(),
        "interval": lambda estimate: interval_text(*estimate) if estimate is not None else interval_text(None),
        "names": names,
    }
    found.globals.update(words)
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    return found
