"""The chain on a batch: switches, probabilities, masks, noise, determinism."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from strega_jax.augment import augment
from strega_jax.augment.noise import standard_normal
from strega_jax.config import Augment
from strega_jax.cpu import threefry_2x32

run = jax.jit(augment, static_argnums=3)
PROBABILITIES = [
    "bias_field",
    "noise",
    "gamma",
    "ghosting",
    "flip_left_right",
    "flip_front_back",
    "affine",
    "rotation",
]
ALL = Augment(**dict.fromkeys(PROBABILITIES, 1.0))
HALF = Augment(**dict.fromkeys(PROBABILITIES, 0.5))


def batch(count: int = 8, channels: int = 1, size: int = 32) -> tuple[jax.Array, jax.Array]:
    values = np.random.default_rng(1).uniform(0.5, 3, (count, size, size, channels)).astype(np.float32)
    axis = np.arange(size) - (size - 1) / 2
    brain = np.broadcast_to(np.hypot(axis[:, None], axis[None] * 1.4) < size * 0.4, (count, size, size))
    return jnp.asarray(np.where(brain[..., None], values, 0)), jnp.asarray(brain)


def test_switched_off_nothing_changes():
    images, brain = batch()
    same, mask = run(jax.random.key(0), images, brain, Augment())
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(mask, brain)


def test_a_transform_with_probability_zero_is_not_in_the_program():
    images, brain = batch()
    text = str(
        jax.make_jaxpr(lambda k: augment(k, images, brain, dataclasses.replace(ALL, ghosting=0.0)))(jax.random.key(0))
    )
    assert "fft" not in text
    assert "gather" in text
    text = str(jax.make_jaxpr(lambda k: augment(k, images, brain, Augment(ghosting=1.0)))(jax.random.key(0)))
    assert "fft" in text
    assert "gather" not in text


@pytest.mark.parametrize("name", PROBABILITIES)
def test_each_image_is_changed_with_its_probability(name):
    images, brain = batch(count=400, size=16)
    changed, _ = run(
        jax.random.key(3), images, brain, Augment(**{name: 0.3}, affine_degrees=170.0, rotation_degrees=170.0)
    )
    share = np.mean([not np.array_equal(a, b) for a, b in zip(changed, images, strict=True)])
    low, high = scipy.stats.binom(400, 0.3).ppf([1e-4, 1 - 1e-4]) / 400
    assert low <= share <= high


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_gets_its_own_draw_and_keeps_shape_and_dtype(channels):
    images, brain = batch(channels=channels)
    images = jnp.broadcast_to(images[:1], images.shape)
    changed, mask = run(jax.random.key(0), images, brain, ALL)
    assert changed.shape == images.shape
    assert changed.dtype == jnp.float32
    assert mask.shape == brain.shape
    assert mask.dtype == brain.dtype
    assert bool(jnp.isfinite(changed).all())
    flat = np.asarray(changed).reshape(len(images), -1)
    assert len(np.unique(flat, axis=0)) == len(images)


def test_masks_go_where_the_images_go():
    images, brain = batch(count=16)
    lesions = jnp.asarray((images[..., 0] > 2).astype(jnp.int32) * 3)
    moves = Augment(flip_left_right=0.5, flip_front_back=0.5, affine=0.7, rotation=0.7)
    changed, mask, moved = run(jax.random.key(5), images, brain, moves, lesions=lesions)
    np.testing.assert_array_equal(mask, changed[..., 0] > 0)
    np.testing.assert_array_equal(moved, np.where(np.asarray(changed[..., 0]) > 2, 3, 0))
    assert moved.dtype == jnp.int32
    assert np.mean(np.asarray(mask) != np.asarray(brain)) > 0.02


def test_outside_is_the_minimum_of_the_images_channel():
    images, brain = batch(count=4, channels=2)
    images = images - jnp.asarray([5.0, 7.0])[None, None, None]
    turned, mask = run(jax.random.key(1), images, jnp.ones_like(brain), Augment(affine=1.0, affine_scale=0.0))
    assert not mask.all()
    np.testing.assert_array_equal(turned[~mask], np.broadcast_to([-5.0, -7.0], turned[~mask].shape))


def test_labels_stay_labels_under_spatial_transforms():
    images, brain = batch()
    labels = jnp.round(images)
    turned, _ = run(jax.random.key(2), labels, brain, Augment(affine=1.0, rotation=1.0))
    assert set(np.unique(turned)) <= set(np.unique(labels))


def test_the_key_decides_everything_and_jit_changes_nothing():
    images, brain = batch(count=2)
    first, _ = run(jax.random.key(7), images, brain, HALF)
    again, _ = run(jax.random.key(7), images, brain, HALF)
    other, _ = run(jax.random.key(8), images, brain, HALF)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(first, augment(jax.random.key(7), images, brain, HALF)[0], atol=2e-5)


def test_a_batch_shared_by_two_devices_gets_the_same_images():
    images, brain = batch()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    alone, _ = run(jax.random.key(7), images, brain, ALL)
    shared, _ = run(jax.random.key(7), jax.device_put(images, split), jax.device_put(brain, split), ALL)
    assert shared.sharding.is_equivalent_to(split, shared.ndim)
    np.testing.assert_allclose(shared, alone, atol=2e-5)


def test_threefry_is_jaxs_own():
    counter = jnp.arange(1000, dtype=jnp.uint32)
    seed = jnp.asarray([123, 4567], jnp.uint32)
    pairs = jnp.stack([counter, jnp.zeros_like(counter)])
    wanted = jax.extend.random.threefry_2x32(seed, pairs.reshape(-1)).reshape(2, -1)
    np.testing.assert_array_equal(jnp.stack(threefry_2x32(seed, counter)), wanted)


def test_noise_is_standard_normal_and_independent():
    first = np.asarray(standard_normal(jnp.asarray([1, 2], jnp.uint32), (1, 400, 500))).ravel()
    second = np.asarray(standard_normal(jnp.asarray([1, 3], jnp.uint32), (1, 400, 500))).ravel()
    assert scipy.stats.kstest(first, "norm").pvalue > 1e-3
    for other in (second, np.roll(first, 1), np.roll(first, 500)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(first.size)
        assert abs(np.corrcoef(first**2, other**2)[0, 1]) < 4 / np.sqrt(first.size)
    assert 4 < np.abs(first).max() < 6
