"""DICOM series: the volume and its place against the NIfTI it was made from, refusals, and segmentations."""

import random
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from strega_jax.detection.found import Detection
from strega_jax.errors import ScanError
from strega_jax.scans.dicom import find_series, find_study, one_series, read_series
from strega_jax.scans.scan import read_scan

pydicom = pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid  # noqa: E402

SHAPE = (20, 24, 8)  # columns, rows, slices


def oblique() -> np.ndarray:
    """Voxel (column, row, slice) → RAS millimetres: tilted axial slices."""
    turn = nib.eulerangles.euler2mat(0.1, 0.2, 0.3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.9, -1.1, 3.0])
    affine[:3, 3] = [30.0, 40.0, -20.0]
    return affine


def write_dicom(folder: Path, volume: np.ndarray, affine: np.ndarray, seed: int = 0, **changes) -> list[Path]:
    """One file a slice, named in random order; `changes` replace attributes of every slice."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = (generate_uid(entropy_srcs=[name, str(seed)]) for name in ("study", "series", "frame"))
    names = list(range(volume.shape[2]))
    random.Random(seed).shuffle(names)
    paths = []
    for k, name in enumerate(names):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(seed), str(k)])
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.PatientName = "MR", "anonymous", "anonymous"
        data.PatientBirthDate = data.PatientSex = data.StudyID = data.AccessionNumber = ""
        data.ReferringPhysicianName = ""
        data.StudyDate, data.StudyTime, data.Manufacturer = "20200101", "000000", "phantom"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.SeriesNumber, data.InstanceNumber = 1, name + 1
        data.Rows, data.Columns, data.SamplesPerPixel = volume.shape[1], volume.shape[0], 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        data.SliceThickness = float(spacing[2])
        data.ImageOrientationPatient = [float(v) for v in (lps[:3, :2] / spacing[:2]).T.ravel().round(9)]
        data.ImagePositionPatient = [float(v) for v in (lps @ [0, 0, k, 1])[:3].round(6)]
        data.RescaleSlope, data.RescaleIntercept = 2.0, -10.0
        for attribute, value in changes.items():
            setattr(data, attribute, value)
        data.PixelData = np.ascontiguousarray(volume[:, :, k].T).astype("<u2").tobytes()
        paths.append(folder / f"IM{name:04d}")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def change(path: Path, **attributes) -> None:
    data = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path)


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, SHAPE)


@pytest.fixture
def folder(volume, tmp_path) -> Path:
    write_dicom(tmp_path / "series", volume, oblique())
    return tmp_path / "series"


@pytest.mark.parametrize("flip", [(1, 1, 1), (1, 1, -1), (-1, 1, 1)])
def test_a_series_reads_as_the_nifti_of_the_same_volume(volume, flip, tmp_path):
    affine = oblique() @ np.diag([*flip, 1.0])
    write_dicom(tmp_path / "series", volume, affine)
    scan = read_series(one_series(tmp_path / "series"))
    nib.save(nib.Nifti1Image((volume * 2.0 - 10.0).astype(np.float32), affine), tmp_path / "same.nii")
    wanted = read_scan(tmp_path / "same.nii")
    np.testing.assert_array_equal(scan.data, wanted.data)
    np.testing.assert_allclose(scan.affine, wanted.affine, atol=1e-4)
    # its own grid keeps columns and rows; the slices run along the normal
    assert scan.native_shape == SHAPE
    np.testing.assert_allclose(np.linalg.norm(scan.native_affine[:3, :3], axis=0), [0.9, 1.1, 3.0], atol=1e-5)


def test_compressed_series_and_several_series(volume, folder, tmp_path):
    plain = read_series(one_series(folder))
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    np.testing.assert_array_equal(read_series(one_series(folder)).data, plain.data)
    write_dicom(tmp_path / "other" / "series", volume[:, :, ::-1], oblique(), seed=1)
    found = find_series(tmp_path)
    assert len({series.name for series in found}) == 2
    assert all(series.name.replace("-", "").replace("_", "").isalnum() for series in found)
    with pytest.raises(ScanError, match="2 DICOM series"):
        one_series(tmp_path)


# What is wrong with one slice → where it is told: of the file, which is left out, or of the series.
BAD = {
    "slices of another size, spacing or direction": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    "slices of another size, spacing or direction ": {"Rows": 20, "Columns": 24},
    "no pair of directions": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    "not MR": {"Modality": "CT"},
    "several frames": {"NumberOfFrames": 2},
    "colour": {"PhotometricInterpretation": "RGB"},
    "greys are inverted": {"PhotometricInterpretation": "MONOCHROME1"},
    "of no brain scan": {"PixelSpacing": [900.0, 900.0]},
    "metres from the scanner": {"ImagePositionPatient": [1e6, 0, 0]},
    "no usable ImagePositionPatient": {"ImagePositionPatient": None},
    "RescaleSlope is nan": {"RescaleSlope": float("nan")},
    "pixel data hold 0.00208 images": {"PixelData": b"\0\0"},
    "pixel data hold 20 images": {"PixelData": bytes(20 * 2 * 20 * 24)},
}


@pytest.mark.parametrize("message", BAD)
def test_a_file_that_is_no_slice_is_named_and_the_series_that_then_has_a_gap(folder, message):
    by_height = sorted(folder.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    change(by_height[3], **BAD[message])
    study = find_study(folder)
    (what, why), *others = study.skipped
    assert not others
    assert str(by_height[3]) in what
    assert message.strip() in why
    with pytest.raises(ScanError, match="slices are missing") as told:
        read_series(study.series[0])
    assert str(folder) in str(told.value)


def test_a_bad_file_at_the_end_of_the_stack_leaves_a_volume_without_that_slice(folder):
    by_height = sorted(folder.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    whole = read_series(one_series(folder))
    change(by_height[0], PixelData=bytes(20 * 2 * 20 * 24))  # of twenty slices, and no NumberOfFrames
    study = find_study(folder)
    assert [str(by_height[0]) in what for what, _ in study.skipped] == [True]
    assert "20 images" in study.series[0].left_out[0]
    scan = read_series(study.series[0])
    assert scan.native_shape == (*SHAPE[:2], SHAPE[2] - 1)
    np.testing.assert_array_equal(scan.to_native(scan.data), whole.to_native(whole.data)[:, :, 1:])
    np.testing.assert_allclose(scan.native_affine @ [0, 0, 0, 1], whole.native_affine @ [0, 0, 1, 1], atol=1e-5)


def test_compressed_pixels_that_cannot_be_decoded_refuse_the_series(folder):
    path = sorted(folder.iterdir())[3]
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.PixelData = data.PixelData[:80]
    data.save_as(path)
    with pytest.raises(ScanError, match="cannot be decoded"):
        read_series(one_series(folder))


def test_gaps_doubles_and_tilted_stacks_are_refused(volume, folder, tmp_path):
    by_height = sorted(folder.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    missing = by_height[4].read_bytes()
    by_height[4].unlink()
    with pytest.raises(ScanError, match="slices are missing"):
        read_series(one_series(folder))
    by_height[4].write_bytes(missing)
    (folder / "other").write_bytes(missing)
    change(folder / "other", SOPInstanceUID=generate_uid())
    with pytest.raises(ScanError, match="lie at one place"):
        read_series(one_series(folder))
    sheared = oblique()
    sheared[:3, 2] += sheared[:3, 0] * 0.4  # as from a tilted gantry
    write_dicom(tmp_path / "tilted", volume, sheared)
    with pytest.raises(ScanError, match="not stacked straight"):
        read_series(one_series(tmp_path / "tilted"))


def test_names_in_headers_do_not_become_paths(volume, tmp_path):
    write_dicom(tmp_path / "..a b" / "..", volume, oblique(), SeriesDescription="../../etc/passwd")
    write_dicom(tmp_path / "x..y z", volume, oblique(), SeriesDescription="../../etc/passwd")
    for series in find_series(tmp_path):
        assert "/" not in series.name
        assert ".." not in series.name


def test_fuzzed_files_are_refused_or_sane():
    from fuzz_dicom import fuzz

    tally = fuzz(150, seed=1)
    assert not tally.findings, "\n".join(tally.findings.values())
    assert tally.outcomes["refused"] > 20
    assert tally.outcomes["read"] > 5


def test_small_files_that_claim_large_slices_are_refused(volume, tmp_path):
    # 8 files of a few kilobytes, run-length encoded zeros of 2048² pixels each
    paths = write_dicom(tmp_path / "series", volume, oblique())
    large = np.zeros((2048, 2048), np.uint16)
    for path in paths:
        data = pydicom.dcmread(path)
        data.Rows, data.Columns, data.PixelData = *large.shape, large.tobytes()
        data.compress(RLELossless)
        data.save_as(path)
    with pytest.raises(ScanError, match="no brain scan compresses like that"):
        read_series(one_series(tmp_path / "series"))


def test_a_segmentation_reads_back_voxel_equal(folder, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="no highdicom: DICOM SEG was NOT checked")
    from strega_jax.output.dicom_seg import write_segmentation

    series = one_series(folder)
    scan = read_series(series)
    rng = np.random.default_rng(1)
    for mask in (rng.random(scan.data.shape) > 0.8, np.zeros(scan.data.shape, bool)):
        detection = Detection.__new__(Detection)
        for name, value in {"scan": scan, "mask": mask}.items():
            object.__setattr__(detection, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's own
            write_segmentation(tmp_path / "seg.dcm", detection, series, "runs/x")
            segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
            files = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in series.files}
            uids = list(files)
            frames = segmentation.get_pixels_by_source_instance(uids, combine_segments=True)
        native = scan.to_native(mask)
        inverse = np.linalg.inv(scan.native_affine)
        for uid, frame in zip(uids, frames, strict=True):
            place = np.array(files[uid].ImagePositionPatient, float) * [-1, -1, 1]
            k = int(np.round((inverse @ [*place, 1])[2]))
            np.testing.assert_array_equal(frame.T > 0, native[:, :, k])
