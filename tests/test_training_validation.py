"""The validation loss is the mean over held-out slices, however the training batches are cut."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training_loop import mesh_of

from conftest import small_run
from strega_jax.detectors.base import Aux
from strega_jax.detectors.dae import Dae
from strega_jax.slices.store import SliceStore, write_entry
from strega_jax.training.mesh import replicated
from strega_jax.training.metrics import MetricsLog
from strega_jax.training.state import TrainState
from strega_jax.training.validation import VALIDATION_BATCH, Validator


class Spread(Dae):
    """A loss that, as with batch normalisation, depends on the other slices of its batch."""

    def loss(self, variables: Any, batch: Any, key: Any, step: Any) -> tuple[Any, Aux]:
        sums = batch["images"].sum(axis=(1, 2, 3)) * variables["params"]
        return sums.mean() + sums.std(), Aux({"mean": sums.mean()}, {})

    def reconstruct(self, variables: Any, batch: Any) -> Any:
        return batch["images"]


class Log(MetricsLog):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.pictures = 0

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.numbers = numbers

    def image(self, *_: object) -> None:
        self.pictures += 1


def validated(store: SliceStore, batch_size: int, devices: int = 2) -> dict[str, float]:
    state = TrainState(jnp.int32(1), jnp.float32(0.5), {}, (), None, jax.random.key(0))
    log, detector, mesh = Log(), Spread(), mesh_of(devices)
    run = small_run(training={"batch_size": batch_size})
    validate = Validator(detector, store, mesh, run)
    validate(1, jax.device_put(state, replicated(mesh)), log)
    assert log.pictures == 1
    return log.numbers


@pytest.mark.parametrize("dev_scans", [1, 3, 4])
def test_it_is_that_of_the_real_slices_whatever_the_batch_size_and_the_devices(disc_store, dev_scans):
    for entry in disc_store.entries[-dev_scans:]:
        write_entry(disc_store.path, dataclasses.replace(entry, split="dev"))
    store = SliceStore.open(disc_store.path)
    slices = 10 * dev_scans
    whole = max(slices - slices % VALIDATION_BATCH, min(slices, VALIDATION_BATCH))  # evenly spread, in whole batches
    chosen = np.linspace(0, slices - 1, whole).astype(int)
    sums = np.array([store.source("dev")[i]["images"].astype(np.float64).sum() for i in chosen]) * 0.5
    parts = [sums[start : start + VALIDATION_BATCH] for start in range(0, len(sums), VALIDATION_BATCH)]
    expected = np.average([part.mean() + part.std() for part in parts], weights=[len(part) for part in parts])
    for batch_size, devices in ((8, 2), (64, 2), (8, 1)):
        found = validated(store, batch_size, devices)
        np.testing.assert_allclose(found["validation_loss"], expected, rtol=1e-5)
        np.testing.assert_allclose(found["validation_mean"], sums.mean(), rtol=1e-5)
