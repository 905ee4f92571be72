"""Security curves: the AUC over epsilon, where it crosses 50 and the baselines, and how it is drawn."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import fake_records
import numpy as np
import pandas as pd
import pytest
from fake_records import make_failed, make_record, with_auc
from matplotlib.colors import to_hex

from bench.records.record import Record
from bench.report import curves, leaderboard, plots, write
from bench.report.curves import Curve
from bench.report.security_curves import GREY, security_curve_figure

SWEEP = (0.25, 0.5, 1, 2, 4, 8, 16)


def records_of(
    detector: str, category: str, values: dict[float, float], clean: float = 95.0, **fields: Any
) -> list[Record]:
    return [
        with_auc(make_record(detector=detector, category=category, epsilon=e / 255, **fields), clean=clean, robust=r)
        for e, r in values.items()
    ]


def one(detector: str, values: dict[float, float], clean: float = 95.0, **fields: Any) -> Curve:
    (found,) = curves.curves(records_of(detector, "mono", values, clean, **fields))
    return found


def test_a_security_curve_starts_at_the_clean_auc_and_is_sorted_in_units_of_1_255() -> None:
    figure = security_curve_figure(records_of("ae", "mono", {8: 0.0, 1: 70.0, 2: 40.0}))
    line = figure.axes[0].get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [0, 1, 2, 8])
    np.testing.assert_allclose(line.get_ydata(), [95, 70, 40, 0])
    assert "1/255" in figure.axes[0].get_xlabel()


def test_the_axis_has_room_for_small_epsilons_and_names_the_usual_ones() -> None:
    axes = security_curve_figure(records_of("ae", "mono", dict.fromkeys(SWEEP, 50.0))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.25", "0.5", "1", "2", "4", "8", "16"]
    shown = axes.transData.transform([(e, 0) for e in (0, *SWEEP)])[:, 0]
    gaps = np.diff(shown)
    np.testing.assert_allclose(gaps / gaps[-1], [2, 1, 1, 1, 1, 1, 1], rtol=1e-6)


def test_an_epsilon_of_0_is_the_clean_point_and_none_beside_it() -> None:
    records = records_of("ae", "mono", {0: 95.0, 2: 40.0})
    assert [p.epsilon for p in curves.curves(records)[0].points] == [0, 2 / 255]
    figure = security_curve_figure(records_of("ae", "mono", {0: 95.0}))  # nothing to scale
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [0]


def test_one_epsilon_is_a_curve_of_two_points_and_l2_has_no_unit() -> None:
    record = with_auc(make_record(norm="l2", epsilon=0.1), clean=90.0, robust=30.0)
    axes = security_curve_figure([record]).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [0, 0.1])
    assert axes.get_xlabel() == "l2 epsilon"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1"]


def test_each_category_is_a_panel_and_each_detector_keeps_its_look_in_all_of_them() -> None:
    records = [r for d in ("ae", "cfa") for c in ("mono", "poly") for r in records_of(d, c, {2: 40.0})]
    records = [r for r in records if (r.detector_name, r.category) != ("ae", "mono")]  # absent in the first panel
    figure = security_curve_figure(records)
    looks = {
        (axes.get_title(), line.get_label()): (to_hex(line.get_color()), line.get_marker())
        for axes in figure.axes
        for line in axes.get_lines()
    }
    assert looks["mono", "CFA"] == looks["poly", "CFA"] != looks["poly", "AE"]
    a, b = looks["poly", "CFA"], looks["poly", "AE"]
    assert all(x != y for x, y in zip(a, b, strict=True))  # colour is not the only difference


def test_thirteen_detectors_are_told_apart_and_baselines_are_grey_and_dashed() -> None:
    names = [f"d{i}" for i in range(10)] + list(curves.BASELINES)
    figure = security_curve_figure([r for n in names for r in records_of(n, "mono", {1: 50.0, 2: 40.0})])
    titles = {fake_records.TITLES.get(n, n): n for n in names}
    lines = {titles[str(line.get_label())]: line for line in figure.axes[0].get_lines() if line.get_label() in titles}
    assert len(lines) == 13
    assert len({to_hex(lines[n].get_color()) for n in names[:10]}) == 10
    assert all(lines[n].get_linestyle() == "-" for n in names[:10])
    assert {to_hex(lines[n].get_color()) for n in names[10:]} == {to_hex(GREY)}
    dashes = [str(lines[n]._dash_pattern) for n in names[10:]]  # type: ignore[attr-defined]
    assert len(set(dashes)) == 3 and all(lines[n].get_linestyle() != "-" for n in names[10:])
    # Nothing overlaps: neither tick labels nor the legend and the axes.
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert figure.legends[0].get_window_extent().y1 < figure.axes[0].get_tightbbox().y0


def test_two_settings_of_a_detector_are_two_curves() -> None:
    records = [
        with_auc(make_record(detector="freerad", settings={"k": k}), clean=90.0, robust=r)
        for k, r in ((50, 20), (100, 60))
    ]
    labels = {line.get_label() for line in security_curve_figure(records).axes[0].get_lines()}
    assert {"FreeRAD (k=50)", "FreeRAD (k=100)"} <= labels


def test_detectors_of_other_budgets_are_in_one_figure_with_the_baselines() -> None:
    """A stochastic detector is attacked with another number of steps, which follows from it."""
    records = [
        *records_of("freerad", "mono", {1: 60.0, 2: 50.0}, steps=30),
        *records_of("mean-image", "mono", {1: 55.0, 2: 45.0}),
    ]
    (found,) = curves.groups(leaderboard.build(records)).values()
    assert {curve.name for curve in curves.curves(found)} == {"freerad", "mean-image"}


# -- where it crosses what --------------------------------------------------------------------------------------------


def test_a_curve_crosses_where_a_straight_line_between_two_radii_does() -> None:
    curve = one("ae", {1: 70.0, 2: 40.0, 4: 10.0}, clean=90.0)
    assert curve.below(50.0) == pytest.approx((1 + 20 / 30) / 255)
    assert curve.below(5.0) is None
    assert curve.below(95.0) == 0
    assert curve.below(90.0) == pytest.approx(0)  # at the clean AUC, and from there on below
    baseline = one("mean-image", {2: 50.0, 8: 26.0}, clean=60.0)  # 55 at 1/255, 42 at 4/255
    # 70 - 55 = 15 at 1/255 and 40 - 50 = -10 at 2/255.
    assert curve.below(baseline) == pytest.approx((1 + 15 / 25) / 255)
    assert baseline.below(curve) == 0


def test_beyond_what_both_were_measured_at_nothing_is_said() -> None:
    curve, baseline = one("ae", {1: 70.0, 2: 60.0, 16: 0.0}), one("mean-image", {2: 50.0}, clean=60.0)
    assert curve.below(baseline) is None
    assert curves._crossing(curve, baseline) == "> 2/255"


def test_the_table_names_each_crossing_and_each_rise() -> None:
    records = [
        *records_of("ae", "mono", {1: 70.0, 2: 40.0, 4: 45.0}, clean=90.0),
        *records_of("mean-image", "mono", {1: 58.0, 2: 56.0, 4: 52.0}, clean=60.0),
        *records_of("ae", "poly", {1: 20.0, 2: 10.0}, clean=45.0),
        make_failed(detector="cfa", category="poly", epsilon=1 / 255),
    ]
    text = curves.markdown(records)
    lines = text.splitlines()
    assert "| detector | 50 | Mean image |" in lines or "| detector | 50 | mean-image |" in lines
    row = next(line for line in lines if line.startswith("| AE | 1.7/255"))
    assert row.endswith("| 1.4/255 |")
    assert any("&gt; 4/255" in line for line in lines)
    assert "| AE | 0 |" in lines  # on poly, where there is no baseline
    assert sum("the AUC rises from 40.0 at 2/255 to 45.0 at 4/255" in line for line in lines) == 1
    assert text in write.texts(records)["leaderboard.md"]


def test_without_a_second_radius_there_is_no_table() -> None:
    records = records_of("ae", "mono", {0: 95.0, 2: 40.0})
    assert curves.markdown(records) == ""
    assert "security curves" not in write.texts(records)["leaderboard.md"]


def test_the_strict_protocol_s_curves_count_ties_as_lost() -> None:
    record = with_auc(make_record(protocol="strict"), clean=90.0, robust=30.0)
    results = {k: v | {"strict_auc": v["auc"] - 20} for k, v in record.results.items() if k in ("clean", "robust")}
    record = dataclasses.replace(record, results=record.results | results)
    assert [round(p.auc) for p in curves.curves([record])[0].points] == [70, 10]
    assert security_curve_figure([record]).get_supylabel() == "strict AUC (%)"


def test_the_figure_comes_with_its_points(tmp_path: Path) -> None:
    records = [
        *records_of("ae", "mono", {1: 70.0, 2: 0.0}, clean=90.0),
        *records_of("ae", "mono", {4: 0.0}, clean=90.0, indicators={"smaller_ball": 2 / 255}),
        *records_of("=1+1", "mono", {1: 7.0, 2: 4.0}),
    ]
    written, problems = plots.write_all(records, tmp_path)
    assert not problems
    paths = {path.suffix: path for path in written if path.name.startswith("security-curve--")}
    assert paths.keys() == {".png", ".pdf", ".csv"}
    table = pd.read_csv(io.StringIO(paths[".csv"].read_text()))
    own = table[table["detector"] == "ae"]
    assert own["epsilon"].tolist() == [0, 1 / 255, 2 / 255, 4 / 255] and own["auc"].tolist() == [90, 70, 0, 0]
    assert own["smaller_ball"].isna().tolist() == [True, True, True, False]
    assert "'=1+1" in set(table["detector"])  # no formula


def test_a_curve_over_severities_crosses_at_one_that_was_tried() -> None:
    records = [
        with_auc(make_record(attack="corruptions", norm="corruptions", epsilon=e), clean=90.0, robust=r)
        for e, r in ((1.0, 80.0), (3.0, 60.0), (5.0, 20.0))
    ]
    (line,) = [row for row in curves.markdown(records).splitlines() if row.startswith("| AE")]
    assert line.split("|")[2].strip() == "5"
