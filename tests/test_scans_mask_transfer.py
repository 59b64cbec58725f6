"""Brain masks on the grids of other scans: by the headers, by registration, and for the contrasts of a session."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import BRAIN, MM, head_image, install_methods
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strega_jax.errors import ScanError
from strega_jax.evaluation.metrics import dice
from strega_jax.inference.batch import Job
from strega_jax.inference.jobs import make_jobs
from strega_jax.scans.cohorts import case_of_file, find_cases
from strega_jax.scans.extraction import Method
from strega_jax.scans.mask_transfer import move_mask
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.scans.source import choose_lender, open_scan


@pytest.fixture
def methods(monkeypatch) -> dict[str, Method]:
    return install_methods(monkeypatch)


def moved(scan: Scan, volume: np.ndarray, motion: np.ndarray) -> np.ndarray:
    index = np.linalg.inv(motion @ scan.affine) @ scan.affine
    return ndimage.affine_transform(volume.astype(np.float32), index[:3, :3], index[:3, 3], order=1)


def test_a_mask_moves_by_the_affines_to_another_grid():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    affine = np.diag([MM, MM, 2 * MM, 1])
    affine[2, 3] = MM
    thick = Scan.from_array(head_image()[:, :, 1::2], affine, Path("b"))
    np.testing.assert_array_equal(move_mask(BRAIN, scan, thick), BRAIN[:, :, 1::2])


def turned(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The head of `head_image`, moved and of another contrast; its brain."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [8, -5, 6], degrees=True).as_matrix()
    centre = MM * np.array([22, 26, 23])
    motion[:3, 3] = centre - motion[:3, :3] @ centre + (5, 6, -4)
    inverted = np.where(scan.data > 30, scan.data.max() - scan.data, 0)
    return moved(scan, inverted, motion), moved(scan, BRAIN, motion) > 0.5


def test_a_mask_follows_a_turned_head_of_another_contrast():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    data, truth = turned(scan)
    assert dice(BRAIN, truth) < 0.93
    assert dice(move_mask(BRAIN, scan, dataclasses.replace(scan, data=data)), truth) > 0.98


def session_of(folder: Path, *contrasts: str) -> list[Job]:
    """Jobs of one session: the head as T1w, and moved as other contrasts."""
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    for contrast in contrasts:
        data = scan.data if contrast == "T1w" else turned(scan)[0]
        nib.save(nib.Nifti1Image(data, scan.affine), folder / f"sub-01_{contrast}.nii.gz")
    return make_jobs(find_cases(folder), folder / "out")


def test_the_brain_of_the_t1w_scan_serves_the_whole_session(tmp_path, methods, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "strega_jax.scans.source.extract_brain", lambda scan, method: asked.append(scan.path.name) or BRAIN
    )
    flair, t1w = session_of(tmp_path, "FLAIR", "T1w")
    truth = turned(read_scan(t1w.source))[1]
    assert dice(flair.read().data > 0, truth) > 0.98
    np.testing.assert_array_equal(t1w.read().data > 0, BRAIN)
    assert asked == ["sub-01_T1w.nii.gz"]
    # One file alone has its own.
    assert dice(open_scan(flair.source).data > 0, BRAIN) > 0.99
    assert asked[1:] == ["sub-01_FLAIR.nii.gz"]


def test_a_session_whose_t1w_scan_is_damaged_goes_on_with_the_brains_of_each(tmp_path, methods, caplog):
    flair, t1w = session_of(tmp_path, "FLAIR", "T1w")
    before, alone = flair.digest(), t1w.digest()
    t1w.source.write_bytes(b"no scan")
    assert flair.digest() != before
    assert dice(flair.read().data > 0, BRAIN) > 0.99
    assert "sub-01_FLAIR.nii.gz: the brain of sub-01_T1w is of no use for it" in caplog.text
    with pytest.raises(ScanError, match="sub-01_T1w"):
        t1w.read()
    assert t1w.digest() != alone


def test_without_t1w_the_brain_of_t1ce_serves_and_without_both_each_has_its_own(tmp_path):
    cases = {name: case_of_file(Path(f"sub-01_{name}.nii.gz")) for name in ("FLAIR", "T2w", "T1ce", "T1w")}
    assert choose_lender(cases) == cases.pop("T1w")
    assert choose_lender(cases) == cases.pop("T1ce")
    assert choose_lender(cases) is None


@pytest.mark.data
@pytest.mark.parametrize("contrast", ["T1ce", "T2w", "FLAIR"])
def test_a_mask_stays_in_place_where_contrasts_are_registered(test_data, contrast):
    anat = test_data / "brats/sub-tcgaA/anat"
    scan, other = (read_scan(anat / f"sub-tcgaA_desc-brain_{name}.nii.gz") for name in ("T1w", contrast))
    brain = scan.data > 0
    np.testing.assert_array_equal(move_mask(brain, scan, other), brain)


def test_a_mask_is_not_moved_out_of_a_scan_unnoticed():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    away = Scan.from_array(scan.data, scan.affine + 500 * np.eye(4, k=3), Path("b"))
    with pytest.raises(ScanError, match="b: by the headers it shows nothing of the brain of a"):
        move_mask(BRAIN, scan, away)
