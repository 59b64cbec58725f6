"""Random contrasts of brain intensities: one curve a slice, of every kind that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from strega_jax.augment.contrast import BRIGHTNESS, HIGHEST, LOWEST, random_contrast

SLICES = 600


@pytest.fixture(scope="module")
def bent():
    """Ramps from 0.1 to 1, shuffled, with a border that is no brain; and what became of them."""
    rng = np.random.default_rng(0)
    ramp = np.stack([rng.permutation(np.linspace(0.1, 1.0, 100)).reshape(10, 10) for _ in range(SLICES)])
    images = np.pad(ramp, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    brain = images > 0
    found = np.asarray(jax.jit(random_contrast)(jax.random.key(1), jnp.asarray(images), jnp.asarray(brain)))
    order = np.argsort(ramp.reshape(SLICES, -1), axis=1)
    inside = found[:, 1:-1, 1:-1].reshape(SLICES, -1)
    return images, found, brain, np.take_along_axis(inside, order, axis=1), np.linspace(0.1, 1.0, 100)


def test_the_brain_stays_in_its_range_and_the_rest_is_0(bent):
    _, found, brain, _, _ = bent
    assert found.dtype == np.float32
    assert not found[~brain].any()
    assert LOWEST - 1e-6 <= found[brain].min() < found[brain].max() <= HIGHEST


def test_four_of_ten_keep_their_contrast_but_for_brightness(bent):
    _, _, _, curves, ramp = bent
    factor = curves / ramp
    kept = np.ptp(factor, axis=1) < 1e-4
    assert 0.33 < kept.mean() < 0.47
    factors = factor[kept, 0]
    assert 1 - BRIGHTNESS <= factors.min() < 0.87
    assert 1.13 < factors.max() <= 1 + BRIGHTNESS


def test_others_are_bent_a_little_turned_round_or_anything(bent):
    _, _, _, curves, ramp = bent
    correlation = np.array([np.corrcoef(curve, ramp)[0, 1] for curve in curves])
    assert 0.78 < (correlation > 0.8).mean() < 0.9  # as they are, and slightly moved, and by chance
    assert 0.08 < (correlation < -0.8).mean() < 0.2
    assert (np.abs(correlation) < 0.6).mean() > 0.04


def test_a_curve_is_a_curve_whatever_lies_where():
    rng = np.random.default_rng(1)
    images = rng.integers(1, 9, (8, 12, 12)) / np.float32(8)
    found = np.asarray(random_contrast(jax.random.key(2), jnp.asarray(images), jnp.ones(images.shape, bool)))
    for image, bent in zip(images, found, strict=True):
        assert all(np.ptp(bent[image == value]) == 0 for value in np.unique(image))
    again = np.asarray(random_contrast(jax.random.key(2), jnp.asarray(images), jnp.ones(images.shape, bool)))
    np.testing.assert_array_equal(again, found)
    assert (
        np.asarray(random_contrast(jax.random.key(3), jnp.asarray(images), jnp.ones(images.shape, bool))) != found
    ).any()
