"""A threshold from healthy scans at a chosen rate of false positives."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from strega_jax.errors import ScanError

# Scores are counted by the leading bits of their float32 pattern, whose order is that of the non-negative floats:
# one pass, 16 MB however many scans, and a relative resolution of 2^-13.
DROPPED_BITS = 10


def healthy_threshold(scores: Iterable[Float[np.ndarray, "..."]], rate: float) -> float:
    """`healthy_thresholds` at one rate."""
    return float(healthy_thresholds(scores, [rate])[0])


def healthy_thresholds(
    scores: Iterable[Float[np.ndarray, "..."]], rates: Sequence[float] | Float[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """The thresholds above which at most the shares `rates` of all healthy brain voxels lie.

    Args:
        scores: for each healthy scan the scores inside its brain, any shape, ≥ 0; read once.
        rates: target shares of voxels strictly above the thresholds, in (0, 1).

    Returns:
        The thresholds; each at most 2^-13 of its value above the exact (1 − rate) quantile of the pooled voxels.

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
    first = np.array([np.argmax(above <= rate * total) for rate in rates])
    # The largest float of the bin: everything strictly above it lies in later bins. The first bin is zero itself
    # and the denormal numbers next to it.
    patterns = np.where(first > 0, ((first + 1) << DROPPED_BITS) - 1, 0).astype(np.uint32)
    return patterns.view(np.float32).astype(np.float64)
