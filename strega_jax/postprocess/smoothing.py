"""Gaussian smoothing of a score map, jitted."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Taps reach this many standard deviations.
TRUNCATE = 4.0
# Axes are filled up to a multiple of this many voxels, so that scans of different shapes share programs.
AXIS_BUCKET = 32


def smooth_score(
    score: Float[np.ndarray, "x y z"], sigma_mm: float, spacing_mm: tuple[float, float, float]
) -> Float[np.ndarray, "x y z"]:
    """Gaussian filter with `sigma_mm` along every axis, zero beyond the border; float32."""
    filled = np.pad(score, [(0, -n % AXIS_BUCKET) for n in score.shape])
    taps = tuple(_taps(sigma_mm / edge) for edge in spacing_mm)
    x, y, z = score.shape
    return np.asarray(_convolve(jnp.asarray(filled), taps))[:x, :y, :z]


def _taps(sigma: float) -> Float[np.ndarray, "taps"]:
    reach = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


@jax.jit
def _convolve(volume: Float[Array, "x y z"], taps: tuple[Float[Array, "taps"], ...]) -> Float[Array, "x y z"]:
    for axis, weights in enumerate(taps):
        length, reach = volume.shape[axis], weights.size // 2
        padding = [(0, 0)] * 3
        padding[axis] = (reach, reach)
        padded = jnp.pad(volume, padding)
        volume = sum(
            (weights[i] * jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(weights.size)),
            start=jnp.zeros_like(volume),
        )
    return volume
