"""Separable filters over images, edges extended."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TRUNCATE = 4.0  # Gaussian taps reach this many standard deviations


def separable(x: Float[Array, "b h w c"], taps: Float[np.ndarray, "k"], stride: int = 1) -> Float[Array, "b h2 w2 c"]:
    """Filter rows and columns with the same odd number of taps, keeping every `stride`-th pixel."""
    reach = len(taps) // 2
    for axis in (1, 2):
        size = x.shape[axis]
        padding = [(0, 0)] * 4
        padding[axis] = (reach, reach)
        padded = jnp.pad(x, padding, mode="edge")
        parts = []
        for start, weight in enumerate(taps):
            window: list[slice] = [slice(None)] * 4
            window[axis] = slice(start, start + size, stride)
            parts.append(float(weight) * padded[tuple(window)])
        x = jnp.stack(parts).sum(axis=0)
    return x


def gaussian_blur(x: Float[Array, "b h w c"], sigma: float) -> Float[Array, "b h w c"]:
    """Gaussian filter of `sigma` pixels; 0 leaves the image as it is."""
    if not sigma:
        return x
    reach = int(TRUNCATE * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return separable(x, taps / taps.sum())
