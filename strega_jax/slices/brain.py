"""What stored slices say of the brain: inside it some channel is above 0, outside it all are 0."""

from typing import Any


def brain_of(images: Any) -> Any:
    """Which pixels belong to the brain.

    Args:
        images: (…, h, w, c) stored slices, NumPy or JAX.

    Returns:
        (…, h, w) bool, of the same kind of array.
    """
    return images.max(axis=-1) > 0
