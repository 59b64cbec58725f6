"""Per-volume metrics against scikit-learn, MONAI and SciPy."""

import math

import numpy as np
import pytest
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score
from torch import from_numpy

from strega_jax.evaluation.metrics import (
    detection,
    dice,
    rank,
    slice_level_scores,
    surface_agreement,
    surface_points,
    volume_level_score,
)
from strega_jax.evaluation.volume import score_volume

SPACING = (0.9, 1.2, 2.5)


def blobs(seed: int, shape: tuple[int, int, int] = (36, 40, 24), share: float = 0.08) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return smooth > np.quantile(smooth, 1 - share)


def scores(seed: int, truth: np.ndarray, digits: int) -> np.ndarray:
    noise = np.random.default_rng(seed).gamma(1.0, 0.2, truth.shape)
    return np.round(noise + 0.25 * truth, digits).astype(np.float32)


@pytest.mark.parametrize("digits", [1, 2, 7])  # 1: nothing but ties
def test_ranking_equals_scikit_learn_with_ties(digits: int) -> None:
    truth = blobs(0)
    score = scores(1, truth, digits)
    ranking = rank(score.reshape(-1), truth.reshape(-1))
    flat_truth, flat_score = truth.reshape(-1), score.reshape(-1)
    assert ranking.average_precision() == pytest.approx(average_precision_score(flat_truth, flat_score), rel=1e-12)
    assert ranking.auroc() == pytest.approx(roc_auc_score(flat_truth, flat_score), rel=1e-12)
    assert ranking.prevalence == pytest.approx(truth.mean())


def test_best_dice_equals_the_best_of_all_thresholds() -> None:
    truth = blobs(2)
    score = scores(3, truth, 2)
    precision, recall, thresholds = precision_recall_curve(truth.reshape(-1), score.reshape(-1))
    all_dice = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    value, threshold = rank(score.reshape(-1), truth.reshape(-1)).best_dice()
    assert value == pytest.approx(all_dice.max(), rel=1e-12)
    assert threshold == pytest.approx(thresholds[all_dice.argmax()])
    assert value == pytest.approx(dice(score >= np.float32(threshold), truth))


def test_ranking_without_both_classes_is_undefined() -> None:
    score = np.array([0.0, 0.5, 0.5], np.float32)
    none, every = rank(score, np.zeros(3, bool)), rank(score, np.ones(3, bool))
    assert math.isnan(none.auroc())
    assert math.isnan(none.average_precision())
    assert math.isnan(none.best_dice()[0])
    assert math.isnan(every.auroc())
    assert every.average_precision() == 1


def test_dice_equals_the_f1_score_and_is_undefined_without_truth() -> None:
    mask, truth = blobs(4), blobs(5) | blobs(4, share=0.03)
    assert dice(mask, truth) == pytest.approx(f1_score(truth.reshape(-1), mask.reshape(-1)))
    assert dice(np.zeros_like(truth), truth) == 0
    assert math.isnan(dice(mask, np.zeros_like(truth)))


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_surface_metrics_equal_monai(seed: int) -> None:
    truth = blobs(seed)
    mask = ndimage.shift(truth.astype(float), (2, -1, 1), order=0) > 0.5
    mask |= blobs(seed + 50, share=0.01)
    ours, theirs = (from_numpy(m[None, None].copy()) for m in (mask, truth))
    hd95 = compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95, spacing=SPACING)
    found = surface_agreement(mask, truth, SPACING, tolerance_mm=1.3)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    surface = compute_surface_dice(ours, theirs, [1.3], include_background=True, spacing=SPACING)
    assert found.surface_dice == pytest.approx(float(surface), rel=1e-5)


def test_surface_distances_equal_brute_force() -> None:
    truth, mask = blobs(8, (20, 22, 12)), blobs(9, (20, 22, 12))
    surfaces = [np.argwhere(m & ~ndimage.binary_erosion(m)) * SPACING for m in (mask, truth)]
    distances = cdist(*surfaces)
    a, b = distances.min(axis=1), distances.min(axis=0)
    found = surface_agreement(mask, truth, SPACING, tolerance_mm=2.0)
    assert found.hd95_mm == pytest.approx(max(np.percentile(a, 95), np.percentile(b, 95)))
    assert found.surface_dice == pytest.approx(((a <= 2).sum() + (b <= 2).sum()) / (a.size + b.size))


def test_a_mask_against_itself_and_against_nothing() -> None:
    truth, nothing = blobs(1), np.zeros((36, 40, 24), bool)
    assert surface_agreement(truth, truth, SPACING, 1.0) == (0.0, 1.0)
    worst = surface_agreement(nothing, truth, SPACING, 1.0)
    assert worst.hd95_mm == pytest.approx(math.sqrt((36 * 0.9) ** 2 + (40 * 1.2) ** 2 + (24 * 2.5) ** 2))
    assert worst.surface_dice == 0
    assert all(math.isnan(value) for value in surface_agreement(truth, nothing, SPACING, 1.0))
    assert surface_points(nothing, SPACING).shape == (0, 3)


def test_slices_and_subjects_are_ranked_as_scikit_learn_ranks_them() -> None:
    brain = np.ones((36, 40, 24), bool)
    brain[:, :, :3] = False
    truth = blobs(6, share=0.01) & brain
    truth[:, :, 15:] = False
    score = scores(7, truth, 7) * brain
    level_scores, anomalous = slice_level_scores(score, brain, truth)
    assert level_scores.shape == (21,)
    assert 0 < anomalous.sum() < 21
    assert level_scores[4] == pytest.approx(np.quantile(score[:, :, 7], 0.99))
    found = detection(level_scores, anomalous)
    assert found["auroc"] == pytest.approx(roc_auc_score(anomalous, level_scores.astype(np.float32)))
    assert found["average_precision"] == pytest.approx(
        average_precision_score(anomalous, level_scores.astype(np.float32))
    )
    assert found["healthy"] == 21 - anomalous.sum()
    assert volume_level_score(score, brain & False) == 0.0
    assert math.isnan(detection(np.zeros(0), np.zeros(0, bool))["auroc"])


def test_all_numbers_of_a_volume() -> None:
    brain = np.zeros((36, 40, 24), bool)
    brain[3:-3, 3:-3, 2:-2] = True
    truth = blobs(10, share=0.03) & brain
    truth[1, 20, 12] = True  # the expert marks a voxel that the brain mask leaves out
    score = scores(11, truth, 3) * brain
    mask = (score > 0.6) & brain
    numbers = score_volume(score, mask, truth, brain, SPACING)
    looked_at = brain | truth
    assert numbers["auprc"] == pytest.approx(average_precision_score(truth[looked_at], score[looked_at]))
    assert numbers["prevalence"] == pytest.approx(truth.sum() / looked_at.sum())
    assert numbers["dice"] == pytest.approx(dice(mask, truth))
    assert numbers["reference_ml"] == pytest.approx(truth.sum() * 0.9 * 1.2 * 2.5 / 1000)
    assert numbers["false_positive_ml"] == pytest.approx((mask & ~truth).sum() * 0.0027)
    assert numbers["voxel_precision"] == pytest.approx((mask & truth).sum() / mask.sum())
    assert numbers["hd95_mm"] == surface_agreement(mask, truth, SPACING, 1.0).hd95_mm
    assert all(isinstance(value, float) for value in numbers.values())


def test_a_healthy_volume_has_only_false_positives() -> None:
    brain = np.ones((20, 20, 10), bool)
    mask = np.zeros_like(brain)
    mask[3:5, 3:5, 3:5] = True
    numbers = score_volume(mask.astype(np.float32), mask, np.zeros_like(brain), brain, (1.0, 1.0, 1.0))
    assert numbers["false_positive_ml"] == pytest.approx(0.008)
    assert numbers["false_lesions"] == 1
    assert numbers["false_boxes"] == 2
    undefined = {name for name, value in numbers.items() if math.isnan(value)}
    assert {"dice", "auprc", "auroc", "best_dice", "hd95_mm", "surface_dice", "lesion_f1", "box_iou"} <= undefined
    assert numbers["lesion_precision"] == 0
