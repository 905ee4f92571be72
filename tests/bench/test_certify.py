"""`python -m bench certify`, from the command to the record, against what is known of a linear score."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from conftest import Said
from scipy.stats import norm
from torch import Tensor
from zoo import BatchMaximum, Declared, PretendsToBeDeterministic

import attacks
from bench.cell import known_code, samples, smoothed_attack
from bench.cell.unfinished import Unfinished
from bench.cli.certify_command import CertificateReporter
from bench.data import registry
from bench.errors import BenchError
from bench.metrics import ranking
from bench.plan.certify import CANDIDATES, CertifyConfig
from bench.plan.request import RunConfig
from bench.records import certificate_store
from bench.records.bounds_table import BoundsTable
from bench.records.certificate import Certificate
from bench.report import certificate_plots
from bench.report.certificates import flags, label
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


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fakes.write_folder(tmp_path_factory.mktemp("small"), ("bolt",), train=120, test=8, side=SIDE)


@pytest.fixture
def certify(
    command: Callable[..., Said],
    register: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    small: Path,
    tmp_path: Path,
) -> Callable[..., Said]:
    register(fakes.Linear, Steady, Skewed, Noisy, Jumping, Told, fakes.NotANumber)
    # As if they were ours, whose samples are kept.
    monkeypatch.setattr(known_code, "KNOWN", (*known_code.KNOWN, "zoo", __name__))
    monkeypatch.setattr(certificate_plots, "write_all", lambda *_: [])  # seconds; test_certificate_report draws

    def call(*more: object, names: str = "linear") -> Said:
        usual: dict[str, object] = {
            "--detectors": names,
            "--dataset": "folder",
            "--data-root": small,
            "--image-size": SIDE,
            "--sigma": SIGMA,
            "--samples": 500,
            "--radii": ",".join(map(str, RADII)),
            "--out": tmp_path / "out",
            "--cache": tmp_path / "cache",
        }
        kept = (word for name, value in usual.items() if name not in more for word in (name, value))
        return command("certify", *kept, *more)

    return call


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


def test_a_linear_score_has_its_closed_form_from_the_command_to_the_record(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    """Q_p(x) = <w, x> + |w| sigma Phi^-1(p) moves by |w| r: the bounds contain it, and not much more."""
    assert certify("--samples", 2000, "--attack-radii", "0.01", "--attack-steps", 4).code == 0
    record, table = only(tmp_path / "out", "percentile")
    centre = _centres(record, tmp_path)
    assert table.scores == pytest.approx(centre, abs=5 * 1.25 * LENGTH * SIGMA / 2000**0.5)
    for row, radius in enumerate(table.radii):
        entry = record.at(radius)
        assert (table.lower[row] <= centre - LENGTH * radius).all()
        assert (table.upper[row] >= centre + LENGTH * radius).all()
        width = LENGTH * SIGMA * 0.35
        assert shifted_auc(centre, table.labels, LENGTH * radius + width) <= entry["auc"]
        assert entry["auc"] <= shifted_auc(centre, table.labels, LENGTH * radius)
    # An attack on it finds the optimum, nearly: the noise of 1,000 fresh samples aside.
    row = table.radii.index(0.01)
    moved = (table.attacked[row] - centre) * np.where(table.labels == 1, 1, -1)
    assert moved == pytest.approx(np.full(len(moved), 0.01 * LENGTH), rel=0.4)
    assert moved.mean() == pytest.approx(0.01 * LENGTH, rel=0.1)
    assert record.at(0.01)["attacked_auc"] >= record.at(0.01)["auc"] > 0
    assert record.at(0.01)["crossed"] == 0 and not flags(record)


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_what_is_attacked_and_judged_is_the_very_score_that_is_certified(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, p: float
) -> None:
    """Of a linear score: <w, x> +- |w| r + |w| sigma Phi^-1(p), which another p misses by two thirds of |w| sigma."""
    followed = attacked_detectors(monkeypatch)
    assert certify("--p", p, "--samples", 1000, "--attack-radii", "0.01", "--attack-steps", 4).code == 0
    record, table = only(tmp_path / "out", "percentile")
    sign, row = np.where(table.labels == 1, 1, -1), table.radii.index(0.01)
    beyond = (table.attacked[row] - _centres(record, tmp_path) - sign * LENGTH * 0.01) / (LENGTH * SIGMA)
    assert beyond.mean() == pytest.approx(norm.ppf(p), abs=0.05)  # what the attack lacks cancels between the classes
    settings = [smooth.settings for smooth in followed]
    assert settings and {(one.rule, one.p, one.sigma) for one in settings} == {("percentile", p, SIGMA)}


def test_an_attack_follows_the_threshold_that_is_certified(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = attacked_detectors(monkeypatch)
    assert certify("--rule", "exceedance", *ATTACK).code == 0
    record, _ = only(tmp_path / "out", "exceedance")
    assert followed and {smooth.settings.rule for smooth in followed} == {"exceedance"}
    assert {float(smooth.threshold) for smooth in followed} == {record.claim.smoothing.threshold}


def attacked_detectors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that APGD is handed from now on, a call each."""
    seen: list[Any] = []
    cls = type(attacks.get("apgd-l2", epsilon=0.1))
    run = cls.run

    def noting(self: Any, detector: Any, *given: Any, **more: Any) -> Any:
        seen.append(detector)
        return run(self, detector, *given, **more)

    monkeypatch.setattr(cls, "run", noting)
    return seen


def test_a_killed_attack_goes_on_and_what_judges_it_is_kept(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the second radius's attack and its verdict, with batches of 5 of 16 images."""
    asked = ("--attack-radii", "0.005,0.01", "--attack-steps", 1, "--batch-size", 5, "--samples", 50)
    assert certify(*asked, "--out", tmp_path / "whole", "--cache", tmp_path / "other").code == 0
    followed, draw, drawn = attacked_detectors(monkeypatch), samples.SampleSet.draw, []

    def stopping(self: samples.SampleSet, detector: Any, pictures: samples.Pictures, *given: Any, **more: Any) -> Any:
        if pictures.path == (1,) and len(drawn) == 1:
            raise KeyboardInterrupt
        if pictures.path:
            drawn.append(self.known(50))
        return draw(self, detector, pictures, *given, **more)

    monkeypatch.setattr(samples.SampleSet, "draw", stopping)
    monkeypatch.setattr(Unfinished, "of_cell", lambda cache, key, *_: Unfinished(cache / "unfinished" / key, 0.0))
    assert certify(*asked).code == 130 and len(followed) == 2 * 4
    drawn.append(-1)
    assert certify(*asked).code == 0 and len(followed) == 2 * 4, "no batch is attacked twice"
    assert drawn == [0, -1, 50, 0], "the first radius's verdict was there"
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not any((tmp_path / "cache" / "unfinished").iterdir())


def test_a_verdict_under_attack_shows_how_far_it_is(
    certify: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    attacking = CertificateReporter.attacking
    monkeypatch.setattr(
        CertificateReporter, "attacking", lambda self, *what: shown.append(what[3]) or attacking(self, *what)
    )
    assert certify(*ATTACK).code == 0
    assert shown[-2:] == ["apgd-l2 within 0.005 of the smoothed", "attacked samples at sigma 0.02"]


def _centres(record: Certificate, tmp_path: Path) -> np.ndarray:
    """<w, x> of the test images, decoded once more."""
    root = Path(record.command.split("--data-root ")[1].split()[0])
    test = registry.get("folder", root, RunConfig(detectors=()).reading).test("bolt", SIDE, per_class=60)
    return (fakes.linear_weights(SIDE) * test.pixels()).sum(dim=(1, 2, 3)).double().numpy()


def test_an_exact_certificate_needs_no_samples_and_lies_above_the_smoothed_one(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify("--linf-radii", "0,1/255", names="steady").code == 0
    exact, table = only(tmp_path / "out", "exact")
    smooth, _ = only(tmp_path / "out", "percentile")
    assert exact.claim.smoothing.constant == pytest.approx(LENGTH) and exact.claim.alpha == 0
    for row, radius in enumerate(RADII):
        assert table.upper[row] == pytest.approx(table.scores + LENGTH * radius)
        assert exact.at(radius)["auc"] == pytest.approx(shifted_auc(table.scores, table.labels, LENGTH * radius))
        assert exact.at(radius)["auc"] >= smooth.at(radius)["auc"]
    other, pixelwise = only(tmp_path / "out", "exact", "linf")
    assert other.claim.radii == [0.0, 1 / 255]
    total = float(fakes.linear_weights(SIDE).abs().sum())
    assert pixelwise.lower[1] == pytest.approx(pixelwise.scores - total / 255)


@pytest.mark.parametrize("constant", [-1.0, float("nan"), float("inf")])
def test_a_constant_that_no_score_has_is_a_sentence(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: float
) -> None:
    monkeypatch.setattr(Steady, "lipschitz", lambda self, norm: constant)
    said = certify(names="steady")
    assert said.code == 2 and "declare 0 or more, or None" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}


class Liar(fakes.Linear):
    """Says that it moves a thousand times more slowly than it does."""

    name = "liar"

    def lipschitz(self, norm: str) -> float | None:
        return {"l2": LENGTH / 1000}.get(norm)


class NearlyHonest(fakes.Linear):
    """Says so of a tenth, which two images at random do not show: only the steepest way does."""

    name = "nearly-honest"

    def lipschitz(self, norm: str) -> float | None:
        return {"l2": 0.9 * LENGTH}.get(norm)


@pytest.mark.parametrize("liar", [Liar, NearlyHonest])
def test_a_constant_that_is_a_lie_is_no_exact_certificate(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path, liar: type[fakes.Linear]
) -> None:
    register(liar)
    said = certify(names=liar.name)
    assert said.code == 2 and "certificate would be void; correct the constant" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}


def test_infinite_scores_have_no_lipschitz_constant(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(self: Steady, x: Tensor, noise: Noise) -> Tensor:
        return fakes.linear_weights(SIDE).to(x).mul(x).sum(dim=(1, 2, 3)) + torch.inf

    monkeypatch.setattr(Steady, "value", value)
    said = certify(names="steady")
    assert said.code == 2 and "are not finite, which no Lipschitz constant bounds" in said.err
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} <= {"percentile"}


def test_scores_may_be_infinite_where_a_percentile_is_asked(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(self: fakes.Linear, x: Tensor, noise: Noise) -> Tensor:
        found = fakes.linear_weights(SIDE).mul(x).sum(dim=(1, 2, 3))
        return found.where(found < 0, torch.inf)

    monkeypatch.setattr(fakes.Linear, "value", value)
    assert certify().code == 0
    record, table = only(tmp_path / "out", "percentile")
    assert np.isinf(table.lower[0]).any()
    assert record.at(0.0)["abstained"] == 0, "what was drawn is inf, and so is its bound"
    said = certify("--rule", "exceedance")
    assert said.code == 2 and "are infinite" in said.err


def test_a_random_detector_has_no_exact_certificate_whatever_it_claims(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify(names="drawing").code == 0
    assert {c.claim.smoothing.rule for c, _ in made(tmp_path / "out")} == {"percentile"}


def test_certified_accuracy_counts_images_that_are_right_for_sure(certify: Callable[..., Said], tmp_path: Path) -> None:
    """TPR_r is the share of anomalies with a lower bound above the threshold, FPR_r that of normals with an upper one
    above it; the threshold is the smoothed score that 5 % of the held-out normals exceed."""
    assert certify("--radii", "0,0.005,2").code == 0
    record, table = only(tmp_path / "out", "percentile")
    threshold, normal = record.results["threshold"], table.labels == 1
    for row, radius in enumerate(table.radii):
        entry = record.at(radius)
        tpr, fpr = (table.lower[row][~normal] > threshold).mean(), (table.upper[row][normal] > threshold).mean()
        assert (entry["tpr"], entry["fpr"]) == pytest.approx((100 * tpr, 100 * fpr))
        assert entry["accuracy"] == pytest.approx(100 * (tpr + 1 - fpr) / 2)
    lost = record.at(2.0)
    assert (lost["abstained"], lost["auc"], lost["tpr"], lost["fpr"], lost["accuracy"]) == (100, 0, 0, 100, 0)


def test_one_set_of_samples_serves_all_rules_percentiles_and_radii(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify("--rule", "percentile,exceedance,paper", "--p", "0.25,0.5,auto").code == 0
    drawn = fakes.Linear.scores
    assert certify("--rule", "exceedance", "--radii", "0,0.001,0.002").code == 0
    assert certify("--p", "0.75", "--alpha", "0.01", "--samples", 400).code == 0
    assert fakes.Linear.scores < drawn + 60  # the gate's
    sets = list((tmp_path / "cache" / "samples").glob("*/*"))
    assert len(sets) == 3  # test images, held-out normals, painted copies of them
    rules = {c.claim.smoothing.rule: c for c, _ in made(tmp_path / "out")}
    assert rules.keys() == {"percentile", "exceedance", "paper"}
    assert rules["paper"].claim.smoothing.is_certified is False


@pytest.mark.parametrize("rule", ["percentile", "exceedance"])
def test_a_detector_with_a_surrogate_is_certified_and_attacked(
    certify: Callable[..., Said], tmp_path: Path, rule: str
) -> None:
    assert certify("--rule", rule, "--attack-radii", "0.01", "--attack-steps", 2, names="jumping").code == 0
    record, table = only(tmp_path / "out", rule)
    assert record.at(0.01)["crossed"] == 0 and not flags(record)
    if rule == "exceedance":  # 1 / sigma-Lipschitz
        finite = np.isfinite(table.upper[0])
        moved = table.upper[1, finite] - table.upper[0, finite]
        assert finite.any() and moved == pytest.approx(np.full(finite.sum(), RADII[1] / SIGMA))


def test_an_interrupted_run_and_one_that_was_not_leave_the_same_bits(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SECONDS", 0.0)
    whole = certify("--out", tmp_path / "a", "--cache", tmp_path / "a" / "cache", "--samples", 24, "--alpha", 0.5)
    assert whole.code == 0
    counted, scores = 0, samples.SampleSet._scores

    def stopping(self: samples.SampleSet, *given: Any) -> Tensor:
        nonlocal counted
        counted += 1
        if counted in (5, 30, 40):
            raise KeyboardInterrupt
        return scores(self, *given)

    monkeypatch.setattr(samples.SampleSet, "_scores", stopping)
    codes = [certify("--samples", 24, "--alpha", 0.5).code for _ in range(4)]
    assert codes == [130, 130, 130, 0]
    assert counted == 24 + 24 + 3  # of test images and of held-out normals: nothing was drawn twice
    assert files(tmp_path / "out") == files(tmp_path / "a") != {}


def test_shards_share_the_fits_and_leave_the_certificates_of_one_run(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    asked = {"names": "linear,steady"}
    assert certify("--out", tmp_path / "whole", **asked).code == 0
    for number in (1, 2):
        said = certify("--shard", f"{number}/2", **asked)
        assert said.code == 0 and f"Shard {number}/2: " in said.out
        assert f"python -m bench report {tmp_path / 'out'}" in said.out
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["certificates"], "tables are of all shards"
        assert len({c.claim.detector.name for c, _ in made(tmp_path / "out")}) == number
    shared, whole = (made(tmp_path / name) for name in ("out", "whole"))
    assert {c.key: c.results for c, _ in shared} == {c.key: c.results for c, _ in whole}
    assert certify("--shard", "1/2", "--dry-run", **asked).out.count("bolt") == 1
    assert "3 shards don't fit" in certify("--shard", "3/3", **asked).err


def test_a_shard_that_is_told_to_end_begins_no_other_fit(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path
) -> None:
    class Ending(fakes.Linear):
        name = "ending"

        def value(self, x: Tensor, noise: Noise) -> Tensor:
            if not (tmp_path / "told").exists():
                (tmp_path / "told").touch()
                os.kill(os.getpid(), signal.SIGTERM)
            return super().value(x, noise)

    register(Ending)
    said = certify("--shard", "1/1", names="ending,linear")
    assert said.code == 75 and "Told to end: 1 fit left" in said.out
    assert {c.claim.detector.name for c, _ in made(tmp_path / "out")} == {"ending"}
    assert certify("--shard", "1/1", names="ending,linear").code == 0


def test_a_strangers_edited_code_never_meets_the_samples_of_the_old(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the score changes: no revision, no setting, no tensor."""
    monkeypatch.setattr(known_code, "KNOWN", ("detectors",))
    assert certify(*ATTACK).code == 0
    value = fakes.Linear.value
    monkeypatch.setattr(fakes.Linear, "value", lambda self, x, noise: -value(self, x, noise))
    assert certify(*ATTACK[:-1], 2).code == 0
    old, new = sorted((c for c, _ in made(tmp_path / "out")), key=lambda c: c.claim.attack["steps"])
    assert old.clean_auc + new.clean_auc == pytest.approx(100, abs=2)
    assert not flags(new) and not (tmp_path / "cache" / "samples").exists()


def test_a_certificate_that_is_there_is_not_made_again(certify: Callable[..., Said], tmp_path: Path) -> None:
    certify(*ATTACK)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "certificates").rglob("*.*")}
    scores = fakes.Linear.scores
    again = certify(*ATTACK)
    assert "already there" in again.out and fakes.Linear.scores < scores + 30  # the gate's
    assert before == {path: path.read_bytes() for path in (tmp_path / "out" / "certificates").rglob("*.*")}


def test_p_is_chosen_on_held_out_normals_and_the_record_has_the_table(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    assert certify("--p", "auto", names="skewed").code == 0
    record, _ = only(tmp_path / "out", "percentile")
    table = {row["p"]: row["mean_certified_auc"] for row in record.choice["table"]}
    assert table.keys() == set(CANDIDATES)
    assert record.claim.smoothing.p == record.choice["chosen"] == max(table, key=lambda p: table[p])
    assert record.claim.smoothing.asked == "auto"
    assert "12 held-out training normals and painted copies" in record.choice["judged_on"]


class Overestimating(fakes.Linear):
    """Under an attack's fresh noise it is another score: a certificate of the one is none of the other."""

    name = "two-faced"
    attacked = False

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x, noise) * (-1.0 if type(self).attacked else 1.0)


def test_an_attack_that_finds_more_than_is_certified_is_a_flag(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Overestimating)
    pictures = smoothed_attack.attacked_pictures

    def otherwise(*given: Any) -> Any:
        monkeypatch.setattr(Overestimating, "attacked", True)
        return pictures(*given)

    monkeypatch.setattr(smoothed_attack, "attacked_pictures", otherwise)
    said = certify("--attack-radii", "0.001", "--attack-steps", 1, names="two-faced")
    assert said.code == 0
    assert "one of the two is wrong" in " ".join(said.out.split())
    record, _ = only(tmp_path / "out", "percentile")
    assert record.at(0.001)["crossed"] > 0
    assert "!" in (tmp_path / "out" / "certificates.md").read_text().split("| Linear")[1][:30]


class Flat(fakes.Linear):
    """A score that no attack can follow: its gradient is zero."""

    name = "flat"
    title = "Flat"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return super().value(x.detach(), noise) + 0 * x.sum(dim=(1, 2, 3))


def test_an_attack_with_nothing_to_follow_is_no_silent_one(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path
) -> None:
    register(Flat)
    said = certify(*ATTACK, names="flat,linear")
    assert said.code == 0
    words = " ".join(said.out.split())
    assert "Flat, sigma 0.02, p 0.5: attack within 0.005: 100 % of its gradients were zero" in words
    assert words.count("were zero") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--sigma", "0"), "--sigma must be above 0"),
        (("--sigma", "-0.1"), "--sigma must be above 0"),
        (("--sigma", "25"), "divide by 255"),
        (("--sigma", "nan"), "--sigma takes numbers"),
        (("--sigma", ""), "--sigma is empty"),
        (("--rule", ","), "--rule is empty"),
        (("--p", ""), "--p is empty"),
        (("--samples", "0"), "--samples must lie between 1"),
        (("--samples", "15"), "give --samples 16 or more"),
        (("--radii", "0,-0.1"), "--radii are numbers of 0 or more"),
        (("--radii", "0,0.2,0.1"), "--radii must rise"),
        (("--radii", "0,0.1,0.1"), "--radii must rise"),
        (("--radii", "0,inf"), "--radii are numbers"),
        (("--radii", "0,x"), "--radii takes numbers with commas"),
        (("--linf-radii", "1/0"), "--linf-radii takes numbers"),
        (("--attack-radii", "0,0.1"), "--attack-radii are above 0"),
        (("--attack", "pgd-linf"), "is no l2 attack"),
        (("--attack", "pgd-l3"), "did you mean 'pgd-l2'"),
        (("--attack-steps", "0"), "--attack-steps must be at least 1"),
        (("--p", "0"), "percentile lies between 0 and 1"),
        (("--p", "1"), "percentile lies between 0 and 1"),
        (("--p", "half"), "--p takes numbers"),
        (("--alpha", "0"), "--alpha is a probability"),
        (("--alpha", "1"), "--alpha is a probability"),
        (("--alpha", "1e-322"), "give 1e-12 or more"),
        (("--rule", "exceedance", "--samples", "1"), "give --samples 14 or more"),
        (("--rule", "mean"), "rule"),
        (("--rule", "exceedance", "--holdout", "3"), "there are 3"),
        (("--p", "auto", "--holdout", "0"), "there are 0"),
        (("--detectors", "smooth:linear"), "smoothed already"),
        (("--match-noise",), r"can be told how much noise images carry \(freerad, told\)"),
        (("--match-noise", "--detectors", "told", "--sigma", "0.1,0.7"), "told knows no such noise"),
        (("--match-noise", "--detectors", "told", "--set", "told.given=0.1"), "leave one of them out"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_before_anything_is_done(
    certify: Callable[..., Said], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    said = certify(*words)
    assert said.code == 2
    (line,) = said.err.strip().splitlines()
    assert line.startswith("Error: ") and re.search(sentence, line), line
    assert not list(tmp_path.rglob("*.safetensors"))


def test_so_many_samples_as_the_sentence_names_are_enough_and_one_less_is_not() -> None:
    for p in (0.5, 0.9):
        with pytest.raises(BenchError, match=r"give --samples (\d+)") as caught:
            CertifyConfig(samples=1, ps=(p,)).check_samples(120)
        needed = int(str(caught.value).split("--samples ")[1].split()[0])
        CertifyConfig(samples=needed, ps=(p,)).check_samples(120)
        with pytest.raises(BenchError):
            CertifyConfig(samples=needed - 1, ps=(p,)).check_samples(120)


def test_a_greater_risk_is_less_than_a_full_certificate() -> None:
    assert CertifyConfig(alpha=0.0001).limits == CertifyConfig().limits == []
    assert CertifyConfig(alpha=0.05).limits == ["--alpha 0.05: above 0.001"]


def test_a_detector_that_fails_costs_its_own_rows_alone(certify: Callable[..., Said], tmp_path: Path) -> None:
    said = certify(names="not-a-number,linear")
    assert said.code == 2 and "not-a-number on bolt" in said.err and "NaN" in said.err
    assert [c.claim.detector.name for c, _ in made(tmp_path / "out")] == ["linear"]


def test_a_score_that_looks_at_its_batch_is_not_certified(
    certify: Callable[..., Said], register: Callable[..., None], tmp_path: Path
) -> None:
    """A certificate is of a score that depends on its image and its noise alone."""
    for cls, sentence in ((BatchMaximum, "other images of its batch"), (PretendsToBeDeterministic, "draws noise")):
        register(type(cls.__name__, (cls,), {"name": "odd"}))
        said = certify("--detectors", "odd", "--cache", tmp_path / cls.__name__)
        assert said.code == 2 and sentence in said.err
    assert not made(tmp_path / "out")


def test_a_detector_that_can_be_told_of_the_noise_is_told_of_each_sigma(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    """One fit for each sigma; whatever cannot be told is certified as ever, and without the option nothing is told."""
    sigmas = (SIGMA, 2 * SIGMA)
    words = "--sigma", ",".join(map(str, sigmas))
    said = certify("--match-noise", *words, names="told,linear")
    assert said.code == 0, said.err
    claims = {(c.claim.detector.name, c.claim.smoothing.sigma): (c, t) for c, t in made(tmp_path / "out")}
    assert claims.keys() == {(name, sigma) for name in ("told", "linear") for sigma in sigmas}
    for sigma in sigmas:
        (told, table), (plain, beside) = claims["told", sigma], claims["linear", sigma]
        assert dict(told.claim.detector.settings) == {"given": sigma} and not told.claim.detector.is_stochastic
        assert not told.full_run and label(told).endswith(f"given={sigma:g}")
        assert plain.claim.detector.settings == {"knob": 1}
        spread = 1.5 * LENGTH * sigma * (500**-0.5)  # of the median of 500 samples, with its 1.25 rounded up
        assert np.abs(table.scores - beside.scores - 2 * sigma).max() < 6 * spread
    text = " ".join(said.out.split())
    assert f"given={SIGMA:g}" in text
    assert "already there" in certify("--match-noise", *words, names="told,linear").out
    passes = " ".join(certify("--match-noise", "--dry-run", *words, names="told,linear").out.split())
    assert passes.count("0 of 28,000") == 2
    untold = certify("--out", tmp_path / "untold", names="told")
    assert untold.code == 0 and "given=" not in untold.out


def test_a_dry_run_says_what_is_left_and_does_nothing(certify: Callable[..., Said], tmp_path: Path) -> None:
    said = certify("--dry-run")
    assert said.code == 0 and not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()
    words = " ".join(said.out.split())
    assert f"{16 * 500 + 12 * 500:,}" in words and "Nothing was run" in words
    assert "fits aside: 0 s, and what is not known." in words  # nobody has measured this one
    of_attack = certify(
        "--dry-run", "--attack-radii", "0.01,0.02", "--attack-steps", 3, "--rule", "percentile,exceedance"
    )
    gradients = 16 * 2 * 2 * smoothed_attack.SAMPLES * 3  # images, radii, rules
    passes = 28 * 500 + 16 * 2 * 2 * 500
    assert f"{gradients:,}" in of_attack.out and f"{passes:,}" in of_attack.out
    assert words == " ".join(certify("--dry-run", "--sigma", f"{SIGMA},{SIGMA}").out.split())  # twice the same is once
    certify()
    assert f"{(16 + 12) * 100:,} of {(16 + 12) * 600:,}" in " ".join(certify("--dry-run", "--samples", 600).out.split())


def test_everything_fits_into_80_columns_and_into_40(
    certify: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        said = certify("--rule", "percentile,exceedance,paper", *ATTACK, names="linear,steady")
        assert said.code == 0
        lines = [line for line in said.out.splitlines() if "Tables and plots" not in line]  # a path stays whole
        assert max(map(len, lines)) <= width
        assert "Certified AUC (l2)" in " ".join(said.out.split())
    assert "!" not in said.out


def test_report_makes_the_tables_again(
    certify: Callable[..., Said], command: Callable[..., Said], tmp_path: Path
) -> None:
    certify()
    tables = [tmp_path / "out" / f"certificates.{kind}" for kind in ("md", "csv")]
    before = [path.read_bytes() for path in tables]
    for path in tables:
        path.unlink()
    said = command("report", tmp_path / "out")
    assert said.code == 0 and "certificates.md" in said.out
    assert [path.read_bytes() for path in tables] == before


def test_a_certificate_that_was_changed_is_a_warning_and_leaves_the_tables(
    certify: Callable[..., Said], command: Callable[..., Said], tmp_path: Path
) -> None:
    certify(names="steady")
    (path,) = (tmp_path / "out" / "certificates").rglob("steady--percentile--*.json")
    path.write_text(path.read_text().replace('"auc"', '"AUC"', 1))
    said = command("report", tmp_path / "out")
    assert said.code == 0 and "Warning: The certificate" in said.out
    text = (tmp_path / "out" / "certificates.md").read_text()
    assert "Steady, exact" in text and "sigma" not in text
    assert certify(names="steady").code == 0  # makes it again
    assert "Steady, sigma" in (tmp_path / "out" / "certificates.md").read_text()


def test_a_revised_detector_leaves_its_certificates_stale(
    certify: Callable[..., Said], command: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify()
    assert "‡" not in (tmp_path / "out" / "certificates.md").read_text()
    monkeypatch.setattr(fakes.Linear, "revision", 2)
    command("report", tmp_path / "out")
    assert "‡" in (tmp_path / "out" / "certificates.md").read_text()
