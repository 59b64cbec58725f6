"""MetaImage files as SimpleITK writes them, read as SimpleITK and nibabel see them."""

import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from strega_jax.errors import ScanError
from strega_jax.scans.case import read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.metaimage import open_metaimage
from strega_jax.scans.scan import read_scan, same_grid, write_volume

# Turned about all three axes, with axes permuted and one mirrored: nothing about it is symmetric.
TURN = np.array([[0, -1, 0], [0.96, 0, 0.28], [-0.28, 0, 0.96]]) @ np.diag([1, 1, -1])
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def image(dtype: str = "int16", turn: np.ndarray = TURN) -> SimpleITK.Image:
    voxels = np.random.default_rng(0).integers(0, 120, (7, 6, 5)).astype(dtype)  # z, y, x
    made = SimpleITK.GetImageFromArray(voxels)
    made.SetSpacing((0.9, 1.2, 2.5))
    made.SetOrigin((10.5, -239.0, 3.0))
    made.SetDirection(turn.reshape(-1).tolist())
    return made


def save(path: Path, made: SimpleITK.Image, *, compressed: bool = False) -> Path:
    SimpleITK.WriteImage(made, str(path), useCompression=compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_voxels_and_places_are_those_of_the_nifti_that_itk_writes(tmp_path: Path, dtype: str, compressed: bool):
    made = image(dtype)
    save(tmp_path / "a.nii", image("float64" if "64" in dtype else dtype))
    scan, same = read_scan(save(tmp_path / "a.mha", made, compressed=compressed)), read_scan(tmp_path / "a.nii")
    np.testing.assert_array_equal(scan.data, same.data)
    assert same_grid(scan, same)
    place = made.TransformIndexToPhysicalPoint((4, 1, 6))  # LPS
    np.testing.assert_allclose((scan.native_affine @ [4, 1, 6, 1])[:3], np.multiply(place, (-1, -1, 1)), atol=1e-4)
    assert scan.to_native(scan.data)[4, 1, 6] == made[4, 1, 6]


def test_other_spellings_and_byte_order_mean_the_same(tmp_path: Path):
    plain = save(tmp_path / "a.mha", image())
    header, voxels = plain.read_bytes().split(b"ElementDataFile = LOCAL\n")
    swapped = np.frombuffer(voxels, "<i2").astype(">i2").tobytes()
    for old, new in (
        (b"TransformMatrix", b"Orientation"),
        (b"Offset", b"Position"),
        (b"BinaryDataByteOrderMSB = False", b"ElementByteOrderMSB = True"),
    ):
        assert old in header
        header = header.replace(old, new)
    (tmp_path / "b.mha").write_bytes(header + b"ElementDataFile = LOCAL\n" + swapped)
    one, other = read_scan(plain), read_scan(tmp_path / "b.mha")
    np.testing.assert_array_equal(one.data, other.data)
    assert same_grid(one, other)


def test_without_directions_and_offset_axes_are_lps_from_the_centre(tmp_path: Path):
    head = "NDims = 3\nDimSize = 3 4 5\nElementSpacing = 1 1 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(range(60)))
    found = open_metaimage(tmp_path / "a.mha")
    np.testing.assert_array_equal(found.affine, np.diag([-1.0, -1, 2, 1]))
    assert np.asarray(found.dataobj)[1, 0, 0] == 1  # the first axis runs fastest


def header_changes(old: str, new: str):
    return lambda content: content.replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (header_changes("DimSize = 5 6 7", "DimSize = 5 6"), r"DimSize is '5 6'; 3 numbers are wanted"),
        (header_changes("DimSize = 5 6 7", "DimSize = 5 6 -7"), "no brain scan|not a readable"),
        (header_changes("DimSize = 5 6 7", "DimSize = 9000 9000 9000"), "no brain scan"),
        (header_changes("DimSize = 5 6 7", "DimSize = 500 600 700"), "truncated|compresses"),
        (header_changes("MET_SHORT", "MET_STRING"), "not one real number each"),
        (header_changes("LOCAL", "a.raw"), "in another file"),
        (header_changes("ElementSpacing = 0.9", "ElementSpacing = zero"), "not a readable MetaImage"),
        (header_changes("ElementSpacing = 0.9", "ElementSpacing = 1000.9"), "affine is not usable"),
        (header_changes("BinaryData = True", "BinaryData = False"), "written as text"),
        (lambda content: content[:-40], "truncated"),
        (lambda content: b"\x5c\x02" * 30_000, "not a readable MetaImage"),
        (lambda content: b"", "not a readable MetaImage"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_not_readable_is_refused_by_name(tmp_path: Path, change, message: str, compressed: bool):
    path = save(tmp_path / "a.mha", image(), compressed=compressed)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ScanError, match=rf"a\.mha: .*({message})"):
        read_scan(path)


def test_no_more_is_unpacked_than_the_header_announces(tmp_path: Path):
    head = "NDims = 3\nDimSize = 40 40 40\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\nCompressedData = True\n"
    bomb = zlib.compress(bytes(range(100)) * 1_000_000)
    (tmp_path / "a.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + bomb)
    tracemalloc.start()
    scan = read_scan(tmp_path / "a.mha")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scan.data.shape == (40, 40, 40)
    assert peak < 10_000_000


def test_a_brats_2013_case_is_found_read_and_its_mask_written_as_nifti(tmp_path: Path):
    folder = tmp_path / "HG" / "0001"
    folder.mkdir(parents=True)
    save(folder / "VSD.Brain.XX.O.MR_T1c.684.mha", image(), compressed=True)
    label = SimpleITK.BinaryThreshold(image(), 100, 200)
    save(folder / "VSD.Brain_3more.XX.XX.OT.6560.mha", label)
    (case,) = find_cases(tmp_path)
    scan = read_scan(case.image)
    truth = read_truth(case, scan)
    np.testing.assert_array_equal(truth, scan.data >= 100)
    write_volume(tmp_path / "mask.nii.gz", truth, scan)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    again = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), SimpleITK.GetArrayFromImage(label))
    np.testing.assert_allclose(again.GetDirection(), label.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(again.GetOrigin(), label.GetOrigin(), atol=1e-4)
    assert written.shape == (5, 6, 7)
