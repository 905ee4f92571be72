"""A transfer matrix and distances to a threshold, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.records.distances import Distances
from bench.records.transfer import CLEAN, TransferMatrix
from bench.report import narrow
from bench.text import MISSING, one_line

AHEAD = "!"
# Per cent of the flips; below it a reader is told. A flip lies at the threshold, so of a stochastic detector half of
# them hold on other noise; fewer do where the search has followed its own.
HELD, STOCHASTIC_HELD = 95.0, 25.0
ZERO_GRADIENTS = 0.1  # as of an attack's flag
_NAME, _FIGURE = 20, 12  # columns of the screen, gaps included
READING = (
    "AUC in per cent. Rows: what the images were made on; columns: which detector judges them. In brackets the white "
    "box: made on the judge itself. Its figure is the lowest of its column where its gradient leads somewhere."
)


def figure(matrix: TransferMatrix, source: str, target: str) -> str:
    """ "40.2", in brackets where the source is the target, marked where it should not be so low; a dash where it is
    missing."""
    found = matrix.entries.get((source, target))
    if found is None:
        return MISSING
    text = f"{found.auc:.1f}"
    if source == target:
        return f"[{text}]"
    return text + (AHEAD if found.is_ahead else "")


def matrix_table(matrix: TransferMatrix, width: int = 80) -> Table | Group:
    """The matrix within so many columns: one table, or several with some of its columns each."""
    rows = [(CLEAN, [f"{matrix.clean[t].auc:.1f}" if t in matrix.clean else MISSING for t in matrix.targets])]
    rows += [(source, [figure(matrix, source, target) for target in matrix.targets]) for source in matrix.sources]
    if width < narrow.COLUMNS:
        lines = [(0, matrix.title)]
        for number, target in enumerate(matrix.targets):
            lines.append((0, f"judged on {one_line(target, 60)}"))
            lines += [(1, f"made on {one_line(name, 60)}: {cells[number]}") for name, cells in rows]
        return narrow.listed(lines)
    fits = max(1, (width - _NAME) // _FIGURE)
    tables = []
    for start in range(0, len(matrix.targets), fits):
        some = slice(start, start + fits)
        title = Text(matrix.title) if start == 0 else None
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("made on", overflow="fold", width=_NAME - 2)
        for target in matrix.targets[some]:
            name = "\n".join(wrap(one_line(target, 60), _FIGURE - 2))  # at hyphens, where it has some
            table.add_column(Text(name), justify="right", overflow="fold", width=_FIGURE - 2)
        for name, cells in rows:
            table.add_row(Text(one_line(name, 60)), *map(Text, cells[some]))
        tables.append(table)
    return tables[0] if len(tables) == 1 else Group(*tables)


def notes(matrix: TransferMatrix) -> list[str]:
    """What stands beneath the matrix: flags, then how it is read."""
    return [*(f"{AHEAD} {flag}." for flag in matrix.flags()), READING]


def distance_text(value: float | None, norm: str) -> str:
    """A distance in its unit: l-inf as multiples of 1/255, l2 on the [0, 1] scale."""
    if value is None:
        return MISSING
    if math.isinf(value):
        return "not found"
    return f"{255 * value:.3g}" if norm == "linf" else f"{value:.3g}"


def distance_table(
    found: Sequence[Distances], reasons: Mapping[str, str], norm: str, title: str, width: int = 80
) -> Table | Group:
    """Medians for each class, and the shares that are wrong already and that were not found, in per cent; a dash for
    each detector that has a reason instead."""
    unit = "1/255" if norm == "linf" else "of [0, 1]"
    header = ("detector", f"normal\n({unit})", f"anomalous\n({unit})", f"all\n({unit})", "wrong\n(%)", "not found\n(%)")
    rows = []
    for one in found:
        medians = [distance_text(one.median(label), norm) for label in (1, -1, None)]
        rows.append((one_line(one.detector, 60), *medians, f"{one.wrong_share:.0f}", f"{one.missing_share:.0f}"))
    rows += [(one_line(name, 60), *[MISSING] * 5) for name in reasons]
    if width < narrow.COLUMNS:
        names = [" ".join(name.split()) for name in header[1:]]
        lines = [(0, title)]
        for name, *cells in rows:
            lines.append((0, name))
            lines += [(1, f"{what}: {cell}") for what, cell in zip(names, cells, strict=True)]
        return narrow.listed(lines)
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    table.add_column(header[0], overflow="fold", width=_NAME - 2)
    for name in header[1:]:
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def distance_notes(found: Sequence[Distances]) -> list[str]:
    """What stands beneath the distances: how they are read, and which flips did not hold."""
    notes = [
        "The smallest change found that flips a decision at the threshold, above which 5 % of held-out normals lie; 0 "
        "where it is wrong as it is (these count in the medians). Upper bounds; not found is no proof that there is "
        "none. A distance ranks nobody: a score that hardly moves has its threshold far away, too."
    ]
    for one in found:
        least = STOCHASTIC_HELD if one.facts.get("is_stochastic") else HELD
        if one.held_share is not None and one.held_share < least:
            notes.append(
                f"{AHEAD} {one_line(one.detector, 60)}: {100 - one.held_share:.0f} % of the flips did not hold when "
                "their images were judged anew, on noise that the search had not seen or in another batch."
            )
        share = one.facts.get("zero_gradient_share")
        if isinstance(share, float) and share > ZERO_GRADIENTS:
            notes.append(
                f"{AHEAD} {one_line(one.detector, 60)}: the gradient was zero in {100 * share:.0f} % of the steps; its "
                "threshold may be nearer than this."
            )
    return notes
