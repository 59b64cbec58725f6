"""Enhanced multi-frame DICOM: a volume in one file, several in one, files that contradict themselves, and SEG."""

import copy
import random
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_dicom import oblique, write_dicom

from strega_jax.detection.found import Detection
from strega_jax.errors import ScanError
from strega_jax.scans.dicom import Series, find_study, one_series, read_series
from strega_jax.scans.scan import read_scan

pydicom = pytest.importorskip("pydicom", reason="no pydicom: enhanced DICOM was NOT checked")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

SHAPE = (20, 24, 8)  # columns, rows, slices


def item(**elements) -> list[Dataset]:
    """A sequence of one item."""
    data = Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return [data]


def write_enhanced(
    path: Path,
    volumes: list[np.ndarray],
    affine: np.ndarray,
    *,
    echoes: list[float] | None = None,
    slopes: tuple[float, float] = (1.0, 0.0),
    seed: int = 0,
    **changes,
) -> Path:
    """All volumes (columns, rows, slices) as one file, frames in random order, as a Siemens XA scanner arranges it."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = [float(v) for v in (lps[:3, :2] / spacing[:2]).T.ravel().round(9)]
    frames = [(v, k) for v in range(len(volumes)) for k in range(volumes[0].shape[2])]
    random.Random(seed).shuffle(frames)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = EnhancedMRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["enhanced", str(seed)])
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = EnhancedMRImageStorage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName, data.Manufacturer = "MR", "anonymous", "anonymous", "phantom"
    data.PatientBirthDate = data.PatientSex = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.StudyDate, data.StudyTime = "20200101", "000000"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (
        generate_uid(entropy_srcs=[name, str(seed)]) for name in ("study", "enhanced series", "frame")
    )
    data.SeriesNumber, data.InstanceNumber, data.NumberOfFrames = 1, 1, len(frames)
    data.ImageType, data.SeriesDescription = ["ORIGINAL", "PRIMARY", "M", "NONE"], "t1_mprage_sag"
    data.Rows, data.Columns, data.SamplesPerPixel = volumes[0].shape[1], volumes[0].shape[0], 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    shared = item(
        PixelMeasuresSequence=item(
            PixelSpacing=[float(spacing[1]), float(spacing[0])], SliceThickness=float(spacing[2])
        ),
        PlaneOrientationSequence=item(ImageOrientationPatient=directions),
        PixelValueTransformationSequence=item(RescaleSlope=slopes[0], RescaleIntercept=slopes[1], RescaleType="US"),
        MRTimingAndRelatedParametersSequence=item(RepetitionTime=2300.0, FlipAngle=9.0),
    )
    data.SharedFunctionalGroupsSequence = shared
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[float(x) for x in (lps @ [0, 0, k, 1])[:3].round(6)]),
            FrameContentSequence=item(
                StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=1 if echoes else v + 1
            ),
            MREchoSequence=item(EffectiveEchoTime=echoes[v] if echoes else 2.9),
        )[0]
        for v, k in frames
    ]
    for attribute, value in changes.items():
        setattr(data, attribute, value)
    data.PixelData = b"".join(np.ascontiguousarray(volumes[v][:, :, k].T).astype("<u2").tobytes() for v, k in frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def volumes() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 2000, (2, *SHAPE)))


def assert_is(series: Series, volume: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """What is read must be what a NIfTI file of the volume reads as."""
    scan = read_series(series)
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), folder / "same.nii")
    wanted = read_scan(folder / "same.nii")
    np.testing.assert_array_equal(scan.data, wanted.data)
    np.testing.assert_allclose(scan.affine, wanted.affine, atol=1e-4)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_multi_frame_file_reads_as_the_nifti_of_the_same_volume(volumes, flip, tmp_path):
    affine = oblique() @ np.diag([1, 1, flip, 1])
    write_enhanced(tmp_path / "study" / "xa30", volumes[:1], affine, slopes=(2.0, -10.0))
    series = one_series(tmp_path / "study")
    assert series.contrast == "T1w"
    assert len(series.frames) == SHAPE[2]
    assert_is(series, volumes[0] * 2.0 - 10.0, affine, tmp_path)


def test_geometry_in_the_groups_of_each_frame_counts_before_the_shared_one(volumes, tmp_path):
    path = write_enhanced(tmp_path / "study" / "file", volumes[:1], oblique())
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            setattr(frame, name, copy.deepcopy(shared[name].value))
            if name == "PixelValueTransformationSequence":
                frame[name].value[0].RescaleIntercept = float(number)
        delattr(shared, name)
    shared.PixelValueTransformationSequence = item(RescaleSlope=7.0, RescaleIntercept=7.0)
    data.save_as(path)
    scaled = volumes[0].astype(float)
    heights = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in data.PerFrameFunctionalGroupsSequence]
    inverse = np.linalg.inv(oblique())
    for number, place in enumerate(heights):
        k = round((inverse @ [*(np.array(place, float) * [-1, -1, 1]), 1])[2])
        scaled[:, :, k] += number
    assert_is(one_series(tmp_path / "study"), scaled, oblique(), tmp_path)


def test_what_highdicom_converts_and_places_reads_alike(volumes, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="no highdicom: it was NOT compared with")
    paths = write_dicom(tmp_path / "classic", volumes[0], oblique(), ImageType=["ORIGINAL", "PRIMARY", "M"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom's own
        converted = highdicom.legacy.LegacyConvertedEnhancedMRImage(
            [pydicom.dcmread(path) for path in paths], generate_uid(), 1, generate_uid(), 1
        )
        (tmp_path / "enhanced").mkdir()
        converted.save_as(tmp_path / "enhanced" / "file")
        theirs = highdicom.imread(tmp_path / "enhanced" / "file").get_volume()
    scan = read_series(one_series(tmp_path / "enhanced"))
    np.testing.assert_array_equal(scan.data, read_series(one_series(tmp_path / "classic")).data)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine  # theirs: slice, row, column → LPS
    mine = scan.native_affine
    for corner in ((0, 0, 0), (5, 7, 3), (7, 23, 19)):
        k = corner[0] if np.dot(affine[:3, 0], mine[:3, 2]) > 0 else SHAPE[2] - 1 - corner[0]
        np.testing.assert_allclose(affine @ [*corner, 1], mine @ [corner[2], corner[1], k, 1], atol=1e-4)
        assert theirs.array[corner] == scan.to_native(scan.data)[corner[2], corner[1], k]


def test_echoes_and_times_in_one_file_become_a_series_each(volumes, tmp_path):
    write_enhanced(
        tmp_path / "echoes" / "file", volumes, oblique(), echoes=[12.0, 96.0], SeriesDescription="PD+T2 TSE",
        EchoPulseSequence="SPIN"
    )  # fmt: skip
    write_enhanced(tmp_path / "times" / "file", volumes, oblique(), seed=1)
    study = find_study(tmp_path)
    assert [(s.name, s.contrast) for s in study.series] == [
        ("echoes_echo-1", "PD"), ("echoes_echo-2", "T2w"), ("times_time-1", "T1w"), ("times_time-2", "T1w")
    ]  # fmt: skip
    for series, volume in zip(study.series, [*volumes, *volumes], strict=True):
        assert_is(series, volume, oblique(), tmp_path)


def test_a_movie_in_one_file_is_named_and_not_done(volumes, tmp_path):
    write_enhanced(tmp_path / "study" / "file", [volumes[0]] * 9, oblique())
    study = find_study(tmp_path / "study")
    assert not study.series
    assert "9 volumes in one series" in study.skipped[0][1]


CONTRADICTIONS = {
    "functional groups of 7": lambda data: data.PerFrameFunctionalGroupsSequence.pop(),
    "without their places": lambda data: delattr(data, "PerFrameFunctionalGroupsSequence"),
    "no usable ImagePositionPatient": lambda data: delattr(
        data.PerFrameFunctionalGroupsSequence[3], "PlanePositionSequence"
    ),
    "no usable ImageOrientationPatient": lambda data: delattr(data, "SharedFunctionalGroupsSequence"),
    "NumberOfFrames is 99999999": lambda data: setattr(data, "NumberOfFrames", 99999999),
    "pixel data hold 7 images": lambda data: setattr(data, "PixelData", data.PixelData[: 7 * 2 * 20 * 24]),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_multi_frame_file_that_contradicts_itself_is_named(volumes, message, tmp_path):
    path = write_enhanced(tmp_path / "study" / "file", volumes[:1], oblique())
    data = pydicom.dcmread(path)
    CONTRADICTIONS[message](data)
    data.save_as(path)
    with pytest.raises(ScanError, match=message):
        one_series(tmp_path / "study")


def test_segmentations_of_two_echoes_are_two_objects_even_with_equal_masks(volumes, tmp_path):
    pytest.importorskip("highdicom", reason="no highdicom: DICOM SEG was NOT checked")
    from strega_jax.output.dicom_seg import write_segmentation

    write_enhanced(tmp_path / "study" / "file", volumes, oblique(), echoes=[12.0, 96.0])
    for series in find_study(tmp_path / "study").series:
        detection, scan = Detection.__new__(Detection), read_series(series)
        for name, value in {"scan": scan, "mask": np.zeros(scan.data.shape, bool)}.items():
            object.__setattr__(detection, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's own
            for again in range(2):
                write_segmentation(tmp_path / f"{series.name}_{again}.dcm", detection, series, "runs/x")
    first, same, second, _ = (pydicom.dcmread(path).SOPInstanceUID for path in sorted(tmp_path.glob("*.dcm")))
    assert first == same
    assert first != second


@pytest.mark.parametrize("echoes", [None, [12.0, 96.0]])
def test_a_segmentation_of_a_multi_frame_file_refers_to_the_frames_of_its_volume(volumes, echoes, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="no highdicom: DICOM SEG was NOT checked")
    from strega_jax.output.dicom_seg import write_segmentation

    path = write_enhanced(tmp_path / "study" / "file", volumes[: 2 if echoes else 1], oblique(), echoes=echoes)
    series = find_study(tmp_path / "study").series[-1]
    scan = read_series(series)
    mask = np.random.default_rng(1).random(scan.data.shape) > 0.8
    detection = Detection.__new__(Detection)
    for name, value in {"scan": scan, "mask": mask}.items():
        object.__setattr__(detection, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom's own
        write_segmentation(tmp_path / "seg.dcm", detection, series, "runs/x")
        numbers = [number + 1 for _, number in series.frames]
        frames = highdicom.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_frame(
            pydicom.dcmread(path).SOPInstanceUID, numbers, combine_segments=True
        )
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    referred = {
        source.ReferencedFrameNumber
        for frame in written.PerFrameFunctionalGroupsSequence
        for source in frame.DerivationImageSequence[0].SourceImageSequence
    }
    assert referred == set(numbers)
    native, inverse = scan.to_native(mask), np.linalg.inv(scan.native_affine)
    for number, frame in zip(numbers, frames, strict=True):
        groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence[number - 1]
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float) * [-1, -1, 1]
        np.testing.assert_array_equal(frame.T > 0, native[:, :, round((inverse @ [*place, 1])[2])])
