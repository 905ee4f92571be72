"""What an attack leaves of the very detector that is certified: the smoothed one, with the same rule and threshold.

A certificate says what no attack can do, an attack what one has done: the attacked AUC lies above the certified one, or
one of the two is wrong. The attack follows the smoothed score's surrogate through a few samples, and is judged on many
fresh ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import attacks
from attacks.base import Attack
from attacks.result import AttackResult
from bench.cell.attacking import Attacking
from bench.cell.samples import Pictures
from bench.cell.unfinished import Unfinished
from bench.cell.verdict import Draws
from bench.data.base import ImageSet
from bench.errors import CellError
from bench.plan.certify import CertifyConfig
from certificates.rules import Exceedance, Percentile
from detectors import registry
from detectors.base import Detector
from detectors.building import build
from detectors.smooth import PREFIX, Smoothed, SmoothSettings

SAMPLES = 32  # of the score that is attacked
JUDGED_ON = 1000  # fresh samples of each attacked image, at most
MOST_ZERO = 0.1  # of an attack's gradients: with more of them its AUC says little
RISK = 0.001  # that some interval of an attacked score does not hold
STEPS = 10
# A small budget: each gradient costs SAMPLES passes. What an attack has no setting of, it is not given.
BUDGET: dict[str, Any] = {
    "differentiate": "surrogate",
    "eot": 1,
    "schedule_draws": 2,
    "selection_draws": 4,
    "mean_draws": 1,
}
Floats = NDArray[np.float64]


def smoothed(
    detector: Detector,
    rule: Percentile | Exceedance,
    sigma: float,
    *,
    held_out: Floats | None = None,
    followed: Floats | None = None,
) -> Smoothed:
    """`smooth:NAME` around a fitted detector, with this rule.

    Args:
        detector: fitted; it stays as it is.
        rule: whose p is taken; the exceedance's threshold is that of `held_out`.
        sigma: of the noise.
        held_out: scores of held-out normals under noise, (M, N), for the exceedance's threshold.
        followed: the same of the surrogate's scores, where the detector has one, for what an attack follows.
    """
    is_percentile = isinstance(rule, Percentile)
    settings = SmoothSettings(
        inner=detector.settings,
        sigma=sigma,
        rule="percentile" if is_percentile else "exceedance",
        p=rule.p if isinstance(rule, Percentile) else 0.5,
        samples=SAMPLES,
    )
    made = build(registry.get(f"{PREFIX}:{detector.name}"), settings, detector.image_size)
    assert isinstance(made, Smoothed)
    scores, others = (
        None if found is None else torch.from_numpy(np.ascontiguousarray(found.T)) for found in (held_out, followed)
    )
    return made.around(detector, scores, others)


def exceedance(
    detector: Detector, sigma: float, held_out: Floats, followed: Floats | None
) -> tuple[Exceedance, Smoothed]:
    """The exceedance with the threshold that `smooth:NAME` has of these samples of held-out normals, and of what its
    surrogate says of them, (M, N) each."""
    if not np.isfinite(held_out).all():
        raise CellError(
            f"Some scores of held-out normals by {detector.name} under noise of {sigma:g} are infinite, so that the "
            "exceedance has no threshold; use --rule percentile."
        )
    made = smoothed(detector, Exceedance(0.0), sigma, held_out=held_out, followed=followed)
    return Exceedance(float(made.threshold)), made


def attack_of(asked: CertifyConfig, epsilon: float, image_size: int) -> Attack:
    """The attack at a radius."""
    cls = attacks.registry.get_class(asked.attack)
    known = {f.name for f in dataclasses.fields(cls.settings_class)}
    steps = asked.attack_steps or STEPS
    wanted = BUDGET | {"steps": steps, "stochastic_steps": steps, "iterations": steps, "queries": 20 * steps}
    return attacks.get(
        asked.attack,
        image_size=image_size,
        epsilon=epsilon,
        **{name: value for name, value in wanted.items() if name in known},
    )


def described(asked: CertifyConfig, image_size: int) -> dict[str, Any]:
    """What a claim says of the attack; {} where nothing is attacked."""
    if not asked.attack_radii:
        return {}
    told = attack_of(asked, asked.attack_radii[0], image_size).describe()
    del told["epsilon"]
    return told | {
        "radii": list(asked.attack_radii),
        "samples": SAMPLES,
        "judged_on": judged_on(asked),
    }


@dataclass(frozen=True, eq=False)
class Attacked:
    """Scores of attacked images on fresh samples, and the interval that these leave, (N,) each; the share of the
    attack's gradients that were exactly zero, NaN of one that follows none."""

    score: Floats
    low: Floats
    high: Floats
    zero_gradients: float = math.nan

    @property
    def remark(self) -> str:
        """Where the attack had little to follow: a sentence, else ""."""
        if not self.zero_gradients > MOST_ZERO:
            return ""
        share = 100 * self.zero_gradients
        return f"{share:.0f} % of its gradients were zero, so that it found little, whatever there is to find"


def found_by(
    attack: Attack,
    smooth: Smoothed,
    test: ImageSet,
    path: tuple[int, ...],
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    tick: Callable[[float, str], None],
    unfinished: Unfinished | None = None,
) -> AttackResult:
    """What an attack makes of every test image of a smoothed detector.

    Args:
        attack: at its radius.
        smooth: the smoothed detector.
        test: the images.
        path: of the radius: its noise is its own.
        seed: of all noise; batch_size, device: as everywhere.
        tick: told how many images are done.
        unfinished: where batches are kept while the certificate is not written; None keeps none.
    """
    work = Attacking(smooth, test, Draws(1, seed), device, batch_size, unfinished=unfinished)
    return work.attacked(attack, range(len(test)), None, lambda done: tick(done, ""), path=path)


def attacked_pictures(test: ImageSet, found: AttackResult, path: tuple[int, ...]) -> Pictures:
    """Attacked images, to be judged on samples that no attack has seen."""
    return Pictures("attacked", test.ids, lambda part: found.images[part], "certificate-verdict", path)


def judged(
    smooth: Smoothed, rule: Percentile | Exceedance, found: AttackResult, samples: Floats, asked: CertifyConfig
) -> Attacked:
    """Scores of attacked images.

    Args:
        smooth, rule: the smoothed detector, and the same as a rule.
        found: by the attack.
        samples: sorted fresh ones of the attacked images, (N, n).
        asked: names the radii, which share the risk of an interval that does not hold.
    """
    followed = found.zero_gradients if found.surrogate_zero_gradients is None else found.surrogate_zero_gradients
    risk = RISK / (len(samples) * len(asked.attack_radii))
    own = rule.bounds(samples, sigma=smooth.settings.sigma, radii=(0.0,), alpha=risk)
    return Attacked(rule.estimate(samples), own.lower[0], own.upper[0], float(followed.mean()))


def judged_on(asked: CertifyConfig) -> int:
    """Fresh samples of each attacked image."""
    return min(asked.samples, JUDGED_ON)


def passes(asked: CertifyConfig, image_size: int) -> tuple[int, int]:
    """Of one image and one smoothed score at all radii: gradients and forward passes of the detector beneath it, those
    with which an attack compares candidates aside."""
    gradients = sum(
        SAMPLES * attack_of(asked, radius, image_size).gradients(is_stochastic=True) for radius in asked.attack_radii
    )
    return gradients, judged_on(asked) * len(asked.attack_radii)
