"""The box of an array that holds something, and the blocks that an array can be cut into."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Shaped


def bounding_box(mask: Bool[np.ndarray, "..."]) -> tuple[slice, ...] | None:
    """The smallest box of indices that holds every true voxel; None when there is none."""
    box = []
    for axis in range(mask.ndim):
        on = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if on.size == 0:
            return None
        box.append(slice(int(on[0]), int(on[-1]) + 1))
        mask = mask[(slice(None),) * axis + (box[-1],)]  # the less to look through along the next
    return tuple(box)


def slab_boxes(
    mask: Bool[np.ndarray, "x *rest"], planes: int, within: tuple[slice, ...] | None = None
) -> Iterator[tuple[slice, ...]]:
    """The boxes of what a mask holds in each slab of so many planes across its first axis, or of a part of it."""
    whole = within or tuple(slice(0, n) for n in mask.shape)
    for start in range(whole[0].start, whole[0].stop, planes):
        slab = (slice(start, min(start + planes, whole[0].stop)), *whole[1:])
        if (box := bounding_box(mask[slab])) is not None:
            yield tuple(slice(s.start + b.start, s.start + b.stop) for s, b in zip(slab, box, strict=True))


def widened(box: Sequence[slice], margin: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The box with so many voxels around it along each axis, as far as the array goes."""
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, shape, strict=True))


def within_reach(
    box: Sequence[slice], spacing_mm: Sequence[float], reach_mm: float, shape: Sequence[int]
) -> tuple[slice, ...]:
    """The box and so many millimetres around it, as far as the array goes."""
    return widened(box, [math.ceil(reach_mm / mm) for mm in spacing_mm], shape)


def block_sums(volume: Shaped[np.ndarray, "x y z *c"], block: Sequence[int]) -> Shaped[np.ndarray, "i j k *c"]:
    """Sums over blocks of voxels, the last of each axis filled up with zeros; float32, or counts of a bool volume.

    Args:
        volume: the array.
        block: voxels a block along the first three axes.
    """
    total = np.zeros(
        [-(-n // size) for n, size in zip(volume.shape[:3], block, strict=True)] + list(volume.shape[3:]),
        np.int32 if volume.dtype == bool else np.float32,
    )
    # One strided view after the other: NumPy reduces short axes slowly. Copying the volume to pad it would take longer.
    for first in itertools.product(*map(range, block)):
        part = volume[tuple(slice(start, None, size) for start, size in zip(first, block, strict=True))]
        total[tuple(map(slice, part.shape[:3]))] += part
    return total
