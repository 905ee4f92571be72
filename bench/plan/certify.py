"""What a user asks to be certified, checked once: noise, samples, radii, rules, confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from attacks.registry import get_class
from bench.errors import BenchError
from bench.names import unknown
from bench.plan.build import build
from bench.plan.plan import Job, Plan
from bench.plan.request import Override
from bench.plan.split import held_out_count
from bench.records.certificate import STRICT_ALPHA
from certificates.errors import CertificateError
from certificates.rules import Exceedance, PaperMean, Percentile, Rule
from detectors import registry as detector_registry
from detectors.smooth import PREFIX

RULES = ("percentile", "exceedance", "paper")
NORM = "l2"  # of what Gaussian noise certifies
AUTO: Literal["auto"] = "auto"
CANDIDATES = (0.5, 0.25, 0.75, 0.1, 0.9)  # for p; of equals the first is taken
# Of each held-out normal, and of its painted copy, at most: for thresholds and the choice of p.
HELD_OUT_SAMPLES = 1000
STRICT_SAMPLES = 10_000  # fewer are marked
LEAST_HELD_OUT = 4  # normals to choose on
LARGEST_SIGMA, MOST_SAMPLES, LEAST_ALPHA = 10.0, 10**6, 1e-12


@dataclass(frozen=True)
class CertifyConfig:
    """What is to be certified of each detector, beside the run's own options.

    Attributes:
        sigmas: standard deviations of the noise, on [0, 1].
        samples: scores under noise of each test image.
        radii: l2 radii on [0, 1], rising; the bounds hold at all of them together.
        linf_radii: of exact certificates in l-inf.
        rules: of `RULES`.
        ps: percentiles; "auto" is chosen on held-out normals and painted copies of them.
        alpha: the risk that some bound that counts in a certificate does not hold.
        attack, attack_steps: that attacks the smoothed detector at the radii of `attack_radii`; None: a few steps.
        attack_radii: l2 radii, rising and above 0; they join `radii`.
        match_noise: fit detectors that can be told how much noise images carry (`Detector.noise_setting`) for each
            sigma anew, and tell them.
    """

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.25)
    samples: int = STRICT_SAMPLES
    radii: tuple[float, ...] = tuple(n / 20 for n in range(16))
    linf_radii: tuple[float, ...] = tuple(n / 255 for n in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0))
    rules: tuple[str, ...] = ("percentile",)
    ps: tuple[float | Literal["auto"], ...] = (0.5,)
    alpha: float = STRICT_ALPHA
    attack: str = "apgd-l2"
    attack_steps: int | None = None
    attack_radii: tuple[float, ...] = ()
    match_noise: bool = False

    def __post_init__(self) -> None:
        """Raises BenchError, AttackError."""
        for option, given, such in (
            ("--sigma", self.sigmas, "0.1"),
            ("--rule", self.rules, "percentile"),
            ("--p", self.ps, "0.5"),
        ):
            if not given:
                raise BenchError(f"{option} is empty, and nothing would be certified; give one, e.g. {such}.")
        for sigma in self.sigmas:
            if not (math.isfinite(sigma) and sigma > 0):
                raise BenchError(f"--sigma must be above 0: without noise nothing is certified; got {sigma:g}.")
            if sigma > LARGEST_SIGMA:
                raise BenchError(
                    f"--sigma {sigma:g} looks like a 0-255 value; it is measured on [0, 1]: divide by 255."
                )
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise BenchError(f"--samples must lie between 1 and {MOST_SAMPLES:,}; got {self.samples}.")
        for option, radii in (("--radii", self.radii), ("--linf-radii", self.linf_radii)):
            if not radii:
                raise BenchError(f"{option} needs at least one radius, e.g. 0,0.1,0.2.")
        for option, radii in (
            ("--radii", self.radii),
            ("--linf-radii", self.linf_radii),
            ("--attack-radii", self.attack_radii),
        ):
            _check_radii(option, radii)
        if 0.0 in self.attack_radii:
            raise BenchError("--attack-radii are above 0: in a ball of radius 0 there is nothing to attack with.")
        if not 0 < self.alpha < 1:
            raise BenchError(f"--alpha is a probability between 0 and 1, without its ends; got {self.alpha:g}.")
        if self.alpha < LEAST_ALPHA:
            raise BenchError(
                f"--alpha {self.alpha:g} is a risk too small to be shared among images and radii as floats; give "
                f"{LEAST_ALPHA:g} or more (0.001 is usual)."
            )
        for rule in self.rules:
            if rule not in RULES:
                raise unknown("rule", rule, RULES)
        for p in self.ps:
            if p != AUTO:
                percentile(p)
        if get_class(self.attack).norm != NORM:
            raise BenchError(f"--attack {self.attack} is no l2 attack, and l2 is what noise certifies; use apgd-l2.")
        if self.attack_steps is not None and self.attack_steps < 1:
            raise BenchError(f"--attack-steps must be at least 1; got {self.attack_steps}.")

    @property
    def all_radii(self) -> tuple[float, ...]:
        """Of the bounds in l2: those that are attacked as well."""
        return tuple(sorted({*self.radii, *self.attack_radii}))

    @property
    def held_out_samples(self) -> int:
        return min(self.samples, HELD_OUT_SAMPLES)

    @property
    def is_auto(self) -> bool:
        """Whether some percentile is to be chosen."""
        return "percentile" in self.rules and AUTO in self.ps

    @property
    def attacked_scores(self) -> int:
        """How many smoothed scores of a detector are attacked at each sigma, at most."""
        percentiles = len(dict.fromkeys(self.ps)) if "percentile" in self.rules else 0
        return (percentiles + ("exceedance" in self.rules)) if self.attack_radii else 0

    @property
    def limits(self) -> list[str]:
        """Why this is less than the strict certificate."""
        found = [f"--samples {self.samples}: fewer than {STRICT_SAMPLES:,}"] if self.samples < STRICT_SAMPLES else []
        return found + ([f"--alpha {self.alpha:g}: above {STRICT_ALPHA:g}"] if self.alpha > STRICT_ALPHA else [])

    def risk(self, rule: Rule, images: int) -> float:
        """Of one bound, so that all that count in a certificate hold with confidence 1 - alpha."""
        return rule.shares(self.alpha, self.all_radii, images)

    def needed(self, rule: Rule, sigma: float, images: int, radius: float = 0.0) -> float:
        """Samples that it takes to show any bound at a radius; infinity where no number is enough."""
        found = rule.needed(self.risk(rule, images), sigma, radius)
        return math.inf if found is None else found

    def check_samples(self, images: int) -> None:
        """Raise BenchError where so few samples cannot bound anything, not even at radius 0."""
        asked: list[Rule] = [percentile(0.5 if p == AUTO else p) for p in self.ps] if "percentile" in self.rules else []
        asked += [PaperMean()] if "paper" in self.rules else []
        asked += [Exceedance(0.0)] if "exceedance" in self.rules else []
        for rule in asked:
            needed = self.needed(rule, 1.0, images)
            if needed > self.samples:
                raise BenchError(
                    f"{self.samples} samples are too few for this confidence: with --alpha {self.alpha:g} for "
                    f"{images} images at {len(self.all_radii)} radii, the rule {rule.name} needs {needed:.0f} to bound "
                    f"a score even at radius 0; give --samples {needed:.0f} or more (10,000 is usual)."
                )

    def check_held_out(self, count: int) -> None:
        """Raise BenchError where too few normals are kept from the fit to choose on what has to be chosen."""
        what = [
            *(["the exceedance's threshold"] if "exceedance" in self.rules else []),
            *(["p"] if self.is_auto else []),
        ]
        if what and count < LEAST_HELD_OUT:
            raise BenchError(
                f"{' and '.join(what)} would be chosen on {LEAST_HELD_OUT} or more training normals that are kept from "
                f"the fit, and there are {count}. At most a tenth of the normals is kept: it takes "
                f"{10 * LEAST_HELD_OUT} of them, and --holdout {LEAST_HELD_OUT} or more; or use --rule percentile --p "
                "0.5."
            )

    def reach(self, rule: Rule, sigma: float, images: int) -> int:
        """How many of the radii so many samples can show anything at."""
        return sum(self.needed(rule, sigma, images, radius) <= self.samples for radius in self.all_radii)


def percentile(p: float) -> Percentile:
    """Raises BenchError where there is no such."""
    try:
        return Percentile(p)
    except CertificateError as error:
        raise BenchError(f"--p: {error} Or choose it with --p auto.") from None


def parts(plan: Plan, asked: CertifyConfig, job: Job) -> list[tuple[Plan, CertifyConfig]]:
    """What is certified of a detector, fit by fit: everything with one, or where the detector is to be told how much
    noise images carry, each sigma with a fit of its own.

    Raises:
        BenchError, DetectorError: the detector cannot be told of that noise.
    """
    setting = detector_registry.get(job.detector).noise_setting if asked.match_noise else ""
    if not setting:
        return [(plan, asked)]
    return [(_told(plan, job, setting, sigma), replace(asked, sigmas=(sigma,))) for sigma in asked.sigmas]


def _told(plan: Plan, job: Job, setting: str, sigma: float) -> Plan:
    if setting in plan.run.overrides_for(job.detector, job.category):
        raise BenchError(
            f"--match-noise sets {job.detector}.{setting} to each sigma, and --set does as well; leave one of them out."
        )
    run = replace(plan.run, overrides=(*plan.run.overrides, Override(job.detector, setting, job.category, sigma)))
    detector = build(job.detector, job.category, plan.image_size, run)
    stochastic = plan.stochastic - {job.detector} | ({job.detector} if detector.is_stochastic else set())
    return replace(plan, run=run, stochastic=stochastic, built={**plan.built, (job.detector, job.category): detector})


def check(plan: Plan, asked: CertifyConfig) -> None:
    """Raise BenchError, before anything is decoded or fitted, where a category has too few images for what is asked, a
    detector is smoothed already, or none can be told of noise where some should be."""
    for name in plan.detectors:
        if name.startswith(f"{PREFIX}:"):
            inner = name.removeprefix(f"{PREFIX}:")
            raise BenchError(f"{name} is smoothed already, and this command smooths by itself: name {inner}.")
    able = [name for name in plan.detectors if detector_registry.get(name).noise_setting]
    if asked.match_noise and not able:
        known = [name for name in detector_registry.names() if detector_registry.get(name).noise_setting]
        raise BenchError(
            f"--match-noise is for detectors that can be told how much noise images carry ({', '.join(known)}); name "
            "one of them, or leave it out."
        )
    for job in plan.jobs:
        parts(plan, asked, job)
    for category in plan.categories:
        asked.check_samples(len(plan.dataset.test_labels(category, per_class=plan.per_class)))
        asked.check_held_out(held_out_count(len(plan.dataset.train_ids(category, limit=plan.run.limit)), plan.run))


def _check_radii(option: str, radii: Sequence[float]) -> None:
    for radius in radii:
        if not (math.isfinite(radius) and radius >= 0):
            raise BenchError(f"{option} are numbers of 0 or more, on the [0, 1] scale; got {radius:g}.")
    if any(second <= first for first, second in pairwise(radii)):
        raise BenchError(f"{option} must rise from one to the next; got {', '.join(f'{r:g}' for r in radii)}.")
