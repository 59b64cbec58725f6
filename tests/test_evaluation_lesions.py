"""Lesion-wise counts, FROC and boxes against an independent count and by hand."""

import math

import numpy as np
import pytest
from monai.data.box_utils import box_iou
from scipy import ndimage
from skimage.measure import label, regionprops

from strega_jax.evaluation.lesions import box_agreement, froc, match_lesions, sensitivity_by_size

FULL = np.ones((3, 3, 3))


def cube(shape: tuple[int, int, int], *corners: tuple[int, int, int, int]) -> np.ndarray:
    """Cubes given by corner and side."""
    mask = np.zeros(shape, bool)
    for x, y, z, side in corners:
        mask[x : x + side, y : y + side, z : z + side] = True
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_a_plain_loop_over_scipy_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(40, 40, 20)), 1.5) for _ in range(2)]
    truth = fields[0] > np.quantile(fields[0], 0.95)
    mask = 0.6 * fields[0] + fields[1] > np.quantile(0.6 * fields[0] + fields[1], 0.95)
    score = np.abs(fields[1]).astype(np.float32)
    lesions, lesion_count = ndimage.label(truth, FULL)
    marks, mark_count = ndimage.label(mask, FULL)
    found = [mask[lesions == i].mean() >= 0.1 for i in range(1, lesion_count + 1)]
    true = [truth[marks == i].mean() >= 0.1 for i in range(1, mark_count + 1)]
    match = match_lesions(mask, truth, score, 0.001)
    assert sorted(lesion.found for lesion in match.lesions) == sorted(found)
    assert 0 < sum(found) < lesion_count
    assert sorted(round(m.volume_ml * 1000) for m in match.marks) == sorted(np.bincount(marks.ravel())[1:])
    assert match.false_positives == true.count(False) > 0
    assert match.sensitivity() == pytest.approx(np.mean(found))
    assert match.precision() == pytest.approx(np.mean(true))
    missed = lesion_count - sum(found)
    assert match.f1() == pytest.approx(2 * sum(found) / (2 * sum(found) + missed + match.false_positives))
    peaks = ndimage.maximum(score, marks, range(1, mark_count + 1))
    assert sorted(m.peak_score for m in match.marks) == pytest.approx(sorted(peaks))


def test_froc_equals_counting_at_every_threshold() -> None:
    rng = np.random.default_rng(9)
    matches, volumes = [], []
    for _ in range(3):
        fields = [ndimage.gaussian_filter(rng.normal(size=(30, 30, 16)), 1.5) for _ in range(2)]
        truth, mask = fields[0] > 0.12, 0.7 * fields[0] + fields[1] > 0.12
        score = np.abs(fields[1]).astype(np.float32)
        matches.append(match_lesions(mask, truth, score, 0.001))
        volumes.append((mask, truth, score))
    false_positives, sensitivity = froc(matches)
    for t in (0.0, 0.2, 0.25, 0.3):
        found = total = false = 0
        for mask, truth, score in volumes:
            marks, count = ndimage.label(mask, FULL)
            peaks = ndimage.maximum(score, marks, range(1, count + 1))
            strong = np.isin(marks, 1 + np.flatnonzero(peaks >= t))
            lesions, lesion_count = ndimage.label(truth, FULL)
            found += sum(strong[lesions == i].mean() >= 0.1 for i in range(1, lesion_count + 1))
            total += lesion_count
            false += sum(truth[marks == i].mean() < 0.1 for i in 1 + np.flatnonzero(peaks >= t))
        at = np.flatnonzero(np.isclose(false_positives, false / 3) & np.isclose(sensitivity, found / total))
        assert at.size
    assert np.all(np.diff(false_positives) >= 0)
    assert np.all(np.diff(sensitivity) >= 0)
    assert (false_positives[0], sensitivity[0]) == (0, 0)
    assert sensitivity[-1] == pytest.approx(np.mean([x.found for m in matches for x in m.lesions]))


def test_a_lesion_needs_a_tenth_of_it_covered() -> None:
    truth = cube((20, 20, 20), (2, 2, 2, 10))
    score = np.ones(truth.shape, np.float32)
    barely = cube(truth.shape, (2, 2, 2, 5))
    assert barely.sum() == 125
    assert match_lesions(barely, truth, score, 0.001).sensitivity() == 1
    assert match_lesions(cube(truth.shape, (2, 2, 2, 4)), truth, score, 0.001).sensitivity() == 0


def test_two_weak_marks_find_a_lesion_together() -> None:
    truth = cube((24, 20, 20), (2, 2, 2, 10))
    mask = cube(truth.shape, (2, 2, 2, 4), (8, 8, 8, 4), (18, 14, 14, 3))
    score = np.zeros(truth.shape, np.float32)
    score[3, 3, 3], score[9, 9, 9], score[19, 15, 15] = 0.9, 0.4, 0.6
    match = match_lesions(mask, truth, score, 0.001)
    assert match.lesions[0].confidence == pytest.approx(0.4)
    false_positives, sensitivity = froc([match])
    np.testing.assert_allclose(false_positives, [0, 1, 1])
    np.testing.assert_allclose(sensitivity, [0, 0, 1])


def test_lesions_below_the_smallest_size_are_neither_missed_nor_false() -> None:
    truth = cube((30, 20, 20), (2, 2, 2, 2), (10, 10, 10, 6))
    mask = cube(truth.shape, (2, 2, 2, 2))
    match = match_lesions(mask, truth, mask.astype(np.float32), 0.001, min_lesion_ml=0.05)
    assert len(match.lesions) == 1
    assert not match.lesions[0].found
    assert match.false_positives == 0


def test_diagonal_neighbours_are_one_lesion() -> None:
    truth = np.zeros((6, 6, 6), bool)
    truth[1, 1, 1] = truth[2, 2, 2] = truth[5, 5, 5] = True
    assert len(match_lesions(truth, truth, truth.astype(np.float32), 0.001).lesions) == 2


def test_empty_masks_and_truths() -> None:
    nothing = np.zeros((8, 8, 8), bool)
    something = cube(nothing.shape, (1, 1, 1, 3))
    score = np.ones(nothing.shape, np.float32)
    silent, missed, false = (
        match_lesions(m, t, score, 0.001) for m, t in ((nothing, nothing), (nothing, something), (something, nothing))
    )
    assert math.isnan(silent.sensitivity())
    assert math.isnan(silent.f1())
    assert (missed.sensitivity(), missed.f1()) == (0, 0)
    assert math.isnan(missed.precision())
    assert (false.false_positives, false.precision()) == (1, 0)
    assert np.isnan(froc([false])[1]).all()


def test_sensitivity_by_size_pools_lesions_over_volumes() -> None:
    truth = cube((40, 40, 40), (2, 2, 2, 2), (10, 10, 10, 6), (24, 24, 24, 12))
    mask = cube(truth.shape, (10, 10, 10, 6), (26, 26, 26, 10))
    match = match_lesions(mask, truth, truth.astype(np.float32), 0.001)
    rows = sensitivity_by_size([match, match], edges_ml=(0.1, 1.0, 10.0))
    assert [row["size"] for row in rows] == ["0–0.1 ml", "0.1–1 ml", "1–10 ml", "≥ 10 ml"]
    assert [row["lesions"] for row in rows] == [2, 2, 2, 0]
    assert [row["sensitivity"] for row in rows[:3]] == [0, 1, 1]
    assert math.isnan(float(rows[3]["sensitivity"]))


def test_boxes_equal_those_of_scikit_image_and_monai() -> None:
    rng = np.random.default_rng(4)
    fields = [ndimage.gaussian_filter(rng.normal(size=(40, 44, 10)), (3, 3, 1)) for _ in range(2)]
    truth = fields[0] > np.quantile(fields[0], 0.93)
    mask = fields[0] + fields[1] > np.quantile(fields[0] + fields[1], 0.93)
    best, false = [], 0
    for z in range(10):
        ours, theirs = (
            np.array([region.bbox for region in regionprops(label(m[:, :, z], connectivity=2))], float).reshape(-1, 4)
            for m in (mask, truth)
        )
        iou = box_iou(ours, theirs) if len(ours) and len(theirs) else np.zeros((len(ours), len(theirs)))
        best += iou.max(axis=0, initial=0).tolist()
        false += int((iou.max(axis=1, initial=0) < 0.1).sum())
    assert min(best) < 0.1 < max(best)
    assert false > 0
    found = box_agreement(mask, truth)
    assert found["box_iou"] == pytest.approx(np.mean(best))
    assert found["box_hit_rate"] == pytest.approx(np.mean(np.array(best) >= 0.1))
    assert found["false_boxes"] == false


def test_boxes_by_hand() -> None:
    truth, mask = np.zeros((20, 20, 3), bool), np.zeros((20, 20, 3), bool)
    truth[2:6, 2:6, 0] = True  # met by a box of a quarter of its size
    mask[2:4, 2:4, 0] = True
    truth[2:6, 2:6, 1] = True  # met exactly
    mask[2:6, 2:6, 1] = True
    mask[12:15, 12:15, 1] = True  # false
    truth[10:12, 10:12, 2] = True  # missed
    found = box_agreement(mask, truth)
    assert found["box_iou"] == pytest.approx((0.25 + 1 + 0) / 3)
    assert found["box_hit_rate"] == pytest.approx(2 / 3)
    assert found["false_boxes"] == 1
    assert math.isnan(box_agreement(mask, truth & False)["box_iou"])
