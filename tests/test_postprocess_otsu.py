"""Otsu's thresholds against scikit-image's, to the last bit."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from strega_jax.postprocess import otsu_thresholds


def residuals(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth, sparse, non-negative: what a residual inside a brain looks like."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2))
    rows, columns = np.indices(shape[1:])
    inside = (rows / shape[1] - 0.5) ** 2 + (columns / shape[2] - 0.5) ** 2 < 0.2
    return (np.maximum(smooth, 0) * inside * 7).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 96, 80), (1, 64, 64), (33, 31, 57)])
def test_equals_scikit_image_on_residuals(shape: tuple[int, int, int]) -> None:
    slices = residuals(0, shape)
    expected = np.array([threshold_otsu(image) for image in slices])
    np.testing.assert_array_equal(otsu_thresholds(slices), expected)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_equals_scikit_image_on_any_range(scale: float) -> None:
    rng = np.random.default_rng(1)
    slices = (rng.normal(size=(200, 40, 50)) * scale - scale).astype(np.float32)
    slices[50:] = np.abs(slices[50:])
    slices[100:150] = np.round(slices[100:150] / scale * 3).astype(np.float32) * np.float32(scale)
    slices[7] = scale  # a constant slice among others changes nothing for them
    expected = np.array([threshold_otsu(image) for image in slices])
    np.testing.assert_array_equal(otsu_thresholds(slices), expected)


def test_values_on_bin_edges_fall_where_numpy_puts_them() -> None:
    rng = np.random.default_rng(2)
    edges = np.linspace(np.float32(0.1), np.float32(0.7), 257, dtype=np.float32)
    slices = rng.choice(np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)]), size=(100, 30, 30))
    slices = np.clip(slices, edges[0], edges[-1])
    expected = np.array([threshold_otsu(image) for image in slices])
    np.testing.assert_array_equal(otsu_thresholds(slices), expected)


def test_cropped_zeros_count() -> None:
    whole = residuals(3, (20, 70, 90))
    crop = whole[:, 2:-3, 4:-1]
    assert whole.sum() == pytest.approx(crop.sum())
    beside = whole[0].size - crop[0].size
    np.testing.assert_array_equal(otsu_thresholds(crop, zeros_beside=beside), otsu_thresholds(whole))


def test_cropped_zeros_widen_the_range() -> None:
    whole = np.zeros((1, 20, 20), np.float32)
    whole[0, 5:15, 5:15] = np.random.default_rng(4).uniform(2, 3, (10, 10)).astype(np.float32)
    np.testing.assert_array_equal(otsu_thresholds(whole[:, 5:15, 5:15], zeros_beside=300), [threshold_otsu(whole[0])])


def test_cropped_zeros_fall_into_their_bin_among_signed_values() -> None:
    whole = np.zeros((3, 30, 30), np.float32)
    whole[:, 8:28, 8:28] = np.random.default_rng(5).normal(0.4, 1.0, (3, 20, 20)).astype(np.float32)
    expected = [threshold_otsu(image) for image in whole]
    np.testing.assert_array_equal(otsu_thresholds(whole[:, 8:28, 8:28], zeros_beside=500), expected)
    without = [threshold_otsu(image) for image in whole[:, 8:28, 8:28]]
    assert not np.isin(expected, without).any()


def test_constant_zero_and_single_pixel_slices() -> None:
    slices = np.zeros((4, 16, 16), np.float32)
    slices[1] = 0.25
    slices[2, 3, 4] = 1.0
    slices[3, :, :8] = 1.0
    expected = [threshold_otsu(image) for image in slices]
    np.testing.assert_array_equal(otsu_thresholds(slices), expected)
    assert otsu_thresholds(slices)[0] == 0
    assert otsu_thresholds(np.zeros((0, 16, 16), np.float32)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    slices = np.ones((3, 8, 8), np.float32)
    slices[2, 7, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        otsu_thresholds(slices)
