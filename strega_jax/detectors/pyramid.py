"""The Laplacian pyramid (Burt & Adelson 1983; paper, sec. 2.2 and eqs. 2, 3)."""

import itertools

import jax
import numpy as np
from jaxtyping import Array, Float

from strega_jax.detectors.filters import separable

TAPS = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # 5×5 Gaussian, separated


def down(image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Smooth and keep every second pixel."""
    return separable(image, TAPS, stride=2)


def up(image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """u of eqs. 2 and 3: twice the size, linearly."""
    b, h, w, c = image.shape
    return jax.image.resize(image, (b, 2 * h, 2 * w, c), "linear")


def gaussian_pyramid(image: Float[Array, "b h w c"], levels: int) -> list[Float[Array, "b _ _ c"]]:
    """I_0 (the image) to I_K, each half the size of the one before."""
    images = [image]
    for _ in range(levels):
        images.append(down(images[-1]))
    return images


def residuals(images: list[Float[Array, "b _ _ c"]]) -> list[Float[Array, "b _ _ c"]]:
    """H_0 to H_{K−1} of I_0 to I_K (eq. 3)."""
    return [fine - up(coarse) for fine, coarse in itertools.pairwise(images)]


def rebuild(coarsest: Float[Array, "b _ _ c"], high: list[Float[Array, "b _ _ c"]]) -> list[Float[Array, "b _ _ c"]]:
    """I_0 to I_K from I_K and H_0 to H_{K−1} (eq. 2, level by level)."""
    images = [coarsest]
    for residual in reversed(high):
        images.insert(0, up(images[0]) + residual)
    return images
