"""Which records may stand in one column of a leaderboard, and which columns beside each other.

A column holds what may be compared number by number: the same dataset, preset, resolution, protocol, attack with its
budget, and threat model. Columns of several protocols stand in one leaderboard where each is its protocol's own
measurement of the same thing: dataset, preset, resolution and ball. Whatever else was measured (another attack, other
settings, an older protocol) has a leaderboard of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from bench.records.record import Record

# The protocols that stand beside each other, the strongest first, and the attack that each is about.
OWN_ATTACK = {"strict": "autoattack", "strict-lite": "autoattack", "quick": "pgd", "paper": "pgd"}


def boards(records: Iterable[Record]) -> list[list[list[Record]]]:
    """The records of each leaderboard, column by column, the strongest protocol first."""
    columns: dict[str, list[Record]] = {}
    for record in records:
        columns.setdefault(column_key(record), []).append(record)
    alike: dict[str, list[list[Record]]] = {}
    for key, column in columns.items():
        alike.setdefault(_same_measurement(column[0]) if _is_own(column[0]) else key, []).append(column)
    found = []
    for group in alike.values():
        by_protocol: dict[str, list[list[Record]]] = {}
        for column in group:
            by_protocol.setdefault(column[0].protocol, []).append(column)
        board = []
        for protocol in sorted(by_protocol, key=_strength):
            *others, usual = sorted(by_protocol[protocol], key=_weight)
            board.append(usual)
            found += [[column] for column in others]
        found.append(board)
    return found


def column_key(record: Record) -> str:
    """What the records of one column have in common."""
    return json.dumps([curve_key(record), record.attack.epsilon])


def curve_key(record: Record) -> str:
    """What the records of one security curve have in common: everything but epsilon.

    Of the attack's budget it is the protocol, and what the user changed of it: how many steps, of what size, and draws
    that makes follows from the detector and may differ within one leaderboard.
    """
    protocol = record.cell.protocol
    budget = [record.attack.settings.get(name) for name in ("restarts", "random_start", "keep")]
    return json.dumps(
        [
            record.dataset,
            record.preset,
            record.image_size,
            record.protocol,
            protocol.statement,
            protocol.changed,
            record.attack_family,
            record.norm,
            budget,
            record.subset.per_class,
        ],
        sort_keys=True,
        default=str,
    )


def _is_own(record: Record) -> bool:
    """Whether it was measured as its protocol says."""
    own = OWN_ATTACK.get(record.protocol)
    return own is not None and record.attack_family == f"{own}-{record.norm}" and not record.cell.protocol.changed


def _same_measurement(record: Record) -> str:
    """A trial on fewer images (--limit) ranks nothing that was measured in full."""
    ball = [record.norm, record.attack.epsilon]
    return json.dumps([record.dataset, record.preset, record.image_size, *ball, record.subset.limit])


def _strength(protocol: str) -> int:
    """A protocol that is not known stands alone in its leaderboard."""
    return [*OWN_ATTACK, protocol].index(protocol)


def _weight(column: Sequence[Record]) -> tuple[int, int, int, str, str]:
    """Of columns of one protocol (it was revised, or the attack's budget is another) the newest version stands beside
    the others, then that of most full cells."""
    version = max(r.cell.protocol.version for r in column)
    full = sum(r.ok and r.full_run for r in column)
    return version, full, len(column), max(r.written for r in column), column_key(column[0])
