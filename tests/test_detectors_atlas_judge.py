"""The distance from the healthy mean with a judge: what it scores, and that its judge is that of `cce_vae_judge`.

With a judge of intensities beside it: what either is shown, and when both are asked.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.augment.foreign import Planting
from strega_jax.detectors.atlas_judge import AtlasJudge
from strega_jax.detectors.base import Batch
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
    _, aux = jax.jit(detector.loss)(variables, batch, jax.random.key(0), jnp.int32(0))
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


def with_intensity(count: int = 12) -> Batch:
    """Discs, nothing beyond white matter, and intensities as of T2w: the less solid, the brighter."""
    batch = discs(count, 3)
    images = batch["images"]
    intensity = (0.2 + 0.8 * images[..., 0] + 0.3 * images[..., 1]) * batch["brain"]
    return {**batch, "images": jnp.stack([*jnp.moveaxis(images, -1, 0), 0 * intensity, intensity], axis=-1)}


BOTH = dataclasses.replace(TINY, residual=Residual("contrast", (2.0, 1.0, 0.5, 1.0)), intensity_share=0.25)


@functools.cache
def trained_both():
    return train_few(BOTH, fresh(BOTH, 5), with_intensity(), 12, 1e-2)


def without(variables: Any, batch: Batch) -> tuple[Any, Batch]:
    """What a detector without intensities is given."""
    judge = {name: {k: v for k, v in variables[name].items() if k != "intensity"} for name in ("params", "batch_stats")}
    return {**variables, **judge}, {**batch, "images": batch["images"][..., :4]}


def test_the_contract_is_kept_with_intensities():
    variables, history = trained_both()
    check_contract(BOTH, variables, with_intensity(6))
    assert {"judge", "judge_dice", "intensity_judge", "intensity_judge_dice"} <= history[0].keys()
    assert history[-1]["intensity_judge"] < history[0]["intensity_judge"]


def test_the_judge_of_tissue_is_the_same_beside_one_of_intensities():
    tissue = {**with_intensity(), "images": with_intensity()["images"][..., :4]}
    alone = train_few(BOTH, fresh(BOTH, 4), tissue, 12, 1e-2)[0]
    found, _ = without(trained_both()[0], with_intensity())
    for name in ("params", "batch_stats", "atlas"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), found[name], alone[name])


def test_both_judges_are_asked_by_their_share_and_the_second_is_shown_intensities():
    variables, batch = trained_both()[0], with_intensity(6)
    tissue_variables, tissue = without(variables, batch)
    first = np.asarray(BOTH.probability(tissue_variables, tissue))
    # A judge of tissue is shown three times what is white matter's channel.
    intensity = batch["images"][..., 4]
    shown: Batch = {**batch, "images": jnp.stack([0 * intensity, 0 * intensity, intensity, 0 * intensity], axis=-1)}
    judge = {name: variables[name]["intensity"] for name in ("params", "batch_stats")}
    second = np.asarray(BOTH.probability({**judge, "atlas": variables["atlas"]}, shown))
    found = np.asarray(BOTH.probability(variables, batch))
    np.testing.assert_allclose(found, 0.75 * first + 0.25 * second, atol=1e-6)
    assert np.abs(first - second).max() > 0.05


@pytest.mark.parametrize(
    ("contrast", "tissue_alone"), [("T1w", True), ("T1ce", True), ("T2w", False), ("FLAIR", False)]
)
def test_tissue_alone_is_judged_where_its_brightness_has_the_order_of_training(contrast, tissue_alone):
    variables, batch = trained_both()[0], with_intensity(6)
    asked = BOTH.for_contrast(contrast, "T1w")
    assert asked == (dataclasses.replace(BOTH, intensity_share=0.0) if tissue_alone else BOTH)
    key = jax.random.key(0)
    alone = np.asarray(BOTH.score(*without(variables, batch), key))
    found = np.asarray(asked.score(variables, batch, key))
    assert (np.abs(found - alone).max() < 1e-6) == tissue_alone


def test_intensities_have_no_part_in_the_residual_and_no_healthy_counterpart():
    variables, batch = trained_both()[0], with_intensity(6)
    made = np.asarray(BOTH.reconstruct(variables, batch))
    np.testing.assert_array_equal(made[..., 4], batch["images"][..., 4])
    brighter: Batch = {**batch, "images": batch["images"].at[..., 4].multiply(1.5)}
    probability = BOTH.probability(variables, batch)
    scores = [BOTH.score_of_probability(variables, of, jax.random.key(0), probability) for of in (batch, brighter)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    "fields",
    [{"atlas_heights": 0}, {"empty_channels": -1}, {"brighter": -1.0}, {"maps": ()}, {"intensity_share": 1.5}],
)
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
        ({"residual": Residual("contrast", (1.0,) * 5)}, 5, "4 numbers"),
        ({"empty_channels": 4}, 5, "less than 4"),
    ],
)
def test_images_that_do_not_fit_are_refused(fields, channels, said):
    with pytest.raises(ConfigError, match=said):
        AtlasJudge(**fields).init(jax.random.key(0), (32, 32, channels))
