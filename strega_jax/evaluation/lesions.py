"""Lesion by lesion: what was found, what was marked in vain, and boxes.

The rules, everywhere in this file: lesions and marks are 26-connected components. A lesion counts as found when
marks cover at least `MIN_OVERLAP` of its voxels; a mark counts as true when at least that share of it lies in
lesions. Lesions smaller than a stated size are left out of the count, but marks on them are not false.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import cc3d
import numpy as np
from jaxtyping import Bool, Float

from strega_jax.postprocess import slice_boxes

MIN_OVERLAP = 0.1
# A box counts as found from this intersection over union on: loose, since it is there to point, not to measure.
MIN_BOX_IOU = 0.1
# Edges in ml between size classes of lesions.
SIZE_EDGES_ML = (0.1, 1.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A component of the expert mask."""

    volume_ml: float
    found: bool
    # The highest threshold on marks' peak scores at which it is still found; NaN if it is not found at all.
    confidence: float


@dataclasses.dataclass(frozen=True)
class Mark:
    """A component of the detector's mask."""

    volume_ml: float
    true: bool
    peak_score: float


@dataclasses.dataclass(frozen=True)
class LesionMatch:
    """All lesions and marks of one volume."""

    lesions: tuple[Lesion, ...]
    marks: tuple[Mark, ...]

    @property
    def false_positives(self) -> int:
        """Marks that lie on no lesion."""
        return sum(not mark.true for mark in self.marks)

    def sensitivity(self) -> float:
        """Share of lesions found; NaN without lesions."""
        return _share(lesion.found for lesion in self.lesions)

    def precision(self) -> float:
        """Share of marks that are true; NaN without marks."""
        return _share(mark.true for mark in self.marks)

    def f1(self) -> float:
        """2·found / (2·found + missed + false positives); NaN without lesions."""
        if not self.lesions:
            return float("nan")
        found = sum(lesion.found for lesion in self.lesions)
        return 2 * found / (found + len(self.lesions) + self.false_positives)


def match_lesions(
    mask: Bool[np.ndarray, "x y z"],
    truth: Bool[np.ndarray, "x y z"],
    score: Float[np.ndarray, "x y z"],
    voxel_ml: float,
    *,
    min_lesion_ml: float = 0.0,
) -> LesionMatch:
    """Pair the components of a detector's mask with those of the expert's."""
    lesion_of = cc3d.connected_components(np.ascontiguousarray(truth), connectivity=26).reshape(-1)
    mark_of = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26).reshape(-1)
    in_truth, in_mask = np.flatnonzero(truth), np.flatnonzero(mask)
    lesion_sizes, mark_sizes = np.bincount(lesion_of[in_truth]), np.bincount(mark_of[in_mask])
    covered = np.bincount(mark_of[in_mask], weights=truth.reshape(-1)[in_mask])
    peaks = np.full(max(len(mark_sizes), 1), -np.inf)
    np.maximum.at(peaks, mark_of[in_mask], score.reshape(-1)[in_mask].astype(np.float64))
    marks = tuple(
        Mark(float(mark_sizes[i] * voxel_ml), bool(covered[i] >= MIN_OVERLAP * mark_sizes[i]), float(peaks[i]))
        for i in range(1, len(mark_sizes))
    )
    both = in_mask[truth.reshape(-1)[in_mask]]
    order = np.argsort(lesion_of[both], kind="stable")
    marks_on = np.split(mark_of[both][order], np.searchsorted(lesion_of[both][order], np.arange(2, len(lesion_sizes))))
    lesions = []
    for i in range(1, len(lesion_sizes)):
        if lesion_sizes[i] * voxel_ml >= min_lesion_ml:
            confidence = _confidence(marks_on[i - 1], peaks, MIN_OVERLAP * lesion_sizes[i])
            lesions.append(Lesion(float(lesion_sizes[i] * voxel_ml), not np.isnan(confidence), confidence))
    return LesionMatch(tuple(lesions), marks)


def _confidence(marks: np.ndarray, peaks: Float[np.ndarray, "m"], needed: float) -> float:
    """The highest t such that marks with a peak ≥ t cover `needed` of the lesion's voxels; `marks`: one a voxel."""
    overlaps = np.bincount(marks)
    touching = np.flatnonzero(overlaps)
    touching = touching[np.argsort(-peaks[touching], kind="stable")]
    enough = np.flatnonzero(np.cumsum(overlaps[touching]) >= needed)
    return float(peaks[touching[enough[0]]]) if enough.size else float("nan")


def sensitivity_by_size(
    matches: Sequence[LesionMatch], edges_ml: Sequence[float] = SIZE_EDGES_ML
) -> list[dict[str, float | str]]:
    """Share of lesions found in each size class, pooled over volumes; classes without lesions say NaN."""
    lesions = [lesion for match in matches for lesion in match.lesions]
    bounds = [0.0, *edges_ml, float("inf")]
    rows: list[dict[str, float | str]] = []
    for low, high in itertools.pairwise(bounds):
        inside = [lesion.found for lesion in lesions if low <= lesion.volume_ml < high]
        name = f"≥ {low:g} ml" if high == float("inf") else f"{low:g}–{high:g} ml"
        rows.append({"size": name, "lesions": float(len(inside)), "sensitivity": _share(inside)})
    return rows


def froc(matches: Sequence[LesionMatch]) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """Free-response ROC: marks are taken in order of their peak score.

    Args:
        matches: one for each volume, healthy ones included.

    Returns:
        false positives a volume and sensitivity over all lesions, from the strictest threshold to none; its last
        point is the mask as it is. Sensitivity is NaN without lesions.
    """
    confidences = np.array([lesion.confidence for match in matches for lesion in match.lesions])
    false = np.array([mark.peak_score for match in matches for mark in match.marks if not mark.true])
    found = confidences[~np.isnan(confidences)]
    thresholds = np.unique(np.concatenate([found, false]))[::-1]
    false_positives = np.array([np.count_nonzero(false >= t) for t in thresholds]) / max(len(matches), 1)
    hits = np.array([np.count_nonzero(found >= t) for t in thresholds], float)
    sensitivity = hits / len(confidences) if len(confidences) else np.full(len(hits), np.nan)
    start = 0.0 if len(confidences) else np.nan
    return np.concatenate([[0.0], false_positives]), np.concatenate([[start], sensitivity])


def box_agreement(mask: Bool[np.ndarray, "x y z"], truth: Bool[np.ndarray, "x y z"]) -> dict[str, float]:
    """Boxes slice by slice, the paper's assistive use (figs. 6–7).

    Returns:
        `box_iou`: mean over the reference's boxes of the best intersection over union with a marked box of the slice;
        `box_hit_rate`: share of the truth's boxes whose best is at least `MIN_BOX_IOU`; `false_boxes`: marked boxes
        that reach it with no box of the truth. The first two are NaN when the truth is empty.
    """
    ours, theirs = _corners_by_slice(mask), _corners_by_slice(truth)
    nothing = np.zeros((0, 4))
    ious = [_iou(ours.get(z, nothing), theirs.get(z, nothing)) for z in ours.keys() | theirs.keys()]
    best = np.concatenate([iou.max(axis=0, initial=0.0) for iou in ious]) if ious else np.zeros(0)
    false = sum(np.count_nonzero(iou.max(axis=1, initial=0.0) < MIN_BOX_IOU) for iou in ious)
    return {
        "box_iou": float(best.mean()) if len(best) else float("nan"),
        "box_hit_rate": float((best >= MIN_BOX_IOU).mean()) if len(best) else float("nan"),
        "false_boxes": float(false),
    }


def _corners_by_slice(mask: Bool[np.ndarray, "x y z"]) -> dict[int, Float[np.ndarray, "_ 4"]]:
    """Slice → its boxes as rows of first x, first y, end x, end y."""
    by_slice: dict[int, list[tuple[int, ...]]] = {}
    for box in slice_boxes(mask):
        by_slice.setdefault(box.z, []).append((*box.lo, *box.hi))
    return {z: np.array(corners, float) for z, corners in by_slice.items()}


def _iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    lows = np.maximum(a[:, None, :2], b[None, :, :2])
    highs = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(highs - lows, 0, None), axis=2)
    areas_a, areas_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    return overlap / (areas_a[:, None] + areas_b[None, :] - overlap)


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return sum(flags) / len(flags) if flags else float("nan")
