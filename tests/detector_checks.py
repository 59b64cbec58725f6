"""What every detector must keep to, and discs to try it on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from conftest import disc_volume, small_run
from strega_jax.detectors.base import Batch, Detector, Variables

SIDE = 32


@functools.cache
def discs(count: int = 6, channels: int = 1) -> Batch:
    """Slices of concentric discs of random size: fractions of CSF, GM, WM, or the first `channels` of them."""
    volume = disc_volume(np.random.default_rng(0), small_run().preprocess, count)
    return {
        "images": jnp.asarray(volume.images[..., :channels]),
        "brain": jnp.asarray(np.moveaxis(volume.brain, 2, 0), jnp.float32),
        "position": jnp.asarray(volume.position),
    }


@functools.cache
def fresh(detector: Any, channels: int = 1) -> Variables:
    return jax.jit(detector.init, static_argnums=1)(jax.random.key(0), (SIDE, SIDE, channels))


def train_few(
    detector: Detector, variables: Variables, batch: Batch, steps: int, rate: float = 3e-3
) -> tuple[Variables, list[dict[str, float]]]:
    """Adam steps on one batch; the variables reached, and each step's `loss` and metrics."""
    optimiser = detector.optimizer(optax.adam(rate))
    mutable = {name: value for name, value in variables.items() if name != "params"}
    carry = (variables.get("params", {}), mutable, optimiser.init(variables.get("params", {})))

    def advance(carry, step):
        params, mutable, moments = carry
        key = jax.random.fold_in(jax.random.key(3), step)

        def total(params):
            loss, aux = detector.loss({"params": params, **mutable}, batch, key, step)
            return loss, (aux.mutable, {"loss": loss, **aux.metrics})

        gradient, (mutable, metrics) = jax.grad(total, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            update, moments = optimiser.update(gradient, moments, params)
        return (optax.apply_updates(params, update), mutable, moments), metrics

    (params, mutable, _), metrics = jax.jit(lambda c: jax.lax.scan(advance, c, jnp.arange(steps)))(carry)
    history = [{name: float(value[i]) for name, value in metrics.items()} for i in range(steps)]
    return {"params": params, **mutable}, history


def check_contract(detector: Detector, variables: Variables, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Scores and reconstructions of a batch, once they keep to the `Detector` interface."""
    assert isinstance(detector, Detector)

    @jax.jit
    def program(images: Any, brain: Any, position: Any) -> tuple[jax.Array, jax.Array]:
        given: Batch = {"images": images, "brain": brain, "position": position}
        return detector.score(variables, given, jax.random.key(5)), detector.reconstruct(variables, given)

    images, brain, position = batch["images"], batch["brain"], batch["position"]
    score, expected = (np.asarray(part) for part in program(images, brain, position))
    assert score.dtype == expected.dtype == np.float32
    assert score.shape == brain.shape
    assert expected.shape == images.shape
    assert np.isfinite(expected).all()
    assert np.isfinite(score).all()
    assert score.min() >= 0
    assert score.max() > 0
    assert not score[np.asarray(brain) == 0].any()
    again, _ = program(images, brain, position)
    np.testing.assert_array_equal(score, again)
    # The last batch of a scan is filled up with empty slices, which must neither show nor break anything.
    filled = [part.at[-2:].set(0.0) for part in (images, brain, position)]
    part, whole = np.asarray(program(*filled)[0]), score
    np.testing.assert_allclose(part[:-2], whole[:-2], atol=1e-4 * max(1.0, whole.max()))
    assert not part[-2:].any()
    return score, expected
