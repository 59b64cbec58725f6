"""Clinical studies as scanners and archives export them: which series come out, and what is said of all the rest."""

import re
import shutil
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzz_dicom import accounted
from test_dicom import change, oblique, write_dicom

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.chosen import choose_contrasts
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.dicom import (
    find_series,
    find_study,
    is_dicom,
    one_series,
    read_series,
)
from strega_jax.scans.source import open_scan

pydicom = pytest.importorskip("pydicom", reason="no pydicom: clinical studies were NOT checked")

SHAPE = (20, 24, 8)
SR = "1.2.840.10008.5.1.4.1.1.88.33"  # comprehensive structured report
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 3000.0}


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, SHAPE)


def axial(turn: int = 0) -> np.ndarray:
    """Axial slices, or those of another plane of a localiser."""
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    affine[:3, :3] = np.roll(affine[:3, :3], turn, axis=0)
    return affine


def series_of(folder: Path, volume: np.ndarray, seed: int, description: str, **changes) -> list[Path]:
    """A series of a study: `seed` is its number and makes its UIDs; the study's are the same for all."""
    own = {
        "SeriesDescription": description,
        "SeriesNumber": seed,
        "StudyInstanceUID": "1.2.3",
        "PatientID": "Miller 77",
    }
    return write_dicom(folder, volume, oblique(), seed=seed, **(own | changes))


def copy_without_preamble(path: Path, target: Path) -> None:
    """The data set alone, as the first scanners wrote it, without preamble and file meta information."""
    data = pydicom.dcmread(path)
    with target.open("wb") as file:
        pydicom.filewriter.write_dataset(pydicom.filebase.DicomFileLike(file), data)


@pytest.fixture
def study(volume, tmp_path) -> Path:
    """Two anatomical series among what else a study holds; names without suffix; one series in two folders."""
    root = tmp_path / "STUDY"
    for path in series_of(root / "DICOM" / "A", volume, 3, "t1_mprage_sag")[::2]:
        (root / "DICOM" / "B").mkdir(exist_ok=True)
        path.rename(root / "DICOM" / "B" / path.name)
    series_of(root / "DICOM" / "C", volume[..., ::-1], 5, "Ax T2 FLAIR")
    own = {"StudyInstanceUID": "1.2.3", "PatientID": "Miller 77", "SeriesInstanceUID": "1.2.3.1", "SeriesNumber": 1}
    for plane in range(3):
        write_dicom(
            root / "DICOM" / f"L{plane}", volume[..., :3], axial(plane), plane + 40, SeriesDescription="t1", **own
        )
    series_of(root / "DICOM" / "D", volume, 6, "ep2d_diff_3scan_trace_p2_ADC", ImageType=["DERIVED", "PRIMARY", "ADC"])
    series_of(root / "DICOM" / "CT", volume, 7, "Head", Modality="CT")
    series_of(root / "DICOM" / "P", volume, 8, "t1 phase", ImageType=["ORIGINAL", "PRIMARY", "P"])
    series_of(root / "DICOM" / "S", volume[..., :1], 9, "t1 sag")
    for number, (kind, modality) in enumerate(((SR, "SR"), (CAPTURE, "OT")), start=10):
        (path,) = series_of(
            root / "DICOM" / f"X{number}", volume[..., :1], number, "x", Modality=modality, SOPClassUID=kind
        )
        data = pydicom.dcmread(path)
        if modality == "SR":
            for name in ("Rows", "Columns", "PixelData", "PhotometricInterpretation"):
                delattr(data, name)
            data.save_as(path)
    (root / "DICOM" / "cut").write_bytes((root / "DICOM" / "C" / "IM0000").read_bytes()[:300])
    (root / "README.txt").write_text("Viewer: start viewer.exe")
    (root / "viewer.exe").write_bytes(b"MZ" + bytes(4000))
    return root


def test_the_anatomical_series_of_a_study_are_done_and_the_rest_is_named_with_a_reason(study, volume):
    found = find_study(study)
    assert [(s.name, s.contrast, s.description, s.number) for s in found.series] == [
        ("C", "FLAIR", "Ax T2 FLAIR", 5), ("DICOM", "T1w", "t1_mprage_sag", 3)
    ]  # fmt: skip
    flair, t1 = found.series
    assert t1.folder == study / "DICOM"
    np.testing.assert_array_equal(
        read_series(t1).to_native(read_series(t1).data), (volume * 2.0 - 10.0).astype(np.float32)
    )
    assert read_series(flair).native_shape == SHAPE
    reasons = dict(found.skipped)
    for part, reason in (
        ("L0", "localiser"), ("/D/", "diffusion"), ("/CT/", "modality CT"), ("/P/", "phase"), ("/S/", "too few slices"),
        ("X10", "modality SR"), ("X11", "modality OT"), ("cut", ""),
    ):  # fmt: skip
        assert [reason in why for what, why in reasons.items() if part in what] == [True], part
    dicoms = [path for path in study.rglob("*") if path.is_file() and is_dicom(path)]
    assert accounted(found) == len(dicoms)
    with pytest.raises(ScanError, match="2 DICOM series"):
        one_series(study)
    assert one_series(study / "DICOM" / "C").contrast == "FLAIR"


def test_a_localiser_beside_a_series_does_not_count(study, tmp_path):
    shutil.copytree(study / "DICOM" / "C", tmp_path / "one" / "C")
    for plane in range(3):
        shutil.copytree(study / "DICOM" / f"L{plane}", tmp_path / "one" / f"L{plane}")
    assert one_series(tmp_path / "one").description == "Ax T2 FLAIR"


def test_files_count_once_however_often_they_are_there(volume, tmp_path):
    root = tmp_path / "study"
    paths = series_of(root / "a", volume, 3, "t1")
    shutil.copytree(root / "a", root / "copy")
    # the same image, coded in another way
    for path in (root / "copy").iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        data.save_as(path)
    found = find_study(root)
    assert [series.files for series in found.series] == [tuple(sorted(paths))]
    assert found.skipped == [(f"{root}/copy/IM0000 and 7 more", "copies of files that were read")]
    change(root / "copy" / "IM0003", PixelData=bytes(2 * 20 * 24))
    change(root / "copy" / "IM0004", ImagePositionPatient=[0.0, 0.0, 0.0])
    (_, (what, why)) = find_study(root).skipped
    assert what.startswith(f"{root}/copy/IM0003 and 1 more (series 3 't1')")
    assert "other content" in why


def test_echoes_and_parts_of_one_classic_series_become_series(volume, tmp_path):
    other = volume[..., ::-1]
    both = {"SeriesInstanceUID": "1.2.3.4", **SPIN_ECHO}
    for echo, (data, te) in enumerate(((volume, 12.0), (other, 96.0)), start=1):
        paths = series_of(tmp_path / f"e{echo}", data, echo, "PD+T2", EchoTime=te, **both)
        for path in paths:
            (tmp_path / "study" / "dual").mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "study" / "dual" / f"{path.name}_{echo}")
    found = find_study(tmp_path / "study")
    assert [(series.name, series.contrast) for series in found.series] == [
        ("dual_echo-1", "PD"),
        ("dual_echo-2", "T2w"),
    ]
    for series, data in zip(found.series, (volume, other), strict=True):
        scan = read_series(series)
        np.testing.assert_array_equal(scan.to_native(scan.data), (data * 2.0 - 10.0).astype(np.float32))


def test_numbers_that_differ_from_slice_to_slice_split_nothing(volume, tmp_path):
    for number, path in enumerate(series_of(tmp_path / "t1", volume, 3, "t1")):
        change(path, AcquisitionNumber=number, TriggerTime=number * 20.0, EchoTime=2.9 + number * 0.01)
    assert [series.name for series in find_study(tmp_path).series] == ["t1"]


def test_volumes_at_one_place_that_nothing_tells_apart_are_refused_by_the_reader(volume, tmp_path):
    for number in (1, 2):
        for path in series_of(tmp_path / str(number), volume, number, "t1", SeriesInstanceUID="1.2.3.4"):
            change(path, AcquisitionNumber=int(path.name[2:]) * number)
    (series,) = find_study(tmp_path).series
    with pytest.raises(ScanError, match="lie at one place, and nothing tells them apart"):
        read_series(series)


def test_series_that_an_anonymiser_gave_one_uid_are_told_apart_by_name(volume, tmp_path):
    for number, description in enumerate(("t2_tse", "t1_se", "t1_se KM")):
        series_of(tmp_path / str(number), volume, number, description, SeriesInstanceUID="1.2.3.4")
    found = {series.description: series.contrast for series in find_study(tmp_path).series}
    assert found == {"t2_tse": "T2w", "t1_se": "T1w", "t1_se KM": "T1ce"}


def test_an_image_beside_dicom_hides_nothing(volume, tmp_path):
    series_of(tmp_path / "study", volume, 3, "t1")
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    nib.save(image, tmp_path / "study" / "old_T2w.nii.gz")
    found = find_cases(tmp_path / "study")
    assert [(case.name, case.contrast, case.series is None) for case in found] == [
        ("old_T2w", "T2w", True),
        ("study", "T1w", False),
    ]
    # but what a BIDS data set was made from is not meant
    (tmp_path / "study" / "dataset_description.json").touch()
    assert [case.name for case in find_cases(tmp_path / "study")] == ["old_T2w"]


def test_files_without_preamble_are_read_and_other_files_are_not(volume, tmp_path):
    paths = series_of(tmp_path / "t1", volume, 3, "t1")
    whole = read_series(one_series(tmp_path / "t1"))
    for path in paths:
        copy_without_preamble(path, path)
        assert path.read_bytes()[:2] == b"\x08\0"
        assert is_dicom(path)
    np.testing.assert_array_equal(read_series(one_series(tmp_path / "t1")).data, whole.data)
    rng = np.random.default_rng(0)
    for content in (
        b"",
        b"\x08\0",
        b"\x08\0\x05\0CS\x0a\0",
        bytes(5000),
        b"MZ" * 3000,
        *(rng.bytes(n) for n in range(0, 4000, 40)),
    ):
        (tmp_path / "other").write_bytes(content)
        assert not is_dicom(tmp_path / "other")


def test_a_medium_with_dicomdir_is_read_and_its_missing_files_are_told(volume, tmp_path):
    # pydicom's own: CT, CR, localisers and projections, of 16×16 pixels
    source = Path(pydicom.data.get_testdata_file("DICOMDIR-nopatient") or "").parent
    if not (source / "98892003").is_dir():
        pytest.skip("pydicom came without its DICOMDIR study: it was NOT read")
    root = tmp_path / "CD"
    for name in ("77654033", "98892003"):
        shutil.copytree(source / name, root / name)
    shutil.copy(source / "DICOMDIR", root / "DICOMDIR")
    series_of(root / "MR", volume, 3, "t1")
    found = find_study(root / "DICOMDIR")
    assert [series.name for series in found.series] == ["MR"]
    told = {Path(what.split(" ")[0]).parts[-3:][1]: why for what, why in found.skipped}
    assert "modality CT" in told["CT2"]
    assert "modality CR" in told["CR1"]
    assert "localiser" in told["MR1"]
    assert "projection" in told["MR700"]
    index = [why for what, why in found.skipped if what.endswith("DICOMDIR")]
    assert index == ["it lists 7 files that are not here, such as 98892001\\CT2N\\6293; copy them as well"]
    shutil.copytree(source / "98892001", root / "98892001")
    assert not [what for what, _ in find_study(root).skipped if what.endswith("DICOMDIR")]


def test_a_folder_in_which_nothing_can_be_read_is_an_error_and_one_of_other_things_is_not(volume, tmp_path):
    with pytest.raises(ScanError, match="no DICOM images"):
        find_study(tmp_path)
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM" + b"\x08\0")
    with pytest.raises(ScanError, match=r"cut: .*copy it again"):
        find_study(tmp_path)
    series_of(tmp_path / "loc", volume, 1, "localizer")
    found = find_study(tmp_path)
    assert found.series == []
    assert len(found.skipped) == 2
    with pytest.raises(ScanError, match=r"no anatomical MR series.*localiser"):
        find_series(tmp_path)


def test_a_users_word_on_a_contrast_counts_and_what_matches_nothing_is_listed(study):
    found = find_cases(study)
    assert [case.name for case in found] == ["C", "DICOM"]
    for which in ("C", "Ax T2 FLAIR", "5"):
        chosen = choose_contrasts(found, [f"{which}=t1ce", "DICOM=PD"])
        assert [case.contrast for case in chosen] == ["T1ce", "PD"]
        assert open_scan(chosen[0], brain="given").contrast == "T1ce"
    assert [case.name for case in choose_contrasts(found, ["FLAIR"])] == ["C"]
    assert choose_contrasts(found, []) == found
    with pytest.raises(ConfigError) as told:
        choose_contrasts(found, ["nobody=T2w", "C=T3"])
    assert "nobody=T2w: no such scan; there are: C, DICOM" in str(told.value)
    assert "C=T3: none of T1w, T1ce, T2w, FLAIR, PD" in str(told.value)
    with pytest.raises(ScanError, match="no scan of PD"):
        choose_contrasts(found, ["PD"])


def test_series_of_one_patient_and_study_share_a_label_that_says_nothing_of_the_patient(study, volume, tmp_path):
    labels = {series.patient for series in find_study(study).series}
    assert len(labels) == 1
    (label,) = labels
    assert re.fullmatch("p[0-9a-f]{10}", label)
    other = tmp_path / "other"
    for name, changes in (("p1", {}), ("p2", {"PatientID": "Smith 9"}), ("p3", {"StudyInstanceUID": "1.2.4"})):
        series_of(other / name / "T1", volume, int(name[1]), "t1", **changes)
    found = {str(series.folder.parent.name): series for series in find_study(other).series}
    assert found["p1"].patient == label
    assert len({series.patient for series in found.values()}) == 3
    assert len({series.name for series in found.values()}) == 3
    assert not any("Smith" in text or "Miller" in text for s in found.values() for text in (s.name, s.patient))
    for paths in other.rglob("IM*"):
        change(paths, PatientID="", StudyInstanceUID="")
    assert {series.patient for series in find_study(other).series} == {"other"}


def test_series_of_equal_folder_and_number_still_have_names_of_their_own(volume, tmp_path):
    for seed, place in enumerate(("p1/T1", "p2/T1", "p3/T1"), start=1):
        series_of(tmp_path / place, volume, seed, "t1", SeriesNumber=4)
    names = [series.name for series in find_study(tmp_path).series]
    assert len(set(names)) == 3
    series_of(tmp_path / "flat", volume, 8, "t1")
    for path in series_of(tmp_path / "more", volume, 9, "t2"):
        path.rename(tmp_path / "flat" / f"{path.name}b")
    names = [series.name for series in find_study(tmp_path / "flat").series]
    assert names == ["flat_series-08", "flat_series-09"]


def test_what_a_header_says_is_shown_without_control_characters(volume, tmp_path):
    series_of(tmp_path / "t1", volume, 3, "t1\x07\x00 red")
    assert find_study(tmp_path).series[0].description == "t1 red"


def test_a_deflated_file_is_named_and_never_unpacked(volume, tmp_path):
    paths = series_of(tmp_path / "t1", volume, 3, "t1")
    data = pydicom.dcmread(paths[0])
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(paths[0])
    ((what, why),) = find_study(tmp_path).skipped
    assert what == str(paths[0])
    assert "deflated" in why


@pytest.mark.data
def test_a_series_of_a_ge_scanner_is_read_whole_and_known_as_pd(test_data, tmp_path):
    with tarfile.open(test_data / "dicom" / "papaya_GE_PD_20slices.tgz") as archive:
        # Python before 3.11.4 knows no filter; later ones warn without one.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    # The first file goes on behind its pixel data with 2.4 MB of zeros, which are no pixels.
    found = find_study(tmp_path)
    assert not found.skipped
    (series,) = found.series
    assert (series.name, series.contrast, series.description) == ("dicom", "PD", "FSE PD AXIAL OBL")
    scan = read_series(series)
    assert scan.native_shape == (256, 256, 20)
    np.testing.assert_allclose(scan.spacing_mm, (0.859375, 0.859375, 7.0), atol=0.01)
    lowest = pydicom.dcmread(tmp_path / "dicom" / "brain_001.dcm")
    np.testing.assert_array_equal(scan.to_native(scan.data)[:, :, 0], lowest.pixel_array.T)
    # With its pixel data said to be those of 20 slices, that file is named and the others are the volume.
    data = (tmp_path / "dicom" / "brain_001.dcm").read_bytes()
    start = data.index(b"\xe0\x7f\x10\x00OW") + 8
    length = (len(data) - start - 4).to_bytes(4, "little")
    (tmp_path / "dicom" / "brain_001.dcm").write_bytes(data[:start] + length + data[start + 4 :])
    found = find_study(tmp_path)
    assert [("brain_001.dcm" in what, "20 images" in why) for what, why in found.skipped] == [(True, True)]
    np.testing.assert_array_equal(read_series(found.series[0]).data, scan.data[:, :, 1:])
