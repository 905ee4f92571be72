"""The paper's Figures 1 and 2: what the examples hold is what is drawn, and what is missing is a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fake_records import make_failed, write_record
from PIL import Image
from safetensors.numpy import save_file

from bench.errors import BenchError, RecordError
from bench.records.paths import EXAMPLES_SUFFIX, companion
from bench.records.record import Record
from bench.report.example_panel import read_examples
from bench.report.paper import figures

SIDE = 16
# A colour of its own for each picture, so that its pixels can be found in the file.
GREENISH, REDDISH = (20, 200, 90), (210, 40, 60)
SMOOTH_GREEN, SMOOTH_RED, BAD_GREEN, BAD_RED = (30, 180, 130), (190, 90, 80), (90, 150, 20), (150, 20, 130)


def flat(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, np.uint8)[:, :, None, None].repeat(SIDE, 2).repeat(SIDE, 3)


def keep_examples(record: Record, **changes: np.ndarray | None) -> Record:
    """Beside the record: an anomalous red picture that the attack makes normal, and a green one the other way."""
    image = flat(REDDISH, GREENISH)
    tensors: dict[str, np.ndarray | None] = {
        "image": image,
        "adversarial": image + 2,
        "labels": np.array([-1, 1], np.int8),
        "perturbation": np.full(image.shape, 2 / 255, np.float16),
        "reconstruction": flat(SMOOTH_RED, SMOOTH_GREEN),
        "adversarial_reconstruction": flat(BAD_RED, BAD_GREEN),
        "score": np.array([9.0, -4.0], np.float32),
        "adversarial_score": np.array([-5.0, 8.0], np.float32),
        **changes,
    }
    assert record.path is not None
    save_file({k: v for k, v in tensors.items() if v is not None}, str(companion(record.path, EXAMPLES_SUFFIX)))
    return record


def recorded(folder: Path, **fields: object) -> Record:
    return keep_examples(write_record(folder, **fields))  # type: ignore[arg-type]


def share_of(path: Path, colour: tuple[int, ...]) -> float:
    """Of the picture's pixels the share that has this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return float((np.abs(pixels - np.array(colour)).max(axis=2) <= 1).mean())


def words(record: Record, which: str) -> list[str]:
    assert record.path is not None
    figure = figures.FIGURES[which].draw(record, read_examples(companion(record.path, EXAMPLES_SUFFIX)))
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
    return [text for text in found if text]


def test_figure_1_shows_the_pictures_and_the_perturbation_by_the_factor_it_says(tmp_path: Path) -> None:
    png, pdf, notice = figures.draw("figure1", [recorded(tmp_path / "records")], tmp_path)
    assert [path.name for path in (png, pdf, notice)] == ["figure1.png", "figure1.pdf", "NOTICE.txt"]
    assert pdf.read_bytes().startswith(b"%PDF") and "figure1: elpv, CC BY-NC-SA 4.0" in notice.read_text()
    side = (figures.COLUMN_WIDTH - 0.2 - 0.04 - 0.4) / 3
    one = (200 * side) ** 2 / np.prod(Image.open(png).size)
    magnified = round(255 * min(1.0, 0.5 + 60 * 2 / 255))
    for colour, pictures in ((REDDISH, 1), (GREENISH, 1), (tuple(c + 2 for c in REDDISH), 1), ((magnified,) * 3, 2)):
        assert share_of(png, colour) == pytest.approx(pictures * one, rel=0.1), colour


def test_figure_1_says_what_a_verdict_says_before_and_after(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    found = words(record, "figure1")
    assert "δ" not in found and r"$\delta$ (×60)" in found  # noqa: RUF001
    assert [text for text in found if text.startswith("GT: ") and "." not in text] == ["GT: anomalous", "GT: normal"]
    verdicts = [text for text in found if text.startswith("score")]
    assert verdicts == [
        "score 9\nanomalous ✓",
        "score -5\nnormal ✗",
        "score -4\nnormal ✓",
        "score 8\nanomalous ✗",
    ]
    assert f"Anomalous above {record.results['threshold']:.3g}" in " ".join(found)


def test_without_a_threshold_there_is_no_verdict(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    for odd in (None, "high", float("nan")):
        without = dataclasses.replace(record, results={**record.results, "threshold": odd})
        found = words(without, "figure1")
        assert "score 9" in found and "GT: ground truth. The record has no threshold." in found


def test_figure_2_shows_all_reconstructions_and_their_errors(tmp_path: Path) -> None:
    png, *_ = figures.draw("figure2", [recorded(tmp_path / "records")], tmp_path)
    side = (figures.COLUMN_WIDTH - 0.2 - 0.04 - 0.18) / 4
    one = (200 * side) ** 2 / np.prod(Image.open(png).size)
    for colour in (REDDISH, GREENISH, SMOOTH_GREEN, SMOOTH_RED, BAD_GREEN, BAD_RED):
        assert share_of(png, colour) == pytest.approx(one, rel=0.1), colour
    error = np.abs(np.subtract(GREENISH, SMOOTH_GREEN)).mean() / 255
    largest = np.abs(np.subtract([c + 2 for c in GREENISH], BAD_GREEN)).mean() / 255
    factor = int(1 / largest)
    assert share_of(png, (round(255 * factor * error),) * 3) == pytest.approx(one, rel=0.1)
    found = words(recorded(tmp_path / "again"), "figure2")
    assert f"|error| ×{factor}" in found and "anomalous,\nattacked" in found  # noqa: RUF001


@pytest.mark.parametrize("which", sorted(figures.FIGURES))
def test_no_text_overlaps_or_leaves_the_figure(tmp_path: Path, which: str) -> None:
    record = keep_examples(
        write_record(tmp_path, detector="anomalib:reverse-distillation", category="a_category_with_a_long_name"),
        score=np.array([-1.23e-5, -1.23e5], np.float32),
    )
    assert record.path is not None
    figure = figures.FIGURES[which].draw(record, read_examples(companion(record.path, EXAMPLES_SUFFIX)))
    figure.draw_without_rendering()
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label, a.yaxis.label, *a.texts)] + list(figure.texts)
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    pictures = [("picture", axes.get_window_extent()) for axes in figure.axes]
    for i, (text, box) in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        for other, place in [*boxes[i + 1 :], *pictures]:
            assert not box.overlaps(place), (text, other)


def test_one_class_alone_is_drawn_alone(tmp_path: Path) -> None:
    record = keep_examples(write_record(tmp_path), labels=np.array([1, 1], np.int8))
    assert [t for t in words(record, "figure1") if t.startswith("GT: n")] == ["GT: normal"]
    assert sum(text.startswith("score") for text in words(record, "figure2")) == 2


def test_the_newest_record_of_what_was_asked_for_is_drawn(tmp_path: Path) -> None:
    new, old = "2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00"
    records = [
        recorded(tmp_path / "r", detector="ae", written=old),
        recorded(tmp_path / "r", detector="cfa", written=new),
        recorded(tmp_path / "r", detector="ae", category="poly", written=old),
        write_record(tmp_path / "r", detector="spade", written="2026-02-01T00:00:00+00:00"),  # without examples
        make_failed(detector="ae"),
    ]
    for asked, name in (({}, records[1]), ({"detector": "ae", "category": "poly"}, records[2])):
        png, *_ = figures.draw("figure1", records, tmp_path, **asked)
        assert Image.open(png).info["Source"] == name.stamp


def refusal(which: str, records: list[Record], folder: Path, **asked: str) -> str:
    with pytest.raises(BenchError) as error:
        figures.draw(which, records, folder / "none", **asked)
    assert not (folder / "none").exists()
    return str(error.value)


def test_what_is_missing_is_a_sentence_with_the_command(tmp_path: Path) -> None:
    assert refusal("figure1", [], tmp_path).endswith(
        "python -m bench run --dataset elpv --categories mono --detectors ocr-gan --attack pgd-linf --out DIR "
        "(then --records DIR)"
    )
    asked = refusal("figure2", [], tmp_path, detector="ae", category="screw top", dataset="folder")
    assert "there is none of detector ae, dataset folder, category screw top" in asked
    assert "--dataset folder --data-root DIR --categories 'screw top' --detectors ae --attack pgd-linf --out" in asked
    assert "figure1 and figure2; got 'figure3'" in refusal("figure3", [], tmp_path)
    bare = write_record(tmp_path / "r")
    assert "none has them" in refusal("figure1", [bare], tmp_path)


def test_a_detector_without_reconstruction_and_an_old_file_are_told_apart(tmp_path: Path) -> None:
    none = keep_examples(
        write_record(tmp_path / "r", detector="cfa"), reconstruction=None, adversarial_reconstruction=None
    )
    said = refusal("figure2", [none], tmp_path)
    assert "(cfa on elpv mono (pgd-linf)) has no reconstructions among its examples" in said
    assert "--detectors freerad" in said
    old = keep_examples(write_record(tmp_path / "r", detector="ae"), reconstruction=None)
    assert "no reconstruction of the clean pictures" in refusal("figure2", [old], tmp_path)
    assert figures.draw("figure1", [old], tmp_path)  # which needs none


def test_damaged_examples_are_a_sentence(tmp_path: Path) -> None:
    record = keep_examples(write_record(tmp_path / "r"), reconstruction=np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(RecordError, match="reconstruction"):
        figures.draw("figure1", [record], tmp_path / "out")
