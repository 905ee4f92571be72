"""`python -m bench certify`, from the command to the record, against what is known of a linear score."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from certify_fakes import ATTACK, LENGTH, SIDE, SIGMA, centres, files, made, only, shifted_auc
from conftest import Said
from torch import Tensor
from zoo import BatchMaximum, PretendsToBeDeterministic

from bench.cell import known_code, samples
from bench.plan.certify import CANDIDATES
from bench.report.certificates import flags, label
from detectors.noise import Noise


def test_a_linear_score_has_its_closed_form_from_the_command_to_the_record(
    certify: Callable[..., Said], tmp_path: Path
) -> None:
    """Q_p(x) = <w, x> + |w| sigma Phi^-1(p) moves by |w| r: the bounds contain it, and not much more."""
    assert certify("--samples", 2000, "--attack-radii", "0.01", "--attack-steps", 4).code == 0
    record, table = only(tmp_path / "out", "percentile")
    centre = centres(record, tmp_path)
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
