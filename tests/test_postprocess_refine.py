"""Refined scores against SciPy on a real brain's outline, and what mirroring takes away and leaves."""

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from strega_jax.config import Postprocess, Preprocess
from strega_jax.detection.detect import check_mirror
from strega_jax.errors import ConfigError
from strega_jax.postprocess import refine_scores

SPACING = (4.0, 2.0, 2.0)  # k, h, w


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=2).dataobj) > 0
    whole = np.moveaxis(mask[:, :, 10:80:2], 2, 0)
    return whole | whole[:, ::-1]


@pytest.fixture(scope="module")
def scores(brain: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).gamma(1.0, size=brain.shape).astype(np.float32)


def test_smoothing_is_a_gaussian_normalised_by_its_weight_in_the_brain(scores: np.ndarray, brain: np.ndarray) -> None:
    got = refine_scores(scores, brain, SPACING, Postprocess(smooth_mm=4.0))
    sigma = (1.0, 2.0, 2.0)
    summed = ndimage.gaussian_filter((scores * brain).astype(np.float64), sigma, mode="constant")
    weight = ndimage.gaussian_filter(brain.astype(np.float64), sigma, mode="constant")
    np.testing.assert_allclose(got, summed / np.maximum(weight, 0.05) * brain, rtol=1e-4, atol=1e-5)
    level = refine_scores(np.ones_like(scores), brain, SPACING, Postprocess(smooth_mm=4.0))
    np.testing.assert_allclose(level[brain], 1, rtol=1e-4)  # the brain's edge is not dimmed


def test_scores_are_capped_before_they_are_smoothed(scores: np.ndarray, brain: np.ndarray) -> None:
    both = refine_scores(scores, brain, SPACING, Postprocess(clip=1.0, smooth_mm=4.0))
    np.testing.assert_array_equal(
        both, refine_scores(np.minimum(scores, 1), brain, SPACING, Postprocess(smooth_mm=4.0))
    )


def test_mirroring_removes_the_symmetric_and_keeps_the_one_sided(brain: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    half = rng.uniform(size=brain.shape).astype(np.float32)
    symmetric = half + half[:, ::-1]
    lesion = np.zeros(brain.shape, bool)
    lesion[12:18, 20:28, 40:50] = True
    settings = Postprocess(mirror=1.0)
    np.testing.assert_array_equal(refine_scores(symmetric, brain, SPACING, settings), 0)
    found = refine_scores(symmetric + lesion, brain, SPACING, settings)
    np.testing.assert_allclose(found, lesion & brain, atol=1e-6)
    # A lesion of both hemispheres keeps what its halves differ by, and a share of the rest.
    both = np.where(brain, lesion + 0.5 * lesion[:, ::-1], 0).astype(np.float32)
    partly = refine_scores(both, brain, SPACING, Postprocess(mirror=0.8))
    np.testing.assert_allclose(partly[lesion & brain], 0.6, atol=1e-6)
    assert not partly[lesion[:, ::-1]].any()


def test_nothing_set_changes_nothing_in_the_brain(scores: np.ndarray, brain: np.ndarray) -> None:
    np.testing.assert_array_equal(refine_scores(scores, brain, SPACING, Postprocess()), np.where(brain, scores, 0))


def test_mirroring_needs_a_known_midline() -> None:
    check_mirror(Postprocess(mirror=0.5), Preprocess(grid="template"))
    with pytest.raises(ConfigError, match="mirror needs slices aligned to the template"):
        check_mirror(Postprocess(mirror=0.5), Preprocess(grid="pad"))
