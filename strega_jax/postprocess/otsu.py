"""Otsu's threshold of many slices at once, equal to scikit-image's on every slice.

Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979). All that touches
pixels (range, histogram) is jitted. What is left, 256 numbers a slice, is done in NumPy, because equal means equal
to the last bit: XLA contracts products and sums into fused multiply-adds, which moves an edge or a near-tie.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BINS = 256
# Slices go to the device in chunks of this many, each filled up to a multiple of this many pixels, so that scans
# of different shapes share a handful of compiled programs.
SLICES_PER_CALL = 32
PIXEL_BUCKET = 8192


def otsu_thresholds(slices: Float[np.ndarray, "k h w"], *, zeros_beside: int = 0) -> Float[np.ndarray, "k"]:
    """Otsu's threshold (256 bins over the slice's own range) of each slice.

    Args:
        slices: (k, h, w) float32, finite.
        zeros_beside: pixels of value 0 that belong to every slice but were cropped away; they count in its
            range and histogram.

    Returns:
        (k,) float32 thresholds. A constant slice has its constant as threshold.

    Raises:
        ValueError: a slice holds NaN or infinity, or there are no pixels.
    """
    count, pixels = slices.shape[0], slices.shape[1] * slices.shape[2]
    if count == 0:
        return np.zeros(0, np.float32)
    if pixels == 0:
        raise ValueError(f"slices of shape {slices.shape} have no pixels")
    flat = np.asarray(slices, np.float32).reshape(count, pixels)
    n = np.int32(pixels)
    chunks = [jnp.asarray(chunk) for chunk in _chunks(flat)]
    ranges = [_value_range(chunk, n) for chunk in chunks]
    lowest, highest = (np.concatenate([np.asarray(r[i]) for r in ranges])[:count] for i in range(2))
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise ValueError("slices hold NaN or infinite values")
    if zeros_beside:
        lowest, highest = np.minimum(lowest, np.float32(0)), np.maximum(highest, np.float32(0))
    edges = _edges(lowest, highest)
    histograms = [_histogram(chunk, n, jnp.asarray(e)) for chunk, e in zip(chunks, _chunks(edges, 1), strict=True)]
    counts = np.concatenate([np.asarray(histogram) for histogram in histograms])[:count]
    if zeros_beside:
        for row, row_edges in zip(counts, edges, strict=True):
            row[min(np.searchsorted(row_edges, 0, side="right") - 1, BINS - 1)] += zeros_beside
    return _most_separating(counts, edges)


def _edges(lowest: Float[np.ndarray, "k"], highest: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k edges"]:
    # np.linspace on all rows at once would round otherwise as soon as one of them is constant.
    step = (highest - lowest) / np.float32(BINS)
    edges = np.arange(BINS + 1, dtype=np.float32) * step[:, None] + lowest[:, None]
    edges[:, -1] = highest
    return edges


def _chunks(rows: Float[np.ndarray, "k n"], bucket: int = PIXEL_BUCKET) -> list[Float[np.ndarray, "chunk m"]]:
    """Equal chunks of rows; short rows and a short last chunk are filled with zeros."""
    count, length = rows.shape
    size = 1 if count == 1 else SLICES_PER_CALL
    filled = -(-length // bucket) * bucket
    chunks = []
    for start in range(0, count, size):
        chunk = rows[start : start + size]
        if chunk.shape != (size, filled):
            chunk = np.pad(chunk, ((0, size - len(chunk)), (0, filled - length)))
        chunks.append(chunk)
    return chunks


@jax.jit
def _value_range(
    rows: Float[Array, "chunk m"], pixels: Int[Array, ""]
) -> tuple[Float[Array, "chunk"], Float[Array, "chunk"]]:
    """Least and greatest of the first `pixels` values of each row; NaN where the row holds a NaN or infinity."""
    # The filling zeros become copies of the row's first pixel, which cannot widen its range.
    values = jnp.where((jnp.arange(rows.shape[1]) < pixels)[None, :], rows, rows[:, :1])
    # XLA's minimum and maximum may pass over a NaN.
    finite = jnp.isfinite(values).all(axis=1)
    return jnp.where(finite, values.min(axis=1), jnp.nan), jnp.where(finite, values.max(axis=1), jnp.nan)


@jax.jit
def _histogram(
    rows: Float[Array, "chunk m"], pixels: Int[Array, ""], edges: Float[Array, "chunk edges"]
) -> Int[Array, "chunk bins"]:
    """How many of the first `pixels` values of each row lie in [edge i, edge i+1); the last bin is closed."""

    def bins(row: Float[Array, "m"], row_edges: Float[Array, "edges"]) -> Int[Array, "m"]:
        width = row_edges[-1] - row_edges[0]
        bins_a_unit = jnp.float32(BINS) / jnp.where(width > 0, width, jnp.float32(1))
        # The nearest edge is beyond doubt; on which side of it the value lies, the edge itself decides.
        nearest = jnp.clip(jnp.round((row - row_edges[0]) * bins_a_unit).astype(jnp.int32), 0, BINS)
        index = jnp.minimum(nearest - (row < row_edges[nearest]).astype(jnp.int32), BINS - 1)
        return jnp.where(jnp.arange(row.size) < pixels, index, BINS)

    def count(row_bins: Int[Array, "m"]) -> Int[Array, "bins_and_rest"]:
        return jnp.zeros(BINS + 1, jnp.int32).at[row_bins].add(1, mode="promise_in_bounds")

    return jax.lax.map(count, jax.vmap(bins)(rows, edges))[:, :BINS]


def _most_separating(counts: Int[np.ndarray, "k bins"], edges: Float[np.ndarray, "k edges"]) -> Float[np.ndarray, "k"]:
    """The bin centre with the greatest variance between the pixels up to it and those above it."""
    centres = (edges[:, :-1] + edges[:, 1:]) / np.float32(2)
    weights = counts.astype(np.float32)
    moments = weights * centres
    low, high = np.cumsum(weights, axis=1), np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    # A constant slice has empty ends; all its bin centres are its constant, whichever is taken.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_low = np.cumsum(moments, axis=1) / low
        mean_high = np.cumsum(moments[:, ::-1], axis=1)[:, ::-1] / high
    between = low[:, :-1] * high[:, 1:] * (mean_low[:, :-1] - mean_high[:, 1:]) ** 2
    return centres[np.arange(len(centres)), np.argmax(between, axis=1)]
