"""The box of an array that holds something."""

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
