"""The denoising autoencoder: its noise is coarse, stays in the brain, and is what is learnt to be removed."""

import jax
import jax.numpy as jnp
import numpy as np
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.detectors.dae import Dae, coarse_noise

TINY = {"maps": (8, 16), "noise_grid": 8}


def test_noise_is_coarse_and_of_the_wanted_spread():
    noise = np.asarray(jax.jit(lambda k: coarse_noise(k, (300, 32, 32, 1), 8, 0.2))(jax.random.key(0)))[..., 0]
    assert abs(noise.mean()) < 0.005
    # Linear enlargement by 4 keeps 21/32 of the variance along each axis, the mean of t² + (1 − t)² over
    # t = 1/8, 3/8, 5/8, 7/8; and all of it in the 4 of 32 rows beyond the outermost points.
    np.testing.assert_allclose(noise.std(), 0.2 * (28 * 21 / 32 + 4) / 32, rtol=0.03)
    near = (noise[:, 10, 10] * noise[:, 11, 10]).mean() / noise.var()
    far = (noise[:, 10, 10] * noise[:, 22, 10]).mean() / noise.var()
    assert near > 0.7
    assert abs(far) < 0.2
    assert np.abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.5


def test_loss_looks_at_the_brain_alone():
    detector, batch = Dae(**TINY), discs()
    variables = fresh(detector)
    loss = jax.jit(lambda b: detector.loss(variables, b, jax.random.key(0), jnp.int32(0))[0])
    nothing = {**batch, "brain": jnp.zeros_like(batch["brain"])}
    assert float(loss(batch)) > 0
    assert float(loss(nothing)) == 0


def test_training_lowers_the_loss_and_coarse_anomalies_are_then_removed():
    detector, batch = Dae(**TINY, noise_std=0.5), discs()
    variables, history = train_few(detector, fresh(detector), batch, 120)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    lesion = np.zeros((6, 32, 32), bool)
    lesion[:, 13:19, 13:19] = True
    images = batch["images"] + 0.7 * jnp.asarray(lesion, jnp.float32)[..., None]
    score, _ = check_contract(detector, variables, {**batch, "images": images})
    healthy = ~lesion & (np.asarray(batch["brain"]) > 0)
    assert score[:-2][lesion[:-2]].mean() > 2 * score[:-2][healthy[:-2]].mean()
