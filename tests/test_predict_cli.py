"""`predict` as a user starts it: a BIDS app, a DICOM series, a dry run, and starting it again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")


def predict(*arguments: object) -> subprocess.CompletedProcess:
    return predict_at_once(arguments)[0]


def predict_at_once(*lines: Sequence[object]) -> list[subprocess.CompletedProcess]:
    """Start the command once for each of several lines of arguments, then wait for all."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "strega_jax.predict", *map(str, line)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for line in lines
    ]  # fmt: skip
    said = [process.communicate(timeout=500) for process in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, *s) for p, s in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("bids") / "out"
    cohort, model = small_workdir() / "demo_cohort", small_workdir()
    dry = predict(cohort, output, "participant", f"--checkpoint={model}", "--dry_run")
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert dry.stdout.count("to do") == 3
    assert not output.exists()
    line = (cohort, output, "participant", "--checkpoint", model, "--participant-label", "demo001", "sub-demo002",
            "--samples=2")  # fmt: skip
    shares = predict_at_once((*line, "--shard=1/2"), (*line, "--shard=2/2"))
    for done in shares:
        assert done.returncode == 0, done.stderr[-3000:]
        assert "1 scan done, 0 failed" in done.stdout
        assert f"strega_jax.predict {cohort} {output} group" in done.stdout
    return output


def test_a_bids_app_writes_derivatives_on_the_scans_grid(derivatives):
    folder = derivatives / "sub-demo001" / "anat"
    names = {path.name for path in folder.iterdir()}
    assert len((derivatives / "group.tsv").read_text().splitlines()) == 3
    stem = "sub-demo001_"
    maps = {f"{stem}desc-anomalyT1w_mask", f"{stem}desc-anomalymap_T1w", f"{stem}desc-uncertainty_T1w"}
    assert {name + end for name in maps for end in (".nii.gz", ".json")} <= names
    source = nib.load(next((small_workdir() / "demo_cohort" / "sub-demo001").rglob("*_T1w.nii.gz")))
    for name in maps:
        image = nib.load(folder / f"{name}.nii.gz")
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
    assert json.loads((derivatives / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    grouped = predict("in", derivatives, "group")
    assert grouped.returncode == 0, grouped.stderr[-2000:]
    assert len((derivatives / "group.tsv").read_text().splitlines()) == 3
    again = predict(
        small_workdir() / "demo_cohort", derivatives, "participant", f"--checkpoint={small_workdir()}",
        "--participant_label=demo001,sub-demo002", "--samples=2",
    )  # fmt: skip
    assert "2 scans done (2 of them before), 0 failed" in again.stdout


def test_the_bids_validator_accepts_them(derivatives):
    here = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    validator = shutil.which("bids-validator-deno", path=here) or shutil.which("bids-validator")
    if validator is None:
        pytest.skip("no bids-validator (pip install bids-validator-deno): the derivatives were NOT validated")
    done = subprocess.run(
        [validator, str(derivatives), "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    issues = {issue["code"] for issue in json.loads(done.stdout)["issues"]["issues"]}
    # Who the authors are is for those to say who publish the derivatives.
    assert issues <= {"TOO_FEW_AUTHORS"}


def test_dicom_in_nifti_and_segmentation_out(tmp_path):
    pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")
    pytest.importorskip("highdicom", reason="no highdicom: DICOM SEG was NOT checked")
    from test_dicom import write_dicom

    source = nib.load(small_scan())
    volume = np.asanyarray(source.dataobj)
    # The writer's files hold half of value + 10.
    write_dicom(tmp_path / "in" / "T1", (volume + 10) // 2, source.affine, RescaleSlope=2.0, RescaleIntercept=-10.0)
    done = predict(f"--checkpoint={small_workdir()}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}",
                   "--dicom_seg")  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    mask = nib.load(tmp_path / "out" / "T1_mask.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-4)
    marked = np.asanyarray(mask.dataobj) > 0
    assert marked.any()
    import pydicom

    seg = pydicom.dcmread(tmp_path / "out" / "T1_seg.dcm")
    assert seg.Modality == "SEG"
    assert int(seg.pixel_array.sum()) == marked.sum()


def test_damaged_scans_leave_complete_results_or_none():
    pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")
    fuzz = Path(__file__).with_name("fuzz_predict.py")
    done = subprocess.run(
        [sys.executable, str(fuzz), "--cases=20", "--seed=3"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "20 cases" in done.stdout
    for outcome in ("NIfTI done", "NIfTI a scan failed", "DICOM a scan failed"):
        assert outcome in done.stdout
