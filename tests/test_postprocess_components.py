"""Components, boxes and the threshold from healthy scans against SciPy, scikit-image and NumPy."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from strega_jax.errors import ScanError
from strega_jax.postprocess import find_components, healthy_threshold, slice_boxes

SPACING = (0.9, 1.1, 3.0)
AFFINE = nib.affines.from_matvec(
    np.array([[0.98, -0.2, 0.0], [0.2, 0.98, 0.0], [0.0, 0.0, 1.0]]) @ np.diag(SPACING), [-80.0, -110.0, -60.0]
)


@pytest.fixture(scope="module")
def score() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(40, 50, 30))
    return np.maximum(ndimage.gaussian_filter(noise, 1.5), 0).astype(np.float32)


def test_components_equal_regionprops(score: np.ndarray) -> None:
    mask = score > 0.12
    regions = regionprops(label(mask, connectivity=3), intensity_image=score)
    found = find_components(mask, score, AFFINE, SPACING)
    assert len(found) == len(regions) > 5
    assert [c.label for c in found] == list(range(1, len(found) + 1))
    assert [c.voxels for c in found] == sorted((c.voxels for c in found), reverse=True)
    by_box = {(c.box_lo, c.box_hi): c for c in found}
    for region in regions:
        component = by_box[region.bbox[:3], region.bbox[3:]]
        assert component.voxels == region.num_pixels
        assert component.volume_ml == pytest.approx(region.num_pixels * 0.9 * 1.1 * 3.0 / 1000)
        np.testing.assert_allclose(component.centroid_mm, nib.affines.apply_affine(AFFINE, region.centroid), atol=1e-4)
        assert component.peak_score == pytest.approx(region.intensity_max)
        assert component.mean_score == pytest.approx(region.intensity_mean)


def test_an_empty_mask_has_no_components(score: np.ndarray) -> None:
    empty = np.zeros(score.shape, bool)
    assert find_components(empty, score, AFFINE, SPACING) == []
    assert slice_boxes(empty) == []


def test_slice_boxes_equal_regionprops(score: np.ndarray) -> None:
    mask = np.zeros_like(score, bool)
    inner = (slice(2, -1), slice(5, -3), slice(1, -2))  # its box begins at another index along each axis
    mask[inner] = score[inner] > 0.12
    mask[:, :, 7] = False
    expected = []
    for z in range(mask.shape[2]):
        for r in regionprops(label(mask[:, :, z], connectivity=2)):
            expected.append((z, r.bbox[:2], r.bbox[2:], int(r.num_pixels)))
    found = [(b.z, b.lo, b.hi, b.pixels) for b in slice_boxes(mask)]
    assert [b[0] for b in found] == sorted(b[0] for b in found)
    assert sorted(found) == sorted(expected)
    assert len(found) > 20


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.3])
def test_healthy_threshold_is_the_pooled_quantile(rate: float) -> None:
    rng = np.random.default_rng(1)
    scans = [np.maximum(rng.normal(size=n), 0).astype(np.float32) * 0.1 for n in (30_000, 50_000, 20_000)]
    pooled = np.concatenate(scans)
    threshold = healthy_threshold(iter(scans), rate)
    exact = float(np.quantile(pooled, 1 - rate, method="inverted_cdf"))
    assert exact <= threshold <= exact * (1 + 2**-13)
    assert (pooled > threshold).mean() <= rate
    assert (pooled > threshold).mean() == pytest.approx(rate, rel=0.02)


def test_healthy_threshold_of_silent_scans_is_zero() -> None:
    assert healthy_threshold([np.zeros((5, 5, 5), np.float32), np.array([-0.0, 0.0])], 0.01) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_healthy_threshold_refuses_what_is_no_score(bad: float) -> None:
    with pytest.raises(ScanError, match="negative, NaN or infinite"):
        healthy_threshold([np.array([0.1, bad], np.float32)], 0.01)
    with pytest.raises(ScanError, match="no healthy voxels"):
        healthy_threshold([], 0.01)
