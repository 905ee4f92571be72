"""What a record says of a cell and of how it was made, as lines of a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.records.record import Record
from bench.report import budget, fits
from bench.text import one_line, threat_text

LONG = 2000
_DEEP = 8


@dataclass(frozen=True)
class Fact:
    """A line of a table: what, and what it is."""

    name: str
    value: str
    is_code: bool = False


def of_cell(record: Record) -> list[Fact]:
    cell, subset, attack = record.cell, record.subset, record.attack
    spent = budget.of_record(record)
    limit = f" (at most {subset.limit} of a class by --limit)" if subset.limit else ""
    matched = ", matched by group" if subset.matched == "group" else ""
    of_attack = ", ".join(
        f"{one_line(name, 40)} {one_line(value, 60)}"
        for name, value in attack.settings.items()
        if value is not None and not isinstance(value, dict | list)
    )
    changed = ", ".join(f"{one_line(k, 40)} {one_line(v, 60)}" for k, v in (cell.protocol.changed or {}).items())
    facts = [
        Fact("attack", f"{one_line(record.attack_name, 60)} (revision {attack.revision}): {of_attack}"),
        Fact("threat model", one_line(threat_text(record.epsilon, record.norm), 80)),
        Fact(
            "protocol",
            f"{one_line(record.protocol, 40)}, version {cell.protocol.version}: "
            f"{one_line(cell.protocol.statement, LONG)}",
        ),
        Fact("changed by the user", changed),
        Fact("budget for each image", "" if spent is None else _spent(spent)),
        Fact("test images", f"{subset.normals} normal and {subset.anomalies} anomalous{limit}{matched}"),
        Fact("preset", f"{one_line(record.preset, 30)}, {record.image_size} x {record.image_size} pixels"),
        Fact("verdict draws", str(record.results.get("verdict_draws", ""))[:20]),
        Fact("seeds", f"noise {record.seed}, fit {fits.fit_seed(record)}"),
        Fact(
            "full run", "yes" if record.full_run else "no: " + "; ".join(one_line(x, 200) for x in record.limits[:20])
        ),
        Fact("the category's pictures", "; ".join(one_line(x, 400) for x in record.remarks[:20])),
        Fact("the data set says", one_line(cell.remark, LONG)),
    ]
    return [fact for fact in facts if fact.value]


def _spent(spent: budget.Budget) -> str:
    known = [(spent.gradients, "gradients"), (spent.forwards, "forward passes")]
    return " and ".join(f"{value:,.0f} {name}" for value, name in known if value is not None)


def of_origin(record: Record) -> list[Fact]:
    environment, seconds = record.environment, record.seconds
    versions = [name for name in environment if name not in ("commit", "cpu", "device", "platform", "threads", "tf32")]
    per_image = seconds_per_image(record)
    checkpoint = record.checkpoint
    origin = ", ".join(
        one_line(text, 100)
        for text in (
            checkpoint.get("origin"),
            checkpoint.get("network_from") and f"network from {checkpoint.get('network_from')}",
        )
        if text
    )
    facts = [
        Fact("command, as the record states it", one_line(record.command, LONG), is_code=True),
        Fact("written", one_line(record.written, 40)),
        Fact("commit", one_line(environment.get("commit", ""), 80), is_code=True),
        Fact(
            "machine",
            ", ".join(one_line(environment[n], 120) for n in ("cpu", "device", "platform") if environment.get(n)),
        ),
        Fact("threads", one_line(environment.get("threads", ""), 20)),
        Fact(
            "versions",
            ", ".join(f"{one_line(n, 40)} {one_line(environment[n], 40)}" for n in sorted(versions) if environment[n]),
        ),
        Fact(
            "seconds",
            ", ".join(
                f"{one_line(n, 20)} {value:,.1f}" for n, v in seconds.items() if (value := number(v)) is not None
            ),
        ),
        Fact("seconds per image", "" if per_image is None else f"{per_image:.3g} (attack)"),
        Fact("peak memory", "" if record.peak_memory_mb is None else f"{record.peak_memory_mb:,.0f} MiB"),
        Fact("checkpoint", origin),
        Fact("checkpoint's SHA-256", one_line(record.detector.checkpoint_sha256, 80), is_code=True),
        *(
            Fact(f"weights {one_line(name, 60)}", one_line(sha, 80), is_code=True)
            for name, sha in sorted(record.detector.frozen.items())
        ),
        Fact("data's fingerprint", one_line(record.fingerprint, 80), is_code=True),
        Fact("test images' SHA-256", one_line(record.subset.sha256, 80), is_code=True),
        Fact("key", one_line(record.key, 80), is_code=True),
        Fact("data's licence", one_line(record.licence, LONG)),
    ]
    return [fact for fact in facts if fact.value]


def flat(settings: Mapping[str, Any], within: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Settings by the dotted names that --set takes, as text."""
    found: list[tuple[str, str]] = []
    for name, value in sorted(settings.items()):
        if isinstance(value, Mapping) and depth < _DEEP:
            found += flat(value, f"{within}{name}.", depth + 1)
        else:
            found.append((one_line(f"{within}{name}", 120), one_line(json.dumps(value, default=str), 200)))
    return found


def seconds_per_image(record: Record) -> float | None:
    """Of the attack."""
    seconds, images = number(record.seconds.get("attack")), record.subset.normals + record.subset.anomalies
    return None if seconds is None or not images else seconds / images


def number(value: object) -> float | None:
    """A number of a record, whoever wrote it; None for what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
