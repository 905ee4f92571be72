"""What a plan's cells are: everything that a cell's figures depend on, as its record states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attacks.base import Attack
from bench.data.base import ANOMALOUS, NORMAL
from bench.plan import presets, protocols
from bench.plan.plan import Plan
from bench.plan.request import RunConfig
from bench.records.cell import Cell, CellAttack, CellDetector, CellDraws, CellProtocol, Subset
from bench.records.score_table import ids_sha256
from detectors.base import Detector
from detectors.settings import described


def subset_of(
    labels: Mapping[str, int], per_class: int | None, limit: int | None = None, *, is_matched: bool = False
) -> Subset:
    """What a record says about the test images, of which `labels` has the ids in order; a --limit is named, so that a
    full run never takes over its cell, and that they were matched by group."""
    return Subset(
        normals=sum(label == NORMAL for label in labels.values()),
        anomalies=sum(label == ANOMALOUS for label in labels.values()),
        sha256=ids_sha256(labels),
        per_class=per_class,
        limit=limit,
        matched="group" if is_matched else "",
    )


def _statement(run: RunConfig, rules: protocols.Protocol, attack: Attack) -> str:
    """The protocol's own words, as long as the user changed nothing of the attack, and it is one that they speak of."""
    if attack.name not in rules.attacks:
        return f"Of the protocol {rules.name} the test images and the verdict; the attack is described above."
    if rules.stated(run.attack_settings):
        return f"The attack's settings were changed from those of the protocol {rules.name}; they are named above."
    return rules.statement


def stops_early(detector: Detector, attack: Attack, *, complete: bool) -> bool:
    """Whether an image that has lost all its pairs is attacked no further, which is exact of a deterministic detector
    whose strongest iterate is kept (`bench.cell.enough`), and not wanted where the attack is to be `complete`."""
    return attack.can_stop and not complete and not detector.is_stochastic and detector.sees_pixels


def cell_of(plan: Plan, category: str, detector: Detector, attack: Attack, tensors_sha256: str, subset: Subset) -> Cell:
    """Everything that the cell's figures depend on; its hash is the cell's key."""
    run, rules = plan.run, protocols.get(plan.run.protocol)
    is_stochastic = detector.is_stochastic
    stops = stops_early(detector, attack, complete=run.complete)
    return Cell(
        protocol=CellProtocol(
            rules.name, rules.version, _statement(run, rules, attack), rules.stated(run.attack_settings)
        ),
        dataset=plan.dataset.name,
        fingerprint=plan.dataset.fingerprint(category),
        remark=plan.dataset.remark(category),
        category=category,
        subset=subset,
        preset=run.preset,
        image_size=plan.image_size,
        detector=CellDetector(
            name=detector.name,
            title=detector.title,
            revision=detector.revision,
            settings=described(detector.settings),
            checkpoint_sha256=tensors_sha256,
            frozen=detector.frozen_hashes(),
            is_stochastic=is_stochastic,
        ),
        attack=replace(
            CellAttack.from_document(attack.settled(detector).describe()), warm_from=plan.warm_from(attack, detector)
        ),
        draws=CellDraws(
            verdict=rules.verdict_draws if is_stochastic else 1, selection=rules.selection_draws if is_stochastic else 0
        ),
        seed=run.seed,
        fit_seed=run.fit_seed,
        # Some figures are not there, so a --complete run must not take over its cell.
        early_stop=stops,
        in_turn=stops and len(attack.members(detector)) > 1,
        # Thresholds come from the held-out normals, also where the fit is the same without them. Named only where it is
        # not the preset's, as --limit is.
        holdout=None if run.holdout == presets.get(run.preset).holdout else run.holdout,
    )
