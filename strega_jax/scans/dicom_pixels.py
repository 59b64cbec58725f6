"""The slices of a DICOM series, checked to be one volume: their order, their grid in space, their pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from strega_jax.errors import ScanError
from strega_jax.scans.dicom_frames import Frame, frames_of
from strega_jax.scans.dicom_headers import CONVERT, read_dataset, short
from strega_jax.scans.dicom_study import Series
from strega_jax.scans.dicom_volumes import ORIENTATION_TOLERANCE, SPACING_TOLERANCE_MM, normal_of
from strega_jax.scans.scan import MAX_SPACING_MM, MAX_VOXELS, MIN_AXIS_VOXELS, MIN_SPACING_MM, require_dense

if TYPE_CHECKING:
    import pydicom

MAX_SIDE = 4096
SPACING_TOLERANCE = 0.05  # of the distance between slices
SIDEWAYS_MM = 0.5  # slices must be stacked straight: this far aside they may lie


def sort_slices(series: Series) -> list[tuple[Frame, "pydicom.Dataset"]]:
    """The slices, each with the file that it is in, checked to be one volume and sorted along their normal.

    Raises:
        ScanError: slices of several sizes, directions or spacings, at one place, missing, or stacked askew.
    """
    slices = [(frame, data) for path in series.files for frame, data in _wanted(series, path)]
    if not slices:
        raise ScanError(f"{series.folder}: no slice of it is there any more; look for the series again")
    first = slices[0][0]
    rows, columns = first.rows, first.columns
    if len(slices) < MIN_AXIS_VOXELS or min(rows, columns) < MIN_AXIS_VOXELS:
        raise ScanError(f"{series.folder}: {len(slices)} slices of {rows}×{columns} pixels are no volume")
    if max(rows, columns) > MAX_SIDE or len(slices) * rows * columns > MAX_VOXELS:
        raise ScanError(f"{series.folder}: {len(slices)} slices of {rows}×{columns} pixels are no brain scan")
    held = sum(path.stat().st_size for path in series.files)
    require_dense(series.folder, (columns, rows, len(slices)), held)
    for frame, _ in slices[1:]:
        if (frame.rows, frame.columns) != (rows, columns):
            raise ScanError(f"{frame.path}: slices of {frame.rows}×{frame.columns} and {rows}×{columns} in one series")
        for name, own, others, tolerance in (
            ("ImageOrientationPatient", frame.orientation, first.orientation, ORIENTATION_TOLERANCE),
            ("PixelSpacing", frame.spacing, first.spacing, SPACING_TOLERANCE_MM),
        ):
            if not np.allclose(own, others, atol=tolerance, rtol=0):
                raise ScanError(
                    f"{frame.path}: its {name} is not that of {first.path.name}: mixed orientations or scans"
                )
    places = np.array([frame.position for frame, _ in slices])
    order = np.argsort(places @ normal_of(first), kind="stable")
    _check_stack(series, [slices[i][0] for i in order])
    return [slices[i] for i in order]


def grid_of(frames: Sequence[Frame]) -> Float[np.ndarray, "4 4"]:
    """Column, row and slice number → RAS millimetres, of sorted slices."""
    first, last = frames[0], frames[-1]
    directions = np.array(first.orientation)
    row_mm, column_mm = first.spacing
    start, end = np.array(first.position), np.array(last.position)
    affine = np.eye(4)
    # DICOM's first direction is that in which the column number grows; its patient axes run left, back, up.
    affine[:3, 0], affine[:3, 1] = directions[:3] * column_mm, directions[3:] * row_mm
    affine[:3, 2], affine[:3, 3] = (end - start) / (len(frames) - 1), start
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def pixels_of(slices: Sequence[tuple[Frame, "pydicom.Dataset"]]) -> Float[np.ndarray, "columns rows slices"]:
    """The slices' values, rescaled as each frame says, as one volume. Raises ScanError."""
    first = slices[0][0]
    volume = np.empty((first.columns, first.rows, len(slices)), np.float32)
    by_file: dict[Path, list[int]] = {}
    for number, (frame, _) in enumerate(slices):
        by_file.setdefault(frame.path, []).append(number)
    for path, numbers in by_file.items():
        decoded = _decoded(path, slices[numbers[0]][1], [slices[number][0].index for number in numbers])
        for number, pixels in zip(numbers, decoded, strict=True):
            frame = slices[number][0]
            if pixels.shape != (frame.rows, frame.columns):
                raise ScanError(f"{path}: its pixels cannot be decoded (shape {pixels.shape}); {CONVERT}")
            volume[..., number] = pixels.T * np.float32(frame.slope) + np.float32(frame.intercept)
    return volume


def _wanted(series: Series, path: Path) -> list[tuple[Frame, "pydicom.Dataset"]]:
    data = read_dataset(path)
    numbers = {number for file, number in series.frames if file == path}
    return [(frame, data) for frame in frames_of(path, data) if not series.frames or frame.index in numbers]


def _decoded(path: Path, data: "pydicom.Dataset", indices: list[int]) -> list[Float[np.ndarray, "rows columns"]]:
    from pydicom.pixels import iter_pixels

    try:
        return [np.asarray(pixels, np.float32) for pixels in iter_pixels(data, indices=indices)]
    except Exception as error:  # missing decoders and damaged pixels raise errors of many types
        raise ScanError(f"{path}: its pixels cannot be decoded ({short(error)}); {CONVERT}") from error


def _check_stack(series: Series, frames: list[Frame]) -> None:
    places, normal = np.array([frame.position for frame in frames]), normal_of(frames[0])
    steps = np.diff(places @ normal)
    names = [frame.path.name if len(series.files) > 1 else f"frame {frame.index + 1}" for frame in frames]
    if steps.min() < MIN_SPACING_MM:
        at = int(steps.argmin())
        raise ScanError(
            f"{series.folder}: {names[at]} and {names[at + 1]} lie at one place, and nothing tells them apart: several "
            f"volumes in one series; {CONVERT}"
        )
    usual = float(np.median(steps))
    gaps = np.flatnonzero(np.abs(steps - usual) > SPACING_TOLERANCE * usual)
    if gaps.size:
        at = int(gaps[0])
        lost = f" (left out: {'; '.join(series.left_out[:3])})" if series.left_out else ""
        raise ScanError(
            f"{series.folder}: between {names[at]} and {names[at + 1]} lie {steps[at]:.2f} mm, elsewhere "
            f"{usual:.2f} mm: slices are missing{lost}; export the whole series"
        )
    if usual > MAX_SPACING_MM:
        raise ScanError(f"{series.folder}: slices {usual:.0f} mm apart are no brain scan")
    straight = places[0] + np.outer(np.linspace(0, 1, len(places)), places[-1] - places[0])
    tilt = np.linalg.norm(np.cross(places[-1] - places[0], normal)) / np.linalg.norm(places[-1] - places[0])
    if np.abs(places - straight).max() > SIDEWAYS_MM or tilt > 0.02:
        raise ScanError(f"{series.folder}: its slices are not stacked straight (tilted or mixed stacks); {CONVERT}")
