"""From a record back to the run that makes its cell again.

A cell holds everything that its figures depend on, so the request follows from it, and what else a user says of his
machine: where the data lies, how its files are to be read, where to compute. That the request is the right one is
asked of the result: the cell that it plans must be the record's, entry by entry (`differences`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import detectors
from attacks.registry import get_class
from bench.errors import BenchError
from bench.plan import protocols
from bench.plan.cells import cell_of, subset_of
from bench.plan.plan import Plan
from bench.plan.request import Override, RunConfig, default_cache
from bench.records.cell import Cell
from bench.text import one_line
from detectors.errors import DetectorError
from detectors.settings import described

_MOST_NAMED = 6  # entries that differ


@dataclass(frozen=True)
class Machine:
    """What a record does not say: where things are on this machine.

    Attributes:
        data_root, group_pattern, bit_depth: of the data, as of `RunConfig`; a folder's reading is in no record, but a
            fingerprint tells whether it is the same.
        device, batch_size, out, cache, refit: as of `RunConfig`.
    """

    data_root: Path | None = None
    group_pattern: str = ""
    bit_depth: int | None = None
    device: str = "auto"
    batch_size: int | None = None
    out: Path = Path("results")
    cache: Path = field(default_factory=default_cache)
    refit: bool = False


def request_of(cell: Cell, machine: Machine, *, allow_leaks: bool = False) -> RunConfig:
    """The run that makes a cell again.

    Args:
        cell: of the record.
        machine: where to do it.
        allow_leaks: whether the record was made in spite of leaks; it says so among its limits.

    Raises:
        BenchError, DetectorError: a name that is not known here, or a setting that is none.
    """
    return RunConfig(
        detectors=(cell.detector.name,),
        attacks=(cell.attack.name,),
        dataset=cell.dataset,
        data_root=machine.data_root,
        categories=(cell.category,),
        group_pattern=machine.group_pattern,
        bit_depth=machine.bit_depth,
        allow_leaks=allow_leaks,
        preset=cell.preset,
        protocol=cell.protocol.name,
        epsilons=(*cell.attack.warm_from, cell.attack.epsilon),
        sweep=bool(cell.attack.warm_from),
        attack_settings=protocols.asked_of(cell.protocol.changed, cell.attack.settings),
        complete=not cell.early_stop,
        seed=cell.seed,
        fit_seed=cell.fit_seed,
        holdout=cell.holdout,
        limit=cell.subset.limit,
        image_size=cell.image_size,
        batch_size=machine.batch_size,
        device=machine.device,
        refit=machine.refit,
        overrides=_overrides(cell),
        out=machine.out,
        cache=machine.cache,
    )


def planned_cell(plan: Plan, like: Cell, tensors_sha256: str) -> Cell:
    """The cell that a plan made from `request_of` holds for a record's, with these hashes of a checkpoint's tensors;
    nothing is decoded. Raises BenchError where it plans no such attack."""
    name, category = like.detector.name, like.category
    attacks = [a for a in plan.attacks_on(name) if a.threat.at(plan.image_size).epsilon == like.attack.epsilon]
    if not attacks:
        raise BenchError(f"No attack of this plan has the radius {like.attack.epsilon:g}; the record's is another one.")
    labels = plan.dataset.test_labels(category, per_class=plan.per_class)
    matched = plan.dataset.is_matched(category)
    subset = subset_of(labels, plan.per_class, plan.run.limit, is_matched=matched)
    plan = plan.at(plan.fit_seeds(name)[0])
    return cell_of(plan, category, plan.built[name, category], attacks[0], tensors_sha256, subset)


def differences(stated: Cell, found: Cell) -> list[str]:
    """What two cells differ in, as "protocol.version is 4 in the record and 5 here"; empty where they are one."""
    if stated.key == found.key:
        return []
    # As a record states them: to JSON a tuple is a list.
    one, other = (_flat(json.loads(json.dumps(cell.to_document()))) for cell in (stated, found))
    # By their text, since to Python 1, 1.0 and True are equal, and to a key they are not.
    texts = [{name: json.dumps(value, sort_keys=True) for name, value in entries.items()} for entries in (one, other)]
    names = [name for name in dict.fromkeys([*one, *other]) if texts[0].get(name) != texts[1].get(name)]
    if not names:  # a name with a dot in it, say
        return ["its entries are arranged otherwise in the record and here"]
    shown = [
        f"{one_line(name, 80)} is {_shown(one, name)} in the record and {_shown(other, name)} here"
        for name in names[:_MOST_NAMED]
    ]
    return shown + ([f"{len(names) - _MOST_NAMED} more entries differ"] if len(names) > _MOST_NAMED else [])


def stronger(run: RunConfig, epsilon: float, attack: str, protocol: str, settings: Mapping[str, Any]) -> RunConfig:
    """The same images and the same verdict, attacked otherwise.

    Args:
        run: of `request_of`.
        epsilon: the ball.
        attack: its name.
        protocol: whose settings of the attack are taken; "": those of the run, where it has the same attack.
        settings: instead of these.

    Raises:
        BenchError: a protocol or an attack that is not there.
    """
    kept = run.attack_settings if run.attacks == (attack,) else {}
    asked = protocols.get(protocol).attack_settings if protocol else kept
    known = protocols.taken({f.name for f in fields(get_class(attack).settings_class)})
    mine = {name: value for name, value in asked.items() if name in known} | dict(settings)
    return replace(run, attacks=(attack,), epsilons=(epsilon,), sweep=False, attack_settings=mine)


def _overrides(cell: Cell) -> tuple[Override, ...]:
    """The settings in which a record's detector differs from those of its preset."""
    name = cell.detector.name
    try:
        usual = _flat(described(detectors.get(name).settings_for(cell.preset, cell.image_size)))
    except (BenchError, DetectorError):
        raise
    except (Exception, SystemExit) as error:  # a stranger's
        raise BenchError(
            f"{name} has no settings for {cell.image_size} px at the preset {cell.preset} ({one_line(error, 200)})."
        ) from error
    stated = _flat(cell.detector.settings)
    return tuple(
        Override(name, path, None, tuple(value) if isinstance(usual.get(path), tuple) else value)
        for path, value in stated.items()
        if path not in usual or _plain(usual[path]) != value
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _flat(document: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """A table of tables by dotted names."""
    return dict(_entries(document, within))


def _entries(document: Mapping[str, Any], within: str) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _entries(value, f"{within}{name}.")
        else:
            yield within + name, value


def _shown(entries: Mapping[str, Any], name: str) -> str:
    return one_line(repr(entries[name]), 80) if name in entries else "not there"
