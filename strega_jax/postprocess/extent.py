"""How far detections reach: over what a judge is sure of beside them, then as far as their intensities do."""

import math
from collections.abc import Sequence

import cc3d
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.boxes import bounding_box, within_reach
from strega_jax.config import Postprocess
from strega_jax.postprocess.appearance import refine_by_appearance
from strega_jax.postprocess.mask import components_with_seeds


def decide_extent(
    mask: Bool[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    settings: Postprocess,
    sure: Bool[np.ndarray, "x y z"] | None = None,
) -> Bool[np.ndarray, "x y z"]:
    """The detections with the extent that the settings ask for; none comes or goes by it.

    Args:
        mask: detections.
        images: intensities, one volume a contrast, all on this grid.
        brain: brain mask.
        spacing_mm: voxel edges.
        settings: `appearance_mm`, 0 for the detections as they are, and `min_volume_ml`.
        sure: voxels of the brain that detections take in where they are joined to them.
    """
    if not settings.appearance_mm:
        return mask
    grown = mask if sure is None else grow_into(mask, sure, spacing_mm, settings.appearance_mm)
    found = refine_by_appearance(grown, images, brain, spacing_mm, settings.appearance_mm)
    return drop_specks(found, mask, settings.min_volume_ml * 1000 / math.prod(spacing_mm))


def grow_into(
    mask: Bool[np.ndarray, "x y z"],
    into: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    reach_mm: float,
) -> Bool[np.ndarray, "x y z"]:
    """The mask and the voxels of `into` within reach that are joined to it, directly or by others (26-connected).

    Args:
        mask: where to begin.
        into: where to go.
        spacing_mm: voxel edges.
        reach_mm: from the mask.
    """
    inner = bounding_box(mask)
    if inner is None:
        return mask
    box = within_reach(inner, spacing_mm, reach_mm, mask.shape)
    distance: np.ndarray = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm)  # pyright: ignore[reportAssignmentType]
    grown = mask.copy()
    grown[box] = components_with_seeds((into[box] & (distance <= reach_mm)) | mask[box], mask[box])
    return grown


def drop_specks(
    mask: Bool[np.ndarray, "x y z"], detections: Bool[np.ndarray, "x y z"], min_voxels: float
) -> Bool[np.ndarray, "x y z"]:
    """Without 26-connected components of fewer voxels; of a detection that would lose all, the largest stays."""
    box = bounding_box(mask)
    if box is None or min_voxels <= 1:
        return mask
    labels, before = (cc3d.connected_components(np.ascontiguousarray(of[box])) for of in (mask, detections))
    sizes = np.bincount(labels.ravel())
    kept = sizes >= min_voxels
    kept[0] = False
    for detection in range(1, int(before.max()) + 1):
        parts = np.unique(labels[before == detection])
        parts = parts[parts > 0]
        if parts.size and not kept[parts].any():
            kept[parts[sizes[parts].argmax()]] = True
    cleaned = np.zeros_like(mask)
    cleaned[box] = kept[labels]
    return cleaned
