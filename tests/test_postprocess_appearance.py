"""The extent of detections by intensity: against lesions of known voxels, SciPy's densities, and properties."""

import numpy as np
import pytest
from scipy import ndimage, stats

from strega_jax.evaluation.metrics import dice
from strega_jax.postprocess import appearance
from strega_jax.postprocess.appearance import AT_ONCE, Mixture, fit_mixture, log_density, refine_by_appearance

SHAPE, SPACING, REACH = (60, 64, 50), (2.0, 2.0, 2.0), 15.0


def ball(centre, radius) -> np.ndarray:
    place = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return (place**2).sum(axis=0) < radius**2


BRAIN = ball((30, 32, 25), 24)
LESION = ball((38, 34, 27), 8)
# Two tissues that fold everywhere, as grey and white matter do.
FOLDED = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 2) > 0


def image(lesion: float, seed: int = 0) -> np.ndarray:
    """Two tissues and a lesion, with noise; 0 outside the brain."""
    tissue = np.where(FOLDED, 140.0, 100.0)
    noise = np.random.default_rng(seed).normal(0, 5, SHAPE)
    return np.where(BRAIN, np.where(LESION, lesion, tissue) + noise, 0).astype(np.float32)


@pytest.mark.parametrize("found", [ball((36, 33, 26), 6), ball((38, 34, 27), 11), ball((41, 36, 29), 8)])
@pytest.mark.parametrize("lesion", [200.0, 60.0])
def test_a_lesion_that_was_found_in_part_or_too_large_gets_its_true_extent(found, lesion):
    assert dice(found, LESION) < 0.75
    refined = refine_by_appearance(found, [image(lesion)], BRAIN, SPACING, REACH)
    assert dice(refined, LESION) > 0.95


def test_contrasts_add_up_and_their_order_does_not_matter():
    found, faint = ball((36, 33, 26), 6), [image(150.0), image(118.0, seed=1)]
    alone = [dice(refine_by_appearance(found, [one], BRAIN, SPACING, REACH), LESION) for one in faint]
    together = refine_by_appearance(found, faint, BRAIN, SPACING, REACH)
    assert dice(together, LESION) > max(alone)
    np.testing.assert_array_equal(together, refine_by_appearance(found, faint[::-1], BRAIN, SPACING, REACH))


def test_nothing_changes_far_away_and_nothing_leaves_the_brain():
    far = ball((20, 20, 20), 4)  # looks like the lesion, but nothing was found near it
    data = np.where(far, 200, image(200.0)).astype(np.float32)
    refined = refine_by_appearance(ball((38, 34, 27), 6), [data], BRAIN, SPACING, REACH)
    assert not (refined & far).any()
    assert not (refined & ~BRAIN).any()
    nothing = np.zeros(SHAPE, bool)
    np.testing.assert_array_equal(refine_by_appearance(nothing, [data], BRAIN, SPACING, REACH), nothing)


def test_empty_space_around_the_brain_changes_no_voxel():
    found, data, room = ball((36, 33, 26), 6), image(200.0), ((40, 3), (0, 25), (17, 17))
    alone = refine_by_appearance(found, [data], BRAIN, SPACING, REACH)
    padded = refine_by_appearance(np.pad(found, room), [np.pad(data, room)], np.pad(BRAIN, room), SPACING, REACH)
    np.testing.assert_array_equal(padded, np.pad(alone, room))


def test_a_lesion_at_the_brains_edge_is_bounded_as_in_the_whole_array():
    """Where the brain ends in a flat face, at which smoothing sees what lies beyond it."""
    brain = BRAIN & (np.arange(SHAPE[0]) < 45)[:, None, None]
    edge, noise = ball((43, 34, 27), 7) & brain, np.random.default_rng(3).normal(0, 25, SHAPE)
    data = np.where(brain, np.where(edge, 165, 120) + noise, 0).astype(np.float32)
    room = [(20, 20)] * 3
    found, brain, data = (np.pad(volume, room) for volume in (ball((43, 33, 26), 5) & brain, brain, data))
    whole = appearance._refined(found, [data], brain, SPACING, REACH)
    assert (whole & ~found).sum() > 100
    np.testing.assert_array_equal(refine_by_appearance(found, [data], brain, SPACING, REACH), whole)


def test_intensities_of_any_offset_and_scale_give_the_same_lesion():
    found = ball((36, 33, 26), 6)
    for data in (image(200.0) * 1000, image(200.0) / 500, np.where(BRAIN, image(200.0) - 120, -120).astype(np.float32)):
        assert dice(refine_by_appearance(found, [data], BRAIN, SPACING, REACH), LESION) > 0.9


def test_the_mixture_is_scipys_and_finds_what_it_was_made_from():
    mixture = Mixture(
        np.array([0.3, 0.7]), np.array([[0.0, 1.0], [4.0, -2.0]]), np.array([[[1, 0.5], [0.5, 2]], [[0.5, 0], [0, 1]]])
    )
    rng = np.random.default_rng(0)
    which = rng.random(8000) < 0.3
    values = np.where(
        which[:, None],
        rng.multivariate_normal(mixture.means[0], mixture.covariances[0], 8000),
        rng.multivariate_normal(mixture.means[1], mixture.covariances[1], 8000),
    )
    expected = sum(
        weight * stats.multivariate_normal(mean, covariance).pdf(values)
        for weight, mean, covariance in zip(*mixture, strict=True)
    )
    np.testing.assert_allclose(log_density(mixture, values), np.log(expected), rtol=1e-6)
    found = fit_mixture(values, 2)
    order = np.argsort(found.weights)
    np.testing.assert_allclose(found.weights[order], mixture.weights, atol=0.02)
    np.testing.assert_allclose(found.means[order], mixture.means, atol=0.1)
    np.testing.assert_allclose(found.covariances[order], mixture.covariances, atol=0.15)


@pytest.mark.parametrize("count", [AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 3])
def test_no_value_is_left_out_where_densities_are_taken_in_parts(count):
    values = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    mixture = Mixture(np.array([0.4, 0.6]), np.array([[0.0, 1.0], [2.0, -1.0]]), np.stack([np.eye(2), 2 * np.eye(2)]))
    expected = sum(w * stats.multivariate_normal(m, c).pdf(values) for w, m, c in zip(*mixture, strict=True))
    np.testing.assert_allclose(log_density(mixture, values), np.log(expected), rtol=1e-6)
