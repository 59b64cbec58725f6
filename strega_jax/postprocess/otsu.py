"""Otsu's threshold of slices of which only a box was kept.

Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
"""

import numpy as np
from jaxtyping import Float

BINS = 256


def otsu_thresholds(slices: Float[np.ndarray, "k h w"], *, zeros_beside: int = 0) -> Float[np.ndarray, " k"]:
    """Otsu's threshold (256 bins over the slice's own range) of each slice, as scikit-image gives it.

    Args:
        slices: (k, h, w) float32, finite.
        zeros_beside: pixels of value 0 that belong to every slice but were cropped away; they count in its
            range and histogram.

    Returns:
        (k,) float32 thresholds. A constant slice has its constant as threshold.

    Raises:
        ValueError: a slice holds NaN or infinity, or there are no pixels.
    """
    if slices.size == 0 and len(slices):
        raise ValueError(f"slices of shape {slices.shape} have no pixels")
    if not np.isfinite(slices).all():
        raise ValueError("slices hold NaN or infinite values")
    return np.array([_threshold(image.reshape(-1), zeros_beside) for image in slices], np.float32)


def _threshold(values: Float[np.ndarray, " n"], zeros_beside: int) -> np.float32:
    # Other thresholds run where scikit-image is not loaded.
    from skimage.filters import threshold_otsu

    low, high = values.min(), values.max()
    if zeros_beside:
        low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if low == high:
        return low
    counts, edges = np.histogram(values, BINS, range=(low, high))
    if zeros_beside:
        counts[min(np.searchsorted(edges, 0, side="right") - 1, BINS - 1)] += zeros_beside
    return threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))
