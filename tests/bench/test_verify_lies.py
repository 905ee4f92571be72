"""Claims that lie in one thing alone, and not in their AUC, and claims that would hold by an accident of arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import test_verify
import torch
from fake_records import write_record
from test_verify import Dark, changed, forge, outcomes
from torch import Tensor

from bench.data import registry as datasets
from bench.plan.of_record import Machine
from bench.records import kept_images, recount, store
from bench.records.record import Record
from bench.records.schema import content_sha256
from bench.verify import again, levels, rescored, stated
from bench.verify.again import Try
from bench.verify.agreement import agreement
from bench.verify.beside import far_apart
from bench.verify.finding import Finding, Outcome, exit_code

Made = Callable[..., Record]
Judged = Callable[..., list[Finding]]
Command = Callable[..., Any]
made = test_verify.made


@pytest.fixture
def judged(folder: Path, tmp_path: Path) -> Judged:
    """Verifies a record up to a level, each time as if for the first."""
    times = count()

    def verify(record: Record, level: int, wanted: Try | None = None) -> list[Finding]:
        assert record.path is not None
        machine = Machine(data_root=folder, device="cpu", cache=tmp_path / "cache")
        out = tmp_path / f"made-again-{next(times)}"
        asked = levels.Verification(level, machine, out, wanted or Try())
        return list(levels.findings(stated.read(record.path), asked, fakes.Quiet()))

    return verify


def state(record: Record, **entries: Any) -> None:
    """Other entries beside the cell, a table's by its name, and the hash that such a record has; figures that follow
    from a threshold are made to follow."""
    assert record.path is not None
    document = json.loads(record.path.read_text())
    for name, value in entries.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) and value else value
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))


def on(monkeypatch: pytest.MonkeyPatch, *, same_machine: bool) -> None:
    for module in (again, rescored):
        monkeypatch.setattr(module, "is_same_machine", lambda *anything: same_machine)


# -- what stands beside the figures -----------------------------------------------------------------------------------


def test_a_claim_to_be_a_full_run_is_held_against_the_plan(made: Made, judged: Judged) -> None:
    record = made()
    assert not record.full_run and outcomes(judged(record, 3)) == [Outcome.HOLDS] * 3
    state(record, limits=[], full_run=True)
    found = judged(record, 2)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.FAILS]
    assert "says that it is a full run of its protocol" in found[1].sentence and "--steps" in found[1].sentence


def test_signs_that_were_taken_out_of_a_record_are_found(made: Made, judged: Judged) -> None:
    record = made(step_size=1e-5)  # which moves nothing: plain noise does more
    assert record.indicators["noise_won_share"] > 0.5
    assert judged(record, 3)[2].outcome is Outcome.HOLDS  # it owns up to it
    state(record, indicators={"noise_won_share": None})
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.HOLDS, Outcome.FAILS]
    assert "plain noise of the attack's size did more" in found[2].sentence


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"results": {"brightness": {"separability": 77.0, "flagged": False}}}, "brightness.separability"),
        ({"indicators": {"forward_passes_per_image": 1}}, "forward_passes_per_image"),
    ],
)
def test_other_numbers_beside_the_same_scores_do_not_hold(
    made: Made, judged: Judged, entries: dict[str, Any], named: str
) -> None:
    record = made()
    state(record, **entries)
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.HOLDS, Outcome.FAILS]
    assert named in found[2].sentence


def test_a_size_of_the_images_that_is_none_does_not_hold(made: Made, judged: Judged) -> None:
    record = made()
    state(record, images={"bytes": record.images["bytes"] + 1})  # for which no one would pack or copy them
    assert outcomes(judged(record, 2)) == [Outcome.HOLDS, Outcome.FAILS]


def test_a_threshold_of_ones_own_is_found(made: Made, judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a threshold that no image reaches, no attack on normals succeeds."""
    record = made()
    assert record.results.get("threshold") is None  # for so few normals are held out
    scores = store.read_scores(record)
    follow = recount.figures(scores, 1e6, complete=not record.cell.early_stop)
    state(record, results={"threshold": 1e6} | {n: follow[n] for n in ("attack_success", "robust_accuracy")})
    found = judged(record, 3)
    assert found[2].outcome is Outcome.FAILS and "threshold" in found[2].sentence
    # And where its scores are a little off, as another machine's would be: then nobody knows.
    on(monkeypatch, same_machine=False)
    forge(record, scores=replace(scores, robust=np.nextafter(scores.robust, np.inf)))
    state(record, results={"threshold": 1e6} | {n: follow[n] for n in ("attack_success", "robust_accuracy")})
    found = judged(record, 4)
    assert outcomes(found)[:3] == [Outcome.HOLDS, Outcome.HOLDS, Outcome.UNJUDGED]
    assert "robust_accuracy" in found[2].sentence


def test_pairs_that_are_not_tied_here_are_not_believed(
    made: Made, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The AUC, in which a tie counts half, stays; the strict AUC, which ranks under `strict`, would be another one."""
    record = made()
    scores = store.read_scores(record)
    tied = replace(scores, robust=np.zeros_like(scores.robust))  # what it comes to here
    half = np.zeros_like(scores.robust)
    for label in (1, -1):  # half of the pairs won, half of them lost, and none tied
        of_label = np.flatnonzero(scores.labels == label)
        half[0, of_label] = np.arange(len(of_label)) if label == 1 else 2.5
    forge(record, scores=replace(scores, robust=half))
    monkeypatch.setattr(rescored, "_scores", lambda *anything: tied)
    on(monkeypatch, same_machine=False)
    found = judged(record, 2)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.UNJUDGED] and exit_code(found, 2) == 2
    assert "robust.strict_auc 50 and 0" in found[1].sentence
    one, other = (recount.figures(each, None) for each in (replace(scores, robust=half), tied))
    assert any("robust.strict_auc" in told for told in far_apart(one, other, 6, 6))


def test_what_another_try_leaves_is_counted_as_the_claim_counts_it(
    made: Made, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under strict a tie is lost, and an attack that ties all pairs takes everything."""
    record = made(protocol="strict-lite", epsilons=(1e-6,))
    run = again._run

    def tied(ground: Any, plan: Any, out: Path) -> Record:
        found = run(ground, plan, out)
        if "level-4" not in str(out):
            return found
        robust = found.results["robust"] | {"strict_auc": 0.0, "strict_low": 0.0, "strict_high": 20.0}
        return replace(found, results=found.results | {"robust": robust})

    monkeypatch.setattr(again, "_run", tied)
    found = judged(record, 4)
    assert outcomes(found) == [Outcome.HOLDS] * 3 + [Outcome.FAILS]
    assert "left a strict robust AUC of 0.0" in found[3].sentence


def test_no_other_try_makes_up_for_a_level_3_that_could_not_be_judged() -> None:
    found = [Finding(1, Outcome.HOLDS, ""), Finding(2, Outcome.UNJUDGED, ""), Finding(3, Outcome.UNJUDGED, "")]
    held = [*found[:2], Finding(3, Outcome.HOLDS, "")]
    assert exit_code(held, 3) == 0 and exit_code([*held, Finding(4, Outcome.HOLDS, "")], 4) == 0
    assert exit_code(found, 3) == 2 and exit_code([*found, Finding(4, Outcome.HOLDS, "")], 4) == 2


def test_labels_that_are_not_those_of_the_data_do_not_hold(made: Made, judged: Judged) -> None:
    """Names, counts and hashes are the data's, and the AUC is too: two images have changed places."""
    record = made()
    scores = store.read_scores(record)
    first, second = (int(np.flatnonzero(scores.labels == label)[0]) for label in (1, -1))
    order = np.arange(len(scores.labels))
    order[[first, second]] = second, first
    defects = tuple(scores.defects[i] for i in order)
    lie = replace(scores, labels=scores.labels[order], defects=defects)
    lie = replace(lie, clean=scores.clean[:, order], robust=scores.robust[:, order])
    forge(record, scores=lie)
    for level in (2, 3):
        found = judged(record, level)
        assert outcomes(found) == [Outcome.HOLDS, Outcome.FAILS]
        assert "2 of 12 images have another label" in found[1].sentence


# -- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outlier", [1e6, 1e300, np.inf])
def test_one_huge_score_hides_no_other(
    made: Made, judged: Judged, monkeypatch: pytest.MonkeyPatch, outlier: float
) -> None:
    """Differences are measured by the spread of what was found here, which no claim can widen."""
    record = made()
    scores = store.read_scores(record)
    clean = scores.clean.copy()
    clean[0, clean[0].argmax()] = outlier  # the highest of all: no pair changes
    lie = replace(scores, clean=clean)
    how = agreement(lie, scores)
    assert how is not None and how.is_close and how.deviation > 1
    forge(record, scores=lie)
    on(monkeypatch, same_machine=True)
    assert outcomes(judged(record, 2)) == [Outcome.HOLDS, Outcome.FAILS]


def test_scores_that_are_no_numbers_here_do_not_hold(
    made: Made, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made()
    monkeypatch.setattr(Dark, "value", lambda self, x, noise: x.mean(dim=(1, 2, 3)) * torch.nan)
    found = judged(record, 2)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.FAILS]
    assert "no numbers" in found[1].sentence


@pytest.mark.parametrize(("beyond", "outcome"), [(1e-7, Outcome.HOLDS), (2e-6, Outcome.FAILS)])
def test_the_ball_ends_where_rounding_ends(
    made: Made, judged: Judged, folder: Path, beyond: float, outcome: Outcome
) -> None:
    record = made()
    clean = datasets.get("folder", folder).test("bolt", fakes.SIDE, per_class=60).pixels()
    images = kept_images.read(record)
    grey = (clean[0] > 0.2) & (clean[0] < 0.8)
    images[0] = torch.where(grey, clean[0] - test_verify.EPSILON - beyond, images[0])
    found = scores_of(record, images)
    forge(record, images=images, scores=found)
    assert judged(record, 2)[1].outcome is outcome


def scores_of(record: Record, images: Tensor) -> Any:
    """What `Dark` says of other images."""
    scores = store.read_scores(record)
    shift = images.mean(dim=(1, 2, 3)) - kept_images.read(record).mean(dim=(1, 2, 3))
    return replace(scores, robust=(torch.from_numpy(scores.robust).float() - shift).double().numpy())


# -- which cell it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("attack__steps", 3.0),
        ("attack__random_start", 0),
        ("protocol__version", True),
        ("subset__per_class", 60.0),
    ],
)
def test_a_number_of_another_type_is_another_cell(made: Made, judged: Judged, place: str, value: Any) -> None:
    """It is written otherwise, so its key is another one: a twin that stands beside the true record."""
    record = made()
    steps, name = place.split("__")
    was = record.cell.to_document()[steps][name]
    if place == "protocol__version":
        value = float(was)
    assert value == was and type(value) is not type(was)
    changed(record, place, value)
    found = judged(record, 3)
    assert all(one.outcome is not Outcome.HOLDS for one in found if one.level == 3)
    if found[0].outcome is Outcome.HOLDS:
        assert name in found[-1].sentence


def test_names_with_dots_in_them_are_no_tables(made: Made, judged: Judged) -> None:
    record = made()
    document = record.cell.to_document()
    settings = dict(document["detector"]["settings"])
    changed(record, "detector__settings", settings | {"a.b": 1})
    found = judged(record, 3)
    assert found[-1].outcome is Outcome.UNJUDGED


def test_the_seed_of_the_claim_is_no_other_try(made: Made, judged: Judged) -> None:
    found = judged(made(), 4, Try(seed=0))
    assert outcomes(found) == [Outcome.HOLDS] * 3 + [Outcome.UNJUDGED]
    assert "is the claim's own" in found[3].sentence


def test_two_records_of_one_cell_do_not_both_hold(tmp_path: Path, command: Command) -> None:
    record = write_record(tmp_path / "records")
    assert record.path is not None
    for suffix in (".json", ".scores.csv"):
        path = store.companion(record.path, suffix)
        path.with_name(path.name.replace("--", "--again-", 1)).write_bytes(path.read_bytes())
    said = command("verify", tmp_path)
    assert said.code == 2 and "are of one cell" in " ".join(said.out.split())


# -- of a sweep that ended --------------------------------------------------------------------------------------------


class Bright(fakes.Fake):
    """score = mean brightness, of which a large ball leaves nothing."""

    name = "bright"


def test_a_ball_that_was_not_attacked_has_the_smaller_ones_images_and_holds(
    folder: Path, tmp_path: Path, register: Callable[..., None], one_thread: None, judged: Judged
) -> None:
    """Also where it is added to a sweep that has its records already."""
    register(Bright)
    usual = {"categories": ("bolt",), "sweep": True, "keep_images": True}
    fakes.run(fakes.config(tmp_path, folder, "bright", epsilons=(0.004, 0.5), **usual))
    found = fakes.run(fakes.config(tmp_path, folder, "bright", epsilons=(0.004, 0.5, 0.7), **usual)).records
    assert ["smaller_ball" in record.indicators for record in found] == [False, False, True]
    assert [kept_images.are_there(record) for record in found] == [True] * 3
    assert torch.equal(kept_images.read(found[1]), kept_images.read(found[2]))
    assert outcomes(judged(found[2], 3)) == [Outcome.HOLDS] * 3
