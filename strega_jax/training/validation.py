"""Validation: the loss on held-out slices, and pictures of their reconstructions."""

from typing import Any

import jax
import numpy as np

from strega_jax.config import Run
from strega_jax.detectors.base import Detector
from strega_jax.models.batches import padded_batches
from strega_jax.slices.store import SliceStore, SplitSource
from strega_jax.training.mesh import shard_batch
from strega_jax.training.metrics import MetricsLog
from strega_jax.training.state import TrainState
from strega_jax.training.step import make_reconstruction_step, make_validation_step

# No more than this many slices are looked at, evenly spread over the split.
VALIDATION_SLICES = 512
PICTURED_SLICES = 8


class Validator:
    """The mean loss over a fixed sample of held-out slices, and pictures of their reconstructions."""

    def __init__(self, detector: Detector, store: SliceStore, mesh: jax.sharding.Mesh, run: Run):
        self._step = make_validation_step(detector, store.normalisation, mesh)
        self._reconstruct = make_reconstruction_step(detector, store.normalisation)
        self._mesh, self._key = mesh, jax.random.key(run.seed)
        self._batch = run.training.batch_size
        has_dev = any(entry.split == "dev" for entry in store.entries)
        self._raw = sample_slices(store.source("dev"), VALIDATION_SLICES) if has_dev else None
        self._normalisation = store.normalisation

    def __call__(self, step: int, state: TrainState, log: MetricsLog | None) -> None:
        if self._raw is None:
            return
        share = self._batch // jax.process_count()
        mine = {name: part[jax.process_index() :: jax.process_count()] for name, part in self._raw.items()}
        # Whole batches only: a filled-up one would mix empty slices into the mean.
        fewest = len(self._raw["position"]) // jax.process_count()
        whole = max(share, fewest // share * share)
        sums: dict[str, float] = {}
        count = 0
        for raw, real in padded_batches(mine["images"][:whole], mine["position"][:whole], share):
            batch = shard_batch(self._mesh, raw)
            metrics = self._step(state.best_variables, batch, self._key, state.step)
            if count == 0 and log is not None and jax.process_count() == 1:
                self._picture(step, {name: part[:real] for name, part in raw.items()}, state, log)
            count += 1
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        if log is not None:
            log.write(step, {f"validation_{name}": value / count for name, value in sums.items()})

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
