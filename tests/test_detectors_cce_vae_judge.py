"""The cceVAE with a judge: two parts that share nothing in training and meet in the score."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.augment.foreign import Planting
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.cce_vae_judge import CceVaeJudge
from strega_jax.errors import ConfigError

VAE = CceVae(maps=(4,), latent=4, atlas_heights=2, sign="absolute")
TINY = CceVaeJudge(healthy=VAE, maps=(24, 24), blocks=1, planting=Planting(probability=1.0, radius=(0.15, 0.3)))


@functools.cache
def trained():
    return train_few(TINY, fresh(TINY, 3), discs(12, 3), 150, 1e-2)


def test_the_parts_share_no_gradient():
    batch, variables = discs(6, 3), fresh(TINY, 3)

    @jax.jit
    def gradients(detector_key):
        def total(params):
            return TINY.loss({**variables, "params": params}, batch, detector_key, jnp.int32(0))[0]

        def alone(params):
            part = {name: value["healthy"] for name, value in variables.items()} | {"params": params["healthy"]}
            return VAE.loss(part, batch, jax.random.split(detector_key, 3)[0], jnp.int32(0))[0]

        return jax.grad(total)(variables["params"]), jax.grad(alone)(variables["params"])

    both, vae = gradients(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), both["healthy"], vae["healthy"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(vae["judge"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(both["judge"]))


def test_training_finds_planted_anomalies_and_the_contract_is_kept():
    variables, history = trained()
    dice = [step["judge_dice"] for step in history]
    assert np.mean(dice[-10:]) > np.mean(dice[:10]) + 0.15
    check_contract(TINY, variables, discs(6, 3))


def test_the_score_is_the_capped_residual_and_what_is_brighter_times_the_probability():
    variables, _ = trained()
    batch = discs(6, 3)
    part = {name: value["healthy"] for name, value in variables.items()}
    key = jax.random.key(0)
    scale = np.array([1.0, 2.0, 3.0], np.float32)  # CSF, GM, WM
    above = np.minimum(np.asarray(batch["images"]) @ scale, 3) - np.asarray(VAE.atlas_mean(part, batch)) @ scale
    assert np.abs(above).max() > 0.1
    for residual_scale, brighter in ((0.0, 0.0), (0.2, 0.0), (2.0, 0.5), (0.0, 0.5)):
        detector = dataclasses.replace(TINY, residual_scale=residual_scale, brighter=brighter)
        residual = np.asarray(VAE.score(part, batch, key)) + brighter * np.maximum(above, 0) * batch["brain"]
        probability = np.asarray(detector.probability(variables, batch))
        assert 0 <= probability.min() <= probability.max() <= 1
        assert not probability[np.asarray(batch["brain"]) == 0].any()
        wanted = (np.minimum(residual / residual_scale, 1) if residual_scale else residual) * probability
        np.testing.assert_allclose(detector.score(variables, batch, key), wanted, rtol=1e-5, atol=1e-6)


def test_beyond_white_matter_nothing_is_brighter():
    detector = CceVaeJudge(healthy=VAE, maps=(4, 4), blocks=1, residual_scale=0.0, brighter=0.5)
    variables, batch = fresh(detector, 4), discs(2, 3)
    white = jnp.zeros((*batch["brain"].shape, 4)).at[..., 2].set(batch["brain"])
    beyond = white.at[..., 3].set(batch["brain"])
    part = {name: value["healthy"] for name, value in variables.items()}
    for images in (white, beyond):
        given = {**batch, "images": images}
        usual = np.asarray(VAE.atlas_mean(part, given)) @ np.array([1, 2, 3, 3], np.float32)
        own = np.asarray(detector.score(variables, given, jax.random.key(0))) / detector.probability(variables, given)
        wanted = np.asarray(VAE.score(part, given, jax.random.key(0))) + 0.5 * np.maximum(3 - usual, 0)
        inside = np.asarray(batch["brain"]) > 0
        np.testing.assert_allclose(own[inside], wanted[inside], rtol=1e-4)


def test_a_mirrored_slice_has_the_mirrored_probability():
    variables, _ = trained()
    # An atlas that is its own mirror image, as that of any cohort nearly is.
    atlas = {name: (value + value[:, :, ::-1]) / 2 for name, value in variables["atlas"]["healthy"].items()}
    atlas = {name: (value + value[:, ::-1]) / 2 for name, value in atlas.items()}
    variables = {**variables, "atlas": {"healthy": atlas}}
    batch = discs(6, 3)
    mirrored = {**batch, "images": batch["images"][:, ::-1], "brain": batch["brain"][:, ::-1]}
    a, b = (np.asarray(TINY.probability(variables, one)) for one in (batch, mirrored))
    np.testing.assert_allclose(a[:, ::-1], b, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "channels", "said"),
    [
        ({}, 1, "tissue fractions"),
        ({"maps": (8, 8, 8, 8, 8)}, 3, "multiples of 64"),
    ],
)
def test_images_that_do_not_fit_are_refused(fields, channels, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(TINY, **fields).init(jax.random.key(0), (32, 32, channels))


@pytest.mark.parametrize(
    "fields", [{"healthy": CceVae()}, {"residual_scale": -1.0}, {"brighter": -0.1}, {"maps": ()}, {"blocks": 0}]
)
def test_hyperparameters_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError):
        CceVaeJudge(**fields)
