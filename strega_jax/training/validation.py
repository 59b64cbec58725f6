"""Validation: the loss on held-out slices, and pictures of their reconstructions."""

import math
from typing import Any

import jax
import numpy as np

from strega_jax.config import Run
from strega_jax.detectors.base import Detector
from strega_jax.models.batches import DeviceBatch
from strega_jax.slices.loader import RawBatch
from strega_jax.slices.store import SliceStore, SplitSource
from strega_jax.training.mesh import replicated, shard_batch
from strega_jax.training.metrics import MetricsLog
from strega_jax.training.state import TrainState
from strega_jax.training.step import make_reconstruction_step, make_validation_step

# No more than this many slices are looked at, evenly spread over the split.
VALIDATION_SLICES = 512
# At once, whatever the training batch: a loss can depend on the others of its batch. As many as prediction scores.
# Only whole batches where there is one: a batch of what is left would be a second program to compile.
VALIDATION_BATCH = 16
PICTURED_SLICES = 8


class Validator:
    """The mean loss over a fixed sample of held-out slices, and pictures of their reconstructions."""

    def __init__(self, detector: Detector, store: SliceStore, mesh: jax.sharding.Mesh, run: Run):
        self._step = make_validation_step(detector, store.normalisation, mesh)
        self._reconstruct = make_reconstruction_step(detector, store.normalisation)
        self._mesh, self._key = mesh, jax.random.key(run.seed)
        self._size = math.ceil(VALIDATION_BATCH / mesh.size) * mesh.size
        self._raw = self._sample(store.source("dev")) if store.of_split("dev") else None
        self._normalisation = store.normalisation

    def __call__(self, step: int, state: TrainState, log: MetricsLog | None) -> None:
        """Log the mean over all slices of the sample; every one counts once."""
        if self._raw is None:
            return
        count, size = len(self._raw["position"]), self._size
        sums: dict[str, float] = {}
        for start in range(0, count, size):
            raw = {name: part[start : start + size] for name, part in self._raw.items()}
            metrics = self._step(state.best_variables, self._on_devices(raw), self._key, state.step)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(raw["position"])
        if log is None:
            return
        log.write(step, {f"validation_{name}": value / count for name, value in sums.items()})
        if jax.process_count() == 1:
            self._picture(step, {name: part[:size] for name, part in self._raw.items()}, state, log)

    def _sample(self, source: SplitSource) -> dict[str, np.ndarray]:
        most = min(len(source), VALIDATION_SLICES)
        return sample_slices(source, most if most < self._size else most - most % self._size)

    def _on_devices(self, raw: RawBatch) -> DeviceBatch:
        """Split along `data`; whole on every device where that does not come out even."""
        share, rest = divmod(len(raw["position"]), jax.process_count())
        if rest or len(raw["position"]) % self._mesh.size:
            return {name: jax.device_put(part, replicated(self._mesh)) for name, part in raw.items()}
        first = jax.process_index() * share
        return shard_batch(self._mesh, {name: part[first : first + share] for name, part in raw.items()})

    def _picture(self, step: int, raw: dict[str, np.ndarray], state: TrainState, log: MetricsLog) -> None:
        # A reconstruction can cost hundreds of times the loss: only what is shown is made.
        pick = np.linspace(0, len(raw["images"]) - 1, min(PICTURED_SLICES, len(raw["images"]))).astype(int)
        shown: Any = {name: part[pick] for name, part in raw.items()}
        reconstruction = np.asarray(self._reconstruct(state.best_variables, shown))
        back = reconstruction * np.array(self._normalisation.std) + np.array(self._normalisation.mean)
        rows = [
            np.concatenate([np.rot90(image[..., c]) for image in stack], axis=1)
            for c in range(back.shape[-1])
            for stack in (shown["images"].astype(np.float32), back)
        ]
        log.image(step, "validation/input_above_reconstruction", np.concatenate(rows))


def sample_slices(source: SplitSource, most: int) -> dict[str, np.ndarray]:
    """At most so many slices, evenly spread over the split."""
    pick = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))
    slices = [source[i] for i in pick]
    return {name: np.stack([part[name] for part in slices]) for name in slices[0]}
