"""Score map → mask against the same chain in scikit-image and SciPy."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import area_opening
from typechecked import unchecked

from strega_jax.config import Postprocess
from strega_jax.errors import ConfigError, ScanError
from strega_jax.postprocess import mask_from_score
from strega_jax.postprocess.morphology import drop_small_areas

SPACING = (1.0, 1.0, 1.0)
SHAPE = (52, 61, 23)


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    x, y, z = np.indices(SHAPE)
    return ((x - 26) / 20) ** 2 + ((y - 29) / 25) ** 2 + ((z - 12) / 9.5) ** 2 < 1


@pytest.fixture(scope="module")
def score(brain: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(5).normal(size=SHAPE)
    return (np.maximum(ndimage.gaussian_filter(noise, (1.5, 1.5, 0.5)), 0) * brain).astype(np.float32)


def test_otsu_by_slice_then_area_opening_equals_scikit_image(score: np.ndarray, brain: np.ndarray) -> None:
    expected = np.zeros(SHAPE, bool)
    for z in range(SHAPE[2]):
        marked = score[:, :, z] > threshold_otsu(score[:, :, z])
        expected[:, :, z] = area_opening(marked.astype(np.uint8), area_threshold=20, connectivity=1)
    mask = mask_from_score(score, brain, SPACING, Postprocess(min_area_px=20))
    assert expected.any()
    np.testing.assert_array_equal(mask, expected)


def test_otsu_by_volume_equals_scikit_image(score: np.ndarray, brain: np.ndarray) -> None:
    mask = mask_from_score(score, brain, SPACING, Postprocess(scope="volume"))
    np.testing.assert_array_equal(mask, score > threshold_otsu(score))


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("area", [2, 9, 64])
def test_dropping_components_is_area_opening(connectivity: int, area: int) -> None:
    noise = np.random.default_rng(area).normal(size=(12, 60, 50))
    slices = ndimage.gaussian_filter(noise, (0, 1, 1)) > 0.3
    expected = [area_opening(s.astype(np.uint8), area, connectivity=connectivity // 4) for s in slices]
    got = drop_small_areas(slices, area, connectivity)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(got, np.array(expected, bool))


def test_a_component_of_exactly_the_smallest_area_stays() -> None:
    slices = np.zeros((1, 20, 20), bool)
    slices[0, 2:5, 2:5] = True
    slices[0, 10:12, 10:14] = True
    kept = drop_small_areas(slices, 9, 4)
    assert kept[0, 2:5, 2:5].all()
    assert kept.sum() == 9


def test_smallest_area_in_square_millimetres_follows_the_pixel_size(brain: np.ndarray) -> None:
    score = np.zeros(SHAPE, np.float32)
    score[20:23, 20:23, 12] = 1  # 9 pixels
    score[30:32, 30:32, 12] = 1  # 4 pixels
    settings = Postprocess(threshold="fixed", value=0.5, min_area_mm2=30)
    assert mask_from_score(score, brain, (2.0, 2.0, 3.0), settings).sum() == 9
    assert mask_from_score(score, brain, (1.0, 1.0, 3.0), settings).sum() == 0
    both = dataclasses.replace(settings, min_area_mm2=4, min_area_px=9)
    assert mask_from_score(score, brain, (1.0, 1.0, 3.0), both).sum() == 9


def test_three_dimensional_components_are_filtered_by_volume(brain: np.ndarray) -> None:
    score = np.zeros(SHAPE, np.float32)
    score[20:23, 20:23, 10:13] = 1  # 27 voxels, joined over slices
    score[23, 23, 13] = 1  # touches a corner: 26-connected
    score[30:32, 30:32, 12:14] = 1  # 8 voxels
    settings = Postprocess(threshold="fixed", value=0.5, min_volume_ml=28 * 8 / 1000)
    mask = mask_from_score(score, brain, (2.0, 2.0, 2.0), settings)
    assert mask.sum() == 28
    assert mask[23, 23, 13]


def test_the_guard_keeps_quiet_slices_empty(score: np.ndarray, brain: np.ndarray) -> None:
    loud = score.copy()
    loud[20:30, 20:30, 12] = 1.0
    mask = mask_from_score(loud, brain, SPACING, Postprocess(value=0.3))
    assert mask[:, :, 12].sum() == 100
    assert mask.sum() == 100
    assert mask_from_score(loud, brain, SPACING, Postprocess()).sum() > 1000


def test_components_grow_from_seeds_down_to_a_share_of_the_peak(brain: np.ndarray) -> None:
    score = np.zeros(SHAPE, np.float32)
    score[20:24, 20:24, 10:13] = 0.5  # reaches the seeds' threshold, through one voxel
    score[22, 22, 11] = 1.0
    score[19, 19, 9] = 0.4  # touches its corner
    score[20, 28, 11] = 0.3  # above no share of the peak
    score[30:34, 30:34, 10:13] = 0.7  # never reaches it
    settings = Postprocess(threshold="hysteresis", low_fraction=0.35)
    mask = mask_from_score(score, brain, SPACING, settings, healthy_threshold=0.8)
    expected = np.zeros(SHAPE, bool)
    expected[20:24, 20:24, 10:13] = expected[19, 19, 9] = True
    np.testing.assert_array_equal(mask, expected)
    assert not mask_from_score(score, brain, SPACING, settings, healthy_threshold=1.0).any()
    fixed = dataclasses.replace(settings, value=0.6)
    assert mask_from_score(score, brain, SPACING, fixed)[31, 31, 11]
    with pytest.raises(ConfigError, match="'hysteresis'"):
        mask_from_score(score, brain, SPACING, settings)


def test_threshold_from_healthy_scans(score: np.ndarray, brain: np.ndarray) -> None:
    settings = Postprocess(threshold="healthy")
    mask = mask_from_score(score, brain, SPACING, settings, healthy_threshold=0.1)
    np.testing.assert_array_equal(mask, score > np.float32(0.1))
    with pytest.raises(ConfigError, match=r"postprocess\.threshold"):
        mask_from_score(score, brain, SPACING, settings)


def test_the_threshold_itself_is_not_marked(brain: np.ndarray) -> None:
    score = np.where(brain, np.float32(0.5), np.float32(0))
    assert not mask_from_score(score, brain, SPACING, Postprocess(threshold="fixed", value=0.5)).any()


def test_nothing_outside_the_brain_is_marked_or_counted(score: np.ndarray, brain: np.ndarray) -> None:
    dirty = np.where(brain, score, np.float32(9))
    np.testing.assert_array_equal(
        mask_from_score(dirty, brain, SPACING, Postprocess()), mask_from_score(score, brain, SPACING, Postprocess())
    )


def test_empty_score_empty_brain_and_one_pixel(brain: np.ndarray) -> None:
    zero = np.zeros(SHAPE, np.float32)
    assert not mask_from_score(zero, brain, SPACING, Postprocess()).any()
    assert not mask_from_score(zero + 1, np.zeros(SHAPE, bool), SPACING, Postprocess()).any()
    zero[26, 29, 12] = 2
    assert mask_from_score(zero, brain, SPACING, Postprocess()).sum() == 1


def test_a_score_that_is_not_finite_or_of_another_scan_is_refused(score: np.ndarray, brain: np.ndarray) -> None:
    broken = score.copy()
    broken[26, 29, 12] = np.nan
    with pytest.raises(ScanError, match="1 voxels are NaN"):
        mask_from_score(broken, brain, SPACING, Postprocess())
    with pytest.raises(ScanError, match="not of one scan"):
        unchecked(mask_from_score)(score.transpose(1, 0, 2), brain, SPACING, Postprocess())
