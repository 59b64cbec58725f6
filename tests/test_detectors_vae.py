"""The variational autoencoder: eqs. 7 to 9, its sampled scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few
from scipy import integrate, stats

from strega_jax.detectors.gaussian import kl_divergence, log_density
from strega_jax.detectors.residual import Residual
from strega_jax.detectors.vae import Vae
from strega_jax.errors import ConfigError

TINY = {"maps": (4, 8), "latent": 6}


@pytest.mark.parametrize(
    ("mean", "log_variance", "prior_mean", "prior_log_variance"),
    [(0.0, 0.0, 0.0, 0.0), (1.3, -2.0, 0.0, 0.0), (-0.4, 0.7, 0.9, -0.5), (0.2, -1.0, -0.3, 1.2)],
)
def test_kl_of_two_gaussians_equals_the_numerical_integral(mean, log_variance, prior_mean, prior_log_variance):
    posterior = stats.norm(mean, np.exp(log_variance / 2))
    prior = stats.norm(prior_mean, np.exp(prior_log_variance / 2))
    expected, _ = integrate.quad(lambda z: posterior.pdf(z) * (posterior.logpdf(z) - prior.logpdf(z)), -12, 12)
    values = (jnp.float32(v) for v in (mean, log_variance, prior_mean, prior_log_variance))
    np.testing.assert_allclose(kl_divergence(*values), expected, atol=1e-6)


def test_log_density_equals_scipys():
    x, mean, log_variance = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    expected = stats.norm(mean, np.exp(log_variance / 2)).logpdf(x)
    np.testing.assert_allclose(log_density(*map(jnp.asarray, (x, mean, log_variance))), expected, rtol=1e-5, atol=1e-6)


def test_loss_is_the_negative_elbo():
    detector, batch = Vae(**TINY, variance=0.3), discs()
    variables = fresh(detector)
    noise = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    kl, nll = jax.jit(detector.elbo_parts)(variables, batch["images"], jnp.asarray(noise))
    mean, log_variance = (np.asarray(part) for part in jax.jit(detector.posterior)(variables, batch["images"]))
    z = mean + np.exp(log_variance / 2) * noise
    output = np.asarray(jax.jit(detector.decode)(variables, batch["images"], jnp.asarray(z)))
    expected = -stats.norm(output, np.sqrt(0.3)).logpdf(np.asarray(batch["images"])).sum((1, 2, 3))
    np.testing.assert_allclose(nll, expected, rtol=1e-4)
    assert (np.asarray(kl) > 0).all()
    total, aux = jax.jit(detector.loss)(variables, batch, jax.random.key(0), jnp.int32(0))
    np.testing.assert_allclose(total, aux.metrics["kl"] + aux.metrics["nll"], rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["kl"], np.mean(kl), rtol=1e-5)


def test_training_lowers_the_loss_and_a_lesion_then_scores_highest():
    detector, batch = Vae(**TINY, variance=0.05), discs()
    variables, history = train_few(detector, fresh(detector), batch, 150)
    assert history[-1]["nll"] < 0.5 * history[0]["nll"]
    lesion = np.zeros((6, 32, 32), bool)
    lesion[:, 14:18, 14:18] = True
    images = jnp.where(jnp.asarray(lesion)[..., None], 1.5, batch["images"])
    score, _ = check_contract(detector, variables, {**batch, "images": images})
    assert score[lesion].mean() > 3 * score[~lesion & (np.asarray(batch["brain"]) > 0)].mean()


def test_sampled_score_is_the_mean_over_draws():
    detector, batch = Vae(**TINY, samples=3), discs()
    variables, key = fresh(detector), jax.random.key(4)
    once = jax.jit(lambda k: detector.score_of(variables, batch, jax.random.normal(k, (6, 6))))
    draws = [np.asarray(once(k)) for k in jax.random.split(key, 3)]
    np.testing.assert_allclose(jax.jit(detector.score)(variables, batch, key), np.mean(draws, 0), atol=1e-5)


def test_residual_signs_and_channel_weights():
    rng = np.random.default_rng(0)
    images, expected = rng.normal(size=(2, 2, 4, 5, 3)).astype(np.float32)
    brain = (rng.random((2, 4, 5)) > 0.3).astype(np.float32)
    weights = (0.5, 0.0, 2.0)
    for sign, part in [("positive", lambda d: np.maximum(d, 0)), ("negative", lambda d: np.maximum(-d, 0)),
                       ("absolute", np.abs)]:  # fmt: skip
        got = Residual(sign, weights)(*map(jnp.asarray, (images, expected, brain)))
        np.testing.assert_allclose(got, (part(images - expected) * weights).sum(-1) * brain, rtol=1e-5, atol=1e-6)
    against = (0.5, -1.0, 2.0)
    got = Residual("contrast", against)(*map(jnp.asarray, (images, expected, brain)))
    np.testing.assert_allclose(got, np.maximum((images - expected) @ against, 0) * brain, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="channel_weights"):
        Residual("absolute", against)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"maps": (4,) * 6}, (32, 32, 1), "multiples of 64"),
        ({"residual": Residual(channel_weights=(1.0,))}, (32, 32, 3), "3 numbers"),
        ({"samples": -1}, (32, 32, 1), "samples"),
        ({"variance": 0.0}, (32, 32, 1), "variance"),
    ],
)
def test_settings_that_cannot_work_are_named(fields, shape, message):
    with pytest.raises(ConfigError, match=message):
        Vae(**{**TINY, **fields}).init(jax.random.key(0), shape)
