"""A threshold from healthy scans at a chosen rate of false positives."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from strega_jax.errors import ScanError

# Scores are counted by the leading bits of their float32 pattern, whose order is that of the non-negative floats:
# one pass, 16 MB however many scans, and a relative resolution of 2^-13.
DROPPED_BITS = 10


def healthy_threshold(scores: Iterable[Float[np.ndarray, "..."]], rate: float) -> float:
    """The threshold above which at most a share `rate` of all healthy brain voxels lies.

    Args:
        scores: for each healthy scan the scores inside its brain, any shape, ≥ 0; read once.
        rate: target share of voxels strictly above the threshold, in (0, 1).

    Returns:
        The threshold; at most 2^-13 of its value above the exact (1 − rate) quantile of the pooled voxels.

    Raises:
        ScanError: no voxels at all, or a score that is negative, NaN or infinite.
    """
    counts = np.zeros(2 ** (31 - DROPPED_BITS), np.int64)
    for scan in scores:
        values = np.ascontiguousarray(scan, np.float32).reshape(-1)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ScanError("healthy score maps hold negative, NaN or infinite values; score the healthy scans again")
        # abs: a negative zero has the sign bit set.
        patterns = np.abs(values).view(np.uint32) >> DROPPED_BITS
        counts += np.bincount(patterns, minlength=counts.size)
    total = int(counts.sum())
    if total == 0:
        raise ScanError("no healthy voxels to take a threshold from; give healthy validation scans")
    above = total - np.cumsum(counts)
    first = int(np.argmax(above <= rate * total))
    # The largest float of the bin: everything strictly above it lies in later bins. The first bin is zero itself
    # and the denormal numbers next to it.
    pattern = ((first + 1) << DROPPED_BITS) - 1 if first else 0
    return float(np.array(pattern, np.uint32).view(np.float32))
