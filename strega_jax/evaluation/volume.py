"""All numbers of one volume in one call."""

import math

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.boxes import bounding_box
from strega_jax.evaluation.lesion_wise import lesion_wise_dice
from strega_jax.evaluation.lesions import LesionMatch, box_agreement, match_lesions
from strega_jax.evaluation.metrics import dice, rank, surface_agreement

# Surfaces closer than this are taken as one: about the error of a hand-drawn outline at 1 mm.
SURFACE_TOLERANCE_MM = 1.0


def score_volume(
    score: Float[np.ndarray, "x y z"],
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    *,
    min_lesion_ml: float = 0.0,
) -> dict[str, float]:
    """Every per-volume number, by name; NaN where a number is not defined (see each metric for its rule).

    Voxel ranking (`auprc`, `auroc`, `prevalence`, `best_dice`) is over the brain and what the expert marked beside
    it, where the score is what the score map holds. `best_dice` is fitted on this very truth.

    Args:
        score: ≥ 0, higher is more anomalous.
        mask: what the detector marks.
        truth: what the expert marks; may be empty (a healthy scan).
        brain: the brain.
        spacing_mm: voxel edge lengths.
        min_lesion_ml: smaller lesions of the truth are left out of the lesion counts.
    """
    return score_volume_and_lesions(score, mask, truth, brain, spacing_mm, min_lesion_ml=min_lesion_ml)[0]


def score_volume_and_lesions(
    score: Float[np.ndarray, "x y z"],
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    *,
    min_lesion_ml: float = 0.0,
) -> tuple[dict[str, float], LesionMatch]:
    """As `score_volume`, with the lesions and marks themselves: FROC and sensitivity by size need them."""
    voxel_ml = math.prod(spacing_mm) / 1000
    looked_at = brain | truth
    box = bounding_box(looked_at | mask)
    if box is None:
        raise ValueError("brain, truth and mask are all empty: there is nothing to score")
    surfaces = surface_agreement(mask, truth, spacing_mm, SURFACE_TOLERANCE_MM)
    score, mask, truth, looked_at = score[box], mask[box], truth[box], looked_at[box]
    ranking = rank(score[looked_at], truth[looked_at])
    best_dice, best_threshold = ranking.best_dice()
    match = match_lesions(mask, truth, score, voxel_ml, min_lesion_ml=min_lesion_ml)
    hits, marked, positives = (int(np.count_nonzero(m)) for m in (mask & truth, mask, truth))
    return {
        "dice": dice(mask, truth),
        "lesion_wise_dice": lesion_wise_dice(mask, truth, spacing_mm),
        "voxel_sensitivity": hits / positives if positives else math.nan,
        "voxel_precision": hits / marked if marked else math.nan,
        "reference_ml": positives * voxel_ml,
        "marked_ml": marked * voxel_ml,
        "false_positive_ml": (marked - hits) * voxel_ml,
        "auprc": ranking.average_precision(),
        "prevalence": ranking.prevalence,
        "auroc": ranking.auroc(),
        "best_dice": best_dice,
        "best_dice_threshold": best_threshold,
        "hd95_mm": surfaces.hd95_mm,
        "surface_dice": surfaces.surface_dice,
        "lesions": float(len(match.lesions)),
        "lesion_sensitivity": match.sensitivity(),
        "lesion_precision": match.precision(),
        "lesion_f1": match.f1(),
        "false_lesions": float(match.false_positives),
        **box_agreement(mask, truth),
    }, match
