"""Claims that hold, and planted ones that do not: each level finds what it is there for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
import torch
from fake_certificates import write_certificate
from safetensors.torch import load_file, save
from torch import Tensor

from attacks.threat import LInf
from bench.data import registry as datasets
from bench.plan.of_record import Machine
from bench.records import kept_images, recount, store
from bench.records.cell import canonical_sha256
from bench.records.paths import IMAGES_SUFFIX, SCORES_SUFFIX, companion
from bench.records.record import Record
from bench.records.schema import content_sha256
from bench.records.score_table import Scores
from bench.verify import again, levels, rescored, stated
from bench.verify.again import Try
from bench.verify.finding import Finding, Outcome, exit_code
from detectors import registry
from detectors.noise import Noise

Register = Callable[..., None]
Command = Callable[..., Any]
EPSILON = 24 / 255


class Dark(fakes.Fake):
    """score = how dark the image is: blots are dark."""

    name = "dark"

    def value(self, x: Tensor, noise: Noise) -> Tensor:
        return self.level - x.mean(dim=(1, 2, 3))


@pytest.fixture
def made(folder: Path, tmp_path: Path, register: Register, one_thread: None) -> Callable[..., Record]:
    """Runs one cell of `Dark` and keeps its images. Returns its record."""
    register(Dark)

    def run(**changes: Any) -> Record:
        usual: dict[str, Any] = {"categories": ("bolt",), "keep_images": True, "epsilons": (EPSILON,)}
        (record,) = fakes.run(fakes.config(tmp_path, folder, "dark", **(usual | changes))).records
        return record

    return run


@pytest.fixture
def judged(folder: Path, tmp_path: Path) -> Callable[..., list[Finding]]:
    """Verifies a record up to a level."""

    def verify(record: Record, level: int, wanted: Try | None = None) -> list[Finding]:
        assert record.path is not None
        machine = Machine(data_root=folder, device="cpu", cache=tmp_path / "cache")
        asked = levels.Verification(level, machine, tmp_path / "made-again", wanted or Try())
        return list(levels.findings(stated.read(record.path), asked, fakes.Quiet()))

    return verify


def outcomes(found: list[Finding]) -> list[Outcome]:
    return [one.outcome for one in found]


def forge(record: Record, *, scores: Scores | None = None, images: Tensor | None = None) -> None:
    """Other scores or images, and figures and hashes that agree with them: what reading cannot find out."""
    assert record.path is not None
    document = json.loads(record.path.read_text())
    if scores is not None:
        text = store.render_scores(scores)
        companion(record.path, SCORES_SUFFIX).write_text(text)
        document["scores_sha256"] = store.pairs.digest(text)
        document["results"] |= recount.figures(
            scores, document["results"].get("threshold"), complete=not record.cell.early_stop
        )
    if images is not None:
        data = save({kept_images.NAME: images})
        companion(record.path, IMAGES_SUFFIX).write_bytes(data)
        document["images"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_kept_images_are_those_that_were_scored(made: Callable[..., Record], folder: Path) -> None:
    record = made()
    assert record.path is not None
    path = companion(record.path, IMAGES_SUFFIX)
    assert record.images == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    found, scores = kept_images.read(record), store.read_scores(record)
    clean = datasets.get("folder", folder).test("bolt", fakes.SIDE, per_class=60).pixels()
    assert found.dtype == torch.float32 and not torch.equal(found, clean)
    LInf(EPSILON).assert_inside(found, clean)
    level = load_file(next((folder_of := record.path.parents[4]).rglob("cache/**/*.safetensors")))["level"]
    assert folder_of.is_dir()
    assert np.array_equal(scores.robust[0], (level - found.mean(dim=(1, 2, 3))).double().numpy())


def test_images_are_no_part_of_a_key_and_records_without_them_have_no_such_entry(made: Callable[..., Record]) -> None:
    plain = made(keep_images=False)
    assert plain.path is not None
    assert "images" not in json.loads(plain.path.read_text())
    before = companion(plain.path, SCORES_SUFFIX).read_bytes()
    kept = made()  # the cell is run again, since its images are wanted
    assert kept.key == plain.key and kept.images and kept_images.are_there(kept)
    assert companion(plain.path, SCORES_SUFFIX).read_bytes() == before
    written = plain.path.stat().st_mtime_ns
    assert made(keep_images=False).images == kept.images  # and is kept by a run that does not ask for them
    assert made().path == plain.path and plain.path.stat().st_mtime_ns == written


# -- level by level ---------------------------------------------------------------------------------------------------


def test_an_honest_claim_holds_on_all_levels(made: Callable[..., Record], judged: Callable[..., list[Finding]]) -> None:
    found = judged(made(), 4)
    assert outcomes(found) == [Outcome.HOLDS] * 4 and [one.level for one in found] == [1, 2, 3, 4]
    assert "have the stated scores, to the last bit" in found[1].sentence
    assert "has the same bits" in found[2].sentence
    assert "with seed 1" in found[3].sentence and "inside the stored interval" in found[3].sentence
    assert exit_code(found, 4) == 0


def test_a_stochastic_claim_is_judged_on_its_own_draws_and_then_on_others(
    folder: Path, tmp_path: Path, register: Register, one_thread: None, judged: Callable[..., list[Finding]]
) -> None:
    register(fakes.Noisy)
    asked = fakes.config(tmp_path, folder, "noisy", categories=("bolt",), keep_images=True)
    (record,) = fakes.run(asked).records
    assert len(store.read_scores(record).clean) >= 10
    found = judged(record, 4, Try(seed=11))
    assert outcomes(found) == [Outcome.HOLDS] * 4
    assert "to the last bit" in found[1].sentence and "the same bits" in found[2].sentence
    assert "with seed 11" in found[3].sentence


def test_figures_that_are_not_those_of_the_scores_do_not_hold(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    record = made()
    assert record.path is not None
    document = json.loads(record.path.read_text())
    document["results"]["robust"]["auc"] = 99.0
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))
    (found,) = judged(record, 4)  # nothing further is run
    assert found.outcome is Outcome.FAILS and "results.robust.auc is 99.0 and its scores give" in found.sentence


def test_made_up_scores_pass_level_1_and_no_other(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    record = made()
    scores = store.read_scores(record)
    forge(record, scores=replace(scores, robust=scores.clean + 0.001))
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.FAILS]
    assert "The images have other scores, by more than 0.1 points" in found[1].sentence
    assert record.path is not None
    companion(record.path, IMAGES_SUFFIX).unlink()
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.UNJUDGED, Outcome.FAILS]
    assert "not within 0.1 points: clean AUC" in found[2].sentence
    assert exit_code(found, 3) == 1


def test_images_outside_of_the_ball_do_not_hold(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    record = made()
    images = kept_images.read(record)
    images[2] += 0.01
    forge(record, images=images)
    found = judged(record, 2)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.FAILS]
    assert "1 of 12 images lie outside of l-inf epsilon 24/255 or of [0, 1]" in found[1].sentence


def test_images_that_are_not_numbers_do_not_hold(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    record = made()
    images = kept_images.read(record)
    images[0, 0, 0, 0] = torch.nan
    forge(record, images=images)
    assert outcomes(judged(record, 2)) == [Outcome.HOLDS, Outcome.FAILS]


@pytest.mark.parametrize(
    "tensors",
    [
        {"adversarial": torch.zeros(12, 3, 32, 32, dtype=torch.float64)},
        {"adversarial": torch.zeros(11, 3, 32, 32)},
        {"adversarial": torch.zeros(12, 3, 32, 32), "more": torch.zeros(1)},
        {"other": torch.zeros(12, 3, 32, 32)},
        {},
    ],
    ids=["dtype", "shape", "more", "name", "none"],
)
def test_files_that_hold_no_such_images_do_not_hold(
    made: Callable[..., Record], judged: Callable[..., list[Finding]], tensors: dict[str, Tensor]
) -> None:
    record = made()
    assert record.path is not None
    data = save(tensors)
    companion(record.path, IMAGES_SUFFIX).write_bytes(data)
    assert "SHA-256 differs" in judged(record, 2)[1].sentence
    document = json.loads(record.path.read_text())
    document["images"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))
    found = judged(record, 2)[1]
    assert found.outcome is Outcome.FAILS and "are not one tensor 'adversarial'" in found.sentence


def test_other_bits_on_the_same_machine_do_not_hold_and_elsewhere_0_1_points_do(
    made: Callable[..., Record], judged: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made()
    scores = store.read_scores(record)
    forge(record, scores=replace(scores, robust=np.nextafter(scores.robust, np.inf)))
    for module in (again, rescored):
        monkeypatch.setattr(module, "is_same_machine", lambda *anything: False)
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS] * 3
    assert "within rounding" in found[1].sentence and "within 0.1 points" in found[2].sentence
    for module in (again, rescored):
        monkeypatch.setattr(module, "is_same_machine", lambda *anything: True)
    monkeypatch.setattr(levels, "_made", lambda ground, level, asked: again.same_seed(ground, asked.out / "other"))
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.HOLDS, Outcome.FAILS]
    assert "other bits" in found[2].sentence


def test_a_stronger_attack_says_what_it_found_instead(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    weak = made(step_size=1e-5)  # which moves nothing
    assert weak.clean is not None and weak.robust is not None
    assert weak.robust.auc > weak.clean.auc - 5
    found = judged(weak, 4, Try(attack="pgd-linf", protocol="quick"))
    assert outcomes(found) == [Outcome.HOLDS] * 3 + [Outcome.FAILS]
    assert "left a robust AUC of 0.0" in found[3].sentence and "that is what was found instead" in found[3].sentence
    assert exit_code(found, 4) == 1


def test_an_attack_of_another_norm_speaks_of_no_claim(
    made: Callable[..., Record], judged: Callable[..., list[Finding]]
) -> None:
    found = judged(made(), 4, Try(attack="pgd-l2"))
    assert found[3].outcome is Outcome.UNJUDGED and "no other attack speaks of it" in found[3].sentence
    assert exit_code(found, 4) == 2


def test_a_sweep_is_made_again_from_its_smallest_ball(
    folder: Path, tmp_path: Path, register: Register, one_thread: None, judged: Callable[..., list[Finding]]
) -> None:
    register(Dark)
    asked = fakes.config(
        tmp_path, folder, "dark", categories=("bolt",), epsilons=(0.005, 0.01), sweep=True, keep_images=True
    )
    larger = fakes.run(asked).records[1]
    assert larger.attack.warm_from == [0.005]
    assert outcomes(judged(larger, 3)) == [Outcome.HOLDS] * 3


# -- what cannot be judged --------------------------------------------------------------------------------------------


def test_code_that_was_revised_since_is_named(
    made: Callable[..., Record], judged: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made()
    monkeypatch.setattr(Dark, "revision", 7)
    found = judged(record, 3)
    assert outcomes(found) == [Outcome.HOLDS, Outcome.UNJUDGED]
    assert "detector.revision is 1 in the record and 7 here" in found[1].sentence


def test_other_data_are_named(made: Callable[..., Record], tmp_path: Path) -> None:
    record = made()
    other = fakes.write_folder(tmp_path / "others", ("bolt",), train=14)
    machine = Machine(data_root=other, device="cpu", cache=tmp_path / "cache")
    assert record.path is not None
    asked = levels.Verification(3, machine, tmp_path / "made-again")
    found = list(levels.findings(stated.read(record.path), asked, fakes.Quiet()))
    assert found[1].outcome is Outcome.UNJUDGED and "fingerprint is" in found[1].sentence


def test_a_checkpoint_that_is_not_here_is_said(made: Callable[..., Record], judged: Callable[..., Any]) -> None:
    record = made()
    changed(record, "detector__checkpoint_sha256", "d" * 64)
    found = judged(record, 3)
    assert found[1].outcome is Outcome.UNJUDGED and "is not the record's (dddddddd" in found[1].sentence
    assert found[2].outcome is Outcome.HOLDS and "on another fit" in found[2].sentence


def changed(record: Record, place: str, value: Any) -> None:
    """Another entry at a place of the cell, and the hashes that such a record has."""
    assert record.path is not None
    document = json.loads(record.path.read_text())
    *steps, last = place.split("__")
    inner = document["cell"]
    for step in steps:
        inner = inner[step]
    inner[last] = value
    document["key"] = canonical_sha256(document["cell"])
    document["content_sha256"] = content_sha256(document)
    record.path.write_text(json.dumps(document))


STRANGE: list[tuple[str, Any]] = [
    ("dataset", "../../etc"),
    ("category", "../bolt"),
    ("category", "/etc"),
    ("preset", "huge"),
    ("image_size", 5000),
    ("image_size", 7),
    ("seed", 2**64 - 1),
    ("fit_seed", -(2**63) - 5),
    ("holdout", -1),
    ("subset__limit", 0),
    ("protocol__name", "mine"),
    ("protocol__changed", {"steps": 0}),
    ("protocol__changed", {"steps": "many"}),
    ("protocol__changed", {"keep": []}),
    ("protocol__changed", {"no_such": 1}),
    ("attack__name", "os.system"),
    ("attack__epsilon", 1e5),
    ("attack__warm_from", ["x", None]),
    ("attack__warm_from", [0.5] * 3),
    ("attack__differentiate", "import os"),
    ("detector__name", "purify:../../x"),
    ("detector__settings", {"knob": "x"}),
    ("detector__settings", {"knob": {"deep": 1}}),
    ("detector__settings", {"level": 1}),
    ("detector__revision", 99),
]


@pytest.mark.parametrize(("place", "value"), STRANGE, ids=[f"{place}={value!r:.20}" for place, value in STRANGE])
def test_whatever_a_stranger_states_is_planned_or_a_sentence(
    made: Callable[..., Record], judged: Callable[..., list[Finding]], place: str, value: Any
) -> None:
    record = made(keep_images=False)
    changed(record, place, value)
    found = judged(record, 3)
    assert found[-1].level == 3 and found[-1].outcome is Outcome.UNJUDGED
    assert found[-1].sentence.endswith((".", ")", "?")) and len(found[-1].sentence) > 30


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (lambda d: d | {"format": 3}, 2, "made by a newer version of RADBench"),
        (lambda d: d | {"written": "never"}, 1, "content_sha256 is not the hash of its content"),
        (lambda d: {}, 2, "no record of format 2"),
    ],
)
def test_the_command_says_it_in_a_sentence(
    made: Callable[..., Record], command: Command, change: Callable[[Any], Any], code: int, sentence: str
) -> None:
    record = made()
    assert record.path is not None
    record.path.write_text(json.dumps(change(json.loads(record.path.read_text()))))
    said = command("verify", record.path)
    assert said.code == code and sentence in " ".join(said.out.split())


def test_the_command_judges_a_folder(
    made: Callable[..., Record], command: Command, folder: Path, tmp_path: Path
) -> None:
    made(), made(seed=1)
    said = command(
        "verify",
        tmp_path / "out",
        "--level",
        3,
        "--data-root",
        folder,
        "--device",
        "cpu",
        "--cache",
        tmp_path / "cache",
    )
    assert said.code == 0, said.out + said.err
    assert said.out.count("3 holds: ") == 2 and "2 claims: 2 hold." in said.out


def test_a_detector_that_is_not_installed_is_a_sentence(
    made: Callable[..., Record], command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = made()
    monkeypatch.delitem(registry._REGISTRY, "dark")
    said = command("verify", record.path, "--level", 3, "--data-root", folder, "--cache", tmp_path / "cache")
    assert said.code == 2 and "3 cannot be judged: There is no detector 'dark'" in " ".join(said.out.split())


def test_bad_places_and_options_are_sentences(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 and so on")
    for words, sentence in (
        ((tmp_path / "empty",), "There are no records below"),
        ((tmp_path / "nowhere",), "There is nothing at"),
        ((tmp_path / "half.zip",), "is damaged, or half of one"),
        ((tmp_path / "empty", "--level", 5), "--level is one of 1, 2, 3, 4"),
        ((tmp_path / "empty", "--attack", "pgd-linf"), "are of --level 4"),
    ):
        said = command("verify", *words)
        assert said.code == 2 and sentence in said.err and len(said.err.strip().splitlines()) == 1


def test_certificates_are_judged_by_their_bounds(tmp_path: Path, command: Command) -> None:
    path = write_certificate(tmp_path / "certificates").path
    assert path is not None
    assert command("verify", tmp_path).code == 0
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    said = command("verify", tmp_path)
    assert said.code == 1 and "does not hold" in said.out
