"""Certificates on the disk: their figures are those of their bounds, and a stranger's file is a sentence."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_certificates import RADII, make_certificate, make_table, write_certificate

from bench.errors import RecordError
from bench.metrics import ranking
from bench.records import certificate_store, limits, pairs
from bench.records.bounds_table import parse, render
from bench.records.cell import canonical_sha256
from bench.records.certificate import best_of
from bench.records.certificate_figures import figures
from bench.records.paths import companion
from bench.records.schema import content_sha256
from certificates.rules import worst


def by_thresholds(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under (FPR(h), TPR(h)) over all thresholds h, one after the other, in per cent."""
    points = [(0.0, 0.0)]
    for h in sorted({*scores.tolist()}, reverse=True):
        points.append(tuple(float((scores[labels == label] >= h).mean()) for label in (1, -1)))  # type: ignore[arg-type]
    fpr, tpr = np.array(points).T
    return 100.0 * float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_certified_auc_is_the_count_over_thresholds(seed: int) -> None:
    """Ties and infinite bounds included."""
    table = make_table(seed=seed, lost_from=0.25, shift=1.0)
    rounded = dataclasses.replace(table, lower=table.lower.round(1), upper=table.upper.round(1))
    found = figures(make_certificate(samples=1000).claim, rounded, None)["radii"]
    for row, radius in enumerate(RADII):
        at_worst = worst(rounded.bounds, table.labels)[row]
        assert found[repr(radius)]["auc"] == pytest.approx(by_thresholds(at_worst, table.labels), abs=1e-10)
    lost = found["0.25"]
    assert (lost["auc"], lost["low"], lost["strict_auc"], lost["abstained"]) == (0, 0, 0, 100)


def test_no_attacker_who_moves_each_image_within_its_bounds_comes_below_the_certified_auc() -> None:
    """And one who moves each to its worst bound comes to it."""
    table, draws = make_table(shift=1.0), np.random.default_rng(1)
    certified = figures(make_certificate().claim, table, None)["radii"]["0.25"]["auc"]
    for _ in range(200):
        anywhere = draws.uniform(table.lower[2], table.upper[2])
        assert ranking.auc(anywhere, table.labels) >= certified
    assert ranking.auc(worst(table.bounds, table.labels)[2], table.labels) == certified


def test_a_table_comes_back_bit_by_bit() -> None:
    table = make_table(attacked=(0.1,), lost_from=0.25)
    again = parse(render(table))
    assert (again.images, again.radii) == (table.images, table.radii)
    for name in ("labels", "scores", "lower", "upper", "attacked", "attacked_low", "attacked_high"):
        assert np.array_equal(getattr(again, name), getattr(table, name), equal_nan=name.startswith("attacked"))


def test_what_is_written_is_read_and_written_again_alike(tmp_path: Path) -> None:
    one = write_certificate(tmp_path, make_table(attacked=(0.1,)), choice={"chosen": 0.5})
    assert one.path is not None and one.path.name.startswith("spade--percentile--")
    text = one.path.read_text()
    assert one.to_json() == text
    assert certificate_store.find(tmp_path, one.claim) == one
    assert certificate_store.read_all(tmp_path) == ([one], [])


def test_figures_that_are_not_those_of_the_bounds_are_not_written(tmp_path: Path) -> None:
    table = make_table()
    claimed = make_certificate(make_table(shift=9.0))
    with pytest.raises(RecordError, match=r"its bounds say|its scores give"):
        certificate_store.write(claimed, table, tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("smoothing", "sentence"),
    [
        ({"rule": "exact", "norm": "l2"}, "Lipschitz constant of 2.0"),
        ({"rule": "exceedance"}, "radius / sigma"),
        ({"samples": 300}, "300 samples cannot show what it says of radius 0.25"),
        ({"sigma": 0.05}, "10000 samples cannot show what it says of radius 0.25"),
    ],
)
def test_bounds_that_the_rule_cannot_give_are_refused(tmp_path: Path, smoothing: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        write_certificate(tmp_path, **smoothing)


@pytest.mark.parametrize("smoothing", [{"rule": "exact", "norm": "l2"}, {"rule": "exceedance"}])
def test_bounds_that_the_rule_gives_are_not(tmp_path: Path, smoothing: dict[str, Any]) -> None:
    table, speed = make_table(lost_from=0.25), 2.0 if smoothing["rule"] == "exact" else 10.0
    moved = speed * np.array(RADII)[:, None]
    lower, upper = table.scores - moved, table.scores + moved
    if smoothing["rule"] == "exceedance":
        lower[:, 3], upper[:, 4] = -np.inf, np.inf
    write_certificate(tmp_path, dataclasses.replace(table, lower=lower, upper=upper), **smoothing)


def test_of_the_same_smoothed_detector_the_one_with_most_samples_counts() -> None:
    few = make_certificate(samples=300, written="2026-12-31")
    many, attacked = make_certificate(), make_certificate(make_table(attacked=(0.1,)))
    other = make_certificate(sigma=0.2)
    assert best_of([few, many, other]) == [many, other]
    assert best_of([many, attacked, few]) == [attacked]


def test_of_several_seeds_the_smallest_stands_and_of_several_lists_of_radii_the_longest() -> None:
    """Whoever tries seeds until one is lucky has to say so; a single radius hides no curve."""
    usual = make_certificate()
    newer = dataclasses.replace(usual, written="2026-12-31")
    lucky = dataclasses.replace(newer, claim=dataclasses.replace(usual.claim, seed=7))
    assert best_of([lucky, usual]) == best_of([usual, lucky]) == [usual]
    short = dataclasses.replace(newer, claim=dataclasses.replace(usual.claim, radii=[0.0]))
    assert best_of([short, usual]) == best_of([usual, short]) == [usual]


def test_a_certificate_of_a_greater_risk_takes_no_ones_place() -> None:
    usual, loose = make_certificate(), make_certificate(alpha=0.5, samples=20_000, written="2026-12-31")
    assert best_of([usual, loose]) == best_of([loose, usual]) == [usual]


# -- strangers' files -----------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Where two certificates lie; the second is to be spoilt."""
    table = make_table(attacked=(0.1,))
    good, bad = (write_certificate(tmp_path, table, category=name) for name in ("good", "bad"))
    assert good.path is not None and bad.path is not None
    return good.path, bad.path


def refused(two: tuple[Path, Path]) -> str:
    """The sentence about the second, when the first still counts."""
    found, problems = certificate_store.read_all(two[0].parents[2])
    assert [one.path for one in found] == [two[0]]
    (problem,) = problems
    assert str(two[1].with_suffix("")) in problem and "\n" not in problem and problem.endswith(("again.", "version."))
    return problem


def forged(path: Path, **changes: Any) -> None:
    """Other entries at their places, and the hashes that such content has."""
    document = json.loads(path.read_text())
    for place, value in changes.items():
        *steps, last = place.split("__")
        inner = document
        for step in steps:
            inner = inner[step.replace("_", ".") if step[0].isdigit() else step]
        inner[last] = value
    document["key"] = canonical_sha256(document["claim"])
    document["content_sha256"] = content_sha256(document)
    path.write_text(json.dumps(document))


def test_a_certificate_that_is_older_than_a_figure_has_it_when_it_is_read(two: tuple[Path, Path]) -> None:
    new = certificate_store.read(two[1])
    radii = json.loads(two[1].read_text())["results"]["radii"]
    older = {r: {n: v for n, v in entry.items() if not n.startswith("strict")} for r, entry in radii.items()}
    forged(two[1], results__radii=older)
    assert certificate_store.read(two[1]).results == new.results
    forged(two[1], results__radii__0_1__strict_auc=99.0)
    assert "strict_auc is 99.0" in refused(two)


@pytest.mark.parametrize("rule", ["percentile", "paper"])
def test_scores_that_are_infinite_themselves_are_no_abstentions(rule: str) -> None:
    """A sample at the place of the bound says so, and it is inf; at the last radius no sample does."""
    table = make_table(lost_from=0.25)
    upper = table.upper.copy()
    upper[:2, 0] = np.inf
    few = make_certificate(samples=1000 if rule == "percentile" else 500, rule=rule)
    found = figures(few.claim, dataclasses.replace(table, upper=upper), None)["radii"]
    assert [entry["abstained"] for entry in found.values()] == [0.0, 0.0, 100.0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"results__radii__0_1__auc": 99.0}, "results.radii.0.1.auc is 99.0"),
        ({"results__radii__0_1__attacked_auc": 99.0}, "attacked_auc"),
        ({"results__radii__0_1__crossed": 5}, "crossed"),
        ({"results__radii__0_1__extra": 1.0}, "other figures"),
        ({"results__radii": {}}, "results.radii"),
        ({"results__radii": []}, "results.radii"),
        ({"results__clean": 3}, "results.clean"),
        ({"results__clean__auc": "99"}, "results.clean.auc"),
        ({"results__threshold": "high"}, "threshold"),
        ({"results__threshold": True}, "threshold"),
        ({"claim__radii": [0.0, 0.1, 0.3]}, "claim.radii is"),
        ({"claim__radii": [0.1, 0.0, 0.25]}, "rising"),
        ({"claim__radii": ["a"]}, "rising"),
        ({"claim__radii": []}, "claim.attack.radii|at least one"),
        ({"claim__radii": [0.0, True]}, "rising"),
        ({"claim__radii": [0.0, 1e300]}, "rising"),
        ({"claim__attack__radii": [0.25]}, "claim.attack.radii"),
        ({"claim__attack__radii": "0.1"}, "claim.attack.radii"),
        ({"claim__alpha": 0.0}, "alpha"),
        ({"claim__alpha": 1}, "alpha"),
        ({"claim__smoothing__rule": "mine"}, "no rule"),
        ({"claim__smoothing__norm": "l7"}, "no rule or norm"),
        ({"claim__smoothing__sigma": 0.0}, "smoothing.sigma"),
        ({"claim__smoothing__sigma": None}, "smoothing.sigma"),
        ({"claim__smoothing__p": 1.0}, "smoothing.p"),
        ({"claim__smoothing__samples": 0}, "smoothing.samples"),
        ({"claim__smoothing__rule": "exceedance"}, "smoothing.threshold"),
        ({"claim__smoothing__rule": "exact"}, "smoothing.constant"),
        ({"claim__subset__normals": 9}, "claim.subset.normals"),
        ({"claim__subset__normals": 0}, "claim.subset.normals"),
        ({"claim__subset__sha256": "0"}, "claim.subset.sha256"),
        ({"claim__image_size": 10**9}, "image_size"),
        ({"claim__category": 7}, "claim.category"),
        ({"claim": []}, "claim.dataset"),
        ({"bounds_sha256": "0" * 64}, "not those it was written with"),
        ({"bounds_sha256": None}, "bounds_sha256"),
        ({"format": 2}, "format 1"),
        ({"format": True}, "no record of the kind"),
        ({"kind": "attack"}, "no record of the kind"),
        ({"full_run": False}, "full_run"),
        ({"limits": ["x"]}, "full_run"),
        ({"remarks": [1]}, "lists of sentences"),
        ({"choice": "p"}, "choice"),
        ({"surprise": 1}, "no entry"),
        ({"written": 3}, "written"),
        ({"results__n": 10**400}, "bits"),
    ],
)
def test_a_forged_entry_is_a_sentence(two: tuple[Path, Path], changes: dict[str, Any], sentence: str) -> None:
    forged(two[1], **changes)
    assert re.search(sentence, refused(two))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _twice(path: Path) -> None:
    path.write_text(path.read_text().replace('"kind"', '"format": 1, "kind"', 1))


def _by_hand(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))


def _large(path: Path) -> None:
    with path.open("ab") as stream:
        stream.truncate(limits.RECORD_BYTES + 1)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("spoil", [_cut, _nested, _twice, _by_hand, _large, _folder, _no_text])
def test_a_spoilt_file_is_a_sentence(two: tuple[Path, Path], spoil: Callable[[Path], None]) -> None:
    spoil(two[1])
    refused(two)


def _line(text: str, number: int, column: int, value: str) -> str:
    lines = text.splitlines()
    cells = lines[number].split(",")
    cells[column] = value
    lines[number] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.replace("image,label", "label,image"), "first line"),
        (lambda t: "\n".join(t.splitlines()[:-1]) + "\n", "once for each radius"),
        (lambda t: t + t.splitlines()[-1] + "\n", "once for each radius"),
        (lambda t: t.replace(".png,-1,", ".png,2,"), "labels"),
        (lambda t: _line(t, 2, 4, "nan"), "cannot be read"),
        (lambda t: _line(t, 2, 4, "x"), "cannot be read"),
        (lambda t: _line(t, 2, 4, "1e9"), "above its upper one"),
        (lambda t: _line(t, 2, 4, ""), "above its upper one"),
        (lambda t: _line(t, 2, 4, "-1e9"), "closer at a larger radius"),
        (lambda t: _line(t, 2, 2, "0.5"), "one score"),
        (lambda t: _line(t, 30, 6, ""), "all images were attacked, or none"),
        (lambda t: _line(t, 2, 0, "test/good/000.png"), "once for each radius"),
        (lambda t: "", "first line"),
    ],
)
def test_bounds_that_no_certificate_has_are_a_sentence(
    two: tuple[Path, Path], change: Callable[[str], str], sentence: str
) -> None:
    path = companion(two[1], certificate_store.BOUNDS_SUFFIX)
    path.write_text(change(path.read_text()))
    assert "not those it was written with" in refused(two)
    forged(two[1], bounds_sha256=pairs.digest(path.read_text()))
    assert sentence in refused(two)


def test_missing_bounds_are_a_sentence(two: tuple[Path, Path]) -> None:
    companion(two[1], certificate_store.BOUNDS_SUFFIX).unlink()
    assert "cannot be read" in refused(two)


def test_a_copy_is_said_and_the_newer_one_counts(tmp_path: Path) -> None:
    old = write_certificate(tmp_path / "a")
    assert old.path is not None
    twin = old.path.with_name(old.path.name.replace("spade--", "spade--x--"))
    new = dataclasses.replace(old, written="2027-01-01")
    twin.write_text(new.to_json())
    suffix = certificate_store.BOUNDS_SUFFIX
    companion(twin, suffix).write_bytes(companion(old.path, suffix).read_bytes())
    found, problems = certificate_store.read_all(tmp_path / "a")
    assert [one.written for one in found] == ["2027-01-01"] and "of the same claim" in problems[0]


def test_one_that_does_not_count_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = write_certificate(tmp_path)
    assert one.path is not None
    _by_hand(one.path)
    assert certificate_store.find(tmp_path, one.claim) is None
    assert "That is done now" in caplog.text


def test_names_may_be_anything(tmp_path: Path) -> None:
    """What is no text, what a spreadsheet would run, what leaves the folder."""
    odd = ("=1+1", "../../x", 'a"b,c\nd', "\udcff.png")
    table = dataclasses.replace(make_table(normals=2, anomalies=2), images=odd)
    one = write_certificate(tmp_path, table, category="../up", detector="../../evil")
    assert certificate_store.read_bounds(one).images == odd
    assert one.path is not None and one.path.resolve().is_relative_to(tmp_path)
