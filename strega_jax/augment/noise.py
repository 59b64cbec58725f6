"""Gaussian noise."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from strega_jax import cpu


class Noise(NamedTuple):
    """Standard deviation, in units of the image, and the two words that seed the generator."""

    std: Float[Array, ""]
    seed: UInt32[Array, "2"]


def sample_noise(uniform: Float[Array, "2"], seed: UInt32[Array, "2"], probability: float, max_std: float) -> Noise:
    """Standard deviation uniform in [0, `max_std`] with the given probability, else 0, from draws of U[0, 1)."""
    return Noise(jnp.where(uniform[0] < probability, uniform[1] * max_std, jnp.zeros_like(uniform[1])), seed)


def noise(image: Float[Array, "c h w"], params: Noise) -> Float[Array, "c h w"]:
    """Add independent N(0, std²) to every value."""
    return image + params.std * standard_normal(params.seed, image.shape)


def standard_normal(seed: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Independent N(0, 1) values, one for each position of `shape`, a function of seed and position only.

    On CPU other values than elsewhere; see `strega_jax.cpu`.
    """

    def plain(seed: UInt32[Array, "2"]) -> Float[Array, "..."]:
        return jax.random.normal(jax.random.wrap_key_data(seed, impl="threefry2x32"), shape)

    on_cpu = functools.partial(cpu.standard_normal, shape=shape)
    return jax.lax.platform_dependent(seed, cpu=on_cpu, default=plain)
