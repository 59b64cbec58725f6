"""`strega_jax.detect`: the documented example runs, and arrays come back on the file's own grid."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

import strega_jax
from strega_jax.errors import ScanError
from strega_jax.models.opening import open_model

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_scan(), "scan.nii.gz")
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(small_workdir())
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    shown = capsys.readouterr().out
    assert "bool float32" in shown
    assert shown.rstrip().endswith("True")
    np.testing.assert_array_equal(nib.load("mask.nii.gz").affine, nib.load("scan.nii.gz").affine)


def world_points(result) -> np.ndarray:
    voxels = np.argwhere(result.mask)
    points = voxels @ result.affine[:3, :3].T + result.affine[:3, 3]
    return points[np.lexsort(np.round(points, 3).T)]


def variants(folder: Path) -> dict[str, Path]:
    """Copies of one scan that say the same in other ways."""
    image = nib.load(small_scan())
    data = np.asanyarray(image.dataobj)
    affine = image.affine
    made: dict[str, nib.Nifti1Image] = {}
    for axcodes in ("LPI", "PSR", "SRA"):
        target = nib.orientations.axcodes2ornt(tuple(axcodes))
        order = nib.orientations.ornt_transform(nib.io_orientation(affine), target)
        turned = image.as_reoriented(order)
        made[axcodes] = nib.Nifti1Image(np.asanyarray(turned.dataobj), turned.affine)
    made["float"] = nib.Nifti1Image(data.astype(np.float32), affine)
    made["double"] = nib.Nifti1Image(data.astype(np.float64), affine)
    scaled = nib.Nifti1Image(data, affine)
    scaled.header.set_slope_inter(0.5, 0.0)
    made["scaled"] = scaled
    stored = nib.Nifti1Image(data.astype(np.int32) * 2 + 200, affine)  # the same intensities by slope and intercept
    stored.header.set_slope_inter(0.5, -100.0)
    made["slope and intercept"] = stored
    padded_affine = affine.copy()
    padded_affine[:3, 3] = affine[:3, 3] - affine[:3, :3] @ [4, 2, 3]
    made["padded"] = nib.Nifti1Image(np.pad(data, [(4, 1), (2, 6), (3, 3)]), padded_affine)
    for only, other in (("sform", "qform"), ("qform", "sform")):
        one = nib.Nifti1Image(data, affine)
        getattr(one, f"set_{only}")(affine, code=1)
        getattr(one, f"set_{other}")(None, code=0)
        made[only] = one
    tilted = affine.copy()
    tilted[:3, :3] = nib.eulerangles.euler2mat(0.1, -0.2, 0.15) @ affine[:3, :3]
    made["oblique"] = nib.Nifti1Image(data, tilted)
    paths = {}
    for name, variant in made.items():
        paths[name] = folder / (f"{name}.nii" if name in ("float", "LPI") else f"{name}.nii.gz")
        nib.save(variant, paths[name])
    return paths


def test_one_scan_said_in_many_ways_gives_one_mask(opened, tmp_path):
    reference = strega_jax.detect(small_scan(), opened)
    points = world_points(reference)
    assert len(points) > 1000
    for name, path in variants(tmp_path).items():
        result = strega_jax.detect(path, opened)
        file = nib.load(path)
        assert result.mask.shape == file.shape == result.score.shape, name
        np.testing.assert_allclose(result.affine, file.affine, atol=1e-5, err_msg=name)
        if name == "oblique":  # where its header says, not where the others are
            result = dataclasses.replace(result, affine=reference.affine)
        found = world_points(result)
        assert found.shape == points.shape, name
        np.testing.assert_allclose(found, points, atol=2e-3, err_msg=name)
        assert result.anomaly_ml == pytest.approx(reference.anomaly_ml)
        assert [flag for flag in result.warnings if flag.check == "orientation"] == [], name


def test_regions_are_told_of_t1ce_alone_and_make_up_the_mask(opened, tmp_path):
    image = nib.load(small_scan())
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "R")))
    nib.save(turned, tmp_path / "turned.nii.gz")
    found = strega_jax.detect(tmp_path / "turned.nii.gz", opened, contrast="T1ce")
    assert found.regions is not None
    assert found.regions.dtype == np.uint8
    assert found.regions.shape == turned.shape
    np.testing.assert_array_equal(found.regions > 0, found.mask)
    assert strega_jax.detect(tmp_path / "turned.nii.gz", opened, contrast="T1w").regions is None


def test_bad_input_is_told(opened, tmp_path):
    with pytest.raises(ScanError, match="no such file"):
        strega_jax.detect(tmp_path / "nothing.nii.gz", opened)


def test_importing_the_package_does_not_import_jax():
    code = "import sys, strega_jax; assert 'jax' not in sys.modules; strega_jax.detect; assert 'jax' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
