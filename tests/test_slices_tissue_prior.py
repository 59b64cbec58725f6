"""Grey and white matter from the template: where it says, in the shares it says, and for FLAIR alone."""

import dataclasses
from importlib import resources

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from strega_jax.config import Preprocess
from strega_jax.errors import ScanError
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.source import open_scan
from strega_jax.slices.preprocess import beyond_tissue, brain_scaled, preprocess
from strega_jax.slices.tissue_prior import divide_tissue, grey_share
from strega_jax.tissue import TissueMap

SETTINGS = Preprocess(
    representation="fractions_excess", grid="template", size=48, field_of_view_mm=192.0, slice_spacing_mm=6.0,
    window_percentiles=(3.0, 90.0), normalise="unit",
)  # fmt: skip


def test_the_grey_share_is_the_templates_at_every_place():
    share = grey_share(SETTINGS, 0.0)
    with resources.files("strega_jax.slices").joinpath("mni152_tissue.npz").open("rb") as file:
        stored = np.load(file)
        fractions, affine = stored["fractions"] / 255, stored["affine"]
    axes = [affine[a, 3] + affine[a, a] * np.arange(n) for a, n in enumerate(fractions.shape[:3])]
    look_up = RegularGridInterpolator(axes, fractions, bounds_error=False, fill_value=0)
    # Pixels of 4 mm about (0, -18) mm, slices of 6 mm from -70 mm.
    h, w, k = 30, 14, 20
    _, grey, white = look_up([(h - 23.5) * 4, (w - 23.5) * 4 - 18, k * 6 - 70])[0]
    assert share.shape == (26, 48, 48)
    assert share[k, h, w] == pytest.approx(grey / (grey + white), abs=1e-3)
    assert share[k, h, w] < 0.9


def test_shares_sum_to_one_and_what_is_brighter_than_tissue_is_white():
    rng = np.random.default_rng(0)
    fluid, excess, grey = rng.uniform(size=(3, 2, 5, 6)).astype(np.float32)
    images = divide_tissue(fluid, excess, grey)
    np.testing.assert_allclose(images[..., :3].sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(images[..., 0], fluid)
    np.testing.assert_array_equal(images[..., 3], excess)
    assert (images[excess >= 1 / 3][:, 1] == 0).all()
    plain = divide_tissue(fluid, np.zeros_like(excess), grey)
    np.testing.assert_allclose(plain[..., 1], (1 - fluid) * grey, atol=1e-6)


def test_the_excess_counts_from_the_bright_class_in_half_distances_of_fluid_and_tissue():
    labels = np.repeat(np.array([1, 2, 3], np.uint8), 40).reshape(3, 10, 4)
    blank = np.zeros(labels.shape, np.float32)
    fractions, of_classes = np.stack([blank] * 3, axis=-1), np.zeros(3, np.float32)
    tissue = TissueMap(labels, labels, fractions, labels, blank, blank, of_classes, of_classes)
    image = np.select([labels == c for c in (1, 2, 3)], (100.0, 460.0, 540.0)).astype(np.float32)
    image[2, 0] = [540 + 200, 540 + 600, 540 + 900, 540]  # half the distance from fluid (100) to tissue (500) is 200
    np.testing.assert_allclose(beyond_tissue(image, tissue)[2, 0], [1 / 3, 1, 1, 0], atol=1e-6)
    with pytest.raises(ScanError, match="fluid is not darker"):
        beyond_tissue(1000 - image, tissue)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
    folder = tmp_path_factory.mktemp("demo")
    make_demo_cohort(folder, 3, seed=0)
    return open_scan(min(folder.rglob("*_T1w.nii.gz")), "T1w")


def test_flair_shows_a_t1w_model_the_templates_grey_matter_and_its_own_fluid(scan):
    t1w = preprocess(scan, SETTINGS)
    as_flair = preprocess(dataclasses.replace(scan, contrast="FLAIR"), SETTINGS)
    assert as_flair.grey_from_template
    assert not t1w.grey_from_template
    inside = as_flair.images.max(axis=-1) > 0
    # The fluid is the scan's; grey matter follows the template's share of what is not fluid.
    np.testing.assert_allclose(as_flair.images[..., 0][inside], t1w.images[..., 0][inside], atol=1e-6)
    share = grey_share(SETTINGS, 0.0)[as_flair.indices]
    dark = inside & (as_flair.images[..., 3] <= 1e-3)
    expected = (1 - as_flair.images[..., 0]) * share
    np.testing.assert_allclose(as_flair.images[..., 1][dark], np.maximum(expected, 1e-3)[dark], atol=5e-3)
    np.testing.assert_allclose(as_flair.images[..., :3].sum(axis=-1)[inside], 1, atol=5e-3)


@pytest.mark.parametrize("contrast", ["T1w", "FLAIR"])
def test_intensities_follow_the_channels_that_are_there_without_them(scan, contrast):
    scan = dataclasses.replace(scan, contrast=contrast)
    plain = preprocess(scan, SETTINGS)
    found = preprocess(scan, dataclasses.replace(SETTINGS, representation="fractions_intensity"))
    np.testing.assert_array_equal(found.images[..., :4], plain.images)
    whole = found.grid.sample(brain_scaled(scan.data, found.brain))[found.indices]
    inside = plain.images.max(axis=-1) > 0
    np.testing.assert_allclose(found.images[..., 4][inside], np.maximum(whole, 1e-3)[inside], atol=1e-5)
    assert not found.images[~inside].any()
    assert 0.5 < np.median(found.images[..., 4][inside]) < 1


def test_a_model_trained_on_flair_or_without_the_template_sees_its_own_classes(scan):
    flair = dataclasses.replace(scan, contrast="FLAIR")
    for settings in (
        dataclasses.replace(SETTINGS, contrast="FLAIR"),
        dataclasses.replace(SETTINGS, grid="fixed"),
        dataclasses.replace(SETTINGS, representation="pveseg"),
    ):
        assert not preprocess(flair, settings).grey_from_template
