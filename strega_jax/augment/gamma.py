"""Gamma: contrast changed by a power of the intensity."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class Gamma(NamedTuple):
    """Exponent of each channel; 1 leaves a channel as it is."""

    exponent: Float[Array, "c"]


def sample_gamma(key: PRNGKeyArray, channels: int, probability: float, log_range: float) -> Gamma:
    """Log of each channel's exponent uniform in ± `log_range` with the given probability, else 0."""
    coin, draw = jax.random.split(key)
    logs = jax.random.uniform(draw, (channels,), minval=-log_range, maxval=log_range)
    return Gamma(jnp.exp(jnp.where(jax.random.bernoulli(coin, probability), logs, jnp.zeros_like(logs))))


def gamma(image: Float[Array, "c h w"], params: Gamma) -> Float[Array, "c h w"]:
    """sign(v)·|v|^γ: odd in v, so a z-scored image is stretched away from, or drawn towards, its mean."""
    exponent = jnp.broadcast_to(params.exponent[:, None, None], image.shape)
    # a third of the time of jnp.power on a CPU, which takes care of cases that cannot occur here
    powered = jnp.sign(image) * jnp.exp(exponent * jnp.log(jnp.abs(image)))
    return jnp.where(exponent == 1, image, powered)
