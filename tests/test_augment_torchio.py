"""Each transform against the real TorchIO, given the same sampled parameters.

A slice goes into TorchIO as (c, h, w, 1). Tolerances are those of float32 against TorchIO's float64 or other order of
summation; nearest-neighbour sampling may differ in a few pixels whose source falls on the edge of two.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from strega_jax.augment import augment, spatial
from strega_jax.augment.bias_field import BiasField, bias_field, sample_bias_field
from strega_jax.augment.chain import sample
from strega_jax.augment.gamma import Gamma, gamma, sample_gamma
from strega_jax.augment.ghosting import Ghosting, ghosting
from strega_jax.augment.noise import Noise, noise, standard_normal
from strega_jax.config import Augment

torch = pytest.importorskip("torch", reason="TorchIO's results are the oracle here, and it needs torch")
torchio = pytest.importorskip("torchio", reason="TorchIO's results are the oracle here: nothing was compared")

resample = jax.jit(spatial.resample)
IN_PLANE = [0, 4, 7, 9, 10, 13, 15, 16, 18, 19]  # TorchIO's coefficients whose power of z is 0
DRAWS = 16
FULL = Augment(
    bias_field=1.0,
    noise=1.0,
    gamma=1.0,
    ghosting=1.0,
    flip_left_right=0.5,
    flip_front_back=0.5,
    affine=1.0,
    rotation=1.0,
)


def uniform(seed: int, count: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=count), jnp.float32)


def by_torchio(transform, image: np.ndarray) -> np.ndarray:
    subject = torchio.Subject(image=torchio.ScalarImage(tensor=torch.from_numpy(np.array(image)[..., None])))
    return transform(subject)["image"].numpy()[..., 0]


@pytest.fixture(scope="module")
def image() -> jax.Array:
    """Two channels of a brain-like slice on an empty background, negative and positive, 128 × 128, float32."""
    axis = np.linspace(-1, 1, 128)
    x, y = np.meshgrid(axis, axis * 1.2, indexing="ij")
    texture = np.random.default_rng(3).normal(size=(2, 128, 128)) + np.sin(9 * x) * np.cos(7 * y)
    return jnp.asarray(np.where(np.hypot(x, y) < 0.8, np.clip(texture, -3.5, 3.5), -4.0), jnp.float32)


def torchio_bias(params: BiasField):
    coefficients = np.full(20, 7.0)  # those of z^1 to z^3 must not matter
    coefficients[IN_PLANE] = params.coefficients
    return torchio.BiasField(coefficients.tolist(), 3)


def torchio_ghosting(params: Ghosting):
    return torchio.Ghosting(int(params.number), int(params.axis), float(params.intensity), None)


def torchio_affine(params: spatial.Affine):
    scales = (*np.asarray(params.scale, float).tolist(), 1.0)
    return torchio.Affine(scales, (0, 0, float(params.degrees)), (0, 0, 0), image_interpolation="nearest")


def torchio_flip(params: spatial.Flip):
    return torchio.Flip([axis for axis, chosen in enumerate(params) if bool(chosen)])


@pytest.mark.parametrize("shape", [(128, 128), (96, 128)])
def test_bias_field(image, shape):
    image = image[:, : shape[0], : shape[1]]
    for seed in range(DRAWS):
        params = sample_bias_field(uniform(seed, 11), 1.0, 0.5)
        wanted = by_torchio(torchio_bias(params), image)
        np.testing.assert_allclose(jax.jit(bias_field)(image, params), wanted, rtol=3e-6)


def test_gamma_of_each_channel(image):
    for seed in range(DRAWS):
        params = sample_gamma(uniform(seed, 3), 1.0, 0.3)
        wanted = by_torchio(torchio.Gamma(np.asarray(params.exponent).tolist()), image)
        np.testing.assert_allclose(jax.jit(gamma)(image, params), wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(128, 128), (96, 128), (126, 127)])
@pytest.mark.parametrize("axis", [0, 1])
def test_ghosting(image, shape, axis):
    image = image[:, : shape[0], : shape[1]]
    for number in range(2, 13):
        params = Ghosting(jnp.int32(number), jnp.int32(axis), jnp.float32(0.4 + number / 20))
        wanted = by_torchio(torchio_ghosting(params), image)
        np.testing.assert_allclose(jax.jit(ghosting)(image, params), wanted, atol=5e-6)


def test_noise_is_added_as_torchio_adds_it(image, monkeypatch):
    params = Noise(jnp.float32(0.2), jnp.asarray([5, 6], jnp.uint32))
    drawn = np.array(standard_normal(params.seed, image.shape))[..., None]
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.from_numpy(drawn).reshape(shape))
    np.testing.assert_allclose(noise(image, params), by_torchio(torchio.Noise(0, 0.2, 1), image), atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_flip(image, rows, columns):
    params = spatial.Flip(jnp.bool_(rows), jnp.bool_(columns))
    np.testing.assert_array_equal(resample(image, params), by_torchio(torchio_flip(params), image))


@pytest.mark.parametrize("shape", [(128, 128), (96, 127)])
@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_affine_and_rotation(image, shape, scale):
    image = image[:, : shape[0], : shape[1]]
    differing = []
    for seed in range(DRAWS):
        params = spatial.sample_affine(uniform(seed, 4), 1.0, 35.0, scale)
        wanted = by_torchio(torchio_affine(params), image)
        differing.append(np.sum(np.asarray(resample(image, params)) != wanted))
    assert max(differing) <= 6
    assert np.mean(differing) <= 1.5


def test_flip_affine_and_rotation_sampled_once_equal_three_samplings(image):
    for seed in range(DRAWS):
        flip = spatial.sample_flip(uniform(100 + seed, 2), 0.5, 0.5)
        affine, rotation = (
            spatial.sample_affine(uniform(seed, 4), 1.0, 35.0, 0.1),
            spatial.sample_affine(uniform(200 + seed, 4), 1.0, 15.0),
        )
        step = by_torchio(torchio_flip(flip), image) if any(map(bool, flip)) else image
        wanted = by_torchio(torchio_affine(rotation), by_torchio(torchio_affine(affine), step))
        assert np.sum(np.asarray(resample(image, flip, affine, rotation)) != wanted) <= 8


def test_the_whole_chain_is_torchios_transforms_one_after_the_other(image, monkeypatch):
    settings = dataclasses.replace(FULL, noise_std=0.05)  # the background stays the minimum of a channel
    key, batch = jax.random.key(11), jnp.stack([jnp.moveaxis(image, 0, -1)] * 6)
    images, brain = jax.jit(augment, static_argnums=3)(key, batch, batch[..., 0] > -4, settings)
    for index, own in enumerate(jax.random.split(key, 6)):
        drawn = sample(own, 2, settings)
        normal = np.array(standard_normal(drawn.noise.seed, image.shape))[..., None]
        monkeypatch.setattr(torch, "randn", lambda *shape, normal=normal: torch.from_numpy(normal).reshape(shape))
        steps = [
            torchio_bias(drawn.bias_field),
            torchio.Noise(0, float(drawn.noise.std), 1),
            torchio.Gamma(np.asarray(drawn.gamma.exponent).tolist()),
            torchio_ghosting(drawn.ghosting),
        ]
        places = [torchio_affine(drawn.affine), torchio_affine(drawn.rotation)]
        if any(map(bool, drawn.flip)):
            places.insert(0, torchio_flip(drawn.flip))
        subject = torchio.Subject(
            image=torchio.ScalarImage(tensor=torch.from_numpy(np.array(image)[..., None])),
            brain=torchio.LabelMap(tensor=torch.from_numpy(np.array(image[:1] > -4, np.uint8)[..., None])),
        )
        changed = torchio.Compose(steps + places)(subject)
        got = np.moveaxis(np.asarray(images[index]), -1, 0)
        apart = np.abs(got - changed["image"].numpy()[..., 0]) > 3e-5
        assert apart.sum() <= 16
        assert np.sum(np.asarray(brain[index]) != (changed["brain"].numpy()[0, ..., 0] > 0)) <= 8


def test_gamma_of_one_is_exactly_the_image(image):
    np.testing.assert_array_equal(gamma(image, Gamma(jnp.ones(2))), image)
