"""Stored slices → the batches that a detector is given."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from strega_jax.detectors.base import Batch
from strega_jax.slices.brain import brain_of
from strega_jax.slices.store import Normalisation

if TYPE_CHECKING:
    from strega_jax.slices.loader import RawBatch

DeviceBatch = dict[str, Array]


def to_batch(raw: DeviceBatch, normalisation: Normalisation) -> Batch:
    """Stored slices → what a detector is given: the brain told from the background, then normalised."""
    images = raw["images"].astype(jnp.float32)
    brain = brain_of(images).astype(jnp.float32)
    shape = (1, 1, 1, images.shape[-1])
    mean = jnp.reshape(jnp.array(normalisation.mean, jnp.float32), shape)
    std = jnp.reshape(jnp.array(normalisation.std, jnp.float32), shape)
    return {"images": (images - mean) / std, "brain": brain, "position": raw["position"]}


def padded_batches(images: np.ndarray, position: np.ndarray, batch_size: int) -> "Iterator[tuple[RawBatch, int]]":
    """Cut one stack of slices into batches of one fixed size, the last filled up with empty slices.

    Yields:
        The batch and how many of its slices are real: one compiled program serves every scan.
    """
    for start in range(0, len(images), batch_size):
        part, height = images[start : start + batch_size], position[start : start + batch_size]
        missing = batch_size - len(part)
        if missing:
            part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            height = np.concatenate([height, np.zeros(missing, height.dtype)])
        yield {"images": part, "position": height}, batch_size - missing
