"""Cleaning of binary slices: opening by a disk (jitted), dropping of small components (on the host)."""

from functools import partial
from typing import Literal

import cc3d
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

# Slices go to the device in chunks of this many, their sides filled up to a multiple of this many pixels.
SLICES_PER_CALL = 32
SIDE_BUCKET = 32


def open_by_disk(slices: Bool[np.ndarray, "k h w"], radius: int) -> Bool[np.ndarray, "k h w"]:
    """Erosion, then dilation by a disk of `radius` pixels (all offsets with i² + j² ≤ radius²), slice by slice.

    What lies beyond the border neither erodes nor grows, as in scikit-image.
    """
    count, height, width = slices.shape
    if radius == 0 or slices.size == 0:
        return slices
    opened = np.empty_like(slices)
    rows, columns = (-(-n // SIDE_BUCKET) * SIDE_BUCKET for n in (height, width))
    filled = np.zeros((SLICES_PER_CALL, rows, columns), bool)
    for start in range(0, count, SLICES_PER_CALL):
        chunk = slices[start : start + SLICES_PER_CALL]
        filled[: len(chunk), :height, :width] = chunk
        result = _open(jnp.array(filled), np.int32(height), np.int32(width), radius=radius)
        opened[start : start + len(chunk)] = np.asarray(result)[: len(chunk), :height, :width]
    return opened


@partial(jax.jit, static_argnames="radius")
def _open(
    slices: Bool[Array, "k h w"], height: Int[Array, ""], width: Int[Array, ""], *, radius: int
) -> Bool[Array, "k h w"]:
    inside = (jnp.arange(slices.shape[1]) < height)[:, None] & (jnp.arange(slices.shape[2]) < width)[None, :]
    eroded = ~_dilate(~slices & inside[None], radius)
    return _dilate(eroded & inside[None], radius)


def _dilate(slices: Bool[Array, "k h w"], radius: int) -> Bool[Array, "k h w"]:
    """Union of the slices shifted by every offset of the disk; False comes in from beyond the border."""
    _, height, width = slices.shape
    padded = jnp.pad(slices, ((0, 0), (radius, radius), (radius, radius)))
    grown = slices
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if 0 < i * i + j * j <= radius * radius:
                grown = grown | padded[:, radius + i : radius + i + height, radius + j : radius + j + width]
    return grown


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
