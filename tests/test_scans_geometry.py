"""Nothing is scored across grids; healthy thresholds hold what they promise."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from strega_jax.errors import ScanError
from strega_jax.evaluation.calibration import healthy_burden, realised_rates, threshold_at_burden
from strega_jax.scans.geometry import check_geometry, check_truth_in_brain
from strega_jax.scans.scan import Scan, read_scan


def saved(folder: Path, name: str, data: np.ndarray, affine: np.ndarray) -> Scan:
    nib.save(nib.Nifti1Image(data, affine), folder / name)
    return read_scan(folder / name)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(12, 14, 10)).astype(np.float32)


def test_the_same_grid_in_another_axis_order_passes(tmp_path: Path, volume: np.ndarray) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume, affine)).as_reoriented(
        np.array([[2, -1], [0, 1], [1, -1]])
    )
    scan = saved(tmp_path, "scan.nii.gz", volume, affine)
    check_geometry(scan, saved(tmp_path, "mask.nii.gz", np.asarray(turned.dataobj), turned.affine))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("shifted", "mm apart"),
        ("flipped", "mm apart"),
        ("spacing", "mm apart"),
        ("swapped", "shapes"),
        ("cut", "shapes"),
    ],
)
def test_another_grid_is_rejected_naming_both_files(tmp_path: Path, volume: np.ndarray, change: str, word: str) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    other, other_affine = volume, affine.copy()
    if change == "shifted":
        other_affine[0, 3] = 0.5
    elif change == "flipped":
        other_affine = affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    elif change == "spacing":
        other_affine[2, 2] = 3.02
    elif change == "swapped":
        other = volume.transpose(1, 0, 2)
    else:
        other = volume[:, :, :-1]
    scan, mask = saved(tmp_path, "scan.nii.gz", volume, affine), saved(tmp_path, "mask.nii.gz", other, other_affine)
    with pytest.raises(ScanError, match=word) as caught:
        check_geometry(scan, mask)
    assert "scan.nii.gz" in str(caught.value)
    assert "mask.nii.gz" in str(caught.value)


def test_a_mask_of_another_scan_on_the_same_grid_is_rejected() -> None:
    brain = np.zeros((30, 30, 30), bool)
    brain[2:12, 4:20, 10:26] = True
    truth = np.zeros_like(brain)
    truth[4:8, 14:22, 14:18] = True  # a quarter of it beside an automatic brain mask: that happens
    check_truth_in_brain(truth, brain, "mask.nii.gz")
    check_truth_in_brain(truth & False, brain, "mask.nii.gz")
    with pytest.raises(ScanError, match=r"mask\.nii\.gz: only 0 % of the lesion"):
        check_truth_in_brain(truth.transpose(1, 0, 2), brain, "mask.nii.gz")
    with pytest.raises(ScanError, match="shape"):
        check_truth_in_brain(truth[1:], brain, "mask.nii.gz")


def test_burden_of_healthy_subjects() -> None:
    found = healthy_burden([0.0, 1.0, 5.0, 2.0], flagged_from_ml=1.0)
    expected = {"subjects": 4, "mean_ml": 2.0, "median_ml": 1.5, "p95_ml": 4.55, "max_ml": 5.0, "flagged": 0.5}
    assert found == pytest.approx(expected)
    assert healthy_burden([0.0, 0.0, 0.1, 0.2])["flagged"] == 0.5
    assert math.isnan(healthy_burden([])["flagged"])


def test_realised_rates_on_held_out_scans() -> None:
    rng = np.random.default_rng(1)
    scans = [rng.gamma(2.0, 0.1, 40_000).astype(np.float32) for _ in range(6)]
    louder = [scan * np.float32(1.5) for scan in scans[3:]]
    same, shifted = realised_rates(scans[:3], scans[3:]), realised_rates(scans[:3], louder)
    for row in same:
        assert row["realised"] == pytest.approx(row["target"], rel=0.1)
        assert row["realised"] == pytest.approx((np.concatenate(scans[3:]) > row["threshold"]).mean())
    assert [row["target"] for row in same] == [0.01, 0.05, 0.10]
    assert all(row["realised"] > 2 * row["target"] for row in shifted)


def test_threshold_at_a_matched_burden() -> None:
    rng = np.random.default_rng(2)
    scans = [rng.gamma(2.0, 0.1, 50_000).astype(np.float32) for _ in range(4)]  # 1 mm³ voxels: 50 ml brains
    threshold = threshold_at_burden(iter(scans), mean_brain_ml=50.0, burden_ml=2.0)
    burdens = [np.count_nonzero(scan > threshold) / 1000 for scan in scans]
    assert np.mean(burdens) <= 2.0
    assert np.mean(burdens) == pytest.approx(2.0, rel=0.01)
