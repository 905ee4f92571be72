"""What each attack of an ensemble did: the robust AUC after it, and the share of the images that it won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.record import Record
from bench.report.leaderboard import Leaderboard
from bench.text import one_line

EXPLAINED = "robust AUC after each attack of the ensemble, in turn (share of the images that it won)"
_ALONG = {"score": "score", "surrogate": "surrogate", "map": "smooth maximum of the map", "mean-map": "mean of the map"}


@dataclass(frozen=True)
class Share:
    """One attack of an ensemble.

    Attributes:
        member: which ("apgd along the score").
        robust_auc: after it, in per cent; None where images are no more than compared (stochastic detectors).
        won: the share of the images that came from it, in [0, 1].
    """

    member: str
    robust_auc: float | None
    won: float

    def __str__(self) -> str:
        won = f"({100 * self.won:.0f} %)"
        return won if self.robust_auc is None else f"{self.robust_auc:.1f} {won}"


@dataclass(frozen=True)
class OfCell:
    """A detector in a category, means over its fits."""

    label: str
    category: str
    members: tuple[Share, ...]


def of_column(board: Leaderboard, protocol: str) -> list[OfCell]:
    """What each cell of a protocol says of its ensemble; none of single attacks."""
    found = []
    for row in board.rows:
        standing = row.standings.get(protocol)
        for category in board.categories if standing is not None else ():
            cell = standing.cells.get(category) if standing is not None else None
            shares = () if cell is None else mean([of_record(r) for r in cell.records if r.ok])
            if shares:
                found.append(OfCell(row.label, category, shares))
    return found


def of_record(record: Record) -> tuple[Share, ...]:
    """As its indicators state it; what a stranger states otherwise is left out."""
    stated = record.indicators.get("members")
    shares: list[Share] = []
    for entry in stated if isinstance(stated, list) else []:
        attack = entry.get("attack") if isinstance(entry, dict) else None
        won = _within(entry.get("won_share"), 1.0) if isinstance(entry, dict) else None
        if not isinstance(attack, dict) or won is None:
            return ()
        name = _name(attack, record.norm)
        again = sum(name == share.member.partition(" #")[0] for share in shares)
        member = f"{name} #{again + 1}" if again else name
        shares.append(Share(member, _within(entry.get("robust_auc"), 100.0), won))
    return tuple(shares)


def mean(fits: Sequence[tuple[Share, ...]]) -> tuple[Share, ...]:
    """Over fits; nothing where their ensembles differ."""
    if not fits or len({tuple(share.member for share in shares) for shares in fits}) > 1:
        return ()
    found = []
    for same in zip(*fits, strict=True):
        aucs = [share.robust_auc for share in same if share.robust_auc is not None]
        auc = sum(aucs) / len(aucs) if len(aucs) == len(same) else None
        found.append(Share(same[0].member, auc, sum(share.won for share in same) / len(same)))
    return tuple(found)


def sentences(board: Leaderboard) -> list[str]:
    """The same in words, for where a table has no room."""
    found = []
    for column in board.columns:
        cells = of_column(board, column.protocol)
        if cells:
            found.append(f"{EXPLAINED[:1].upper()}{EXPLAINED[1:]}:")
        for cell in cells:
            told = ", ".join(f"{share.member} {share}" for share in cell.members)
            found.append(f"{one_line(cell.label, 60)}, {one_line(cell.category, 40)}: {told}.")
    return found


def _name(attack: dict[str, Any], norm: str) -> str:
    name = one_line(attack.get("name", ""), 40).removesuffix(f"-{norm}")
    along = attack.get("differentiate")
    return f"{name} along the {_ALONG[along]}" if isinstance(along, str) and along in _ALONG else name


def _within(value: Any, largest: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
        return None
    return float(value)
