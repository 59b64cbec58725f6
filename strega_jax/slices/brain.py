"""What stored slices say of the brain: inside it some channel is above 0, outside it all are 0."""

import functools
import operator
from typing import Any


def brain_of(images: Any) -> Any:
    """Which pixels belong to the brain.

    Args:
        images: (…, h, w, c) stored slices, NumPy or JAX.

    Returns:
        (…, h, w) bool, of the same kind of array.
    """
    # One channel after the other: NumPy reduces short axes slowly.
    return functools.reduce(operator.or_, (images[..., c] > 0 for c in range(images.shape[-1])))
