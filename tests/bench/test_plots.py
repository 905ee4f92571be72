"""Plots: what is drawn is what the records say; pictures never travel without their licence."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fake_records import make_failed, make_record, make_scores, with_auc, write_record
from matplotlib.patches import StepPatch
from safetensors.numpy import save_file

from bench.errors import RecordError
from bench.records.paths import EXAMPLES_SUFFIX, companion
from bench.records.record import Record
from bench.records.score_table import Scores
from bench.report import example_panel, fonts, heat_map, leaderboard, plots
from bench.report.style import COLOURS, save


def curve(detector: str, category: str, values: dict[float, float], clean: float = 95.0) -> list[Record]:
    return [
        with_auc(make_record(detector=detector, category=category, epsilon=e / 255), clean=clean, robust=r)
        for e, r in values.items()
    ]


def test_a_histogram_holds_every_score_of_a_class_as_its_share() -> None:
    scores = make_scores(draws=4)
    figure = plots.histogram_figure(make_record(scores), scores)
    for axes in figure.axes:
        steps = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
        assert [step.values.sum() for step in steps] == pytest.approx([1.0, 1.0])
    before, after = ([p.get_data().edges for p in axes.patches if isinstance(p, StepPatch)] for axes in figure.axes)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "values", [np.zeros(50), np.full(50, np.inf), np.geomspace(1e-9, 1e9, 50), np.full(50, -1e300)]
)
def test_odd_scores_do_not_break_a_histogram(tmp_path: Path, values: np.ndarray) -> None:
    normal = make_scores()
    scores = Scores(normal.images, normal.labels, values[None], values[None])
    save(plots.histogram_figure(make_record(normal), scores), tmp_path / "odd.name", vector=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.name.pdf", "odd.name.png"]


def test_the_heat_map_writes_the_numbers_and_hatches_what_is_not_there() -> None:
    records = [*curve("ae", "mono", {2: 12.3}), *curve("ae", "poly", {2: 45.5}), *curve("cfa", "mono", {2: 7.8})]
    board = leaderboard.build([*records, make_failed(detector="cfa", category="poly")])[0]
    figure = heat_map.heat_map_figure(board, board.columns[0])
    texts = [[t.get_text() for t in axes.texts] for axes in figure.axes[:2]]
    assert texts[1] == ["12.3", "45.5", "28.9", "7.8", "–", "–"]  # noqa: RUF001
    assert [patch.get_hatch() for patch in figure.axes[1].patches] == ["////", "////"]


def test_hostile_names_and_the_callers_settings_survive_plotting(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    record = write_record(tmp_path / "records", detector="$x_{", category="$\\frac{", attack="a$b")
    paths, problems = plots.write_all([record], tmp_path / "plots")
    assert problems == [] and len(paths) == 6
    assert all(p.is_relative_to(tmp_path / "plots") and p.stat().st_size > 1000 for p in paths if p.suffix != ".csv")
    assert dict(mpl.rcParams) == before


def test_a_name_that_no_font_has_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_characters", lambda: frozenset(range(32, 256)))
    assert fonts.drawable("螺丝 Größe $1") == r"\u87ba\u4e1d Größe \$1"
    assert fonts.drawable("螺" * 40, 14).startswith(r"\u87ba" * 6), "a short one is whole"
    monkeypatch.setattr(fonts, "_characters", lambda: frozenset(map(ord, "螺丝")))
    assert fonts.drawable("螺丝") == "螺丝", "an installed font has it"


def test_fonts_that_are_installed_stand_in_for_what_our_own_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "OTHERS", ("Not Installed", "STIXNonUnicode", "STIXGeneral"))
    families, characters = fonts.families.__wrapped__, fonts._characters.__wrapped__
    assert families() == ("DejaVu Sans", "STIXNonUnicode", "STIXGeneral")
    monkeypatch.setattr(fonts, "families", lambda: ("DejaVu Sans",))
    alone = characters()
    monkeypatch.setattr(fonts, "families", families)
    assert alone < characters() and set(map(ord, "aß±–")) <= alone  # noqa: RUF001


def test_a_users_settings_change_no_picture_and_warn_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = make_scores()

    def drawn() -> bytes:
        (path,) = save(plots.histogram_figure(make_record(scores, category="螺丝"), scores), tmp_path / "picture")
        return path.read_bytes()

    plain = drawn()
    with mpl.rc_context({"font.family": ["Not Installed"], "axes.titlesize": 40, "axes.facecolor": "red"}):
        assert drawn() == plain
    assert not caplog.records


def test_missing_scores_are_reported_and_the_other_plots_are_made(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    assert record.path is not None
    companion(record.path, ".scores.csv").unlink()
    paths, problems = plots.write_all([record], tmp_path / "plots")
    assert len(paths) == 5 and len(problems) == 1


def test_the_palette_is_okabe_and_itos() -> None:
    assert set(COLOURS) < {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


def examples(record: Record, **changes: np.ndarray | None) -> Path:
    assert record.path is not None
    generator = np.random.default_rng(0)
    image = generator.integers(10, 240, (4, 3, 16, 16)).astype(np.uint8)
    tensors = {
        "image": image,
        "adversarial": image + 2,
        "adversarial_reconstruction": image,
        "map": generator.random((4, 16, 16)).astype(np.float16),
        "labels": np.array([-1, 1, -1, 1], dtype=np.int8),
        "adversarial_map": generator.random((4, 16, 16)).astype(np.float16),
        **changes,
    }
    path = companion(record.path, EXAMPLES_SUFFIX)
    save_file({k: v for k, v in tensors.items() if v is not None}, str(path))
    return path


def test_the_panel_states_its_factor_and_magnifies_around_grey(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    figure = example_panel.panel_figure(record, example_panel.read_examples(examples(record)))
    titles = [axes.get_title() for axes in figure.axes]
    assert "perturbation ×60" in titles  # noqa: RUF001
    shown = figure.axes[1].get_images()[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(shown, 0.5 + 60 * 2 / 255, atol=1e-6)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["normal"] * 2 + ["anomalous"] * 2


def test_a_perturbation_below_one_grey_level_is_shown_where_it_is_stored(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    delta = np.full((4, 3, 16, 16), 0.001, dtype=np.float32)
    image = np.full((4, 3, 16, 16), 100, dtype=np.uint8)  # after rounding the attacked image is the clean one
    found = example_panel.read_examples(examples(record, image=image, adversarial=image, perturbation=delta))
    shown = example_panel.panel_figure(record, found).axes[1].get_images()[0].get_array()
    assert shown is not None and float(np.min(shown)) > 0.9


def test_a_detector_without_reconstruction_and_map_has_a_narrower_panel(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    path = examples(record, adversarial_reconstruction=None, map=None, adversarial_map=None)
    assert len(example_panel.panel_figure(record, example_panel.read_examples(path)).axes) == 4 * 3


def test_a_panel_travels_with_the_licence_of_every_picture_beside_it(tmp_path: Path) -> None:
    for category in ("mono", "poly", "mono"):
        record = write_record(tmp_path, category=category)
        examples(record, adversarial_reconstruction=None, map=None, adversarial_map=None)
        paths = example_panel.write_panel(record, tmp_path / "panels")
        assert {p.suffix for p in paths} == {".png", ".txt"}
    notice = (tmp_path / "panels" / "NOTICE.txt").read_text().splitlines()
    assert len(notice) == 3 and all("CC BY-NC-SA 4.0" in line for line in notice[1:])


def test_examples_that_are_larger_than_the_records_pictures_are_not_drawn(tmp_path: Path) -> None:
    """A file of 150 MB took 3 GB."""
    record = write_record(tmp_path, image_size=8)
    examples(record)
    with pytest.raises(RecordError, match="16 pixels"):
        example_panel.write_panel(record, tmp_path / "plots")


def test_without_examples_there_is_no_panel_and_no_notice(tmp_path: Path) -> None:
    assert example_panel.write_panel(write_record(tmp_path), tmp_path / "panels") == []
    assert not (tmp_path / "panels").exists()


@pytest.mark.parametrize(
    "changes",
    [{"image": None}, {"labels": None}, {"map": np.zeros((4, 8, 8), np.float16)}, {"image": np.zeros((4, 3))}],
)
def test_damaged_examples_are_a_sentence(tmp_path: Path, changes: dict[str, np.ndarray | None]) -> None:
    record = write_record(tmp_path)
    path = examples(record, **changes)
    with pytest.raises(RecordError, match="run the cell again"):
        example_panel.read_examples(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(RecordError, match="cannot be read"):
        example_panel.read_examples(path)
