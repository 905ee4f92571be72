"""Level 2: the adversarial images that were kept lie in the ball, and have the scores that the record states."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attacks.errors import ThreatModelError
from bench.cell.group import STRANGE, reason_of
from bench.cell.verdict import Draws, Judge
from bench.errors import ContradictionError, RecordError
from bench.plan import presets
from bench.records import kept_images
from bench.records.record import Record
from bench.records.score_table import Scores
from bench.records.store import read_scores
from bench.text import threat_text
from bench.verify.agreement import agreement, is_same_machine, threads_of
from bench.verify.beside import POINTS
from bench.verify.finding import Finding, Outcome, UnjudgedError
from bench.verify.ground import BROUGHT, CANNOT, Ground
from bench.verify.stated import listed

LEVEL = 2
_BATCH = 64  # images whose distance is measured at a time
ROUNDING = 1e-3  # of a score, as a share of the scores' spread: what another machine's sums may come to


def images_of(record: Record) -> Tensor:
    """The images that were kept. Raises UnjudgedError where there are none, ContradictionError where they are others
    than the record names."""
    try:
        return kept_images.read(record)
    except ContradictionError:
        raise
    except RecordError as error:
        raise UnjudgedError(str(error)) from None


def rescored(ground: Ground, adversarial: Tensor) -> Finding:
    """Score clean and adversarial images (N, 3, S, S) again, on the verdict's own draws. Raises UnjudgedError, and
    ContradictionError where the scores are of other images or labels."""
    record = ground.record
    try:
        outside = _outside(ground, adversarial)
    except ThreatModelError as error:
        raise UnjudgedError(f"Whether the images are allowed cannot be told from them alone: {error}") from None
    except CANNOT as error:
        raise UnjudgedError(str(error)) from None
    if outside:
        return Finding(LEVEL, Outcome.FAILS, outside)
    stated = read_scores(record)
    with threads_of(record):
        found = _scores(ground, adversarial, stated)
        same = is_same_machine(record, ground.plan.run.torch_device())
    how = agreement(stated, found)
    assert how is not None  # on as many draws
    on = BROUGHT if ground.is_brought else ""
    where = f"All {len(adversarial)} images lie in their threat model ({threat_text(record.epsilon, record.norm)})"
    if how.same_bits:
        return Finding(LEVEL, Outcome.HOLDS, f"{where} and have the stated scores{on}, to the last bit.")
    told = f"single scores differ by up to {how.deviation:.2g} of their spread, {how.aucs}"
    # Scores that differ by more are no rounding, whatever the AUC: but another machine's solver may end elsewhere.
    if how.is_close and (how.deviation <= ROUNDING or not same):
        if how.others:
            raise UnjudgedError(
                f"{where}, and both AUCs agree ({told}), but not what else follows: {listed(how.others)}."
            )
        return Finding(LEVEL, Outcome.HOLDS, f"{where} and have the stated scores{on} within rounding ({told}).")
    beyond = f"more than {POINTS} points" if not how.is_close else "more than rounding on the machine that made them"
    return Finding(LEVEL, Outcome.FAILS, f"The images have other scores, by {beyond}: {told}.")


def _outside(ground: Ground, adversarial: Tensor) -> str:
    """A sentence on the images that no attack in this threat model may return; "" where there are none."""
    clean, threat = ground.category.test.pixels(), ground.attack.threat.at(ground.plan.image_size)
    inside = torch.cat([threat.inside(a, x) for a, x in zip(_parts(adversarial), _parts(clean), strict=True)])
    if bool(inside.all()):
        return ""
    bad = (~inside).nonzero().flatten()
    far = float(threat.distance(adversarial[bad], clean[bad]).max())
    return (
        f"{len(bad)} of {len(clean)} images lie outside of {threat_text(ground.record.epsilon, ground.record.norm)} or "
        f"of [0, 1] (the farthest at {far:.4g}): no attack was allowed them."
    )


def _parts(images: Tensor) -> Iterator[Tensor]:
    return (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))


def _scores(ground: Ground, adversarial: Tensor, stated: Scores) -> Scores:
    """On as many draws as the record has. Raises UnjudgedError where the detector fails."""
    record, run, test = ground.record, ground.plan.run, ground.category.test
    size = run.batch_size or presets.get(run.preset).batch_size
    try:
        judge = Judge(ground.fitted.detector, Draws(record.cell.draws.verdict, record.seed), size, run.torch_device())
        draws = range(len(stated.clean))
        clean, robust = (judge.scores(test.ids, images, draws) for images in (test.pixels(), adversarial))
    except UnjudgedError:
        raise
    except STRANGE as error:
        raise UnjudgedError(reason_of(error, f"scoring with {record.detector_name}")) from None
    return Scores(test.ids, test.labels.long().numpy(), clean, robust)
