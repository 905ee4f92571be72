"""Figures from scores: against scikit-learn, against loops over pairs, and at the edges where others collapse."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bench.errors import CellError
from bench.metrics import pixels, ranking


def scores_with_ties(
    seed: int, draws: int = 4, normals: int = 23, anomalies: int = 31
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.array([1] * normals + [-1] * anomalies))
    return np.round(generator.normal(size=(draws, labels.size)) + 0.8 * (labels == -1), 1), labels


def pairs(scores: np.ndarray, labels: np.ndarray, tie: float) -> float:
    wins = [1.0 if a > n else tie if a == n else 0.0 for a in scores[labels == -1] for n in scores[labels == 1]]
    return 100.0 * float(np.mean(wins))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns_draw_by_draw(seed: int) -> None:
    scores, labels = scores_with_ties(seed)
    expected = [100 * roc_auc_score(labels == -1, row) for row in scores]
    np.testing.assert_allclose(ranking.auc(scores, labels), expected, atol=1e-10)
    assert float(ranking.auc(scores[0], labels)) == pytest.approx(expected[0])


@pytest.mark.parametrize("seed", range(5))
def test_a_tie_is_half_a_win_for_auc_and_a_loss_for_strict_auc(seed: int) -> None:
    scores, labels = scores_with_ties(seed)
    np.testing.assert_allclose(ranking.auc(scores, labels), [pairs(row, labels, 0.5) for row in scores])
    np.testing.assert_allclose(ranking.strict_auc(scores, labels), [pairs(row, labels, 0.0) for row in scores])


def test_a_constant_score_earns_50_and_strictly_nothing() -> None:
    labels = np.array([1, 1, -1, -1, -1])
    assert ranking.auc(np.zeros(5), labels) == 50.0
    assert ranking.strict_auc(np.zeros(5), labels) == 0.0


def test_infinite_scores_have_a_rank() -> None:
    # A normal that abstains upwards loses against every anomaly but one that is infinite too (half).
    labels = np.array([1, 1, -1, -1])
    assert ranking.auc([np.inf, 0.0, 1.0, -np.inf], labels) == 25.0
    assert ranking.auc([np.inf, 0.0, np.inf, 1.0], labels) == 100 * 2.5 / 4
    assert ranking.average_precision([np.inf, 0.0, np.inf, 1.0], labels) == pytest.approx(100 * (0.5 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_and_fpr95_are_scikit_learns(seed: int) -> None:
    scores, labels = scores_with_ties(seed)
    for row in scores:
        assert ranking.average_precision(row, labels) == pytest.approx(100 * average_precision_score(labels == -1, row))
        fpr, tpr, _ = roc_curve(labels == -1, row, drop_intermediate=False)
        assert ranking.fpr_at_95_tpr(row, labels) == pytest.approx(100 * fpr[tpr >= 0.95 - 1e-12].min())


@pytest.mark.parametrize("anomalies", [20, 40, 100, 180, 1900])
def test_fpr95_does_not_ask_for_one_anomaly_too_many(anomalies: int) -> None:
    # 5 % of the anomalies below every normal: exactly 95 % can be flagged without a false alarm.
    scores = np.r_[np.zeros(10), -np.ones(anomalies // 20), np.ones(anomalies - anomalies // 20)]
    labels = np.r_[np.ones(10), -np.ones(anomalies)].astype(int)
    assert ranking.fpr_at_95_tpr(scores, labels) == 0.0


def test_the_mean_over_draws_is_of_single_draw_aucs_and_not_the_auc_of_mean_scores() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, -1], 200)
    scores = 0.5 * (labels == -1) + generator.normal(size=(20, 400))
    found = ranking.mean_single_draw_auc(scores, labels)
    each = ranking.auc(scores, labels)
    assert found == pytest.approx((each.mean(), each.std(ddof=1)))
    assert ranking.auc(scores.mean(axis=0), labels) > found.mean + 15  # averaging would flatter
    assert ranking.mean_single_draw_auc(scores[0], labels).sd == 0.0


@pytest.mark.parametrize(
    "function", [ranking.auc, ranking.strict_auc, ranking.average_precision, ranking.fpr_at_95_tpr]
)
def test_nan_scores_and_missing_classes_get_no_figure(function: object) -> None:
    assert callable(function)
    with pytest.raises(CellError, match=r"1 of 3 scores are NaN"):
        function([0.0, np.nan, 1.0], [1, 1, -1])
    with pytest.raises(CellError, match="no anomalous"):
        function([0.0, 1.0], [1, 1])
    with pytest.raises(ValueError, match="Labels"):
        function([0.0, 1.0], [0, 1])  # scikit-learn's labels would silently swap the classes


@pytest.mark.parametrize("fpr", [0.0, 0.05, 0.1, 0.29])
@pytest.mark.parametrize("count", [3, 20, 100, 137])
def test_the_threshold_flags_as_many_normals_as_allowed_and_no_more(fpr: float, count: int) -> None:
    normals = np.random.default_rng(count).permutation(count).astype(float)
    threshold = ranking.threshold_on_normals(normals, fpr)
    assert int((normals > threshold).sum()) == int(fpr * count + 1e-9)


def test_attack_success_counts_only_what_was_right_before() -> None:
    labels = [1, 1, 1, -1, -1, -1]
    clean = [0, 0, 9, 9, 9, 0]  # at threshold 5, images 0, 1, 3, 4 are right
    robust = [9, 0, 9, 0, 9, 9]  # images 0 and 3 flip; image 5 becomes right
    success, accuracy = ranking.attack_success(clean, robust, labels, 5.0)
    assert success == pytest.approx(50.0)
    assert accuracy == pytest.approx(50.0)
    assert ranking.attack_success([9.0], [9.0], [1], 5.0).success is None


def maps_and_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    masks = np.zeros((4, 24, 24), dtype=bool)
    masks[0, 2:5, 2:5] = masks[0, 10:20, 10:20] = masks[2, 4:6, :] = True
    masks[1, 3, 3] = masks[1, 4, 4] = True  # touching corners: one region
    return np.round(generator.normal(size=masks.shape) + 1.0 * masks, 1), masks


def aupro_by_thresholds(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The definition, threshold by threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        for region in range(1, count + 1):
            regions.append((index, labelled == region))
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        points.append((flagged[~masks].mean(), np.mean([flagged[i][region].mean() for i, region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit:
            inside = min(1.0, (limit - x0) / (x1 - x0)) if x1 > x0 else 1.0
            area += inside * (x1 - x0) * (2 * y0 + inside * (y1 - y0)) / 2
    return 100 * area / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_its_definition(limit: float) -> None:
    maps, masks = maps_and_masks(1)
    assert pixels.aupro(maps, masks, fpr_limit=limit) == pytest.approx(aupro_by_thresholds(maps, masks, limit))


def test_a_perfect_map_has_full_aupro_and_a_small_region_weighs_as_much_as_a_large_one() -> None:
    _, masks = maps_and_masks(1)
    assert pixels.aupro(masks.astype(float), masks) == pytest.approx(100.0)
    assert pixels.pixel_auroc(masks.astype(float), masks) == 100.0
    only_large = np.zeros(masks.shape)
    only_large[0, 10:20, 10:20] = 1.0  # one of four regions, most of the defective pixels
    linear = 25.0 + 75.0 * 0.15  # from (0, 1/4) to (1, 1), mean up to 0.3
    assert pixels.aupro(only_large, masks) == pytest.approx(linear)


def test_pixel_figures_need_masks_with_both_kinds_of_pixels() -> None:
    with pytest.raises(CellError, match="masks"):
        pixels.aupro(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), dtype=bool))


def test_brightness_separates_whichever_class_is_brighter() -> None:
    labels = [1, 1, -1, -1]
    assert ranking.separability([1, 2, 3, 4], labels) == 100.0
    assert ranking.separability([4, 3, 2, 1], labels) == 100.0
    assert ranking.separability([1, 4, 2, 3], labels) == 50.0
