"""Several fits of a detector in tables and plots: their mean and their spread, and never the luckiest or unluckiest."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_records import TITLES, changed, make_failed, make_record, make_scores, with_auc
from rich.console import Console

from bench.cli import summary
from bench.metrics.intervals import Estimate
from bench.records.record import Record, Revisions
from bench.report import fits, heat_map, leaderboard, plots, write
from bench.report.curves import groups
from bench.report.leaderboard import Leaderboard
from bench.report.paper.measured import reproduce
from bench.report.security_curves import security_curve_figure
from bench.report.standing import Cell


def of_fit(seed: int, robust: float, *, clean: float = 90.0, category: str = "mono", **fields: Any) -> Record:
    record = make_record(fit_seed=seed, category=category, **fields)
    return with_auc(record, clean=clean, robust=robust)


def only(records: list[Record], revisions: Revisions | None = None) -> Leaderboard:
    (board,) = leaderboard.build(records, revisions)
    return board


def the_cell(records: list[Record], revisions: Revisions | None = None) -> Cell:
    (row,) = only(records, revisions).rows
    return row.cells["mono"]


def test_a_cell_is_the_mean_over_fits_with_one_fits_interval_and_the_sample_deviation() -> None:
    records = [of_fit(0, 40, clean=80), of_fit(1, 50, clean=90), of_fit(2, 66, clean=91)]
    cell = the_cell(records)
    assert cell.clean is not None and cell.robust is not None
    assert (cell.clean.value, cell.robust.value) == pytest.approx((87, 52))
    figures = [r.robust for r in records if r.robust]
    assert cell.robust.low == pytest.approx(52 - np.mean([f.auc - f.low for f in figures]))
    assert cell.robust.high == pytest.approx(52 + np.mean([f.high - f.auc for f in figures]))
    assert cell.robust_spread is not None and cell.clean_spread is not None
    assert cell.robust_spread.sd == pytest.approx(np.std([40, 50, 66], ddof=1))
    assert (cell.clean_spread.fits, cell.robust_spread.fits) == (3, 3)


def test_the_unlucky_fit_does_not_win_and_the_stronger_attack_on_each_fit_does() -> None:
    weak = [of_fit(0, 90, eot=1), of_fit(1, 80, eot=1)]
    strong = [of_fit(0, 60, eot=20), of_fit(1, 20, eot=20)]
    board = only([*strong, *weak])
    (row,) = board.rows
    assert row.robust is not None and row.robust.value == pytest.approx(40)
    assert board.superseded == 2, "a fit with another seed is no record that is left out"


def test_a_single_fit_shows_no_spread_and_the_old_heading() -> None:
    board = only([of_fit(0, 40), of_fit(0, 50, detector="cfa")])
    text = write.markdown(board)
    assert "±" not in text and "not over training seeds" in text and "Fits:" not in text
    assert np.isnan(write.frame(board).loc["AE", ("mono", "robust", "sd")])


def test_a_row_reads_mean_interval_spread_fits_and_marks() -> None:
    board = only([of_fit(seed, 60 + 2 * seed, full_run=False) for seed in (0, 1, 2)])
    (line,) = (line for line in write.markdown(board).splitlines() if line.startswith("| AE"))
    robust = line.split("|")[3].strip()
    cell = board.rows[0].cells["mono"]
    assert cell.robust is not None
    assert robust == f"62.0 \\[{cell.robust.low:.1f}, {cell.robust.high:.1f}\\] ±2.0 (3 fits) †"
    assert r"$\pm$2.0 (3 fits)" in write.latex(board)
    assert write.frame(board).loc["AE", ("mono", "robust", "sd")] == pytest.approx(2.0)


def test_an_average_spreads_as_the_averages_of_single_fits_do() -> None:
    mono, poly = {0: 40.0, 1: 50.0, 2: 60.0}, {0: 60.0, 1: 50.0, 2: 49.0}
    records = [of_fit(s, r, category=c) for c, found in (("mono", mono), ("poly", poly)) for s, r in found.items()]
    (row,) = only(records).rows
    assert row.robust is not None and row.robust.value == pytest.approx(np.mean([50, 53]))
    assert row.robust_spread is not None
    assert row.robust_spread.sd == pytest.approx(np.std([50, 50, 54.5], ddof=1)), "not the mean of 10 and 6.1"
    (row,) = only(records[:-1]).rows
    assert row.robust is not None and row.robust_spread is None, "other fits in one category"
    assert row.cells["poly"].robust_spread is not None


def test_a_fit_that_failed_is_left_out_of_the_mean_marked_and_named() -> None:
    board = only([of_fit(0, 40), make_failed("The scores are NaN.", fit_seed=1), of_fit(2, 50)])
    (row,) = board.rows
    cell = row.cells["mono"]
    assert cell.robust is not None and cell.robust.value == pytest.approx(45)
    assert cell.robust_spread is not None and cell.robust_spread.fits == 2
    assert cell.marks == ("failed",) and cell.reasons == ("fit 1 failed: The scores are NaN.",)
    assert "AE, mono: fit 1 failed: The scores are NaN." in board.notes()
    assert " x |" in write.markdown(board)
    gone = the_cell([make_failed("No.", fit_seed=seed) for seed in (0, 1)])
    assert gone.robust is None and gone.robust_spread is None and len(gone.reasons) == 2


def test_a_mean_never_mixes_stale_with_current_fits_nor_partial_with_full_ones() -> None:
    old, new = of_fit(1, 90, detector_revision=1), of_fit(0, 30, detector_revision=2)
    board = only([old, new], Revisions(detectors={"ae": 2}))
    assert board.rows[0].robust is not None and board.rows[0].robust.value == pytest.approx(30)
    assert board.superseded == 1 and board.rows[0].marks == ()
    full, weak = of_fit(0, 30), of_fit(1, 90, full_run=False, eot=1)
    cell = the_cell([full, weak])
    assert cell.robust is not None and cell.robust.value == pytest.approx(30) and cell.marks == ()
    all_weak = the_cell([dataclasses.replace(full, full_run=False), weak])
    assert all_weak.robust is not None and all_weak.robust.value == pytest.approx(60)
    assert all_weak.marks == ("partial",)


def test_a_flag_is_stated_once_with_its_range_and_how_many_fits_it_is_up_for() -> None:
    shares = {0: 0.0, 1: 0.2, 2: 0.4}
    records = [of_fit(seed, 40, indicators={"zero_gradient_share": share}) for seed, share in shares.items()]
    cell = the_cell([*records, of_fit(3, 99, indicators={"flags": ["odd"]})])
    assert cell.marks == ("indicator",)
    assert cell.reasons == (
        "the gradient was zero in 20 to 40 % of the steps (2 of 4 fits)",
        "odd (1 of 4 fits)",
        "the attack raised the AUC (1 of 4 fits)",
    )
    assert fits.merged([["20 % in 5 steps"]]) == ["20 % in 5 steps"], "of one fit as it is"


def test_the_heading_says_who_has_how_many_fits() -> None:
    three = [of_fit(s, 40, detector=d) for d in ("ae", "pls") for s in (0, 1, 2)]
    facts = only([*three, of_fit(0, 50, detector="cfa")]).facts
    assert "Fits: 3 for AE, PLS; 1 for the others." in facts
    assert "Brackets: 95 % intervals over images and noise; ± the standard deviation over fits." in facts
    unlike = [*three, of_fit(0, 40, category="poly", detector="ae")]
    assert any(
        "Fits: 1 to 3 for AE; 3 for PLS." in f or "Fits: 3 for PLS; 1 to 3 for AE." in f for f in only(unlike).facts
    )


def test_many_fits_on_other_images_do_not_outvote_the_other_rows() -> None:
    others = [of_fit(s, 40, fingerprint="0" * 64) for s in (0, 1, 2)]
    board = only([*others, of_fit(0, 50, detector="cfa"), of_fit(0, 50, detector="spade")])
    assert {row.name: row.cells["mono"].marks for row in board.rows} == {
        "ae": ("other images",),
        "cfa": (),
        "spade": (),
    }


def test_settings_that_compete_are_rows_whichever_fits_they_have() -> None:
    chosen = ((0, 50, 30), (1, 100, 60), (2, 100, 70))
    records = [of_fit(seed, robust, settings={"k": k}) for seed, k, robust in chosen]
    board = only(records)
    assert {row.label: row.robust.value for row in board.rows if row.robust} == {
        "AE (k=50)": pytest.approx(30),
        "AE (k=100)": pytest.approx(65),
    }
    assert "Fits: 1 to 2 for AE." in board.facts


def test_the_csv_has_one_line_for_each_fit(tmp_path: Path) -> None:
    write.write([of_fit(0, 40), of_fit(2, 50)], tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("fit_seed")
    assert dict(table["robust_auc"]) == {0: 40, 2: 50}


def test_a_strangers_fit_seed_is_fit_0_or_a_number() -> None:
    for odd in (None, "1", True, [1], 1.5):
        record = make_record()
        assert fits.fit_seed(dataclasses.replace(record, cell=changed(record.cell, fit_seed=odd))) == 0
    assert fits.fit_seed(make_record(fit_seed=7)) == 7


def test_means_and_deviations_of_constructed_fits() -> None:
    assert fits.over_fits([]) is None and fits.spread([3.0]) is None
    assert fits.over_fits([Estimate(50, 40, 70), Estimate(60, 58, 64)]) == (55, 49, 67)
    assert fits.spread_of_average([{0: 1.0, 1: 5.0}, {1: 7.0, 0: 3.0}]) == fits.Spread(pytest.approx(np.sqrt(8)), 2)
    assert fits.spread_of_average([{0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0}]) is None
    assert fits.spread_of_average([{}, {}]) is None


def test_the_terminal_table_of_three_fits_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "anomalib:patchcore"
    assert len(long) == 18
    monkeypatch.setitem(TITLES, "long", long)
    names, categories = ("ae", "long"), ("mono", "a" * 18)
    # The widest figures that there are, all marks, a fit that failed.
    weak = {"full_run": False, "indicators": {"zero_gradient_share": 0.5}, "detector_revision": 1}
    records = [
        of_fit(s, 100, clean=100, category=c, detector=d, **weak) for s in range(3) for c in categories for d in names
    ]
    records.append(make_failed(detector="long", fit_seed=3, detector_revision=1))
    board = only(records, Revisions(detectors={"long": 2, "ae": 2}))
    stream = io.StringIO()
    Console(file=stream, width=80).print(write.terminal(board))
    shown = stream.getvalue()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "±0.0 (3 fits) †‡!" in shown and "100.0 [" in shown


def test_a_curve_is_the_mean_over_fits_with_a_thin_line_for_each() -> None:
    values = {0: {1: 70.0, 2: 40.0}, 1: {1: 50.0, 2: 30.0}}
    records = [
        of_fit(seed, robust, clean=90 + 4 * seed, epsilon=e / 255)
        for seed, found in values.items()
        for e, robust in found.items()
    ]
    figure = security_curve_figure(records)
    mean, *single = figure.axes[0].get_lines()[:3]
    np.testing.assert_allclose(mean.get_ydata(), [92, 60, 35])
    np.testing.assert_allclose([np.asarray(line.get_ydata()) for line in single], [[90, 70, 40], [94, 50, 30]])
    assert all(line.get_linewidth() < mean.get_linewidth() for line in single)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE"]


def test_every_fit_of_a_row_is_in_its_curve_and_the_heat_map_shows_the_mean(tmp_path: Path) -> None:
    records = [of_fit(seed, 40 + 10 * seed) for seed in (0, 1, 2)]
    board = only(records)
    (found,) = groups([board]).values()
    assert [fits.fit_seed(r) for r in found] == [0, 1, 2]
    figure = heat_map.heat_map_figure(board, board.columns[0])
    assert [t.get_text() for t in figure.axes[1].texts] == ["50.0", "50.0"]
    assert "means over fits" in figure.get_suptitle()


def test_a_histogram_names_its_fit() -> None:
    assert "fit 2" in plots.histogram_figure(make_record(fit_seed=2), make_scores()).get_suptitle()


def paper_record(seed: int, robust: float, **fields: Any) -> Record:
    fixed: dict[str, Any] = {"dataset": "mvtec", "preset": "paper", "protocol": "paper", "image_size": 256, "steps": 40}
    return of_fit(seed, robust, category="carpet", detector="ocr-gan", **(fixed | fields))


def test_the_papers_tables_stand_beside_the_mean_over_fits() -> None:
    records = [paper_record(0, 20, written="2026-01-01"), paper_record(1, 40), paper_record(2, 99, full_run=False)]
    for given in (records, records[::-1]):
        found = reproduce("table2", given)
        (row,) = (r for r in found.rows if (r.category, r.detector) == ("carpet", "ocr-gan"))
        assert row.measured_robust is not None and row.measured_robust.value == pytest.approx(30)
        assert row.fits == 2 and any("the mean over 2 fits" in note for note in found.notes)


def test_fewer_fits_than_the_protocol_takes_are_marked_and_counted() -> None:
    asked = Revisions(fits=lambda protocol, detector: {"ae": 3, "cfa": 1}.get(detector, 1))
    one, others = of_fit(0, 40), [of_fit(seed, 50) for seed in (1, 2)]
    board = only([one, of_fit(0, 30, detector="cfa")], asked)
    assert {row.name: row.marks for row in board.rows} == {"ae": ("partial",), "cfa": ()}
    assert [note for note in board.notes() if note.startswith("†")] == ["† 1 of the 3 fits that quick takes: AE."]
    assert only([one, *others], asked).rows[0].marks == ()
    both = only([dataclasses.replace(one, full_run=False, limits=["--limit 4: few"])], asked).notes()
    assert [note[:20] for note in both if note.startswith("†")] == ["† not a full run (th", "† 1 of the 3 fits th"]
    assert only([one]).rows[0].marks == (), "of a protocol that is not known here nothing is asked"


def test_the_code_at_hand_says_how_many_fits_a_protocol_takes() -> None:
    fits = summary.revisions().fits
    taken = {(p, d): fits(p, d) for p in ("quick", "strict", "strict-lite") for d in ("spade", "cfa", "ae", "freerad")}
    assert {of for of, number in taken.items() if number == 3} == {
        ("strict", "cfa"), ("strict", "ae"), ("strict", "freerad"), ("strict-lite", "ae")
    }  # fmt: skip
    assert set(taken.values()) == {1, 3}
    assert fits("strict", "nobody's") == fits("no protocol", "ae") == 1
