"""Our PGD, APGD and Square beside those of torchattacks, foolbox and ART: the table of docs/agreement.md.

    pip install --no-deps torchattacks==3.5.1 foolbox eagerpy GitPython gitdb smmap adversarial-robustness-toolbox six
    OMP_NUM_THREADS=1 python tests/benchmarks/compare_attack_libraries.py
    OMP_NUM_THREADS=1 python tests/benchmarks/compare_attack_libraries.py --detectors spade --per-class 4

All get the same fitted detector, images, ball, steps and start, through one view (`attacks.two_logits`): the score as
two logits, unsaturated. The view sees every image that is asked about, so that two results are told apart: what a
library returns, and the best image that it saw. Gains are of y * A(x) over the clean image, in per cent of ours;
seconds are CPU seconds beside ours. Libraries that are not there are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import attacks
import bench
from attacks.two_logits import TwoLogits
from detectors.base import Detector
from detectors.noise import NoiseSeed

PACKAGES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "art": "adversarial-robustness-toolbox"}
PGD_STEPS, APGD_STEPS, QUERIES = 20, 100, 1000
WITH_SQUARE = ("mean-image", "ae")  # others take minutes for a thousand queries
NORMS = {"linf": ("l-inf", "Linf", np.inf), "l2": ("l2", "L2", 2)}


class Case(NamedTuple):
    """What all attack: a detector, images and labels, the ball, and the unit of the view."""

    detector: Detector
    x: Tensor
    y: Tensor
    ball: Any
    clean: Tensor
    unit: Tensor

    @property
    def labels(self) -> Tensor:
        return ((1 - self.y) / 2).long()

    @property
    def step(self) -> float:
        return 2.5 * float(self.ball.epsilon) / PGD_STEPS

    def view(self, *, never_crosses: bool = False) -> Recorder:
        noise = NoiseSeed(0).source("compare", [str(i) for i in range(len(self.x))])
        return Recorder(
            self.detector, self.x, self.y, self.ball, noise, self.clean, self.unit, never_crosses=never_crosses
        )

    def gain(self, images: Tensor) -> Tensor:
        """Of y * A(x), (B,)."""
        with torch.no_grad():
            gain: Tensor = self.y * self.detector.score(images) - self.clean
        return gain


class Recorder(TwoLogits):
    """The view, that keeps the first image that it is asked about beside the clean ones."""

    start: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if len(images) % len(self._x):  # ART asks once about an image of ones, to see whether these are probabilities
            return images.new_tensor([[-2.0, 2.0]]).expand(len(images), -1)
        if self.start is None and images.shape == self._x.shape and not torch.equal(images, self._x):
            self.start = images.detach().clone()
        logits: Tensor = super().forward(images)
        return logits


class Run(NamedTuple):
    """One library's attack: what it returned, the view that it had, and the CPU seconds that it took."""

    returned: Tensor
    view: Recorder
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=["ae"])
    parser.add_argument("--category", default="mono")
    parser.add_argument("--per-class", type=int, default=8)
    asked = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    known = [f"{name} {version(package)}" for name, package in PACKAGES.items() if find_spec(name)]
    say(f"PyTorch {torch.__version__}; {', '.join(known)}; {platform.machine()}, {torch.get_num_threads()} thread(s)\n")
    x, y = bench.test_images("elpv", asked.category, per_class=asked.per_class)
    for name in asked.detectors:
        detector = bench.fit(name, "elpv", asked.category)
        say(f"\n{name}\n\n| attack | library | returned | best seen | ahead | behind | pixels | passes | seconds |")
        say("|---|---|--:|--:|--:|--:|--:|--:|--:|")
        with detector.trusting():
            for norm in NORMS:
                case = made(detector, x, y, norm)
                for attack, ours, others in compared(case, norm, with_square=name in WITH_SQUARE):
                    report(case, f"{attack} {NORMS[norm][0]}", ours, others)


def made(detector: Detector, x: Tensor, y: Tensor, norm: str) -> Case:
    """The unit is what the ball does to the score to first order, as `attacks.torchattacks_adapter` takes it."""
    ball = attacks.get(f"pgd-{norm}", image_size=x.shape[-1]).threat
    leaf = x.clone().requires_grad_()
    losses = y * detector.score(leaf)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    unit = (gradient * ball.steepest_step(gradient, ball.epsilon)).flatten(1).sum(1)
    return Case(detector, x, y, ball, losses.detach(), unit)


def compared(case: Case, norm: str, *, with_square: bool) -> Iterator[tuple[str, Run, dict[str, Run]]]:
    """Each attack: its name, ours, and the others by name."""
    others = dict(of_pgd(case, norm))
    pgd = {"name": f"pgd-{norm}", "steps": PGD_STEPS}
    yield "PGD", ours(case, **pgd), others
    with cross_entropy_for_score(case):
        same = ours(case, **pgd, keep="last")  # as the others do
    yield "PGD, same view", same, others
    others = dict(of_apgd(case, norm))
    apgd = {"name": f"apgd-{norm}", "steps": APGD_STEPS}
    yield "APGD", ours(case, **apgd), others
    if "torchattacks" in others:
        start = others["torchattacks"].view.start
        with cross_entropy_for_score(case), mock.patch("attacks.starts.start", lambda *_: start):
            same = ours(case, **apgd)
        yield "APGD, same view and start", same, {"torchattacks": others["torchattacks"]}
    if with_square:
        yield "Square", ours(case, name=f"square-{norm}", queries=QUERIES), dict(of_square(case, norm))


@contextmanager
def cross_entropy_for_score(case: Case) -> Iterator[None]:
    """Within it the detector's score is y times what the others maximise, so that ours follows the same function to the
    last bit: of the score itself the gradient is another multiple, and rounded otherwise."""
    view = case.view()
    view._detectors = (SimpleNamespace(score=case.detector.score, has_surrogate=False, is_stochastic=False),)

    def score(x: Tensor, *, noise: object = None) -> Tensor:
        loss: Tensor = torch.nn.functional.cross_entropy(view(x), case.labels, reduction="none")
        return case.y * loss

    with mock.patch.object(case.detector, "score", score):
        yield


def ours(case: Case, *, name: str, **settings: Any) -> Run:
    attack = attacks.get(name, image_size=case.x.shape[-1], **settings)
    view = case.view()
    noise = NoiseSeed(0).source("attack", [str(i) for i in range(len(case.x))])
    started = time.process_time()
    result = attack.run(case.detector, case.x, case.y, noise=noise)
    seconds = time.process_time() - started
    view.forwards, view.gradients = result.forwards, result.gradients
    return Run(result.images, view, seconds)


def timed(view: Recorder, work: Callable[[], Tensor]) -> Run:
    torch.manual_seed(0)
    np.random.seed(0)  # ART draws from it
    started = time.process_time()
    with torch.enable_grad():
        returned = work()
    return Run(returned.detach().float(), view, time.process_time() - started)


def of_pgd(case: Case, norm: str) -> Iterator[tuple[str, Run]]:
    epsilon = case.ball.epsilon
    if find_spec("torchattacks"):
        import torchattacks

        view = case.view()
        cls = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
        attack = cls(view, eps=epsilon, alpha=case.step, steps=PGD_STEPS, random_start=False)
        yield "torchattacks", timed(view, lambda: attack(case.x, case.labels))
    if find_spec("foolbox"):
        import foolbox

        foolbox_view = case.view().eval()
        model = foolbox.PyTorchModel(foolbox_view, bounds=(0, 1), device="cpu")
        made = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm](
            abs_stepsize=case.step, steps=PGD_STEPS, random_start=False
        )
        yield (
            "foolbox",
            timed(
                foolbox_view,
                lambda: made.run(model, case.x, foolbox.criteria.Misclassification(case.labels), epsilon=epsilon),
            ),
        )
    if find_spec("art"):
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        art_view = case.view()
        theirs = ProjectedGradientDescentPyTorch(
            of_art(art_view, case),
            norm=NORMS[norm][2],
            eps=epsilon,
            eps_step=case.step,
            max_iter=PGD_STEPS,
            num_random_init=0,
            batch_size=len(case.x),
            verbose=False,
        )
        yield "ART", timed(art_view, lambda: generated(theirs, case))


def of_apgd(case: Case, norm: str) -> Iterator[tuple[str, Run]]:
    epsilon = case.ball.epsilon
    if find_spec("torchattacks"):
        import torchattacks

        for name, asks in (("torchattacks", True), ("torchattacks' forward", False)):
            # Its forward leaves alone what is misclassified already: this view never is.
            view = case.view(never_crosses=not asks)
            attack = torchattacks.APGD(view, norm=NORMS[norm][1], eps=epsilon, steps=APGD_STEPS)
            yield name, timed(view, lambda a=attack, b=asks: a.perturb(case.x, case.labels, best_loss=b)[1])
    if find_spec("art"):
        from art.attacks.evasion import AutoProjectedGradientDescent

        art_view = case.view(never_crosses=True)
        theirs = AutoProjectedGradientDescent(
            of_art(art_view, case),
            norm=NORMS[norm][2],
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=APGD_STEPS,
            nb_random_init=1,
            batch_size=len(case.x),
            verbose=False,
        )
        yield "ART", timed(art_view, lambda: generated(theirs, case))


def of_square(case: Case, norm: str) -> Iterator[tuple[str, Run]]:
    epsilon = case.ball.epsilon
    if find_spec("torchattacks"):
        import torchattacks

        view = case.view(never_crosses=True)
        attack = torchattacks.Square(view, norm=NORMS[norm][1], eps=epsilon, n_queries=QUERIES)
        yield "torchattacks", timed(view, lambda: attack(case.x, case.labels))
    if find_spec("art"):
        from art.attacks.evasion import SquareAttack

        art_view = case.view(never_crosses=True)
        theirs = SquareAttack(
            of_art(art_view, case),
            norm=NORMS[norm][2],
            eps=epsilon,
            max_iter=QUERIES,
            batch_size=len(case.x),
            verbose=False,
        )
        yield "ART", timed(art_view, lambda: generated(theirs, case))


def of_art(view: Recorder, case: Case) -> Any:
    from art.estimators.classification import PyTorchClassifier

    # Its losses of one image each are asked for by setting this attribute.
    loss = torch.nn.CrossEntropyLoss()
    shape = tuple(case.x.shape[1:])
    return PyTorchClassifier(view, loss, shape, nb_classes=2, clip_values=(0.0, 1.0), device_type="cpu")


def generated(attack: Any, case: Case) -> Tensor:
    return torch.from_numpy(attack.generate(case.x.numpy().copy(), case.labels.numpy()))


def report(case: Case, attack: str, ours: Run, others: dict[str, Run]) -> None:
    """A row for each library: gains in per cent of ours, images on which its best (of what should be the same: what it
    returned) is ahead of ours or behind, the share of pixels that differ, passes, seconds."""
    usual = case.gain(ours.returned)
    for name, run in ({"ours": ours} | others).items():
        returned = case.ball.project(run.returned, case.x)
        gain = case.gain(returned)
        run.view.best.offer(returned, gain + case.clean, 0)  # the last iterate is one that nobody asked about
        gains = gain, run.view.best.loss - case.clean
        margin = 1e-4 * usual.abs()
        told = gains[0] if "same" in attack else gains[1]
        ahead, behind = int((told > usual + margin).sum()), int((told < usual - margin).sum())
        pixels = float(((returned - ours.returned).abs() > 1e-6).float().mean())
        passes = f"{run.view.forwards} + {run.view.gradients}"
        # In units of the ball, so that no image with a large score decides.
        shares = [100 * float((gain / case.unit).mean() / (usual / case.unit).mean()) for gain in gains]
        say(
            f"| {attack} | {name} | {shares[0]:.2f} | {shares[1]:.2f} | {ahead} | {behind} | {100 * pixels:.2f} % "
            f"| {passes} | {run.seconds / ours.seconds:.2f} |"
        )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
