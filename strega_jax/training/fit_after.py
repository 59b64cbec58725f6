"""What a detector fits to healthy slices when training is over."""

from typing import Any

import jax

from strega_jax.detectors.base import Detector, FittedAfterTraining, Variables
from strega_jax.models.batches import to_batch
from strega_jax.slices.store import SliceStore
from strega_jax.training.mesh import replicated
from strega_jax.training.state import TrainState
from strega_jax.training.validation import sample_slices

SETTLING_SLICES = 16


def fitted_after_training(
    detector: Detector, store: SliceStore, mesh: jax.sharding.Mesh, state: TrainState
) -> TrainState:
    """The state with what the detector fits to slices of held-out healthy scans (`train` where there is no `dev`)."""
    if not isinstance(detector, FittedAfterTraining):
        return state
    raw = sample_slices(store.source("dev" if store.of_split("dev") else "train"), SETTLING_SLICES)

    def fit(variables: Variables, raw: dict[str, Any]) -> Variables:
        return detector.fit_after_training(variables, to_batch(raw, store.normalisation))

    fitted = jax.jit(fit, out_shardings=replicated(mesh))(state.best_variables, raw)
    return state.replace(mutable={**state.mutable, **fitted})  # pyright: ignore[reportAttributeAccessIssue]
