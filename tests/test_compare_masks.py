"""`benchmarks/compare_masks.py`: what it counts as the same results."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compare_masks.py"


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(SCRIPT), str(folder / "old"), str(folder / "new"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def save(path: Path, voxels: int, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.arange(1000).reshape(10, 10, 10) < voxels
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.diag([spacing] * 3 + [1.0])), path)


def test_masks_are_held_against_each_other_and_what_is_in_one_folder_only_is_named(tmp_path: Path):
    for kind, voxels in (("old", 100), ("new", 80)):
        save(tmp_path / kind / "a_mask.nii.gz", 50)
        save(tmp_path / kind / "sub-1" / "anat" / "b_mask.nii.gz", voxels)
        save(tmp_path / kind / f"c_{kind}_desc-brain_mask.nii.gz", 1)
    done = compare(tmp_path)
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:2] == [
        ["50", "50", "equal", "a_mask.nii.gz"],
        ["100", "80", "Dice", f"{160 / 180:.4f}", "sub-1/anat/b_mask.nii.gz"],
    ]
    assert compare(tmp_path, "--atleast=0.88").returncode == 0
    save(tmp_path / "new" / "a_mask.nii.gz", 50, spacing=2.0)
    save(tmp_path / "new" / "d_mask.nii.gz", 50)
    done = compare(tmp_path, "--atleast=0.88")
    assert done.returncode == 1
    assert "other grid   a_mask.nii.gz\n" in done.stdout
    assert f"only in {tmp_path / 'new'}: d_mask.nii.gz\n2 in both, 2 differ\n" in done.stdout
