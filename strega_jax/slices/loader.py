"""Slices → batches: a grain pipeline over the store, shuffled, sharded by process, with a state to save."""

import grain
import numpy as np

from strega_jax.errors import ConfigError
from strega_jax.slices.store import SplitSource

# Batches made ahead, so that the device never waits; grain's own default would hold hundreds of batches.
PREFETCH_BATCHES = 4

RawBatch = dict[str, np.ndarray]
"""`images` (b, h, w, c) float16 as stored, `position` (b,) float32."""


def training_batches(
    source: SplitSource,
    batch_size: int,
    seed: int,
    threads: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """An endless iterator over this process's share of shuffled global batches.

    The order depends on `seed` alone: for any number of processes the global batch at a step holds the
    same slices. `get_state`/`set_state` of the iterator resume it exactly.

    Args:
        source: the slices.
        batch_size: global batch size, over all processes.
        seed: of the shuffle; every epoch is shuffled anew.
        threads: readers.
        process_index: of this process.
        process_count: of all.

    Raises:
        ConfigError: the batch does not divide among the processes, or the split is smaller than a batch.
    """
    if batch_size % process_count:
        raise ConfigError(f"training.batch_size is {batch_size}, not a multiple of {process_count} processes")
    if len(source) < batch_size:
        raise ConfigError(f"training.batch_size is {batch_size}, but the split has only {len(source)} slices")
    share = batch_size // process_count

    def mine(indices: np.ndarray) -> RawBatch:
        # Contiguous parts, so that the global batch keeps its order: random draws go by an image's place in it.
        slices = [source[i] for i in indices[process_index * share : (process_index + 1) * share]]
        return {name: np.stack([part[name] for part in slices]) for name in slices[0]}

    dataset = (
        grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat().batch(batch_size, drop_remainder=True).map(mine)
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, PREFETCH_BATCHES))
    return iter(dataset.to_iter_dataset(options))
