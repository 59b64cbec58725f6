"""DICOM series: found in a folder, checked slice by slice, and read as one scan. Needs pydicom."""

import dataclasses
import io
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from strega_jax.errors import ScanError
from strega_jax.scans.scan import (
    MAX_ORIGIN_MM,
    MAX_SPACING_MM,
    MAX_VOXELS,
    MIN_AXIS_VOXELS,
    MIN_SPACING_MM,
    Scan,
    require_dense,
)

if TYPE_CHECKING:
    import pydicom

MAX_FILE_BYTES = 2**28  # one slice never has more
MAX_SIDE = 4096
ORIENTATION_TOLERANCE = 1e-3  # of direction cosines
SPACING_TOLERANCE = 0.05  # of the distance between slices
SIDEWAYS_MM = 0.5  # slices must be stacked straight: this far aside they may lie
DEFLATED = b"1.2.840.10008.1.2.1.99"
CONVERT = "convert it with dcm2niix"
USED = ("SeriesInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
        "PhotometricInterpretation", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
        "RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "PixelRepresentation")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Series:
    """The files of one series, in no particular order."""

    name: str  # unique within one search, letters, digits, - and _
    folder: Path
    files: tuple[Path, ...]
    contrast: str = ""


def holds_dicom(folder: Path) -> bool:
    """Whether a folder has DICOM files in it, and no NIfTI file."""
    files = _files(folder)
    if any(path.name.lower().endswith((".nii", ".nii.gz")) for path in files):
        return False
    return any(_is_dicom(path) for path in files)


def find_series(folder: Path) -> list[Series]:
    """Every series below a folder, sorted by name; files that are no images (DICOMDIR, reports) are passed over.

    Raises:
        ScanError: none there, or a file that claims to be DICOM and cannot be read.
    """
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in _files(folder):
        if _is_dicom(path):
            header = _read(path, pixels=False)
            if "Rows" in header and "SeriesInstanceUID" in header:
                groups[path.parent, str(header.SeriesInstanceUID)].append(path)
    if not groups:
        raise ScanError(f"{folder}: no DICOM images in it")
    found = []
    for number, ((place, _), files) in enumerate(sorted(groups.items()), start=1):
        # What a header says never becomes part of a path.
        label = re.sub(r"[^A-Za-z0-9]+", "-", place.resolve().name).strip("-") or "series"
        alone = sum(other == place for other, _ in groups) == 1 and sum(p.name == place.name for p, _ in groups) == 1
        found.append(Series(label if alone else f"{label}_series-{number:02d}", place, tuple(sorted(files))))
    return found


def one_series(folder: Path) -> Series:
    """The only series of a folder. Raises ScanError where there are several."""
    found = find_series(folder)
    if len(found) > 1:
        places = ", ".join(sorted({str(series.folder) for series in found})[:4])
        raise ScanError(f"{folder}: {len(found)} DICOM series ({places}); give the folder of one, with that one in it")
    return found[0]


def read_series(series: Series) -> Scan:
    """Read a series as one volume, its slices sorted by position.

    The scan's own grid has columns, rows and slices as axes; `native_affine` maps them to RAS millimetres.

    Raises:
        ScanError: not MR slices of one size, direction and distance; a slice missing or there twice; pixels that
            cannot be decoded.
    """
    slices = sort_slices(series)
    volume = np.stack([_pixels(path, data) for path, data in slices], axis=-1)
    if not np.isfinite(volume).all():
        raise ScanError(f"{series.folder}: voxels that are NaN or infinite; export the series again")
    if volume.min() == volume.max():
        raise ScanError(f"{series.folder}: every voxel is {volume.flat[0]:g}; there is no image in it")
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    affine = _affine([data for _, data in slices])
    to_canonical = io_orientation(affine)
    canonical = np.ascontiguousarray(apply_orientation(volume, to_canonical))
    return Scan(canonical, affine @ inv_ornt_aff(to_canonical, shape), shape, affine, to_canonical, series.folder)


def sort_slices(series: Series) -> list[tuple[Path, "pydicom.Dataset"]]:
    """The slices with their data, checked to be one volume, sorted along their normal. Raises ScanError."""
    slices = [(path, _read(path, pixels=True)) for path in series.files]
    for path, data in slices:
        _check_slice(path, data)
    first_path, first = slices[0]
    rows, columns = int(first.Rows), int(first.Columns)
    if len(slices) < MIN_AXIS_VOXELS or min(rows, columns) < MIN_AXIS_VOXELS:
        raise ScanError(f"{series.folder}: {len(slices)} slices of {rows}×{columns} pixels are no volume")
    if max(rows, columns) > MAX_SIDE or len(slices) * rows * columns > MAX_VOXELS:
        raise ScanError(f"{series.folder}: {len(slices)} slices of {rows}×{columns} pixels are no brain scan")
    held = sum(path.stat().st_size for path, _ in slices)
    require_dense(series.folder, (columns, rows, len(slices)), held)
    for path, data in slices[1:]:
        if (int(data.Rows), int(data.Columns)) != (rows, columns):
            raise ScanError(f"{path}: slices of {data.Rows}×{data.Columns} and {rows}×{columns} pixels in one series")
        for name, tolerance in (("ImageOrientationPatient", ORIENTATION_TOLERANCE), ("PixelSpacing", 1e-3)):
            if not np.allclose(_numbers(path, data, name), _numbers(first_path, first, name), atol=tolerance, rtol=0):
                raise ScanError(f"{path}: its {name} is not that of {first_path.name}: mixed orientations or scans")
    directions = _numbers(first_path, first, "ImageOrientationPatient")
    normal = np.cross(directions[:3], directions[3:])
    places = np.array([_numbers(path, data, "ImagePositionPatient") for path, data in slices])
    order = np.argsort(places @ normal, kind="stable")
    _check_stack(series, [slices[i][0] for i in order], places[order], normal)
    return [slices[i] for i in order]


def _check_slice(path: Path, data: "pydicom.Dataset") -> None:
    for name, length in (("ImageOrientationPatient", 6), ("ImagePositionPatient", 3), ("PixelSpacing", 2)):
        if len(_numbers(path, data, name)) != length:
            raise ScanError(f"{path}: {name} must have {length} numbers; export the series again")
    if str(data.get("Modality", "MR")) != "MR":
        raise ScanError(f"{path}: modality {data.Modality}, not MR")
    if int(data.get("NumberOfFrames") or 1) != 1:
        raise ScanError(f"{path}: several frames in one file (enhanced DICOM); {CONVERT}")
    if int(data.get("SamplesPerPixel", 1)) != 1 or not str(data.get("PhotometricInterpretation", "")).startswith(
        "MONO"
    ):
        raise ScanError(f"{path}: a colour image, not MR intensities")
    directions = _numbers(path, data, "ImageOrientationPatient")
    axes = directions.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=0.01):
        raise ScanError(f"{path}: ImageOrientationPatient {directions.tolist()} is no pair of directions")
    spacing = _numbers(path, data, "PixelSpacing")
    if not ((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)).all():
        raise ScanError(f"{path}: PixelSpacing {spacing.tolist()} mm is that of no brain scan")
    if np.abs(_numbers(path, data, "ImagePositionPatient")).max() > MAX_ORIGIN_MM:
        raise ScanError(f"{path}: ImagePositionPatient lies metres from the scanner")


def _check_stack(
    series: Series, paths: list[Path], places: Float[np.ndarray, "k 3"], normal: Float[np.ndarray, "3"]
) -> None:
    heights = places @ normal
    steps = np.diff(heights)
    if steps.min() < MIN_SPACING_MM:
        at = int(steps.argmin())
        raise ScanError(
            f"{series.folder}: {paths[at].name} and {paths[at + 1].name} lie at one place: several volumes (echoes, "
            f"dates) in one series; {CONVERT}"
        )
    usual = float(np.median(steps))
    gaps = np.flatnonzero(np.abs(steps - usual) > SPACING_TOLERANCE * usual)
    if gaps.size:
        at = int(gaps[0])
        raise ScanError(
            f"{series.folder}: between {paths[at].name} and {paths[at + 1].name} lie {steps[at]:.2f} mm, elsewhere "
            f"{usual:.2f} mm: slices are missing; export the whole series"
        )
    if usual > MAX_SPACING_MM:
        raise ScanError(f"{series.folder}: slices {usual:.0f} mm apart are no brain scan")
    straight = places[0] + np.outer(np.linspace(0, 1, len(places)), places[-1] - places[0])
    tilt = np.linalg.norm(np.cross(places[-1] - places[0], normal)) / np.linalg.norm(places[-1] - places[0])
    if np.abs(places - straight).max() > SIDEWAYS_MM or tilt > 0.02:
        raise ScanError(f"{series.folder}: its slices are not stacked straight (tilted or mixed stacks); {CONVERT}")


def _affine(slices: "list[pydicom.Dataset]") -> Float[np.ndarray, "4 4"]:
    first, last = slices[0], slices[-1]
    directions = np.array(first.ImageOrientationPatient, float)
    row_mm, column_mm = np.array(first.PixelSpacing, float)
    start, end = (np.array(data.ImagePositionPatient, float) for data in (first, last))
    affine = np.eye(4)
    # DICOM's first direction is that in which the column number grows; its patient axes run left, back, up.
    affine[:3, 0], affine[:3, 1] = directions[:3] * column_mm, directions[3:] * row_mm
    affine[:3, 2], affine[:3, 3] = (end - start) / (len(slices) - 1), start
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _pixels(path: Path, data: "pydicom.Dataset") -> Float[np.ndarray, "columns rows"]:
    try:
        pixels = np.asarray(data.pixel_array, np.float32)
        scaled = pixels * np.float32(data.get("RescaleSlope") or 1) + np.float32(data.get("RescaleIntercept") or 0)
        if scaled.shape != (int(data.Rows), int(data.Columns)):
            raise ValueError(f"shape {scaled.shape}")
    except Exception as error:  # missing decoders and damaged pixels raise errors of many types
        raise ScanError(f"{path}: its pixels cannot be decoded ({_short(error)}); {CONVERT}") from error
    return scaled.T


def _numbers(path: Path, data: "pydicom.Dataset", name: str) -> Float[np.ndarray, " n"]:
    try:
        values = np.atleast_1d(np.array(data[name].value, float))
    except Exception as error:
        raise ScanError(f"{path}: no usable {name}, without which its place is unknown; {CONVERT}") from error
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ScanError(f"{path}: no usable {name} ({values.tolist()}); {CONVERT}")
    return values


def _read(path: Path, *, pixels: bool) -> "pydicom.Dataset":
    module = _pydicom()
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ScanError(f"{path}: too large for one slice; {CONVERT}")
    try:
        # From memory: a length that the file does not have must not be asked of the operating system.
        content = path.read_bytes()
        if DEFLATED in content:
            raise ScanError(f"{path}: deflated DICOM, which may unpack to any size; {CONVERT}")
        data = module.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)
        for name in ("Rows", "Columns") if pixels else ():
            if not 0 < int(data[name].value) < 2**16:
                raise ValueError(f"{name} is {data[name].value}")
        for name in USED:
            data.get(name)  # pydicom decodes an element when it is asked for, and may fail only then
        _check_counts(path, data)
    except ScanError:
        raise
    except Exception as error:  # a damaged file takes pydicom to errors of almost any type
        raise ScanError(f"{path}: not a readable DICOM file ({_short(error)}); copy it again") from error
    return data


def _check_counts(path: Path, data: "pydicom.Dataset") -> None:
    """The numbers that are used later must be numbers."""
    for name in ("NumberOfFrames", "SamplesPerPixel", "RescaleSlope", "RescaleIntercept"):
        value = data.get(name)
        if value is not None and value != "" and not math.isfinite(float(value)):
            raise ScanError(f"{path}: {name} is {value}")


def _pydicom() -> Any:
    try:
        import pydicom
        from pydicom import config
    except ImportError as error:
        raise ScanError("DICOM needs pydicom: pip install 'strega-jax[dicom]'; or convert with dcm2niix") from error
    # What matters is checked here; pydicom need not warn of the rest.
    config.settings.reading_validation_mode = config.IGNORE
    return pydicom


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
