"""The certificates of one fit of a detector on one category: samples, rules, bounds, an attack beside them, records.

One set of samples for each sigma serves every rule, percentile and radius. Whatever is chosen (p, the exceedance's
threshold, the threshold of certified accuracy) comes from held-out normals; test images have no part in it.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bench import files
from bench.cell import choose_percentile, gate, smoothed_attack
from bench.cell.attacking import Tick
from bench.cell.certificate_of import claim_of, written
from bench.cell.fitting import Fitted
from bench.cell.group import STRANGE, Reporter, obtain, reason_of
from bench.cell.pictures import Category
from bench.cell.planned_samples import sample_set
from bench.cell.samples import Pictures, scores_under_noise
from bench.cell.unfinished import Unfinished, digest
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.plan import presets
from bench.plan.certify import AUTO, CertifyConfig, percentile
from bench.plan.plan import Job, Plan
from bench.records import certificate_store
from bench.records.certificate import EXACT, NORMS, Certificate, Claim, Smoothing
from certificates.lipschitz import exact_bounds
from certificates.rules import PaperMean, Rule
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
    """The certificates of one fit on one category, by a plan that may know more of its detector than the category's."""

    category: Category
    general: Plan
    job: Job
    asked: CertifyConfig
    reporter: CertifyReporter

    @cached_property
    def plan(self) -> Plan:
        """The general one, with this seed for the fit, and with paths that hold wherever a stranger's detector goes."""
        plan = self.general.at(self.job.fit_seed)
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
        declared = {} if detector.is_stochastic else {norm: detector.lipschitz(norm) for norm in NORMS}
        constants = {norm: constant for norm, constant in declared.items() if constant is not None}
        for norm, constant in constants.items():
            if not 0 <= constant < math.inf:  # NaN, too
                raise CellError(
                    f"{detector.name}'s lipschitz({norm!r}) is {constant!r:.40}; declare 0 or more, or None."
                )
        if constants:
            gate.check_constant(detector, self._test, self._device)
        for norm, constant in constants.items():
            radii = self.asked.all_radii if norm == "l2" else self.asked.linf_radii
            told = Smoothing(rule=EXACT, norm=norm, constant=float(constant))
            claim = claim_of(self.plan, self.category, fitted, told, radii, 0.0, {})
            known = certificate_store.find(self._folder, claim)
            if known is None:
                started = time.monotonic()
                clean, held_out = (self._scores(detector, images) for images in (self._test, self._held_out))
                bounds = exact_bounds(clean, constant, radii)
                made = self._written(fitted, claim, clean, bounds, held_out, {}, seconds={"bounds": _since(started)})
            self.reporter.certified(made if known is None else known, known is not None)
            found.append(made if known is None else known)
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
        if not np.isfinite(scores_of_all).all():
            raise CellError(
                f"Some scores of {detector.name} are not finite, which no Lipschitz constant bounds; let lipschitz() "
                "return None."
            )
        return scores_of_all

    # -- under noise --------------------------------------------------------------------------------------------------

    def _smoothed(self, fitted: Fitted, sigma: float) -> list[Certificate]:
        rules = self._rules(fitted, sigma)
        attack = smoothed_attack.described(self.asked, self.plan.image_size)
        claims = []
        for each in rules:
            ours = attack if each.smooth is not None else {}
            radii, alpha = self.asked.all_radii, self.asked.alpha
            claims.append(claim_of(self.plan, self.category, fitted, each.told, radii, alpha, ours))
        known = [certificate_store.find(self._folder, claim) for claim in claims]
        samples, seconds, found = None, 0.0, []
        for each, claim, there in zip(rules, claims, known, strict=True):
            if there is None:
                if samples is None:
                    started = time.monotonic()
                    pictures = Pictures("test", self._test.ids, self._test.pixels)
                    samples = self._drawn(fitted, pictures, sigma, self.asked.samples)
                    seconds = _since(started)
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
                followed = self._followed(fitted.detector, sigma)
                rule, smooth = smoothed_attack.exceedance(fitted.detector, sigma, held_out, followed)
                told = self._told(name, sigma, threshold=rule.threshold)
                found.append(Ruled(rule, told, {}, rule.estimate(held_out), smooth))
            else:
                found.append(Ruled(PaperMean(), self._told(name, sigma), {}, PaperMean().estimate(held_out), None))
        alike = {each.told.p: each for each in reversed(found) if each.told.rule == "percentile"}
        return [each for each in found if each.told.p is None or alike[each.told.p] is each]

    def _followed(self, detector: Detector, sigma: float) -> Floats | None:
        """Of a detector with a surrogate its scores of held-out normals under noise, (M, n): no bound depends on them,
        so they are few, and only what an attack follows does."""
        if not detector.has_surrogate:
            return None
        source = NoiseSeed(self.plan.run.seed).source("surrogate-threshold", self._held_out.ids)
        found = []
        for first in range(0, len(self._held_out), self.batch_size):
            part = slice(first, first + self.batch_size)
            x = self._held_out.pixels(part).to(self._device)
            numbers = range(smoothed_attack.SAMPLES)
            found.append(
                scores_under_noise(detector, x, source.pick(part), sigma=sigma, samples=numbers, of_surrogate=True)
            )
        return np.asarray(torch.cat(found, dim=1).double().numpy().T)

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
        under, kept = self._under_attack(fitted, each, claim)
        earlier = sum(one.seconds.get("attack", 0.0) for one in kept)  # of a run that was stopped
        seconds = {"samples": drawing, "bounds": bounded - started, "attack": earlier + _since(bounded)}
        made = self._written(
            fitted,
            claim,
            each.rule.estimate(samples),
            bounds,
            each.held_out,
            under,
            seconds=seconds,
            limits=asked.limits,
            choice=each.choice,
            samples=samples,
        )
        for one in kept:
            one.clear()
        return made

    def _under_attack(
        self, fitted: Fitted, each: Ruled, claim: Claim
    ) -> tuple[dict[float, smoothed_attack.Attacked], list[Unfinished]]:
        """By radius what an attack leaves of the smoothed detector, and where its batches are kept meanwhile."""
        asked, run, under, folders = self.asked, self.plan.run, {}, []
        for number, radius in enumerate(asked.attack_radii):
            if each.smooth is None or isinstance(each.rule, PaperMean):
                break
            attack = smoothed_attack.attack_of(asked, radius, self.plan.image_size)
            kept = Unfinished.of_cell(run.cache, claim.key, each.smooth, attack)
            folders += [] if kept is None else [kept]
            with self._shown(f"{asked.attack} within {radius:g} of the smoothed", len(self._test)) as tick:
                found = smoothed_attack.found_by(
                    attack,
                    each.smooth,
                    self._test,
                    (number,),
                    seed=run.seed,
                    batch_size=self.batch_size,
                    device=self._device,
                    tick=tick,
                    unfinished=kept,
                )
            fresh = self._drawn(
                fitted,
                smoothed_attack.attacked_pictures(self._test, found, (number,)),
                each.smooth.settings.sigma,
                smoothed_attack.judged_on(asked),
                images_sha256=digest(found.images),
            )
            under[radius] = smoothed_attack.judged(each.smooth, each.rule, found, fresh, asked)
        return under, folders

    def _drawn(self, fitted: Fitted, pictures: Pictures, sigma: float, count: int, **more: str) -> Floats:
        """Sorted samples of pictures, (M, count), drawn as far as they are not in the cache; `more`: on what else than
        the category's files the pictures depend."""
        if not pictures.ids:
            return np.empty((0, count))
        more |= {"purpose": pictures.purpose, "path": str(pictures.path)} if pictures.path else {}
        found = sample_set(
            self.plan,
            fitted.detector,
            fitted.tensors_sha256,
            self.job.category,
            pictures.name,
            pictures.ids,
            sigma,
            **more,
        )
        with self._shown(f"{pictures.name} samples at sigma {sigma:g}", count) as tick:
            return found.draw(
                fitted.detector, pictures, count, batch_size=self.batch_size, device=self._device, tick=tick
            )

    # -- what is at hand ----------------------------------------------------------------------------------------------

    def _written(self, *what: Any, **more: Any) -> Certificate:
        return written(self.plan, self.category, *what, folder=self._folder, **more)

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


def _since(started: float) -> float:
    return time.monotonic() - started
