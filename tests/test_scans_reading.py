"""The reader: one scan however it is stored, the exact way back, and a clear word for every file that is no scan."""

import itertools
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
import pytest
from absl import logging as absl_logging
from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt_transform

from strega_jax.errors import ScanError
from strega_jax.scans.scan import Scan, read_scan, same_grid, write_volume

SHAPE = (9, 11, 7)
RAS = np.array([[0, 1], [1, 1], [2, 1]])
SPACING = np.diag([1.0, 1.5, 2.5, 1.0])


def phantom() -> np.ndarray:
    """Whole numbers with no symmetry, exact in int16 and float32: any flip, swap or shift is seen."""
    return np.random.default_rng(0).permutation(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)


def rotated(degrees: float) -> np.ndarray:
    """An oblique RAS affine with an origin."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ SPACING[:3, :3]
    affine[:3, 3] = (-12.5, 20.25, 7.0)
    return affine


def stored(data: np.ndarray, affine: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> nibabel.Nifti1Image:
    """The same image in world space with its axes permuted and flipped, made by nibabel's own rules."""
    target = np.array(list(zip(order, flips, strict=True)))
    change = ornt_transform(RAS, target)
    return nibabel.Nifti1Image(apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape))


def save(path: Path, image: nibabel.Nifti1Image) -> Path:
    nibabel.save(image, path)
    return path


def save_with_header(path: Path, **fields: object) -> Path:
    """The phantom as a 1 mm float32 file with both forms set, then some fields of its header changed."""
    image = nibabel.Nifti1Image(phantom(), SPACING)
    image.set_qform(SPACING, code=1)
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize("degrees", [0, 17, -30])
def test_all_48_axis_orders_give_the_same_scan_and_the_exact_way_back(tmp_path: Path, degrees: float):
    data, affine = phantom(), rotated(degrees)
    assert len(ORIENTATIONS) == 48
    for number, (order, flips) in enumerate(ORIENTATIONS):
        image = stored(data, affine, order, flips)
        scan = read_scan(save(tmp_path / f"{number}.nii", image))
        np.testing.assert_array_equal(scan.data, data)
        np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
        np.testing.assert_array_equal(scan.to_native(scan.data), image.get_fdata())
        assert scan.native_shape == image.shape
        assert scan.data.flags.c_contiguous


def test_world_position_of_a_voxel_survives_reading(tmp_path: Path):
    data = phantom()
    image = stored(data, rotated(25), (2, 0, 1), (-1, 1, -1))
    scan = read_scan(save(tmp_path / "a.nii.gz", image))
    native = np.argwhere(image.get_fdata() == 100)[0]
    canonical = np.argwhere(scan.data == 100)[0]
    np.testing.assert_allclose(scan.affine @ [*canonical, 1], image.affine @ [*native, 1], atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
def test_every_storage_type_gives_the_same_numbers(tmp_path: Path, dtype: str):
    data = phantom() % 251
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    image = nibabel.Nifti1Image(data.astype(np.dtype(dtype).newbyteorder("=")), SPACING, header)
    np.testing.assert_array_equal(read_scan(save(tmp_path / "a.nii", image)).data, data)


def test_slope_and_intercept_are_applied(tmp_path: Path):
    path = save_with_header(tmp_path / "a.nii", scl_slope=0.25, scl_inter=-8)
    np.testing.assert_array_equal(read_scan(path).data, phantom() * 0.25 - 8)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_either_form_alone_gives_the_geometry(tmp_path: Path, form: str):
    image = stored(phantom(), rotated(20), (1, 2, 0), (1, -1, 1))
    expected = image.affine.copy()
    image.set_sform(expected if form == "sform" else None, code=1 if form == "sform" else 0)
    image.set_qform(expected if form == "qform" else None, code=1 if form == "qform" else 0)
    scan = read_scan(save(tmp_path / "a.nii", image))
    np.testing.assert_array_equal(scan.data, phantom())
    np.testing.assert_allclose(scan.native_affine, expected, atol=1e-4)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *values: texts.append(text % values))
    return texts


def test_where_the_forms_disagree_the_sform_counts_and_it_is_said(tmp_path: Path, warned: list[str]):
    image = nibabel.Nifti1Image(phantom(), SPACING)
    image.set_qform(np.diag([-1.0, 1.5, 2.5, 1.0]), code=1)
    scan = read_scan(save(tmp_path / "a.nii", image))
    np.testing.assert_array_equal(scan.data, phantom())
    assert warned == [f"{tmp_path / 'a.nii'}: sform and qform disagree by up to 16.0 mm; the sform is used"]


def test_an_unusable_sform_gives_way_to_the_qform(tmp_path: Path, warned: list[str]):
    path = save_with_header(tmp_path / "a.nii", srow_x=0)
    np.testing.assert_allclose(read_scan(path).native_affine, SPACING, atol=1e-5)
    assert warned == []


def test_without_any_form_the_guess_is_said(tmp_path: Path, warned: list[str]):
    image = nibabel.Nifti1Image(phantom(), None)
    read_scan(save(tmp_path / "a.nii", image))
    assert "left and right are a guess" in warned[0]


def test_a_singleton_fourth_axis_is_a_volume_and_a_longer_one_is_not(tmp_path: Path):
    np.testing.assert_array_equal(
        read_scan(save(tmp_path / "a.nii", nibabel.Nifti1Image(phantom()[..., None, None], SPACING))).data, phantom()
    )
    with pytest.raises(ScanError, match=r"b\.nii: shape \(9, 11, 7, 2\) is not one 3-D volume"):
        read_scan(save(tmp_path / "b.nii", nibabel.Nifti1Image(np.stack([phantom()] * 2, -1), SPACING)))


def test_nan_background_becomes_zero_and_nan_inside_is_refused(tmp_path: Path):
    data = phantom() + 1
    outside = np.ones(SHAPE, bool)
    outside[2:-2, 2:-2, 2:-2] = False
    data[outside] = np.nan
    scan = read_scan(save(tmp_path / "a.nii", nibabel.Nifti1Image(data, SPACING)))
    np.testing.assert_array_equal(scan.data, np.where(outside, 0, phantom() + 1))
    data[4, 5, 3] = np.nan
    with pytest.raises(ScanError, match="1 voxels inside the image are NaN"):
        read_scan(save(tmp_path / "b.nii", nibabel.Nifti1Image(data, SPACING)))


def test_one_nan_at_a_corner_is_no_background(tmp_path: Path):
    data = phantom()
    data[0, 0, 0] = np.nan
    with pytest.raises(ScanError, match="1 voxels"):
        read_scan(save(tmp_path / "a.nii", nibabel.Nifti1Image(data, SPACING)))


def bad_values(kind: str) -> nibabel.Nifti1Image:
    data = phantom()
    if kind == "infinite":
        data[3, 3, 3] = np.inf
    elif kind == "beyond float32":
        return nibabel.Nifti1Image(data.astype(np.float64) * 1e300, SPACING)
    elif kind == "complex":
        return nibabel.Nifti1Image(data.astype(np.complex64), SPACING)
    elif kind == "colour":
        return nibabel.Nifti1Image(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), SPACING)
    elif kind == "constant":
        data[:] = 7
    elif kind == "thin":
        return nibabel.Nifti1Image(data[:, :, :2], SPACING)
    return nibabel.Nifti1Image(data, SPACING)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("infinite", "1 voxels inside the image are NaN or infinite"),
        ("beyond float32", "voxels inside the image are NaN or infinite"),
        ("complex", "voxels of type complex64 are not an intensity image"),
        ("colour", "are not an intensity image"),
        ("constant", "every voxel is 7; there is no image"),
        ("thin", r"a volume of \(9, 11, 2\) voxels is no brain scan"),
    ],
)
def test_what_is_no_intensity_volume_is_refused(tmp_path: Path, kind: str, message: str):
    with pytest.raises(ScanError, match=rf"a\.nii: .*{message}"):
        read_scan(save(tmp_path / "a.nii", bad_values(kind)))


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1e-6, 1, 1, 1]),
        np.diag([100.0, 1, 1, 1]),
        np.diag([1.0, 1, np.nan, 1]),
        np.array([[1.0, 1, 0, 0], [1, 1.0001, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1.0, 0, 0, 1e9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["microscopic", "giant", "nan", "flat", "far away"],
)
def test_geometry_that_no_brain_scan_has_is_refused(tmp_path: Path, affine: np.ndarray):
    x, y, z = affine[:3]
    path = save_with_header(tmp_path / "a.nii", srow_x=x, srow_y=y, srow_z=z, qform_code=0)
    with pytest.raises(ScanError, match=r"a\.nii: the header's affine is not usable"):
        read_scan(path)


def test_missing_folders_and_other_formats_are_named(tmp_path: Path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "text.nii").write_text("not an image")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    for name, message in [
        ("missing.nii", "no such file"),
        ("folder.nii", "a folder, not a file"),
        ("text.nii", "not a readable NIfTI"),
        ("empty.nii.gz", "not a readable NIfTI"),
        ("scan.dcm", "dcm2niix"),
    ]:
        with pytest.raises(ScanError, match=message) as caught:
            read_scan(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("degrees", [0, 17])
def test_what_is_written_reads_back_in_the_files_own_shape_and_affine(tmp_path: Path, degrees: float):
    scan = read_scan(save(tmp_path / "a.nii.gz", stored(phantom(), rotated(degrees), (2, 0, 1), (-1, 1, -1))))
    mask = scan.data > 300
    write_volume(tmp_path / "m.nii.gz", mask, scan)
    image = nibabel.load(tmp_path / "m.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.shape == scan.native_shape
    np.testing.assert_allclose(image.affine, scan.native_affine, atol=1e-5)
    again = read_scan(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(again.data > 0, mask)
    assert same_grid(again, scan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "m.nii.gz"]


def test_a_sheared_affine_is_written_without_a_contradicting_qform(tmp_path: Path, warned: list[str]):
    affine = SPACING.copy()
    affine[0, 2] = 0.8
    scan = read_scan(save(tmp_path / "a.nii", nibabel.Nifti1Image(phantom(), affine)))
    write_volume(tmp_path / "b.nii", scan.data, scan)
    warned.clear()
    np.testing.assert_allclose(read_scan(tmp_path / "b.nii").native_affine, affine, atol=1e-5)
    assert warned == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scan = Scan.from_array(phantom(), SPACING, tmp_path / "a.nii")
    write_volume(tmp_path / "a.nii", scan.data, scan)
    before = (tmp_path / "a.nii").read_bytes()

    def disk_full(_: nibabel.Nifti1Image, file: BinaryIO) -> None:
        file.write(bytes(500))
        raise OSError("no space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_volume(tmp_path / "a.nii", scan.data + 1, scan)
    assert (tmp_path / "a.nii").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_grids_are_compared_at_their_corners(tmp_path: Path):
    scan = Scan.from_array(phantom(), SPACING, tmp_path / "a.nii")
    for change, same in [((0, 3, 0.01), True), ((0, 3, 0.1), False), ((1, 1, 0.004), True), ((1, 1, 0.02), False)]:
        affine = SPACING.copy()
        affine[change[0], change[1]] += change[2]
        assert same_grid(Scan.from_array(phantom(), affine, tmp_path / "b.nii"), scan) is same
