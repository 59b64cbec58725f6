"""The box of an array that holds something."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def bounding_box(mask: Bool[np.ndarray, "..."]) -> tuple[slice, ...] | None:
    """The smallest box of indices that holds every true voxel; None when there is none."""
    box = []
    for axis in range(mask.ndim):
        on = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if on.size == 0:
            return None
        box.append(slice(int(on[0]), int(on[-1]) + 1))
    return tuple(box)


def widened(box: Sequence[slice], margin: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The box with so many voxels around it along each axis, as far as the array goes."""
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, shape, strict=True))
