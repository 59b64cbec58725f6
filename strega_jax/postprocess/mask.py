"""Score map → mask of what is anomalous, on the scan's own grid, axial slice by axial slice."""

import math
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Float

from strega_jax.boxes import bounding_box
from strega_jax.config import Postprocess
from strega_jax.errors import ConfigError, ScanError
from strega_jax.postprocess.morphology import drop_small_areas, drop_small_volumes
from strega_jax.postprocess.otsu import otsu_thresholds


def mask_from_score(
    score: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    settings: Postprocess,
    *,
    healthy_threshold: float | None = None,
) -> Bool[np.ndarray, "x y z"]:
    """The voxels of the brain whose score is strictly above the threshold, cleaned of small specks.

    The order is that of the paper's postprocessing (sec. 2.6): threshold, opening, area opening; a filter of 3-D
    components after it is optional, and what is done to the scores before it is `refine_scores`' work. Otsu's
    histogram is that of the whole slice (or volume), the zeros outside the brain included.

    Args:
        score: (x, y, z) float32, ≥ 0, on the canonical grid; what lies outside the brain is taken as 0.
        brain: (x, y, z) bool, the brain.
        spacing_mm: voxel edge lengths.
        settings: thresholds, radii and smallest sizes.
        healthy_threshold: the threshold from healthy scans (`healthy_threshold()`), which
            `settings.needs_calibration` says is needed.

    Returns:
        (x, y, z) bool.

    Raises:
        ScanError: the score is not finite, or score and brain differ in shape.
        ConfigError: the threshold comes from healthy scans and none was given.
    """
    _check(score, brain)
    if settings.needs_calibration and healthy_threshold is None:
        raise ConfigError(
            f"config field postprocess.threshold is {settings.threshold!r}, but no threshold from healthy scans is at "
            "hand; calibrate on healthy validation scans first, or use 'otsu' or 'fixed'"
        )
    mask = np.zeros(score.shape, bool)
    box = bounding_box(brain)
    if box is None:
        return mask
    # Only the brain's box is worked on, slices first; everything beside it is zero. A threshold is never below
    # zero, so nothing outside the brain can lie above it.
    slices = np.where(brain[box], score[box], np.float32(0)).astype(np.float32, copy=False).transpose(2, 0, 1)
    thresholds = np.maximum(_thresholds(slices, score.shape, settings, healthy_threshold), np.float32(0))
    marked = slices > thresholds[:, None, None]
    near = bounding_box(marked)
    if near is None:
        return mask
    marked, slices = np.ascontiguousarray(marked[near]), slices[near]
    if settings.threshold == "hysteresis":
        marked = components_with_seeds(marked, slices > np.float32(settings.value or healthy_threshold or 0))
    min_area = max(settings.min_area_px, settings.min_area_mm2 / (spacing_mm[0] * spacing_mm[1]))
    marked = drop_small_areas(marked, min_area, settings.connectivity)
    marked = drop_small_volumes(marked, settings.min_volume_ml * 1000 / math.prod(spacing_mm))
    mask[box][near[1], near[2], near[0]] = marked.transpose(1, 2, 0)
    return mask


def _check(score: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "i j k"]) -> None:
    if score.shape != brain.shape:
        raise ScanError(f"score map of shape {score.shape} and brain mask of shape {brain.shape} are not of one scan")
    if not np.isfinite(score).all():
        raise ScanError(
            f"score map: {np.count_nonzero(~np.isfinite(score))} voxels are NaN or infinite; "
            "the scan or the checkpoint it was scored with is damaged"
        )


def _thresholds(
    slices: Float[np.ndarray, "k h w"], shape: tuple[int, ...], settings: Postprocess, healthy_threshold: float | None
) -> Float[np.ndarray, "k"]:
    """One threshold a slice; infinity where the slice stays empty."""
    if settings.threshold != "otsu":
        value = settings.value if settings.threshold == "fixed" else healthy_threshold
        if settings.threshold == "hysteresis":
            value = settings.low_fraction * float(slices.max())
        return np.full(len(slices), value, np.float32)
    slices = np.ascontiguousarray(slices)
    if settings.scope == "slice":
        beside = shape[0] * shape[1] - slices[0].size
        thresholds = otsu_thresholds(slices, zeros_beside=beside)
    else:
        beside = int(np.prod(shape)) - slices.size
        thresholds = np.repeat(otsu_thresholds(slices.reshape(1, 1, -1), zeros_beside=beside), len(slices))
    return np.where(thresholds < settings.value, np.float32(np.inf), thresholds)


def components_with_seeds(
    marked: Bool[np.ndarray, "k h w"], seeds: Bool[np.ndarray, "k h w"], connectivity: Literal[6, 26] = 26
) -> Bool[np.ndarray, "k h w"]:
    """The components of `marked` that hold a seed, joined over slices."""
    labels = cc3d.connected_components(marked, connectivity=connectivity)
    kept = np.zeros(int(labels.max()) + 1, bool)
    kept[labels[seeds & marked]] = True
    kept[0] = False
    return kept[labels]
