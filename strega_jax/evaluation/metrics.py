"""Voxel and surface metrics of one volume, and ranking metrics over slices or subjects.

What is not defined is NaN, never 0 or 1: Dice of an empty reference segmentation, AUROC without both classes. Empty
ones are summarised apart (`table.summarise`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from strega_jax.boxes import bounding_box


def dice(mask: Bool[np.ndarray, "..."], truth: Bool[np.ndarray, "..."]) -> float:
    """2 |mask ∩ truth| / (|mask| + |truth|); NaN when the truth is empty."""
    positives = np.count_nonzero(truth)
    if positives == 0:
        return float("nan")
    return float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + positives))


class Ranking(NamedTuple):
    """Cumulative counts of "score ≥ threshold", one entry a distinct score, highest first. Ties are exact."""

    threshold: Float[np.ndarray, "n"]
    true_positives: Int[np.ndarray, "n"]
    false_positives: Int[np.ndarray, "n"]

    @property
    def prevalence(self) -> float:
        """Share of positives: what the average precision of a coin is."""
        positives, negatives = self.true_positives[-1], self.false_positives[-1]
        return float(positives / (positives + negatives))

    def average_precision(self) -> float:
        """Area under the precision–recall curve, Σ (Rᵢ − Rᵢ₋₁) Pᵢ: no interpolation; NaN without positives."""
        tp, fp = self.true_positives, self.false_positives
        if tp[-1] == 0:
            return float("nan")
        return float(np.sum(np.diff(tp, prepend=0) / tp[-1] * (tp / (tp + fp))))

    def auroc(self) -> float:
        """Area under the ROC curve, trapezoids over ties; NaN without both classes."""
        tp, fp = self.true_positives, self.false_positives
        if tp[-1] == 0 or fp[-1] == 0:
            return float("nan")
        heights = (tp + np.concatenate([[0], tp[:-1]])) / 2
        return float(np.sum(np.diff(fp, prepend=0) * heights) / (float(tp[-1]) * float(fp[-1])))

    def best_dice(self) -> tuple[float, float]:
        """The greatest Dice that any threshold reaches on this truth, and that threshold (score ≥ threshold).

        Fitted on the truth it is measured on: an upper bound, to be reported apart and by this name.
        """
        tp, fp = self.true_positives, self.false_positives
        if tp[-1] == 0:
            return float("nan"), float("nan")
        values = 2 * tp / (tp + fp + tp[-1])
        best = int(np.argmax(values))
        return float(values[best]), float(self.threshold[best])


def rank(score: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"]) -> Ranking:
    """Count true and false positives at every distinct score.

    Args:
        score: (n,) finite, ≥ 0, compared as float32.
        positive: (n,) whether each item is anomalous.
    """
    # The bit pattern of a non-negative float32 sorts as the float does; with the label as lowest bit one plain
    # sort of integers orders both, several times faster than argsort.
    bits = (np.ascontiguousarray(score, np.float32) + np.float32(0)).view(np.uint32)
    keys = np.sort((bits.astype(np.uint64) << np.uint64(1)) | positive.astype(np.uint64))[::-1]
    bits, labels = (keys >> np.uint64(1)).astype(np.uint32), (keys & np.uint64(1)).astype(bool)
    last = np.flatnonzero(np.append(bits[1:] != bits[:-1], True))
    true_positives = np.cumsum(labels)[last]
    return Ranking(bits[last].view(np.float32), true_positives, last + 1 - true_positives)


def detection(scores: Float[np.ndarray, "n"], anomalous: Bool[np.ndarray, "n"]) -> dict[str, float]:
    """AUROC and average precision of slices or subjects, with how many of each kind there were."""
    ranking = rank(np.asarray(scores), np.asarray(anomalous, bool)) if len(scores) else None
    return {
        "auroc": ranking.auroc() if ranking else float("nan"),
        "average_precision": ranking.average_precision() if ranking else float("nan"),
        "anomalous": float(np.count_nonzero(anomalous)),
        "healthy": float(len(anomalous) - np.count_nonzero(anomalous)),
    }


def volume_level_score(score: Float[np.ndarray, "*s"], brain: Bool[np.ndarray, "*s"]) -> float:
    """One number a subject: the 99th percentile of the scores in its brain; 0 without a brain."""
    return float(np.quantile(score[brain], 0.99)) if brain.any() else 0.0


def slice_level_scores(
    score: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], truth: Bool[np.ndarray, "x y z"]
) -> tuple[Float[np.ndarray, "k"], Bool[np.ndarray, "k"]]:
    """For each axial slice with brain: the 99th percentile of its brain's scores, and whether truth is in it."""
    levels = np.flatnonzero(brain.any(axis=(0, 1)))
    scores = np.array([volume_level_score(score[:, :, z], brain[:, :, z]) for z in levels])
    return scores, np.asarray(truth.any(axis=(0, 1)))[levels]


class SurfaceAgreement(NamedTuple):
    """How far apart two surfaces lie."""

    hd95_mm: float
    surface_dice: float


def surface_agreement(
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
) -> SurfaceAgreement:
    """HD95 and surface Dice between the surface voxels (those with a face neighbour outside) of two masks.

    HD95 is the larger of the two directed 95th percentiles of the distances between voxel centres. Surface Dice
    (Nikolov et al., 2021) is the share of both surfaces that lies within `tolerance_mm` of the other one.

    The rule for empties: truth empty → both NaN; mask alone empty → HD95 is the diagonal of the volume in mm, the
    worst there is, and surface Dice 0.
    """
    if not truth.any():
        return SurfaceAgreement(float("nan"), float("nan"))
    if not mask.any():
        return SurfaceAgreement(float(np.linalg.norm(np.multiply(truth.shape, spacing_mm))), 0.0)
    ours, theirs = (surface_points(m, spacing_mm) for m in (mask, truth))
    to_truth, _ = KDTree(theirs, leafsize=32).query(ours, workers=-1)
    to_mask, _ = KDTree(ours, leafsize=32).query(theirs, workers=-1)
    within = np.count_nonzero(to_truth <= tolerance_mm) + np.count_nonzero(to_mask <= tolerance_mm)
    return SurfaceAgreement(
        hd95_mm=float(max(np.percentile(to_truth, 95), np.percentile(to_mask, 95))),
        surface_dice=float(within / (len(ours) + len(theirs))),
    )


def surface_points(mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> Float[np.ndarray, "n 3"]:
    """Centres in mm of the mask's voxels that have one of their six neighbours outside it."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3))
    crop = np.pad(mask[box], 1)
    points = np.argwhere(crop & np.logical_not(binary_erosion(crop)))
    return (points + [side.start - 1 for side in box]) * np.asarray(spacing_mm)
