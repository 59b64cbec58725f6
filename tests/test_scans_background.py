"""What is background: constants other than 0, z-scored brains, ripples of resampling, and what cannot be told."""

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from strega_jax.errors import ScanError
from strega_jax.scans.background import remove_background
from strega_jax.slices.preprocess import windowed
from strega_jax.tissue import segment


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """The MNI152 brain at 4 mm: whole numbers up to about 1000, background 0."""
    image = np.asarray(datasets.load_mni152_template(resolution=4).dataobj)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=4).dataobj) > 0
    return np.where(brain, np.maximum(np.round(1000 * image), 1), 0).astype(np.float32)


@pytest.fixture(scope="module")
def rippled(plain: np.ndarray) -> tuple[np.ndarray, float]:
    """`plain` moved by half a voxel with cubic splines, and how many voxels of it are brain.

    That is told by linear interpolation, which does not overshoot. The grid is of 2 mm, so that the ring around the
    brain is as thin as in real scans.
    """
    fine = ndimage.zoom(plain, 2, order=1)
    moved, smooth = (ndimage.shift(fine, (0.5, 0.5, 0.5), order=order).astype(np.float32) for order in (3, 1))
    return moved, float((smooth > 0.02 * smooth.max()).sum())


def z_scored(plain: np.ndarray, background: float) -> np.ndarray:
    inside = plain > 0
    z = (plain - plain[inside].mean()) / plain[inside].std()
    return np.where(inside, z, background).astype(np.float32)


def test_an_ordinary_image_is_returned_itself(plain: np.ndarray) -> None:
    assert remove_background(plain) is plain
    assert windowed(plain, (0.0, 100.0)) is plain


@pytest.mark.parametrize(("slope", "background"), [(1.0, 100.0), (1.0, -1024.0), (0.001, 1e-7), (1.0, 3.5)])
def test_a_constant_background_is_subtracted(plain: np.ndarray, slope: float, background: float) -> None:
    found = remove_background((plain * slope + background).astype(np.float32))
    np.testing.assert_array_equal(found > 0, plain > 0)
    np.testing.assert_allclose(found, plain * slope, rtol=1e-4)
    assert remove_background(found) is found


@pytest.mark.parametrize("background", [0.0, -9.0, 100.0])
def test_z_scored_brains_become_positive_in_the_same_order(plain: np.ndarray, background: float) -> None:
    inside, z = plain > 0, z_scored(plain, background)
    found = remove_background(z)
    np.testing.assert_array_equal(found > 0, inside)
    np.testing.assert_allclose(found[inside], z[inside] - z[inside].min(), atol=1e-5)
    assert remove_background(found) is found


def test_one_voxel_far_below_a_z_scored_brain_does_not_lift_all_others(plain: np.ndarray) -> None:
    z = z_scored(plain, 0.0)
    z[tuple(np.argwhere(plain > 0)[1000])] = -1e4
    found = remove_background(z)
    np.testing.assert_array_equal(found > 0, plain > 0)
    assert found.max() < 15


def test_a_few_negative_voxels_are_the_darkest_of_the_brain(plain: np.ndarray) -> None:
    spoilt = plain.copy()
    holes = tuple(np.argwhere(plain > 300)[::200].T)
    spoilt[holes] = -5
    found = remove_background(spoilt)
    np.testing.assert_array_equal(found > 0, plain > 0)
    assert found[holes].max() < 0.01
    np.testing.assert_array_equal(np.delete(found.ravel(), np.ravel_multi_index(holes, plain.shape)).max(), plain.max())


@pytest.mark.parametrize("kept", ["float", "int16", "clipped", "uint16", "plus100"])
def test_ripples_of_spline_resampling_are_background(rippled: tuple[np.ndarray, float], kept: str) -> None:
    moved, volume = rippled
    image = np.round(moved) if kept in ("int16", "uint16") else moved
    image = np.maximum(image, 0) if kept in ("clipped", "uint16") else image
    if kept == "plus100":
        image = (np.round(moved) + 100).astype(np.float32)
    assert (image > 0).sum() > 1.05 * volume
    found = remove_background(image)
    assert (found > 0).sum() == pytest.approx(volume, rel=0.03)
    assert remove_background(found) is found


def test_a_known_brain_mask_decides(plain: np.ndarray) -> None:
    head = np.where(plain > 0, plain, 50 + 10 * np.random.default_rng(0).random(plain.shape)).astype(np.float32)
    np.testing.assert_array_equal(remove_background(head, plain > 0), plain)
    z = np.where(plain > 0, z_scored(plain, 0), head).astype(np.float32)
    np.testing.assert_array_equal(remove_background(z, plain > 0) > 0, plain > 0)


def test_what_cannot_be_told_comes_back_unchanged_and_is_refused_with_the_reason(plain: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    head = np.where(plain > 0, plain, 50 * rng.rayleigh(size=plain.shape)).astype(np.float32)
    assert remove_background(head) is head
    with pytest.raises(ScanError, match=r"border is no constant background.*--brain=PATH.*--brain=given"):
        segment(head, (4.0, 4.0, 4.0))
    # Resampled after z-scoring: both the ripples and the mean of the brain are at 0.
    z = ndimage.shift(z_scored(plain, 0.0), (0.5, 0.5, 0.5), order=3).astype(np.float32)
    z[np.abs(z) < 1e-4] = 0
    assert remove_background(z) is z
    with pytest.raises(ScanError, match=r"told apart: both have values around 0.*--brain=PATH.*--brain=given"):
        segment(z, (4.0, 4.0, 4.0))


@pytest.mark.parametrize("background", [0.0, -9.0])
def test_windowing_sees_the_whole_of_a_z_scored_brain(plain: np.ndarray, background: float) -> None:
    seen = windowed(z_scored(plain, background), (3.0, 90.0))
    np.testing.assert_array_equal(seen > 0, plain > 0)
    np.testing.assert_allclose(seen, windowed(plain, (3.0, 90.0)), atol=0.01)
