"""The jitted steps: train, validate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax import cpu
from strega_jax.augment import augment
from strega_jax.config import Augment, Run
from strega_jax.detectors.base import Batch, Detector, Variables
from strega_jax.models.batches import DeviceBatch, to_batch
from strega_jax.slices.store import Normalisation
from strega_jax.training.mesh import replicated
from strega_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, Metrics]]


def make_train_step(
    detector: Detector,
    optimizer: optax.GradientTransformation,
    run: Run,
    normalisation: Normalisation,
    mesh: Mesh,
) -> TrainStep:
    """One optimiser step: normalise, augment, loss and gradient over micro-batches, update, average.

    The state is donated. The batch is sharded over `data`, so that batch statistics and gradients are
    those of the global batch and XLA inserts the reductions.
    """

    def step(state: TrainState, raw: DeviceBatch) -> tuple[TrainState, Metrics]:
        augment_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = _augmented(augment_key, to_batch(raw, normalisation), run.augment)
        gradients, mutable, metrics = _gradients(detector, state, batch, loss_key, run.optimiser.accumulate)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its integer counts
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = optax.incremental_update(params, average, 1.0 - run.optimiser.ema_decay)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        following = state.replace(  # pyright: ignore[reportAttributeAccessIssue]
            step=state.step + 1, params=params, mutable=mutable, opt_state=opt_state, average=average
        )
        return following, metrics

    whole = replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(whole, whole))


def make_validation_step(
    detector: Detector, normalisation: Normalisation, mesh: Mesh
) -> Callable[[Variables, DeviceBatch, PRNGKeyArray, Array], Metrics]:
    """The training loss of a batch without update or augmentation."""

    def step(variables: Variables, raw: DeviceBatch, key: PRNGKeyArray, number: Array) -> Metrics:
        loss, aux = detector.loss(variables, to_batch(raw, normalisation), key, number)
        return {"loss": loss, **aux.metrics}

    return jax.jit(step, out_shardings=replicated(mesh))


def make_reconstruction_step(
    detector: Detector, normalisation: Normalisation
) -> Callable[[Variables, DeviceBatch], Float[Array, "b h w c"]]:
    """Normalised reconstructions of a few slices."""
    return jax.jit(lambda variables, raw: detector.reconstruct(variables, to_batch(raw, normalisation)))


def _augmented(key: PRNGKeyArray, batch: Batch, settings: Augment) -> Batch:
    images, brain = augment(key, batch["images"], batch["brain"], settings)
    return {**batch, "images": images, "brain": brain}


def _gradients(
    detector: Detector, state: TrainState, batch: Batch, key: PRNGKeyArray, parts: int
) -> tuple[Any, Variables, Metrics]:
    """Mean gradient over `parts` micro-batches; batch statistics are renewed by each in turn."""

    def objective(params: Any, mutable: Variables, part: Batch, part_key: PRNGKeyArray):
        loss, aux = detector.loss({"params": params, **mutable}, part, part_key, state.step)
        return loss, (aux.mutable, {"loss": loss, **aux.metrics})

    differentiate = jax.grad(objective, has_aux=True)
    if parts == 1:
        gradients, (mutable, metrics) = differentiate(state.params, state.mutable, batch, key)
        return gradients, mutable, metrics

    def split(x: Array) -> Array:
        # Strided, so that each device's share of the batch is cut into its own micro-batches.
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    def one(mutable: Variables, part: tuple[Batch, PRNGKeyArray]):
        gradients, (mutable, metrics) = differentiate(state.params, mutable, *part)
        return mutable, (gradients, metrics)

    stacked = jax.tree.map(split, batch)
    with cpu.control_flow():
        mutable, results = jax.lax.scan(one, state.mutable, (stacked, jax.random.split(key, parts)))
    gradients, metrics = jax.tree.map(lambda x: x.mean(axis=0), results)
    return gradients, mutable, metrics
