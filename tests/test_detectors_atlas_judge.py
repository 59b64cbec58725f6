"""The distance from the healthy mean with a judge: what it scores, and that its judge is that of `cce_vae_judge`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.augment.foreign import Planting
from strega_jax.detectors.atlas_judge import AtlasJudge
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.cce_vae_judge import CceVaeJudge
from strega_jax.detectors.residual import Residual
from strega_jax.errors import ConfigError

PLANTING = Planting(probability=1.0, radius=(0.15, 0.3))
TINY = AtlasJudge(
    atlas_heights=2,
    residual=Residual("contrast", (2.0, 1.0, 0.5)),
    maps=(8, 8),
    blocks=1,
    planting=PLANTING,
    brighter=0.3,
    residual_scale=0.5,
)


@functools.cache
def trained():
    return train_few(TINY, fresh(TINY, 3), discs(12, 3), 12, 1e-2)[0]


def test_the_contract_is_kept():
    check_contract(TINY, trained(), discs(6, 3))


def test_the_judge_is_that_of_the_vae_with_a_judge():
    with_vae = CceVaeJudge(
        healthy=CceVae(maps=(4,), latent=4, atlas_heights=2), maps=(8, 8), blocks=1, planting=PLANTING
    )
    batch = discs(12, 3)
    other = train_few(with_vae, fresh(with_vae, 3), batch, 12, 1e-2)[0]
    for name in ("params", "batch_stats"):
        # Two programs add in two orders, and Adam's steps do not get smaller with the gradient.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), trained()[name], other[name]["judge"]
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), trained()["atlas"], other["atlas"]["healthy"]
    )


def test_the_reconstruction_is_the_mean_of_the_training_images_and_empty_channels_are_none():
    detector = AtlasJudge(atlas_heights=1, empty_channels=1, maps=(4, 4), blocks=1)
    batch = discs(8, 3)
    variables = fresh(detector, 3)
    _, aux = detector.loss(variables, batch, jax.random.key(0), jnp.int32(0))
    made = np.asarray(detector.reconstruct({**variables, **aux.mutable}, batch))
    images, brain = np.asarray(batch["images"]), np.asarray(batch["brain"])[..., None]
    mean = (images * brain).sum(0) / np.maximum(brain.sum(0), 1)
    always = brain.all(axis=(0, 3))
    assert always.sum() > 20
    # Five samples of the whole brain's mean count beside the eight of a place.
    whole = (images * brain).sum((0, 1, 2)) / brain.sum()
    wanted = (8 * mean + 5 * whole) / 13
    np.testing.assert_allclose(made[0][always][:, :2], wanted[always][:, :2], atol=1e-5)
    assert not made[..., 2].any()
    assert not made[~np.broadcast_to(brain > 0, made.shape)].any()


def test_the_score_is_the_capped_weighted_distance_and_what_is_brighter_times_the_probability():
    variables, batch = trained(), discs(6, 3)
    mean, images = np.asarray(TINY.reconstruct(variables, batch)), np.asarray(batch["images"])
    brain = np.asarray(batch["brain"])
    residual = np.maximum((images - mean) @ np.array([2.0, 1.0, 0.5], np.float32), 0) * brain
    above = np.minimum(images @ np.array([1, 2, 3], np.float32), 3) - mean @ np.array([1, 2, 3], np.float32)
    assert above.max() > 0.1
    probability = np.asarray(TINY.probability(variables, batch))
    assert probability.max() > probability[brain > 0].min() >= 0
    assert not probability[brain == 0].any()
    wanted = np.minimum((residual + 0.3 * np.maximum(above, 0)) / 0.5, 1) * probability
    np.testing.assert_allclose(TINY.score(variables, batch, jax.random.key(0)), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{"atlas_heights": 0}, {"empty_channels": -1}, {"brighter": -1.0}, {"maps": ()}])
def test_hyperparameters_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError):
        AtlasJudge(**fields)


@pytest.mark.parametrize(
    ("fields", "channels", "said"),
    [
        ({}, 1, "tissue fractions"),
        ({"maps": (8, 8, 8, 8, 8)}, 3, "multiples of 64"),
        ({"empty_channels": 3}, 3, "less than 3"),
        ({"residual": Residual("contrast", (1.0,))}, 3, "3 numbers"),
    ],
)
def test_images_that_do_not_fit_are_refused(fields, channels, said):
    with pytest.raises(ConfigError, match=said):
        AtlasJudge(**fields).init(jax.random.key(0), (32, 32, channels))
