"""Bias field: a smooth multiplicative shading, as receive coils cause it (Van Leemput et al., 1999)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ORDER = 3
# exponents (a, b) of x^a y^b; TorchIO nests a third exponent, which on a slice counts only where it is 0
EXPONENTS = tuple((a, b) for a in range(ORDER + 1) for b in range(ORDER + 1 - a))


class BiasField(NamedTuple):
    """Coefficients of the terms of `EXPONENTS`; all zero leaves an image as it is."""

    coefficients: Float[Array, "10"]


def sample_bias_field(uniform: Float[Array, "11"], probability: float, magnitude: float) -> BiasField:
    """Coefficients uniform in ± `magnitude` with the given probability, else zero, from draws of U[0, 1)."""
    coefficients = (2 * uniform[1:] - 1) * magnitude
    return BiasField(jnp.where(uniform[0] < probability, coefficients, jnp.zeros_like(coefficients)))


def bias_field(image: Float[Array, "c h w"], params: BiasField) -> Float[Array, "c h w"]:
    """Multiply by exp(Σ c_ab x^a y^b), x (rows) and y (columns) running from −1 to 1 over pixel centres."""
    _, height, width = image.shape
    matrix = jnp.zeros((ORDER + 1, ORDER + 1)).at[tuple(np.transpose(EXPONENTS))].set(params.coefficients)
    rows = jnp.asarray(_powers(height))
    # float32 throughout: GPUs and TPUs would otherwise round the factors of a product to 10 or 8 bits
    log_field = jnp.einsum(
        "ha,ab,wb->hw", rows, matrix, jnp.asarray(_powers(width)), precision=jax.lax.Precision.HIGHEST
    )
    return image * jnp.exp(log_field)[None]


def _powers(length: int) -> Float[np.ndarray, "length 4"]:
    return np.vander(np.linspace(-1, 1, length), ORDER + 1, increasing=True).astype(np.float32)
