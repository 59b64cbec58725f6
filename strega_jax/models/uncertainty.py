"""How much the anomaly score depends on which latent sample is decoded."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Detector, Variables
from strega_jax.errors import ConfigError
from strega_jax.models.batches import padded_batches, to_batch
from strega_jax.models.model import SCORING_BATCH, Model
from strega_jax.models.scorer import Scorer
from strega_jax.slices.store import Normalisation


def score_deviation(
    model: Scorer, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"], samples: int
) -> Float[np.ndarray, "k h w"]:
    """Standard deviation of the score over `samples` ≥ 2 single latent samples, float32, 0 outside the brain.

    The samples come from the run's seed: the same call gives the same numbers.

    Raises:
        ConfigError: the detector has no latent distribution, the model is an exported one, or one sample only.
    """
    if not isinstance(model, Model) or not hasattr(model.detector, "samples"):
        raise ConfigError(f"--samples: {model.source} has no latent distribution to sample from; leave it out")
    if samples < 2:
        raise ConfigError(f"--samples={samples}: a deviation needs at least 2")
    one_sample = dataclasses.replace(model.detector, samples=1)  # pyright: ignore[reportArgumentType]
    program = _program(one_sample, model.about.normalisation, samples)
    key = jax.random.key(model.about.run.seed)
    parts = []
    for number, (raw, real) in enumerate(padded_batches(images, position, SCORING_BATCH)):
        parts.append(np.asarray(program(model.variables, raw, jax.random.fold_in(key, number)))[:real])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _program(detector: Detector, normalisation: Normalisation, samples: int) -> Callable[..., Array]:
    def deviation(variables: Variables, raw: dict[str, Array], key: PRNGKeyArray) -> Float[Array, "b h w"]:
        batch = to_batch(raw, normalisation)

        # Welford's running mean and sum of squares: one sample in memory at a time, no cancellation.
        def add(state: tuple[Array, Array], sample: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            mean, squares = state
            count, sample_key = sample
            score = detector.score(variables, batch, sample_key)
            moved = mean + (score - mean) / count
            return (moved, squares + (score - mean) * (score - moved)), None

        zeros = jnp.zeros_like(batch["brain"])
        counts = jnp.arange(1, samples + 1, dtype=jnp.float32)
        (_, squares), _ = jax.lax.scan(add, (zeros, zeros), (counts, jax.random.split(key, samples)))
        return jnp.sqrt(squares / (samples - 1))

    return jax.jit(deviation)
