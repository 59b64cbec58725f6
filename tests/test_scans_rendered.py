"""Healthy brains in other contrasts: levels within their ranges, the anatomy's own place, and all from the seed."""

import functools
from importlib import resources

import numpy as np
import pytest

from strega_jax.errors import ConfigError
from strega_jax.scans.looks import LOOKS
from strega_jax.scans.rendered import render

MM = (4.0, 4.0, 4.0)


@functools.cache
def anatomy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1w image, fractions and voxel → MNI152 millimetres of the packaged template, its tissues made sharp."""
    with resources.files("strega_jax.slices").joinpath("mni152_tissue.npz").open("rb") as file:
        stored = np.load(file)
        blurred, affine = stored["fractions"].astype(np.float32) / 255, stored["affine"]
    brain = blurred.sum(axis=-1) > 0.5
    sharp = blurred**4 / np.maximum((blurred**4).sum(axis=-1, keepdims=True), 1e-6)
    fractions = np.where(brain[..., None], sharp, 0).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.02, brain.shape)
    image = np.where(brain, 500 * (fractions @ np.array([0.4, 0.75, 1.0]) + noise), 0).astype(np.float32)
    return image, fractions, affine


@functools.cache
def rendered(contrast: str, seed: int) -> np.ndarray:
    return render(*anatomy(), MM, contrast, np.random.default_rng(seed))


def levels(image: np.ndarray) -> tuple[float, float]:
    """Medians of pure fluid inside the brain and of pure grey matter, relative to that of white matter."""
    _, fractions, _ = anatomy()
    fluid, grey, white = (fractions[..., c] > 0.9 for c in range(3))
    return np.median(image[fluid]) / np.median(image[white]), np.median(image[grey]) / np.median(image[white])


@pytest.mark.parametrize("contrast", LOOKS)
def test_the_same_seed_gives_the_same_brain_and_another_seed_another(contrast):
    image = rendered(contrast, 1)
    np.testing.assert_array_equal(image, rendered.__wrapped__(contrast, 1))
    brain = anatomy()[1].sum(axis=-1) > 0
    np.testing.assert_array_equal(image > 0, brain)
    assert np.isfinite(image).all()
    other = rendered(contrast, 2)
    assert np.abs(image - other)[brain].mean() > 0.02 * image[brain].mean()


@pytest.mark.parametrize("contrast", LOOKS)
def test_fluid_and_grey_matter_have_levels_within_the_contrasts_ranges(contrast):
    look = LOOKS[contrast]
    found = np.array([levels(rendered(contrast, seed)) for seed in range(1, 5)])
    # Voxels of 4 mm mix with their neighbours, and contrast is bent by up to a tenth.
    (low, high), (grey_low, grey_high) = look.fluid, look.grey
    assert ((found[:, 0] > min(0.6 * low, low**1.2)) & (found[:, 0] < 1.2 * high + 0.2)).all()
    assert ((found[:, 1] > 0.85 * grey_low) & (found[:, 1] < 1.15 * grey_high)).all()
    assert np.ptp(found[:, 1]) > 0.02


def test_fluid_is_brightest_in_t2w_and_darkest_in_flair_and_t1ce():
    for seed in range(1, 4):
        fluid, grey = levels(rendered("T2w", seed))
        assert fluid > grey > 1
        assert levels(rendered("FLAIR", seed))[0] < 0.6
        assert levels(rendered("T1ce", seed))[0] < levels(rendered("T1ce", seed))[1] < 1


def test_the_pallidum_is_darker_than_the_white_matter_around_it_in_t2w_and_flair():
    _, fractions, affine = anatomy()
    place = [np.round(np.linalg.inv(affine) @ (x, -5, -1, 1)).astype(int)[:3] for x in (-19, 19)]
    white = fractions[..., 2] > 0.9
    for contrast in ("T2w", "FLAIR"):
        images = [rendered(contrast, seed) for seed in range(1, 5)]
        ratios = [np.mean([image[tuple(p)] for p in place]) / np.median(image[white]) for image in images]
        assert np.mean(ratios) < 0.97


def test_the_halves_of_a_brain_differ_no_more_than_those_of_real_scans():
    _, fractions, _ = anatomy()
    tissue = (fractions[..., 2] > 0.8) & (fractions[::-1, ..., 2] > 0.8)
    for seed in range(1, 5):
        image = rendered("FLAIR", seed)
        ratio = np.log(image[tissue] / image[::-1][tissue])
        assert ratio.std() / np.sqrt(2) < 0.15


def test_a_contrast_without_a_look_is_refused():
    with pytest.raises(ConfigError, match=r"cannot render DWI; known: T1ce, T2w, FLAIR, PD"):
        rendered("DWI", 0)
