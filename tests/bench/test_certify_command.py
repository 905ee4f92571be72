"""What `python -m bench certify` refuses, says and leaves on the terminal and in its tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import bench_fakes as fakes
import pytest
from certify_fakes import ATTACK, SIGMA, made
from conftest import Said

from bench.cell import smoothed_attack
from bench.errors import BenchError
from bench.plan.certify import CertifyConfig


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
