"""The context-encoding VAE: the clean target, and the three scores against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few
from scipy import ndimage

from strega_jax.augment.context import ContextEncoding
from strega_jax.detectors.ce_vae import CeVae
from strega_jax.detectors.filters import gaussian_blur

TINY = {"maps": (4, 8), "latent": 6}


def test_context_branch_is_held_to_the_clean_image():
    # One square as large as the image, centred in the brain, hides the whole brain.
    detector = CeVae(**TINY, context=ContextEncoding(squares=(1, 1), side=(1.0, 1.0)))
    variables, batch = fresh(detector), discs()
    brain = np.zeros((6, 32, 32), np.float32)
    brain[:, 12:20, 14:20] = 1

    @jax.jit
    def nll_ce(change):
        images = batch["images"] + change * jnp.asarray(brain)[..., None]
        given = {**batch, "images": images, "brain": jnp.asarray(brain)}
        return detector.loss(variables, given, jax.random.key(7), jnp.int32(0))[1].metrics["nll_ce"]

    # ½ Σ (t + δ − o)² bends by δ² for each hidden pixel that is target and that o does not depend on.
    low, middle, high = (float(nll_ce(jnp.float32(change))) for change in (-2.0, 0.0, 2.0))
    np.testing.assert_allclose(low - 2 * middle + high, 2.0**2 * 8 * 6, rtol=1e-3)


def test_loss_is_equation_14():
    detector, batch = CeVae(**TINY, ce_weight=0.7), discs()
    total, aux = jax.jit(detector.loss)(fresh(detector), batch, jax.random.key(0), jnp.int32(0))
    m = aux.metrics
    np.testing.assert_allclose(total, m["kl"] + m["nll"] + 0.7 * m["nll_ce"], rtol=1e-6)


@pytest.fixture(scope="module")
def trained():
    detector, batch = CeVae(**TINY, variance=0.05), discs()
    return train_few(detector, fresh(detector), batch, 60)


def test_training_lowers_both_branches(trained):
    _, history = trained
    assert history[-1]["nll"] < 0.7 * history[0]["nll"]
    assert history[-1]["nll_ce"] < 0.7 * history[0]["nll_ce"]


@pytest.mark.parametrize("anomaly", ["reconstruction", "elbo_gradient", "combi"])
def test_scores_keep_the_contract(trained, anomaly):
    detector = CeVae(**TINY, variance=0.05, anomaly=anomaly, samples=2)
    check_contract(detector, trained[0], discs())


def finite_difference(function, images, places, step=2e-3):
    """Central differences of `function` (images → one number an image) at the pixels of `places`."""
    slopes = []
    for row, column in places:
        nudge = np.zeros(images.shape, np.float32)
        nudge[:, row, column] = step
        slopes.append((np.asarray(function(images + nudge)) - np.asarray(function(images - nudge))) / (2 * step))
    return np.stack(slopes, axis=1)


def test_elbo_gradient_and_combi_follow_finite_differences(trained):
    variables, batch = trained[0], discs()
    images, places = batch["images"], [(16, 16), (10, 12), (20, 9), (16, 25)]
    rows, columns = np.transpose(places)
    plain = CeVae(**TINY, variance=0.05)
    parts = jax.jit(lambda x: plain.elbo_parts(variables, x, jnp.zeros((6, 6))))
    key = jax.random.key(0)

    gradient = CeVae(**TINY, variance=0.05, anomaly="elbo_gradient").score(variables, batch, key)
    slopes = finite_difference(lambda x: parts(x)[0] + parts(x)[1], images, places)
    expected = np.abs(slopes) * np.asarray(batch["brain"])[:, rows, columns]
    np.testing.assert_allclose(np.asarray(gradient)[:, rows, columns], expected, rtol=0.1, atol=0.2)

    combi = CeVae(**TINY, variance=0.05, anomaly="combi", smooth_px=0.0).score(variables, batch, key)
    residual = CeVae(**TINY, variance=0.05, anomaly="reconstruction").score(variables, batch, key)
    slopes = finite_difference(lambda x: parts(x)[0], images, places)
    expected = np.abs(slopes) * np.asarray(residual)[:, rows, columns]
    np.testing.assert_allclose(np.asarray(combi)[:, rows, columns], expected, rtol=0.1, atol=0.02)


def test_gaussian_blur_equals_scipys():
    image = np.random.default_rng(0).normal(size=(1, 20, 24, 1)).astype(np.float32)
    expected = ndimage.gaussian_filter(image[0, ..., 0], 1.5, mode="nearest")
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(image), 1.5)[0, ..., 0], expected, atol=1e-5)
