"""`certify --attack-radii`: what is attacked, judged and said of an attack on a smoothed detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
from certify_fakes import ATTACK, LENGTH, RADII, SIGMA, centres, files, only
from conftest import Said
from scipy.stats import norm
from torch import Tensor

import attacks
from bench.cell import samples, smoothed_attack
from bench.cell.unfinished import Unfinished
from bench.cli.certify_command import CertificateReporter
from bench.report.certificates import flags
from detectors.noise import Noise


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_what_is_attacked_and_judged_is_the_very_score_that_is_certified(
    certify: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, p: float
) -> None:
    """Of a linear score: <w, x> +- |w| r + |w| sigma Phi^-1(p), which another p misses by two thirds of |w| sigma."""
    followed = attacked_detectors(monkeypatch)
    assert certify("--p", p, "--samples", 1000, "--attack-radii", "0.01", "--attack-steps", 4).code == 0
    record, table = only(tmp_path / "out", "percentile")
    sign, row = np.where(table.labels == 1, 1, -1), table.radii.index(0.01)
    beyond = (table.attacked[row] - centres(record, tmp_path) - sign * LENGTH * 0.01) / (LENGTH * SIGMA)
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
    assert "Flat, sigma 0.02, p 0.5, N 500: attack within 0.005: 100 % of its gradients were zero" in words
    assert words.count("were zero") == 1
