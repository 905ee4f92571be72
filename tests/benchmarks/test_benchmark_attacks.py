"""What the attacks add to the gradients and forward passes that they ask for, as ratios in one run.

    python -m tox -e benchmarks -- tests/benchmarks/test_benchmark_attacks.py -s

PGD beside a bare loop of gradient, step and projection; APGD beside PGD at equal gradients; Square's bookkeeping beside
its forward passes; PGD beside torchattacks' and foolbox's, where these are installed; a gradient averaged over 20 draws
beside 20 gradients; and what is left of an attack where it may stop on an image that has lost all its pairs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import attacks
from attacks.objective import Objective
from attacks.threat import LInf
from bench.cell.attack import Draws, Outcome, run_cell
from bench.data.base import ImageSet
from detectors.base import Detector
from detectors.noise import NoiseSeed

SIDE, BATCH, STEPS, ROUNDS = 128, 8, 12, 5
DRAWS = 20
NOISE_OF_RATIOS = 0.05  # medians of five pairs scatter so much
_FORWARD_SHARE = 1 / 3  # of a gradient: the pass without one for the last iterate's score
# What each may be at most. PGD and APGD cost about half a millisecond for each image and step, which is seen beside a
# network of three (AE).
LIMITS = {
    "fastflow": (1.03 + NOISE_OF_RATIOS, 1.05 + NOISE_OF_RATIOS, 1.08),
    "spade": (1.08, 1.08, 1.08),
    "ocr-gan": (1.15, 1.15, 1.15),
    "ae": (1.25, 1.25, 1.3),
}
x = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
y = torch.tensor([1.0, -1.0] * (BATCH // 2))
source = NoiseSeed(0).source("attack", [str(i) for i in range(BATCH)])


def _bare_loop(detector: Detector) -> None:
    ball, current = LInf(2 / 255), x
    projected = ball.around(x)
    with detector.trusting():
        for step in range(STEPS):
            leaf = current.detach().requires_grad_()
            losses = y * detector.score(leaf, noise=source.sub(step))
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            current = projected(current + 0.001 * gradient.sign())
        with torch.no_grad():
            detector.score(current, noise=source)


def _forwards(detector: Detector, count: int) -> None:
    with torch.no_grad(), detector.trusting():
        for query in range(count):
            detector.score(x, noise=source.sub(query))


def _ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """Of CPU seconds, taken in turn: the median over the pairs."""
    found = []
    for _ in range(ROUNDS):
        seconds = []
        for work in (one, other):
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        found.append(seconds[0] / seconds[1])
    return statistics.median(found)


def _attack(name: str, detector: Detector, **settings: int) -> Callable[[], object]:
    made = attacks.get(name, image_size=SIDE, **settings)
    return lambda: made.run(detector, x, y, noise=source)


@pytest.mark.parametrize("name", LIMITS)
def test_what_an_attack_adds(name: str, fitted: Callable[[str, int], Detector]) -> None:
    detector = fitted(name, SIDE)
    pgd, apgd = (_attack(attack, detector, steps=STEPS) for attack in ("pgd-linf", "apgd-linf"))
    square = _attack("square-linf", detector, queries=10 * STEPS)
    ratios = {
        "PGD / bare loop": _ratio(pgd, lambda: _bare_loop(detector)),
        "APGD / PGD": _ratio(apgd, pgd),
        "Square / its forward passes": _ratio(square, lambda: _forwards(detector, 10 * STEPS + 1)),
    }
    sys.stdout.write(f"\n{name}: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items()) + "\n")
    for (what, ratio), limit in zip(ratios.items(), LIMITS[name], strict=True):
        assert ratio < limit, what


def _pictures(count: int, side: int) -> ImageSet:
    """So many of noise, and as many with a square of a little more contrast."""
    pixels = torch.randint(96, 160, (2 * count, 3, side, side), generator=torch.Generator().manual_seed(2))
    square = pixels[count:, :, : side // 2, : side // 2]
    pixels[count:, :, : side // 2, : side // 2] = 128 + (square - 128) * 5 // 4
    return ImageSet(
        ids=tuple(f"{number:03}.png" for number in range(2 * count)),
        images=pixels.to(torch.uint8),
        labels=torch.tensor([1] * count + [-1] * count, dtype=torch.int8),
        defects=tuple(["good"] * count + ["square"] * count),
        masks=None,
    )


@pytest.mark.parametrize("name", ["mean-image", "ae", "spade"])
@pytest.mark.parametrize("epsilon", ["1/255", "4/255"])
def test_what_enough_saves(name: str, epsilon: str, fitted: Callable[[str, int], Detector]) -> None:
    """In gradients of a single attack and of an ensemble, and in the images that each of its members is left, over
    those of complete runs. It saves where an attack wins."""
    detector, test = fitted(name, 64), _pictures(20, 64)

    def run(attack: attacks.Attack, *, early_stop: bool) -> Outcome:
        return run_cell(
            detector,
            attack,
            test,
            test.subset(range(11)),
            Draws(1, 0),
            batch_size=20,
            device=torch.device("cpu"),
            tick=lambda done, what: None,
            early_stop=early_stop,
        )

    told = {}
    small = {"iterations": 10, "starts": 2, "other_starts": 1, "queries": 50}
    for attack in (
        attacks.get("pgd-linf", image_size=64, epsilon=epsilon, steps=20),
        attacks.get("autoattack-linf", image_size=64, epsilon=epsilon, **small),
    ):
        early, whole = (run(attack, early_stop=stop) for stop in (True, False))
        spent, all_of_them = (
            float(np.mean(o.gradients if o.gradients_spent is None else o.gradients_spent)) for o in (early, whole)
        )
        told[f"{attack.name} gradients"] = spent / all_of_them
        told |= {
            f"{number}. {member['attack']['name']} images": member["attacked_images"] / len(test)
            for number, member in enumerate(early.members)
        }
    sys.stdout.write(f"\n{name}, {epsilon}: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in told.items()) + "\n")
    assert max(told.values()) <= 1


class _TwoLogits(torch.nn.Module):
    """The least that another library needs: the score as two logits, and nothing counted."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self._detectors = (detector,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = self._detectors[0].score(images, noise=source)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def _of_torchattacks(view: torch.nn.Module) -> Callable[[], object]:
    attack = pytest.importorskip("torchattacks").PGD(view, eps=2 / 255, alpha=0.001, steps=STEPS, random_start=False)
    return lambda: attack(x, (y < 0).long())


def _of_foolbox(view: torch.nn.Module) -> Callable[[], object]:
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(view.eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.001, steps=STEPS, random_start=False)
    criterion = foolbox.criteria.Misclassification((y < 0).long())
    return lambda: attack.run(model, x, criterion, epsilon=2 / 255)


@pytest.mark.parametrize(("name", "limit"), [("ae", 1.2), ("spade", 1.05)])
@pytest.mark.parametrize("theirs", [_of_torchattacks, _of_foolbox], ids=["torchattacks", "foolbox"])
def test_a_step_of_pgd_costs_what_it_costs_other_libraries(
    name: str,
    limit: float,
    theirs: Callable[[torch.nn.Module], Callable[[], object]],
    fitted: Callable[[str, int], Detector],
) -> None:
    """Each asks for as many gradients; ours asks for the last iterate's score besides. Theirs keep no best iterate, and
    look for no gradient that is zero or not finite: beside a network of three milliseconds (AE) that is seen."""
    detector = fitted(name, SIDE)
    other = theirs(_TwoLogits(detector))

    def trusted() -> None:
        with detector.trusting():
            other()

    ratio = _ratio(_attack("pgd-linf", detector, steps=STEPS), trusted)
    per_step = ratio * STEPS / (STEPS + _FORWARD_SHARE)
    sys.stdout.write(f"\n{name}: PGD / {theirs.__name__[4:]} {ratio:.2f}, a step {per_step:.2f}\n")
    assert per_step < limit


def test_an_average_over_draws_costs_no_more_than_as_many_gradients(fitted: Callable[[str, int], Detector]) -> None:
    detector = fitted("freerad", 64)
    small, sign, own = x[:4, :, :64, :64], y[:4], source.pick(slice(4))
    objective = Objective(detector, sign)

    def single() -> None:
        for draw in range(DRAWS):
            objective.gradient(small, own.sub(draw))

    with detector.trusting():
        ratio = _ratio(lambda: objective.gradient(small, own, DRAWS), single)
    sys.stdout.write(f"\nfreerad: EOT {DRAWS} / {DRAWS} single gradients {ratio:.2f}\n")
    assert ratio < 1 + NOISE_OF_RATIOS
