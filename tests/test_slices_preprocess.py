"""The tissue-standardised intensity: classes at 1, 2, 3 whatever the scanner, and room beyond them.

And the brain's intensities on a scale of their own, and slices sampled near a border or a box.
"""

import numpy as np
import pytest
from scipy import ndimage

from conftest import disc_volume, small_run
from strega_jax.errors import ScanError
from strega_jax.slices.grid import SliceGrid
from strega_jax.slices.preprocess import brain_scaled, tissue_standardised


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.array([1, 2, 3], np.uint8), 40).reshape(3, 10, 4)


@pytest.mark.parametrize("medians", [(100.0, 300.0, 400.0), (900.0, 400.0, 150.0)], ids=["T1w", "T2w"])
def test_class_medians_become_one_two_three_and_the_ends_go_on(labels: np.ndarray, medians: tuple) -> None:
    image = np.select([labels == c for c in (1, 2, 3)], medians).astype(np.float32)
    np.testing.assert_allclose(tissue_standardised(image, labels), labels, atol=1e-6)
    fluid, grey, white = medians
    image[2, 0] = [white + (white - grey), white + 9 * (white - grey), (grey + white) / 2, fluid - (grey - fluid) / 2]
    standard = tissue_standardised(image, labels)
    np.testing.assert_allclose(standard[2, 0], [4, 6, 2.5, 0.5], rtol=1e-5)
    shifted = tissue_standardised(3 * image + 50, labels)
    np.testing.assert_allclose(shifted, standard, atol=1e-4)


def test_classes_of_one_brightness_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ScanError, match="do not differ in intensity"):
        tissue_standardised(np.ones(labels.shape, np.float32), labels)


def test_a_brains_percentiles_come_to_lie_on_one_scale_whatever_the_scanner() -> None:
    rng = np.random.default_rng(0)
    brain = rng.random((20, 20, 20)) < 0.7
    image = np.where(brain, rng.normal(400, 60, brain.shape), 0).astype(np.float32)
    scaled = brain_scaled(image, brain)
    assert not scaled[~brain].any()
    rank = np.argsort(image[brain])
    count = brain.sum()
    low, high = scaled[brain][rank[round(0.03 * count)]], scaled[brain][rank[round(0.90 * count)]]
    assert (low, high) == (pytest.approx(0.1, abs=2e-3), pytest.approx(0.9, abs=2e-3))
    np.testing.assert_allclose(brain_scaled(image * 7 + 30 * brain, brain), scaled, atol=1e-4)
    image[10, 10, 9:12], brain[10, 10, 9:12] = [1, 700, 90_000], True
    np.testing.assert_allclose(brain_scaled(image, brain)[10, 10, [9, 11]], [0.02, 2])
    assert 0.9 < brain_scaled(image, brain)[10, 10, 10] < 2


def test_a_volume_with_empty_space_around_it_is_smoothed_beyond_its_border() -> None:
    rng = np.random.default_rng(0)
    volume = np.pad(rng.random((14, 12, 10)).astype(np.float32), ((9, 20), (8, 7), (3, 4)))
    to_scan = np.diag([3.0, 2.5, 1.0, 1.0])
    smoothed = ndimage.gaussian_filter(volume, (1.0, 0.75, 0.0), mode="constant")
    wanted = ndimage.affine_transform(smoothed, to_scan, output_shape=(14, 10, 17), order=1)
    np.testing.assert_array_equal(SliceGrid((14, 10, 17), to_scan).sample(volume), np.moveaxis(wanted, 2, 0))


def test_scores_near_a_box_are_those_of_the_whole_there():
    rng = np.random.default_rng(0)
    volume = disc_volume(rng, small_run().preprocess, 6)
    scores = rng.random(volume.images.shape[:3], np.float32)
    whole = volume.back(scores)
    x, y, z = (n // 2 for n in whole.shape)
    near = (slice(x, x + 1), slice(y - 4, y + 5), slice(z - 1, z + 1))
    part = volume.back(scores, near)
    np.testing.assert_allclose(part[near], whole[near], rtol=1e-5)
    assert part[near].any()
    part[near] = 0
    assert not part.any()
