"""The scale-space autoencoder: the pyramid rebuilds its image exactly, the loss weighs its levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few
from scipy import ndimage

from strega_jax.detectors.pyramid import down, gaussian_pyramid, rebuild, residuals
from strega_jax.detectors.ss_ae import SsAe
from strega_jax.errors import ConfigError

TINY = {"levels": 2, "maps": (4, 8), "latent": 8}


def test_down_is_the_five_tap_gaussian_and_every_second_pixel():
    image = np.random.default_rng(0).normal(size=(1, 16, 24, 2)).astype(np.float32)
    taps = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(taps, taps)
    got = np.asarray(down(jnp.asarray(image)))
    for channel in range(2):
        expected = ndimage.correlate(image[0, ..., channel], kernel, mode="nearest")[::2, ::2]
        np.testing.assert_allclose(got[0, ..., channel], expected, atol=1e-6)


def test_pyramid_rebuilds_the_image_exactly():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 48, 3)), jnp.float32)
    images = gaussian_pyramid(image, 3)
    assert [part.shape[1:3] for part in images] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    rebuilt = rebuild(images[-1], residuals(images))
    for got, expected in zip(rebuilt, images, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    changed = residuals(images)
    changed[1] = changed[1].at[:, 5, 5].add(1.0)
    assert float(jnp.abs(rebuild(images[-1], changed)[0] - image).max()) > 0.1


def test_loss_is_the_weighted_sum_over_levels_and_training_lowers_each():
    detector, batch = SsAe(**TINY, level_weights=(0.5, 2.0, 3.0)), discs()
    variables, history = train_few(detector, fresh(detector), batch, 120)
    for line in (history[0], history[-1]):
        expected = 0.5 * line["level_0"] + 2 * line["level_1"] + 3 * line["level_2"]
        np.testing.assert_allclose(line["loss"], expected, rtol=1e-5)
    for level in range(3):
        assert history[-1][f"level_{level}"] < 0.6 * history[0][f"level_{level}"]
    _, expected = check_contract(detector, variables, batch)
    error = np.square(expected - np.asarray(batch["images"])).sum((1, 2, 3)).mean()
    again = jax.jit(detector.loss)(variables, batch, jax.random.key(0), jnp.int32(0))[1].metrics["level_0"]
    np.testing.assert_allclose(again, error, rtol=1e-4)


def test_one_weight_for_each_level_is_asked_for():
    with pytest.raises(ConfigError, match="3 numbers"):
        SsAe(levels=2, level_weights=(1.0, 1.0))
