"""Diagonal normal distributions, given by mean and logarithm of the variance; all results are in nats."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

LOG_VARIANCE_LIMIT = 12.0  # soft bound of ±: a first step too long would otherwise overflow exp()


def log_density(
    x: Float[Array, "*#s"], mean: Float[Array, "*#s"], log_variance: Float[Array, "*#s"]
) -> Float[Array, "*#s"]:
    """log N(x; mean, exp(log_variance)) of each dimension."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + jnp.square(x - mean) * jnp.exp(-log_variance))


def kl_divergence(
    mean: Float[Array, "*#s"],
    log_variance: Float[Array, "*#s"],
    prior_mean: Float[Array, "*#s"] | float = 0.0,
    prior_log_variance: Float[Array, "*#s"] | float = 0.0,
) -> Float[Array, "*#s"]:
    """KL(N(mean, exp(log_variance)) ‖ N(prior_mean, exp(prior_log_variance))) of each dimension."""
    spread = log_variance - prior_log_variance
    shift = jnp.square(mean - prior_mean) * jnp.exp(-jnp.asarray(prior_log_variance, jnp.float32))
    return 0.5 * (shift + jnp.exp(spread) - 1.0 - spread)


def sample(key: PRNGKeyArray, mean: Float[Array, "*s"], log_variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """A draw that can be differentiated by mean and variance (Kingma & Welling 2014)."""
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)


def bounded(log_variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Softly held within ± `LOG_VARIANCE_LIMIT`."""
    return LOG_VARIANCE_LIMIT * jnp.tanh(log_variance / LOG_VARIANCE_LIMIT)
