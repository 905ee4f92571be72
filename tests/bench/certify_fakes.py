"""What the tests of `python -m bench certify` share: detectors of which all is known, and reading what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
from torch import Tensor
from zoo import Declared

from bench.data import registry
from bench.metrics import ranking
from bench.plan.request import RunConfig
from bench.records import certificate_store
from bench.records.bounds_table import BoundsTable
from bench.records.certificate import Certificate
from detectors.errors import DetectorError
from detectors.noise import Noise
from detectors.settings import Settings

# The pictures' scores lie within half of |w| sigma, so that radii below sigma tell something.
SIDE, SIGMA = 16, 0.02
RADII = (0.0, 0.005, 0.01, 0.02)
ATTACK = ("--attack-radii", "0.005", "--attack-steps", 1)
LENGTH = float(fakes.linear_weights(SIDE).double().norm())


class Steady(fakes.Linear):
    """A linear score that says how fast it moves."""

    name = "steady"
    title = "Steady"

    def lipschitz(self, norm: str) -> float | None:
        return {"l2": LENGTH, "linf": float(fakes.linear_weights(SIDE).double().abs().sum())}.get(norm)


class Skewed(fakes.Linear):
    """Under noise it is mostly 0 and seldom far above: the higher percentiles say most."""

    name = "skewed"
    title = "Skewed"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x, noise).div(LENGTH * SIGMA).exp()


class Jumping(Declared):
    """Attacks follow its surrogate, and so the exceedance's threshold of that."""

    name = "jumping"


@dataclass(frozen=True)
class ToldSettings(Settings):
    """How much noise images carry."""

    given: float = 0.0


class Told(fakes.Linear):
    """A score of twice the noise it is told of; without noise of its own once it is told."""

    name = "told"
    title = "Told"
    noise_setting = "given"
    is_stochastic = True

    def __init__(self, settings: ToldSettings, image_size: int) -> None:
        super().__init__(settings, image_size)  # type: ignore[arg-type]
        if settings.given > 0.5:
            raise DetectorError("told knows no such noise; have less.")
        self.is_stochastic = settings.given == 0

    @classmethod
    def settings_for(cls, preset: str, image_size: int) -> Any:
        return ToldSettings()

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        own = 2 * self.settings.given if self.settings.given else noise.normal((), stream="own", like=x)
        return super().value(x, noise) + own


class Noisy(fakes.Noisy):
    """Draws noise of its own, and claims a Lipschitz constant that means nothing then."""

    name = "drawing"

    def lipschitz(self, norm: str) -> float | None:
        return 1.0


DETECTORS = (Steady, Skewed, Noisy, Jumping, Told)


def made(out: Path) -> list[tuple[Certificate, BoundsTable]]:
    found, problems = certificate_store.read_all(out / "certificates")
    assert not problems
    return [(one, certificate_store.read_bounds(one)) for one in found]


def only(out: Path, rule: str, norm: str = "l2") -> tuple[Certificate, BoundsTable]:
    (found,) = [(c, t) for c, t in made(out) if (c.claim.smoothing.rule, c.claim.smoothing.norm) == (rule, norm)]
    return found


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.bounds.csv"))}


def shifted_auc(scores: np.ndarray, labels: np.ndarray, by: float) -> float:
    """Of scores that an adversary moves by so much against their class."""
    return float(ranking.auc(scores + np.where(labels == 1, by, -by), labels))


def centres(record: Certificate, tmp_path: Path) -> np.ndarray:
    """<w, x> of the test images, decoded once more."""
    root = Path(record.command.split("--data-root ")[1].split()[0])
    test = registry.get("folder", root, RunConfig(detectors=()).reading).test("bolt", SIDE, per_class=60)
    return (fakes.linear_weights(SIDE) * test.pixels()).sum(dim=(1, 2, 3)).double().numpy()
