"""Where the samples of a category's pictures are kept, and how many passes are left, before any is made."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.cell import choose_percentile
from bench.cell.known_code import source_of
from bench.cell.samples import SampleSet, dependencies
from bench.cell.smoothed_attack import passes
from bench.plan.certify import CertifyConfig, parts
from bench.plan.checkpoints import stored_hash
from bench.plan.plan import Job, Plan
from bench.plan.split import fit_ids
from detectors.base import Detector


def sample_set(
    plan: Plan,
    detector: Detector,
    tensors_sha256: str,
    category: str,
    name: str,
    ids: tuple[str, ...],
    sigma: float,
    **more: Any,
) -> SampleSet:
    """Where the samples of some of a category's pictures are kept, if it can be told whose code drew them; `name` as of
    `Pictures`, `more` whatever else they depend on."""
    depends = dependencies(detector, tensors_sha256, plan.dataset, category, name, ids, sigma=sigma, seed=plan.run.seed)
    is_kept = source_of(detector) is not None
    return SampleSet(plan.run.cache if is_kept else None, depends | more, len(ids))


class Planned(NamedTuple):
    """What a job takes, counted in images.

    Attributes:
        total, done: forward passes, and how many of them are in the cache.
        gradients: of the attack.
    """

    total: int
    done: int
    gradients: int


def planned(plan: Plan, asked: CertifyConfig, job: Job) -> Planned:
    """What a job takes: samples, and the attack where there is one (with which nothing is said of certificates that are
    there already, and of forward passes only those that judge). Nothing is decoded."""
    found = [_planned(of_fit.at(job.fit_seed), part, job) for of_fit, part in parts(plan, asked, job)]
    return Planned(*map(sum, zip(*found, strict=True)))


def _planned(plan: Plan, asked: CertifyConfig, job: Job) -> Planned:
    detector = plan.built[job.detector, job.category]
    if not detector.sees_pixels:
        return Planned(0, 0, 0)
    tensors = stored_hash(detector, plan.dataset, job.category, plan.run)
    ids = plan.dataset.train_ids(job.category, limit=plan.run.limit)
    held_out = tuple(name for name in ids if name not in set(fit_ids(plan.dataset, job.category, plan.run)))
    sets = {
        "test": (tuple(plan.dataset.test_labels(job.category, per_class=plan.per_class)), asked.samples),
        "held-out": (held_out, asked.held_out_samples),
    }
    if asked.is_auto:
        sets["painted"] = (choose_percentile.painted_ids(held_out), asked.held_out_samples)
    total = done = 0
    gradients, judging = (
        len(sets["test"][0]) * len(asked.sigmas) * asked.attacked_scores * each
        for each in passes(asked, plan.image_size)
    )
    for sigma in asked.sigmas:
        for name, (own, count) in sets.items():
            total += len(own) * count
            if tensors is not None and own:
                found = sample_set(plan, detector, tensors, job.category, name, own, sigma)
                done += len(own) * found.known(count)
    return Planned(total + judging, done, gradients)
