"""The compact context-encoding VAE's score: a residual inside the brain, from the healthy mean where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_detectors_cce_vae import (
    SIDE,
    SMALL,
    fresh,
    loss,
    quick_compilation,  # noqa: F401 - a fixture that every test here uses
    score,
    slices,
    weights,
)

from strega_jax.detectors.base import Batch
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.tissue_atlas import TissueAtlas
from strega_jax.errors import ConfigError


def test_score_is_the_residual_of_the_sign_inside_the_brain():
    batch = slices(channels=3)
    scores = {}
    for sign in ("positive", "negative", "absolute"):
        detector, variables = fresh(channels=3, sign=sign)
        scores[sign] = score(detector, variables, batch)
        assert scores[sign].dtype == np.float32
        assert scores[sign].min() >= 0
        assert scores[sign].max() > 0
        assert not scores[sign][np.asarray(batch["brain"]) == 0].any()
    np.testing.assert_allclose(scores["positive"] + scores["negative"], scores["absolute"], rtol=1e-5)
    residual = np.asarray(batch["images"] - jax.jit(detector.reconstruct)(variables, batch))
    expected = np.maximum(residual, 0).sum(-1) * np.asarray(batch["brain"])
    np.testing.assert_allclose(scores["positive"], expected, atol=1e-6)


def test_channel_weights_weigh_the_residuals_of_the_channels():
    batch = slices(channels=3)
    parts = []
    for weighing in [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 3.0)]:
        detector, variables = fresh(channels=3, channel_weights=weighing)
        parts.append(score(detector, variables, batch))
    np.testing.assert_allclose(0.5 * parts[0] + 2 * parts[1] + 3 * parts[2], parts[3], rtol=1e-5)


def test_contrast_weighs_channels_against_each_other_before_it_is_cut_at_zero():
    batch = slices(channels=3)
    detector, variables = fresh(channels=3, sign="contrast", channel_weights=(2.0, -1.0, 0.5))
    residual = np.asarray(batch["images"] - jax.jit(detector.reconstruct)(variables, batch))
    expected = np.maximum(residual @ np.array([2.0, -1.0, 0.5], np.float32), 0) * np.asarray(batch["brain"])
    np.testing.assert_allclose(score(detector, variables, batch), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="channel_weights"):
        CceVae(**SMALL, channel_weights=(1.0, -1.0))


def test_with_an_atlas_the_network_models_deviations_from_the_healthy_mean():
    batch = slices(channels=3)
    detector, variables = CceVae(**SMALL, atlas_heights=4), weights(3)
    atlas = TissueAtlas(bins=4)
    fresh_atlas = jax.jit(atlas.init, static_argnums=1)(jax.random.key(0), (SIDE, SIDE, 3))["atlas"]
    variables = {**variables, "atlas": fresh_atlas}
    _, aux = loss(detector, variables, batch)
    jax.tree.map(  # the atlas detector's own statistics of the batch
        np.testing.assert_array_equal,
        aux.mutable["atlas"],
        jax.jit(atlas.loss)(variables, batch, jax.random.key(0), jnp.int32(0))[1].mutable["atlas"],
    )
    learnt = {**variables, "atlas": aux.mutable["atlas"]}
    mean = np.asarray(jax.jit(atlas.reconstruct)(learnt, batch)) * np.asarray(batch["brain"])[..., None]
    assert np.abs(mean).max() > 0.1
    # Of images without deviation the network sees nothing, whatever the anatomy
    usual = {**batch, "images": jnp.asarray(mean)}
    nothing = {**batch, "images": jnp.zeros_like(batch["images"])}
    plain = jax.jit(CceVae(**SMALL).reconstruct)(weights(3), nothing)
    np.testing.assert_allclose(jax.jit(detector.reconstruct)(learnt, usual) - mean, plain, atol=1e-4)


def test_channels_empty_in_health_are_neither_seen_nor_reconstructed():
    batch = slices(channels=3)
    detector = CceVae(**SMALL, empty_channels=1)
    variables = weights(2)
    other: Batch = {**batch, "images": batch["images"].at[..., 2].set(9.0)}
    one, two = (np.asarray(jax.jit(detector.reconstruct)(variables, b)) for b in (batch, other))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[..., 2], 0)
    pair: Batch = {**batch, "images": batch["images"][..., :2]}
    np.testing.assert_allclose(one[..., :2], jax.jit(CceVae(**SMALL).reconstruct)(variables, pair), atol=1e-6)
    with pytest.raises(ConfigError, match="empty_channels"):
        CceVae(**SMALL, empty_channels=3).init(jax.random.key(0), (SIDE, SIDE, 3))


def test_latent_samples_follow_the_key_and_their_mean_settles():
    batch = slices()
    few, variables = fresh(samples=2)
    many, _ = fresh(samples=256)
    first, again = (score(few, variables, batch, 1) for _ in range(2))
    np.testing.assert_array_equal(first, again)

    def spread(detector: CceVae) -> float:
        return float(np.abs(score(detector, variables, batch, 1) - score(detector, variables, batch, 2)).mean())

    assert 0 < spread(many) < 0.3 * spread(few)  # standard errors fall as 1/√128 ≈ 0.09


def test_score_of_an_image_does_not_depend_on_its_batch():
    detector, variables = fresh()
    batch = slices()
    alone: Batch = {"images": batch["images"][1:2], "brain": batch["brain"][1:2], "position": batch["position"][1:2]}
    np.testing.assert_allclose(score(detector, variables, alone), score(detector, variables, batch)[1:2], atol=1e-5)
