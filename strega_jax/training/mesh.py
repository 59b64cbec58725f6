"""Devices: one data-parallel mesh over all of them, and how batches and states lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from strega_jax.errors import ConfigError
from strega_jax.slices.loader import RawBatch


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divides(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raise ConfigError unless every device gets the same whole number of images a micro-batch."""
    if batch_size % (mesh.size * accumulate):
        raise ConfigError(
            f"training.batch_size is {batch_size}; it must be a multiple of {mesh.size} devices × "
            f"optimiser.accumulate={accumulate}"
        )


def shard_batch(mesh: Mesh, batch: RawBatch) -> dict[str, jax.Array]:
    """This process's part of a global batch → global arrays split along `data`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(sharding, part) for name, part in batch.items()}
