"""Slice grids: where slices lie, and the way back."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from strega_jax.config import Preprocess
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.slices.grid import SliceGrid, fixed_grid, template_grid, whole_slice_grid


def scan_of(tmp_path: Path, shape=(20, 30, 8), spacing=(2.0, 1.0, 3.0), seed=0) -> Scan:
    data = np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1.0])), path)
    return read_scan(path)


def test_stretch_equals_scikit_image_resize(tmp_path):
    scan = scan_of(tmp_path)
    grid = whole_slice_grid(scan, Preprocess(grid="stretch", size=64))
    expected = resize(scan.data[:, :, 3], (64, 64), order=1, mode="constant", anti_aliasing=False)
    inner = (slice(3, -3), slice(3, -3))  # beyond the outermost voxel centres the border rules differ
    np.testing.assert_allclose(grid.sample(scan.data)[3][inner], expected[inner], atol=1e-5)


def test_pad_keeps_proportions_and_is_exact_where_pixels_are_voxels(tmp_path):
    scan = scan_of(tmp_path, shape=(20, 32, 8), spacing=(1.0, 1.0, 2.0))
    grid = whole_slice_grid(scan, Preprocess(grid="pad", size=32))
    slices = grid.sample(scan.data)
    assert grid.spacing_mm(scan) == pytest.approx((1, 1, 2))
    np.testing.assert_array_equal(slices[:, 6:26, :], np.moveaxis(scan.data, 2, 0))
    assert not slices[:, :6].any()
    assert not slices[:, 26:].any()
    np.testing.assert_allclose(grid.back(slices, scan.data.shape), scan.data, rtol=1e-6)


def test_fixed_centres_the_brain_and_spans_its_height(tmp_path):
    scan = scan_of(tmp_path, shape=(40, 40, 12), spacing=(1.0, 1.0, 2.0))
    brain = np.zeros(scan.data.shape, bool)
    brain[5:15, 20:36, 2:9] = True
    grid = fixed_grid(scan, brain, Preprocess(grid="fixed", size=32, field_of_view_mm=64.0, slice_spacing_mm=1.0))
    assert grid.shape == (32, 32, 14)
    assert grid.spacing_mm(scan) == pytest.approx((2, 2, 1))
    centre = grid.to_scan @ [15.5, 15.5, 6.5, 1]
    np.testing.assert_allclose(centre[:3], [9.5, 27.5, 5.0])


def test_template_grid_sees_every_alignment_of_one_brain_the_same_way(tmp_path):
    scan = scan_of(tmp_path, shape=(48, 48, 48), spacing=(4.0, 4.0, 4.0))
    settings = Preprocess(grid="template", size=32, field_of_view_mm=128.0, slice_spacing_mm=4.0)
    alignment = np.eye(4)
    alignment[:3, 3] = 92.0, 110.0, 90.0
    slices = template_grid(scan, alignment, settings).sample(scan.data)
    shifted = Scan(scan.data, scan.affine.copy(), scan.native_shape, scan.native_affine,
                   scan.native_to_canonical, scan.path)  # fmt: skip
    shifted.affine[:3, 3] += 40.0
    moved = alignment.copy()
    moved[:3, 3] += 40.0
    np.testing.assert_allclose(template_grid(shifted, moved, settings).sample(scan.data), slices, atol=1e-5)


def test_coarse_pixels_average_fine_voxels(tmp_path):
    scan = scan_of(tmp_path, shape=(64, 64, 4), spacing=(1.0, 1.0, 1.0))
    checkerboard = (np.indices(scan.data.shape).sum(axis=0) % 2).astype(np.float32)
    slices = whole_slice_grid(scan, Preprocess(grid="pad", size=16)).sample(checkerboard)
    np.testing.assert_allclose(slices[:, 4:-4, 4:-4], 0.5, atol=0.05)


def test_a_part_of_a_scan_is_sampled_and_filled_as_the_whole(tmp_path):
    """Tilted, smoothed first along one axis, and with a part that ends at a face of the scan."""
    scan = scan_of(tmp_path, shape=(30, 26, 22), spacing=(1.0, 1.0, 1.0))
    box = (slice(4, 30), slice(6, 19), slice(3, 15))
    volume = np.zeros_like(scan.data)
    volume[box] = scan.data[box]
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    to_scan = np.eye(4)
    to_scan[:3, :3], to_scan[:3, 3] = turn @ np.diag([2.5, 1.0, 0.8]), (3.0, -4.0, -2.0)
    grid = SliceGrid((14, 30, 30), to_scan)
    step = np.linalg.norm(to_scan[:3, :3], axis=1)
    smooth = ndimage.gaussian_filter(volume, np.maximum(0, (step - 1) / 2), mode="constant")
    wanted = ndimage.affine_transform(smooth, to_scan, output_shape=grid.shape, order=1).transpose(2, 0, 1)
    slices = grid.sample_part(volume[box], box, volume.shape)
    assert (slices > 0.5).sum() > 500
    np.testing.assert_allclose(slices, wanted, atol=1e-6)
    np.testing.assert_allclose(grid.back_part(slices, box), grid.back(slices, volume.shape)[box], atol=1e-6)
