"""The certificates of one fit of a detector on one category: samples, rules, bounds, an attack beside them, records.

One set of samples for each sigma serves every rule, percentile and radius. Whatever is chosen (p, the exceedance's
threshold, the threshold of certified accuracy) comes from held-out normals; test images have no part in it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bench import files
from bench.cell import choose_percentile, gate, smoothed_attack
from bench.cell.attacking import Tick
from bench.cell.fitting import Fitted
from bench.cell.group import STRANGE, Reporter, obtain, reason_of
from bench.cell.pictures import Category
from bench.cell.record_of import ALLOW_LEAKS
from bench.cell.samples import Pictures, SampleSet, dependencies
from bench.cell.verdict import CALIBRATION_FPR, threshold_of
from bench.data.base import ImageSet
from bench.metrics.ranking import refuse_nan
from bench.plan import presets, request
from bench.plan.certify import AUTO, CertifyConfig, percentile
from bench.plan.checkpoints import stored_hash
from bench.plan.plan import Job, Plan
from bench.plan.split import fit_ids
from bench.records import certificate_store, environment
from bench.records.bounds_table import BoundsTable
from bench.records.cell import CellDetector
from bench.records.certificate import EXACT, NORMS, Certificate, Claim, Smoothing
from bench.records.certificate_figures import figures
from certificates.lipschitz import exact_bounds
from certificates.rules import Bounds, PaperMean, Rule
from detectors.base import Detector
from detectors.noise import NoiseSeed
from detectors.smooth import Smoothed

Floats = NDArray[np.float64]


class CertifyReporter(Reporter, Protocol):
    """Shows how far a run is."""

    def certified(self, certificate: Certificate, reused: bool) -> None: ...


@dataclass(frozen=True, eq=False)
class Ruled:
    """A rule on one set of samples, ready to be applied.

    Attributes:
        rule: it.
        told: as a claim states it.
        choice: how p was chosen; {} where it was given.
        held_out: smoothed scores of held-out normals, (M,).
        smooth: the same as a detector, for an attack; None of the paper's rule, which is none of ours.
    """

    rule: Rule
    told: Smoothing
    choice: dict[str, Any]
    held_out: Floats
    smooth: Smoothed | None


@dataclass(frozen=True, eq=False)
class Certifying:
    """The certificates of one fit on one category."""

    category: Category
    job: Job
    asked: CertifyConfig
    reporter: CertifyReporter

    @cached_property
    def plan(self) -> Plan:
        """The category's, with this seed for the fit, and with paths that hold wherever a stranger's detector goes."""
        plan = self.category.plan.at(self.job.fit_seed)
        run = replace(plan.run, out=plan.run.out.absolute(), cache=plan.run.cache.absolute())
        return replace(plan, run=run)

    @property
    def batch_size(self) -> int:
        return self.plan.run.batch_size or presets.get(self.plan.run.preset).batch_size

    def run(self) -> tuple[list[Certificate], list[str]]:
        """Every certificate that was asked for, and a sentence about each that cannot be had.

        Raises:
            RecordError: the disk refuses, so nothing can go on.
        """
        job = self.job
        fitted = obtain(self.plan, job.category, self.category.training, job.detector, self.reporter)
        if isinstance(fitted, str):
            return [], [self._problem(fitted)]
        found: list[Certificate] = []
        problems: list[str] = []
        try:
            gate.check_scores(fitted.detector, self._test, self._device)
        except STRANGE as error:
            return [], [self._problem(reason_of(error, f"certifying {job.detector}"))]
        for sigma in (None, *(self.asked.sigmas if fitted.detector.sees_pixels else ())):
            try:
                with files.guarded(self.plan.run.cache):
                    found += self._exact(fitted) if sigma is None else self._smoothed(fitted, sigma)
            except STRANGE as error:
                problems.append(self._problem(reason_of(error, f"certifying {job.detector}")))
        return found, problems

    def _problem(self, reason: str) -> str:
        fit = f", fit {self.job.fit_seed}" if self.job.detector in self.plan.several_fits else ""
        return f"{self.job.detector} on {self.job.category}{fit}: {reason}"

    # -- without noise ------------------------------------------------------------------------------------------------

    def _exact(self, fitted: Fitted) -> list[Certificate]:
        """Of a detector with a Lipschitz constant, in both norms."""
        detector, found = fitted.detector, []
        for norm in NORMS if not detector.is_stochastic else ():
            constant = detector.lipschitz(norm)
            if constant is None:
                continue
            radii = self.asked.all_radii if norm == "l2" else self.asked.linf_radii
            claim = self._claim(fitted, Smoothing(rule=EXACT, norm=norm, constant=float(constant)), radii, 0.0)
            known = certificate_store.find(self._folder, claim)
            if known is None:
                started = time.monotonic()
                clean, held_out = (self._scores(detector, images) for images in (self._test, self._held_out))
                known = self._write(
                    fitted,
                    claim,
                    clean,
                    exact_bounds(clean, constant, radii),
                    held_out,
                    {},
                    seconds={"bounds": time.monotonic() - started},
                )
                self.reporter.certified(known, False)
            else:
                self.reporter.certified(known, True)
            found.append(known)
        return found

    def _scores(self, detector: Detector, images: ImageSet) -> Floats:
        """Of images as they are, (N,)."""
        found = [np.empty(0)]
        for first in range(0, len(images), self.batch_size):
            part = slice(first, first + self.batch_size)
            with torch.no_grad():
                names = NoiseSeed(self.plan.run.seed).source("verdict", images.ids[part])
                scores = detector.score(images.pixels(part).to(self._device), noise=names)
            found.append(scores.double().cpu().numpy())
        scores_of_all = np.concatenate(found)
        refuse_nan(scores_of_all)
        return scores_of_all

    # -- under noise --------------------------------------------------------------------------------------------------

    def _smoothed(self, fitted: Fitted, sigma: float) -> list[Certificate]:
        rules = self._rules(fitted, sigma)
        attack = smoothed_attack.described(self.asked, self.plan.image_size)
        claims = [
            self._claim(
                fitted, each.told, self.asked.all_radii, self.asked.alpha, attack if each.smooth is not None else {}
            )
            for each in rules
        ]
        known = [certificate_store.find(self._folder, claim) for claim in claims]
        samples, seconds, found = None, 0.0, []
        for each, claim, there in zip(rules, claims, known, strict=True):
            if there is None:
                if samples is None:
                    started = time.monotonic()
                    pictures = Pictures("test", self._test.ids, self._test.pixels)
                    samples = self._drawn(fitted, pictures, sigma, self.asked.samples)
                    seconds = time.monotonic() - started
                made = self._judged(fitted, each, claim, samples, seconds)
            else:
                made = there
            self.reporter.certified(made, there is not None)
            found.append(made)
        return found

    def _rules(self, fitted: Fitted, sigma: float) -> list[Ruled]:
        """The rules that were asked for, each with whatever of it comes from held-out normals."""
        asked, few = self.asked, self.asked.held_out_samples
        held_out = self._drawn(fitted, Pictures("held-out", self._held_out.ids, self._held_out.pixels), sigma, few)
        found: list[Ruled] = []
        for name in asked.rules:
            if name == "percentile":
                for p in asked.ps:
                    found.append(self._percentile(fitted, sigma, p, held_out))
            elif name == "exceedance":
                rule, smooth = smoothed_attack.exceedance(fitted.detector, sigma, held_out)
                told = self._told(name, sigma, threshold=rule.threshold)
                found.append(Ruled(rule, told, {}, rule.estimate(held_out), smooth))
            else:
                found.append(Ruled(PaperMean(), self._told(name, sigma), {}, PaperMean().estimate(held_out), None))
        alike = {each.told.p: each for each in reversed(found) if each.told.rule == "percentile"}
        return [each for each in found if each.told.p is None or alike[each.told.p] is each]

    def _percentile(self, fitted: Fitted, sigma: float, p: float | str, held_out: Floats) -> Ruled:
        choice: dict[str, Any] = {}
        if p == AUTO:
            painted = choose_percentile.painted_copies(self._held_out, self.plan.run.seed)
            copies = self._drawn(fitted, painted, sigma, self.asked.held_out_samples)
            choice = choose_percentile.choose(held_out, copies, self.asked, sigma=sigma, images=len(self._test))
            p = choice["chosen"]
        rule = percentile(float(p))
        told = self._told("percentile", sigma, p=rule.p, asked=AUTO if choice else "")
        smooth = smoothed_attack.smoothed(fitted.detector, rule, sigma) if self.asked.attack_radii else None
        return Ruled(rule, told, choice, rule.estimate(held_out), smooth)

    def _told(self, rule: str, sigma: float, **more: Any) -> Smoothing:
        return Smoothing(rule=rule, norm="l2", sigma=sigma, samples=self.asked.samples, **more)

    def _judged(self, fitted: Fitted, each: Ruled, claim: Claim, samples: Floats, drawing: float) -> Certificate:
        asked, radii = self.asked, self.asked.all_radii
        started = time.monotonic()
        bounds = each.rule.bounds(
            samples, sigma=float(claim.smoothing.sigma or 0.0), radii=radii, alpha=asked.risk(each.rule, len(samples))
        )
        bounded = time.monotonic()
        under = {}
        if each.smooth is not None and not isinstance(each.rule, PaperMean):
            for radius in asked.attack_radii:
                with self._shown(f"{asked.attack} within {radius:g} of the smoothed", len(self._test)) as tick:
                    under[radius] = smoothed_attack.attacked(
                        each.smooth,
                        each.rule,
                        self._test,
                        asked,
                        radius,
                        seed=self.plan.run.seed,
                        batch_size=self.batch_size,
                        device=self._device,
                        tick=tick,
                    )
        seconds = {"samples": drawing, "bounds": bounded - started, "attack": time.monotonic() - bounded}
        scores = each.rule.estimate(samples)
        return self._write(
            fitted, claim, scores, bounds, each.held_out, under, seconds=seconds, choice=each.choice, samples=samples
        )

    def _drawn(self, fitted: Fitted, pictures: Pictures, sigma: float, count: int) -> Floats:
        """Sorted samples of pictures, (M, count), drawn as far as they are not in the cache."""
        if not pictures.ids:
            return np.empty((0, count))
        found = sample_set(
            self.plan, fitted.detector, fitted.tensors_sha256, self.job.category, pictures.name, pictures.ids, sigma
        )
        with self._shown(f"{pictures.name} samples at sigma {sigma:g}", count) as tick:
            return found.draw(
                fitted.detector, pictures, count, batch_size=self.batch_size, device=self._device, tick=tick
            )

    # -- records ------------------------------------------------------------------------------------------------------

    def _claim(
        self,
        fitted: Fitted,
        smoothing: Smoothing,
        radii: Sequence[float],
        alpha: float,
        attack: dict[str, Any] | None = None,
    ) -> Claim:
        plan, run, name, detector = self.plan, self.plan.run, self.job.category, fitted.detector
        return Claim(
            dataset=plan.dataset.name,
            fingerprint=plan.dataset.fingerprint(name),
            remark=plan.dataset.remark(name),
            category=name,
            subset=self.category.subset,
            preset=run.preset,
            image_size=plan.image_size,
            detector=CellDetector(
                name=detector.name,
                title=detector.title,
                revision=detector.revision,
                settings=asdict(detector.settings),
                checkpoint_sha256=fitted.tensors_sha256,
                frozen=detector.frozen_hashes(),
                is_stochastic=detector.is_stochastic,
            ),
            smoothing=smoothing,
            radii=[float(radius) for radius in radii],
            alpha=alpha,
            seed=run.seed,
            fit_seed=run.fit_seed,
            holdout=None if run.holdout == presets.get(run.preset).holdout else run.holdout,
            attack=attack or {},
        )

    def _write(
        self,
        fitted: Fitted,
        claim: Claim,
        scores: Floats,
        bounds: Bounds,
        held_out: Floats,
        under: dict[float, smoothed_attack.Attacked],
        *,
        seconds: dict[str, float],
        choice: dict[str, Any] | None = None,
        samples: Floats | None = None,
    ) -> Certificate:
        plan, seen = self.plan, self.category.inspection
        nothing = np.full(len(scores), np.nan)
        columns = [
            np.stack([getattr(under[radius], name) if radius in under else nothing for radius in claim.radii])
            for name in ("score", "low", "high")
        ]
        labels = self._test.labels.numpy().astype(np.int64)
        table = BoundsTable(self._test.ids, labels, scores, tuple(claim.radii), bounds.lower, bounds.upper, *columns)
        threshold = threshold_of(held_out[None])
        results = figures(table, threshold)
        if threshold is not None:
            rule = f"{100 * CALIBRATION_FPR:.0f} % of {len(held_out)} held-out training normals above it"
            results |= {"threshold": threshold, "threshold_rule": rule}
        limits = plan.limits_of(claim.detector.name, claim.category)
        limits += [f"{ALLOW_LEAKS}: {sentence}" for sentence in seen.refusals]
        limits += self.asked.limits if samples is not None else []
        certificate = Certificate(
            key=claim.key,
            claim=claim,
            full_run=not limits,
            limits=limits,
            remarks=seen.remarks,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            results=results,
            checkpoint=fitted.describe(),
            choice=choice or {},
            licence=plan.dataset.licence,
            environment={str(k): v for k, v in environment.describe(self._device).items()},
            command=request.command_line(),
            seconds={name: round(value, 2) for name, value in seconds.items()},
            samples_sha256="" if samples is None else hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest(),
        )
        return certificate_store.read(certificate_store.write(certificate, table, self._folder))

    # -- what is at hand ----------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self.plan.run.out / certificate_store.FOLDER

    @property
    def _device(self) -> torch.device:
        return self.plan.run.torch_device()

    @property
    def _test(self) -> ImageSet:
        return self.category.test

    @property
    def _held_out(self) -> ImageSet:
        return self.category.training.held_out

    def _shown(self, what: str, total: int) -> AbstractContextManager[Tick]:
        job = self.job
        shown: AbstractContextManager[Tick] = self.reporter.attacking(
            job.detector, job.category, job.fit_seed, what, total
        )
        return shown


def sample_set(
    plan: Plan, detector: Detector, tensors_sha256: str, category: str, name: str, ids: tuple[str, ...], sigma: float
) -> SampleSet:
    """Where the samples of some of a category's pictures are kept; `name` as of `Pictures`."""
    depends = dependencies(detector, tensors_sha256, plan.dataset, category, name, ids, sigma=sigma, seed=plan.run.seed)
    return SampleSet(plan.run.cache, depends, len(ids))


def planned(plan: Plan, asked: CertifyConfig, job: Job) -> tuple[int, int]:
    """Forward passes (of one image) that the samples of a job take in all, and how many of them are in the cache; the
    attack's are not among them. Nothing is decoded."""
    plan = plan.at(job.fit_seed)
    detector = plan.built[job.detector, job.category]
    if not detector.sees_pixels:
        return 0, 0
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
    for sigma in asked.sigmas:
        for name, (own, count) in sets.items():
            total += len(own) * count
            if tensors is not None and own:
                found = sample_set(plan, detector, tensors, job.category, name, own, sigma)
                done += len(own) * found.known(count)
    return total, done
