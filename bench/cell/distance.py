"""How near a threshold is: FAB on every test image of a fitted detector, at the threshold that the bench has."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch

from attacks.fab import FAB
from attacks.fab import Distances as Found
from attacks.threat import threat_model
from bench.cell import gate
from bench.cell.attacking import Attacking, Floats, Tick, keys_of
from bench.cell.verdict import LEAST_HELD_OUT, Draws, Judge, threshold_of
from bench.data.base import ImageSet
from bench.errors import BenchError, CellError
from bench.plan.plan import Plan
from bench.plan.split import held_out_count
from bench.records.distances import Distances
from detectors.base import Detector
from detectors.noise import NoiseSeed


def measure(
    detector: Detector,
    fab: FAB,
    test: ImageSet,
    held_out: ImageSet,
    seed: int,
    *,
    batch_size: int,
    device: torch.device,
    tick: Tick,
) -> Distances:
    """The distance of each test image to the detector's threshold: 5 % of held-out normals score above it.

    A stochastic detector is one that decides by the mean of its score over as many draws as FAB has: the threshold is
    of such means, and FAB searches on draws that stay the same and are not the verdict's. Whether a flip holds on the
    verdict's draws is said beside (`Distances.held_share`).

    Args:
        detector: fitted, on the device.
        fab: the search.
        test, held_out: images; normals that no fit has seen.
        seed: of all noise.
        batch_size, device, tick: as of `bench.cell.attack.run_cell`.

    Raises:
        CellError: the detector breaks the contract, sees no pixels, has scores that are not finite, or there are too
            few held-out normals for a threshold.
    """
    if not detector.sees_pixels:
        raise CellError(f"{detector.name} sees no pixels, so no change of them leads to its threshold; leave it out.")
    started = time.monotonic()
    passed = gate.check(detector, test, device, threat_model(fab.norm))
    judge = Judge(detector, Draws(1, seed), batch_size, device)
    draws = range(fab.settings.draws if detector.is_stochastic else 1)
    calibration = judge.scores(held_out.ids, held_out.pixels(), draws).mean(axis=0)
    clean = judge.scores(test.ids, test.pixels(), draws).mean(axis=0)
    _check_finite(detector, calibration, clean)
    threshold = _threshold(calibration)
    attacking = Attacking(detector, test, Draws(1, seed), device, batch_size)
    of_surrogate = _surrogate_threshold(attacking, held_out, draws)

    def search(part: list[int]) -> Found:
        x, y = test.pixels(part).to(device), test.labels[part].to(device)
        noise = NoiseSeed(seed).source("distance", keys_of(test, part))
        return fab.run(detector, x, y, threshold, surrogate_threshold=of_surrogate, noise=noise)

    batches = []
    for batch in attacking.in_batches(range(len(test)), search):
        batches.append(batch)
        tick(len(batch.images), "fab")
    gate.confirm(passed, detector.name)
    witnesses = torch.cat([batch.images.cpu() for batch in batches])
    judged = dataclasses.replace(judge, batch_size=attacking.batch_size).scores(test.ids, witnesses, draws)
    wrong = torch.cat([batch.was_wrong.cpu() for batch in batches]).numpy()
    return Distances(
        detector=detector.name,
        threshold=threshold,
        images=test.ids,
        labels=test.labels.numpy().astype(np.int64),
        scores=clean,
        wrong=wrong,
        distances=torch.cat([batch.distance.double().cpu() for batch in batches]).numpy(),
        witness_scores=judged.mean(axis=0),
        facts={
            "is_stochastic": detector.is_stochastic,
            "draws": len(draws),
            "held_out": len(held_out),
            "surrogate_threshold": of_surrogate,
            "zero_gradient_share": _mean([batch.zero_gradients for batch in batches]),
            "nonfinite_gradient_share": _mean([batch.non_finite_gradients for batch in batches]),
            "forwards_per_image": max(batch.forwards for batch in batches),
            "gradients_per_image": max(batch.gradients for batch in batches),
            "gate": passed.describe(),
            "seconds": round(time.monotonic() - started, 2),
        },
    )


def _threshold(calibration: Floats) -> float:
    threshold = threshold_of(calibration[None])
    if threshold is None:
        raise CellError(_too_few(len(calibration)))
    return threshold


def check_held_out(plan: Plan) -> None:
    """Raise BenchError, before any fit, where a category has too few held-out normals for a threshold."""
    for category in plan.categories:
        held_out = held_out_count(len(plan.dataset.train_ids(category, limit=plan.run.limit)), plan.run)
        if held_out < LEAST_HELD_OUT:
            raise BenchError(f"{category}: {_too_few(held_out)}")


def _too_few(held_out: int) -> str:
    return (
        f"A threshold is taken from {LEAST_HELD_OUT} held-out training normals or more, and there are {held_out}. At "
        f"most a tenth of the normals is kept: it takes {10 * LEAST_HELD_OUT} of them, and --holdout {LEAST_HELD_OUT} "
        "or more."
    )


def _surrogate_threshold(attacking: Attacking, held_out: ImageSet, draws: range) -> float | None:
    """The surrogate's own, where it is an increasing function of the score: the quantile of the same images."""
    detector, root = attacking.detector, NoiseSeed(attacking.draws.seed)
    if not (detector.has_surrogate and detector.surrogate_is_monotone):
        return None

    def scored(part: list[int]) -> Floats:
        x, source = held_out.pixels(part).to(attacking.device), root.source("verdict", keys_of(held_out, part))
        with torch.no_grad():
            scores = torch.stack([detector.surrogate_score(x, noise=source.at(draw)) for draw in draws])
        return np.asarray(scores.double().cpu().numpy())

    calibration = np.concatenate(list(attacking.in_batches(range(len(held_out)), scored)), axis=1).mean(axis=0)
    _check_finite(detector, calibration)
    return _threshold(calibration)


def _check_finite(detector: Detector, *scores: Floats) -> None:
    for some in scores:
        bad = int((~np.isfinite(some)).sum())
        if bad:
            raise CellError(
                f"The scores of {bad} of {len(some)} images are not finite numbers; look for a division by zero, a "
                f"square root at zero or an overflow in {detector.name}."
            )


def _mean(shares: list[torch.Tensor]) -> float | None:
    """Over the images that had some; None where none had."""
    known = torch.cat([share.double().cpu() for share in shares])
    known = known[~known.isnan()]
    return round(float(known.mean()), 4) if len(known) else None
