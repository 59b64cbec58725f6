"""Holes in a brain are found whole, also where a channel leads to them; what healthy brains have is none."""

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.scans.holes import enclosed_holes, fill_holes
from strega_jax.scans.scan import read_scan


def brain_and_distance(spacing_mm, radius_mm=60.0):
    """A ball of brain, and how far each voxel lies from a point inside it."""
    shape = tuple(int(140 / mm) for mm in spacing_mm)
    at = np.moveaxis(np.indices(shape), 0, -1) * spacing_mm - 70.0
    return np.linalg.norm(at, axis=-1) < radius_mm, np.linalg.norm(at - [15.0, 10.0, -5.0], axis=-1), at


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.9, 0.9, 5.0)])
def test_a_zeroed_ball_is_found_voxel_by_voxel(spacing_mm):
    brain, distance, _ = brain_and_distance(spacing_mm)
    hole = distance < 20
    found = enclosed_holes(brain & ~hole, spacing_mm)
    assert not (found & brain & ~hole).any()
    assert 2 * (found & hole).sum() / (found.sum() + hole.sum()) > 0.99
    assert not enclosed_holes(brain, spacing_mm).any()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_holes_are_filled_as_scipy_fills_them(share):
    mask = np.random.default_rng(0).random((20, 17, 23)) < share
    filled = fill_holes(mask)
    np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(mask))
    assert (filled & ~mask).any() or share == 0.5


def test_a_thin_channel_to_the_outside_does_not_open_a_hole_and_a_wide_one_does():
    brain, distance, at = brain_and_distance((1.0, 1.0, 1.0))
    beside = np.hypot(at[..., 1] - 10, at[..., 2] + 5)
    for width, expected in ((4, True), (24, False)):
        channel = (beside < width / 2) & (at[..., 0] > 15)
        found = enclosed_holes(brain & ~(distance < 14) & ~channel, (1.0, 1.0, 1.0))
        assert found[distance < 10].all() == expected


def test_small_holes_and_sulci_do_not_count():
    brain, distance, at = brain_and_distance((1.0, 1.0, 1.0))
    sulcus = (np.abs(at[..., 0] - 20) < 1.5) & (at[..., 2] > 0)
    crack = (np.abs(at[..., 0] + 20) < 2) & (np.abs(at[..., 1:]).max(axis=-1) < 25)
    assert not enclosed_holes(brain & ~(distance < 6) & ~sulcus & ~crack, (1.0, 1.0, 1.0)).any()
    assert not enclosed_holes(np.zeros((9, 9, 9), bool), (1.0, 1.0, 1.0)).any()


@pytest.mark.data
@pytest.mark.parametrize("cohort", ["oasis", "ixi", "gbm"])
def test_a_brain_has_no_hole_until_its_depth_is_zeroed(test_data, cohort):
    scan = read_scan(sorted(test_data.glob(f"{cohort}/sub-*/**/*_desc-brain_T1*.nii.gz"))[0])
    brain = scan.data > 0
    assert not enclosed_holes(brain, scan.spacing_mm).any()
    deep = np.asarray(ndimage.distance_transform_edt(brain, sampling=scan.spacing_mm)) > 15
    found = enclosed_holes(brain & ~deep, scan.spacing_mm)
    # Opening rounds off what is narrow.
    assert (found & deep).sum() > 0.9 * deep.sum()
