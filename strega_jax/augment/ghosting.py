"""Ghosting: periodic lines of the spectrum damped, as motion between phase-encoding steps does."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


class Ghosting(NamedTuple):
    """Number of ghosts, the axis along which they appear (0 rows, 1 columns), and strength; 0 changes nothing."""

    number: Int32[Array, ""]
    axis: Int32[Array, ""]
    intensity: Float[Array, ""]


def sample_ghosting(
    uniform: Float[Array, "4"], probability: float, ghosts: tuple[int, int], intensity: tuple[float, float]
) -> Ghosting:
    """Number uniform in `ghosts` (inclusive), either axis, intensity uniform in its range; else intensity 0.

    `uniform` are draws of U[0, 1).
    """
    number = ghosts[0] + jnp.floor(uniform[1] * (ghosts[1] - ghosts[0] + 1)).astype(jnp.int32)
    strength = intensity[0] + uniform[3] * (intensity[1] - intensity[0])
    return Ghosting(
        jnp.minimum(number, ghosts[1]),
        (uniform[2] >= 0.5).astype(jnp.int32),
        jnp.where(uniform[0] < probability, strength, jnp.zeros_like(strength)),
    )


def ghosting(image: Float[Array, "c h w"], params: Ghosting) -> Float[Array, "c h w"]:
    """Damp every `number`-th line of the centred spectrum, but the central one, by 1 − `intensity`; real part.

    The real part of the inverse transform is what remains if the mask is made symmetric in frequency, so a
    real transform suffices.
    """
    _, height, width = image.shape
    rows = _comb(jnp.arange(height, dtype=jnp.int32), height, params.number)
    columns = _comb(jnp.arange(width // 2 + 1, dtype=jnp.int32), width, params.number)
    comb = jnp.where(params.axis == 0, rows[:, None], columns[None, :])
    spectrum = jnp.fft.rfft2(image)
    ghosts = jnp.fft.irfft2(spectrum * comb[None].astype(spectrum.dtype), s=(height, width))
    return image - params.intensity * ghosts


def _comb(frequency: Int32[Array, "k"], length: int, number: Int32[Array, ""]) -> Float[Array, "k"]:
    """1 at the damped frequencies, ½ where only one of ± the frequency is damped, else 0."""

    def damped(k: Int32[Array, "k"]) -> Float[Array, "k"]:
        position = (k + length // 2) % length
        return ((position % number == 0) & (k % length != 0)).astype(jnp.float32)

    return (damped(frequency) + damped(-frequency)) / 2
