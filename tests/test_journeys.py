"""Journeys: one scan in each form that scans come in, through each command, gives one answer."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

import strega_jax
from strega_jax.inference.batch import Settings, detect_all
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.opening import open_model
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.scans.scan import read_scan
from strega_jax.slices.cohort import prepare_cohort
from strega_jax.slices.store import SliceStore

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
sitk = pytest.importorskip("SimpleITK", reason="no SimpleITK: MetaImage was NOT checked")
pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")

FORMS = ("nii", "nii.gz", "mha", "dicom", "bids", "T2w")


def write_form(form: str, folder: Path) -> str:
    """Write the scan in one form into `folder`; its contrast."""
    from test_dicom import write_dicom

    image = nib.load(small_scan())
    data, affine = np.asanyarray(image.dataobj), image.affine
    if form in ("nii", "nii.gz"):
        nib.save(image, folder / f"patient{FORMS.index(form)}_T1w.{form}")
    elif form == "mha":
        volume = sitk.GetImageFromArray(np.asarray(data).T)
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        volume.SetSpacing(spacing.tolist())
        volume.SetOrigin(lps[:3, 3].tolist())
        volume.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(volume, str(folder / "patient_T1w.mha"))
    elif form == "dicom":
        write_dicom(folder / "series", data, affine, SeriesDescription="t1_mprage_sag", RescaleSlope=1.0,
                    RescaleIntercept=0.0, RepetitionTime=2000.0, EchoTime=2.5, InversionTime=900.0,
                    ScanningSequence=["GR", "IR"])  # fmt: skip
    elif form == "bids":
        anat = folder / "sub-01" / "anat"
        anat.mkdir(parents=True)
        inside = data > 0
        skull = np.random.default_rng(0).integers(1, int(data.max()), data.shape)
        nib.save(nib.Nifti1Image(np.where(inside, data, skull).astype(data.dtype), affine), anat / "sub-01_T1w.nii.gz")
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), anat / "sub-01_desc-brain_mask.nii.gz")
    else:
        inverted = np.where(data > 0, int(data.max()) + 100 - data, 0)
        nib.save(nib.Nifti1Image(inverted.astype(data.dtype), affine), folder / "patient_T2w.nii.gz")
    return "T2w" if form == "T2w" else "T1w"


@dataclasses.dataclass
class Journey:
    form: str
    folder: Path
    contrast: str
    case: Case


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


@pytest.fixture(scope="module", params=FORMS)
def journey(request, tmp_path_factory) -> Journey:
    folder = tmp_path_factory.mktemp(request.param.replace(".", "-"))
    contrast = write_form(request.param, folder)
    (case,) = find_cases(folder)
    return Journey(request.param, folder, contrast, case)


def in_world(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The mask's voxels as points in millimetres, sorted: equal for one mask on differently ordered grids."""
    points = np.round(np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3], 2)
    return points[np.lexsort(points.T)]


@pytest.fixture(scope="module")
def wanted(opened):
    """The answer: what the API finds in the plain file."""
    return strega_jax.detect(small_scan(), opened, contrast="T1w")


def test_predict_and_the_api_find_the_same_in_every_form(journey, opened, wanted, tmp_path):
    (job,) = make_jobs([journey.case], tmp_path)
    (done,) = detect_all([job], opened, Settings(opened.model.about.run.postprocess, pages=False))
    assert done.error is None
    written = nib.load(job.paths.mask)
    source = journey.folder / "series" if journey.form == "dicom" else journey.case.image
    result = strega_jax.detect(source, opened)
    assert result.contrast == journey.contrast == job.contrast
    np.testing.assert_array_equal(result.mask, np.asanyarray(written.dataobj) > 0)
    if journey.contrast == "T1w":
        np.testing.assert_allclose(
            in_world(result.mask, result.affine), in_world(wanted.mask, wanted.affine), atol=0.02
        )
        assert result.anomaly_ml == pytest.approx(wanted.anomaly_ml, rel=1e-4)
    assert result.brain_ml == pytest.approx(wanted.brain_ml, rel=1e-4)


def test_prepare_makes_the_same_slices_of_every_form(journey, opened, tmp_path):
    outcome = prepare_cohort(
        [journey.case], {journey.case.subject: "train"}, tmp_path / "store", opened.model.about.preprocess, workers=1
    )
    assert not outcome.failures
    store = SliceStore.open(tmp_path / "store")
    (entry,) = store.entries
    assert entry.contrast == journey.contrast
    if journey.contrast == "T1w":
        reference = SliceStore.open(small_workdir() / "store")
        same = next(e for e in reference.entries if e.name.startswith(small_scan().name.split("_")[0]))
        np.testing.assert_allclose(store.array(entry), reference.array(same), atol=2e-3)


def test_lesions_are_planted_in_the_brain_of_every_form(journey, tmp_path, wanted):
    (planted,) = plant_in_cohort([journey.case], tmp_path, 1, 0)
    assert planted.contrast == journey.contrast
    image, mask = read_scan(planted.image), read_scan(planted.mask).data > 0
    assert mask.any()
    assert (image.data[mask] > 0).mean() > 0.99
    assert (image.data > 0).sum() * image.voxel_ml == pytest.approx(wanted.brain_ml, rel=0.01)


def test_segment_writes_the_same_tissue_of_every_form(tmp_path):
    for form in FORMS[:-1]:
        (tmp_path / "in").mkdir(exist_ok=True)
        write_form(form, tmp_path / "in")
    line = [sys.executable, "-m", "strega_jax.segment", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    root = Path(strega_jax.__file__).parents[1]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stdout + done.stderr
    maps = sorted((tmp_path / "out").rglob("*_pveseg.nii.gz"))
    assert len(maps) == len(FORMS) - 1
    tissue = [in_world(np.asanyarray(image.dataobj) == 3, image.affine) for image in map(nib.load, maps)]
    for other in tissue[1:]:
        assert abs(len(other) - len(tissue[0])) <= 0.002 * len(tissue[0])


def test_segment_keeps_the_series_of_one_dicom_folder_apart(tmp_path):
    from test_dicom import write_dicom

    image = nib.load(small_scan())
    data, affine = np.asanyarray(image.dataobj)[::2, ::2, ::2], image.affine @ np.diag([2, 2, 2, 1])
    for seed in (1, 2):
        for path in write_dicom(tmp_path / f"{seed}", data, affine, seed=seed, SeriesNumber=seed,
                                SeriesDescription="t1_mprage_sag"):  # fmt: skip
            (tmp_path / "in").mkdir(exist_ok=True)
            path.rename(tmp_path / "in" / f"{seed}-{path.name}")
    line = [sys.executable, "-m", "strega_jax.segment", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    environment = os.environ | {"PYTHONPATH": str(Path(strega_jax.__file__).parents[1])}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").rglob("*_pveseg.nii.gz"))) == 2
