"""What training carries from step to step, and the optimiser that moves it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from strega_jax.config import Optimiser
from strega_jax.detectors.base import Detector, Variables


@flax.struct.dataclass
class TrainState:
    """A pytree: everything that a checkpoint must hold for training to go on as if never interrupted."""

    step: Int[Array, ""]  # optimiser steps done
    params: Any
    mutable: Variables  # the other variable collections, e.g. batch statistics
    opt_state: Any
    average: Any  # exponential moving average of `params`, or None
    key: PRNGKeyArray  # of the run; a step folds its number in

    @property
    def variables(self) -> Variables:
        """The variables being trained."""
        return {"params": self.params, **self.mutable}

    @property
    def best_variables(self) -> Variables:
        """The variables to infer with: the moving average where one is kept."""
        return {"params": self.params if self.average is None else self.average, **self.mutable}


def learning_rate(settings: Optimiser, total_steps: int) -> optax.Schedule:
    """The learning rate by the number of steps done: a linear warm-up, then constant or half a cosine down to 0."""
    if settings.decay == "cosine":
        rate = optax.cosine_decay_schedule(settings.learning_rate, max(1, total_steps - settings.warmup_steps))
    else:
        rate = optax.constant_schedule(settings.learning_rate)
    if settings.warmup_steps:
        ramp = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
        rate = optax.join_schedules([ramp, rate], [settings.warmup_steps])
    return rate


def make_optimizer(settings: Optimiser, detector: Detector, total_steps: int) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2014) with the configured schedule and clipping, as the detector wants it used."""
    default = optax.adam(learning_rate(settings, total_steps))
    if settings.clip_norm:
        default = optax.chain(optax.clip_by_global_norm(settings.clip_norm), default)
    return detector.optimizer(default)


def init_state(
    detector: Detector,
    optimizer: optax.GradientTransformation,
    settings: Optimiser,
    image_shape: tuple[int, int, int],
    seed: int,
) -> TrainState:
    """A fresh state; jit it with replicated output shardings to make it on every device at once."""
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    variables = dict(detector.init(init_key, image_shape))
    params = variables.pop("params", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        mutable=variables,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if settings.ema_decay else None,
        key=run_key,
    )
