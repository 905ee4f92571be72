"""For those who look at parts of their own: which detector to trust on them, and why, in sentences.

Ranked by what is left under the strongest attack that was run, by the interval's lower end: what can be counted on. A
detector whose figure is flagged comes after those whose figure is not, and none is trusted that a baseline may beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.intervals import Estimate
from bench.records.record import Record
from bench.report.budget import seconds_a_score
from bench.report.caveats import estimate, remarks
from bench.report.grouping import OWN_ATTACK
from bench.report.site import names
from bench.report.site.found import Found
from bench.report.site.index import AVERAGE, OWN_PARTS, IndexRow
from bench.text import interval_text, one_line, plural, threat_text


@dataclass(frozen=True)
class Candidate:
    """A detector on these parts.

    Attributes:
        label, link: its name, the page of its cell.
        sentence: what it does.
        clean, robust: AUCs with intervals. protocol: of the attack.
        milliseconds: to score a picture once, on the machine of the record; None where it is not known.
        flags: why its robust figure is no claim. picture: of its examples. licence: of what the picture is made from.
        beats: whether it keeps more under attack than every baseline.
    """

    label: str
    link: str
    sentence: str
    clean: Estimate
    robust: Estimate
    protocol: str
    milliseconds: float | None
    flags: tuple[str, ...]
    picture: str
    licence: str
    beats: bool


@dataclass(frozen=True)
class Part:
    """One kind of part: a category, in one ball.

    Attributes:
        category, threat, images: what was measured.
        verdict: the answer, in sentences.
        candidates: the best first.
        baselines: label, clean, robust.
        remarks: what is odd about the pictures.
    """

    category: str
    threat: str
    images: str
    verdict: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    baselines: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class PartsPage:
    """All kinds of parts at one preset."""

    title: str
    path: str
    parts: tuple[Part, ...]


def pages(found: Found, rows: Sequence[IndexRow], copied: frozenset[str]) -> list[PartsPage]:
    """Of folders of the user's own; [] where there are none."""
    by_preset: dict[str, dict[tuple[str, str, float], list[IndexRow]]] = {}
    for row in rows:
        record = _record(row)
        if found.boards[row.board].dataset != OWN_PARTS or row.place == AVERAGE:
            continue
        if row.clean is None or row.robust is None:
            continue
        preset = f"{one_line(record.preset, 30)}, {record.image_size} px"
        place = (row.place, record.norm, record.epsilon)
        by_preset.setdefault(preset, {}).setdefault(place, []).append(row)
    return [
        PartsPage(
            f"Which detector to trust on your parts ({preset})",
            names.parts(preset),
            tuple(_part(own, copied) for _, own in sorted(places.items())),
        )
        for preset, places in sorted(by_preset.items())
    ]


def _record(row: IndexRow) -> Record:
    return next((record for record in row.records if record.ok), row.records[0])


def _part(rows: Sequence[IndexRow], copied: frozenset[str]) -> Part:
    record = _record(rows[0])
    baselines = [row for row in _latest(rows) if row.is_baseline]
    floor = max((row.robust.value for row in baselines if row.robust is not None), default=0.0)
    candidates = [_candidate(row, floor, copied) for row in _latest(rows) if not row.is_baseline]
    candidates.sort(key=_worth)
    threat = threat_text(record.epsilon, record.norm)
    return Part(
        category=one_line(record.category, 60),
        threat=one_line(threat, 80),
        images=f"{record.subset.normals} normal and {record.subset.anomalies} defective test pictures",
        verdict=tuple(_verdict(candidates, baselines, one_line(record.category, 60), _plain(record))),
        candidates=tuple(candidates),
        baselines=tuple(
            (
                r.label,
                "" if r.clean is None else interval_text(*r.clean),
                "" if r.robust is None else interval_text(*r.robust),
            )
            for r in baselines
        ),
        remarks=tuple(remarks([r for row in rows for r in row.records if r.ok])),
    )


def _plain(record: Record) -> str:
    """How far an attack may go, for people who look at parts."""
    if record.norm == "linf":
        return f"at most {255 * record.epsilon:.3g} of 255 grey levels in each pixel"
    return one_line(threat_text(record.epsilon, record.norm), 80)


def _latest(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """Of each detector the row of the strongest protocol, as that protocol says, where there is such a one."""
    order = [*OWN_ATTACK]

    def weakness(row: IndexRow) -> tuple[int, bool, bool]:
        record = _record(row)
        known = row.protocol in OWN_ATTACK
        is_other = not known or not record.attack_family.startswith(OWN_ATTACK[row.protocol])
        return order.index(row.protocol) if known else len(order), is_other, bool(record.cell.protocol.changed)

    found: dict[str, IndexRow] = {}
    for row in sorted(rows, key=weakness):
        found.setdefault(row.label, row)
    return list(found.values())


def _worth(candidate: Candidate) -> tuple[bool, bool, float, float, str]:
    robust, clean = candidate.robust, candidate.clean
    return not candidate.beats, bool(candidate.flags), -robust.low, -clean.low, candidate.label


def _candidate(row: IndexRow, floor: float, copied: frozenset[str]) -> Candidate:
    assert row.clean is not None and row.robust is not None
    record = _record(row)
    picture = next((p for r in row.records if r.ok and r.licence and (p := names.picture(r)) in copied), "")
    return Candidate(
        label=row.label,
        link=names.cell(record),
        sentence=_sentence(row),
        clean=row.clean,
        robust=row.robust,
        protocol=one_line(row.protocol, 20),
        milliseconds=milliseconds(record),
        flags=row.flags,
        picture=picture,
        licence=one_line(record.licence, 600),
        beats=row.robust.low > floor and not (row.best is not None and row.best.robust.value <= floor),
    )


def _sentence(row: IndexRow) -> str:
    assert row.clean is not None and row.robust is not None
    clean, robust = row.clean, row.robust
    if clean.high < 50:
        sees = "It calls defects more normal than normal pictures: look at the pictures before anything else."
    elif clean.low <= 50:
        sees = "On these test pictures it cannot be told from guessing, even without an attack."
    elif clean.low < 80:
        sees = f"Without an attack it puts defects above normals in {clean.low:.0f} to {clean.high:.0f} of 100 pairs."
    else:
        sees = f"Without an attack it finds the defects: at least {clean.low:.0f} of 100 pairs are in order."
    keeps = (
        f"Under attack nothing can be counted on ({robust.value:.0f} of 100)."
        if robust.high < 50
        else f"Under attack at least {robust.low:.0f} of 100 pairs stay in order, as far as this attack went."
    )
    if row.best is not None and row.best.robust.value < robust.value - 0.5:
        keeps += f" Another attack has left {row.best.robust.value:.0f} ({row.best.attack})."
    partial = "" if all(record.full_run for record in row.records) else " (Not a full run: read its limits.)"
    return f"{sees} {keeps}{partial}"


def _verdict(candidates: Sequence[Candidate], baselines: Sequence[IndexRow], category: str, threat: str) -> list[str]:
    if not candidates:
        return ["Only baselines were measured on these parts; run some detectors."]
    best, seen = candidates[0], max(candidates, key=lambda c: (c.clean.low, c.label))
    said = []
    if best.beats and not best.flags and best.robust.low > 50:
        said.append(
            f"Trust {best.label} on {category}: changes of {threat} leave it an AUC of {interval_text(*best.robust)}, "
            f"more than any baseline keeps, and nothing speaks against that figure."
        )
    elif best.beats:
        why = (
            f"its figure carries {plural(len(best.flags), 'flag')}" if best.flags else "it may be no better than a coin"
        )
        said.append(
            f"Against somebody who changes pictures by {threat}, trust none on {category}. The one that keeps most is "
            f"{best.label} ({interval_text(*best.robust)}), and {why}."
        )
    else:
        row = max((b for b in baselines if b.robust is not None), key=lambda b: b.robust.value if b.robust else 0.0)
        said.append(
            f"Against somebody who changes pictures by {threat}, trust none on {category}: no detector keeps surely "
            f"more than the baseline {row.label} does ({row.robust.value if row.robust else 0.0:.1f})."
        )
    if seen.clean.low > 50:
        said.append(f"Where nobody tampers with pictures, {seen.label} sees most: AUC {interval_text(*seen.clean)}.")
    else:
        said.append(
            "Even on clean pictures no detector is surely better than guessing here: more test pictures, please."
        )
    fast = [c for c in candidates if c.milliseconds is not None and c.clean.low > 50]
    if fast:
        one = min(fast, key=lambda c: (c.milliseconds or 0.0, c.label))
        said.append(
            f"The fastest of those that see more than chance is {one.label}: {one.milliseconds:.3g} ms for a picture, "
            "on the machine that measured."
        )
    return said


def milliseconds(record: Record) -> float | None:
    """To score a picture once."""
    seconds = seconds_a_score(record)
    return None if seconds is None or estimate(record, "robust") is None else 1000 * seconds
