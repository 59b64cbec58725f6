"""Cleaning of masks: small components of slices and of volumes are dropped."""

from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool


def drop_small_areas(
    slices: Bool[np.ndarray, "k h w"], min_area: float, connectivity: Literal[4, 8]
) -> Bool[np.ndarray, "k h w"]:
    """Remove the components of each slice with fewer than `min_area` pixels.

    On a binary image this is area opening (Vincent, 1993): a component of exactly `min_area` pixels stays.
    """
    kept = np.array(slices)
    if min_area <= 1:
        return kept
    for image in kept:
        on = np.flatnonzero(image)
        if on.size:
            labels = cc3d.connected_components(image, connectivity=connectivity).reshape(-1)[on]
            image.reshape(-1)[on] = (np.bincount(labels) >= min_area)[labels]
    return kept


def drop_small_volumes(mask: Bool[np.ndarray, "x y z"], min_voxels: float) -> Bool[np.ndarray, "x y z"]:
    """Remove the 26-connected components with fewer than `min_voxels` voxels."""
    if min_voxels <= 1 or not mask.any():
        return np.array(mask)
    labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    large = np.bincount(labels.reshape(-1)) >= min_voxels
    large[0] = False
    return large[labels]
