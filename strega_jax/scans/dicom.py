"""DICOM: the series of a study, and one of them read as a scan. Needs pydicom.

How: `dicom_headers` reads a file, `dicom_frames` what it says of place and acquisition, `dicom_kinds` and
`dicom_contrasts` judge that, `dicom_volumes` tells volumes apart, `dicom_study` makes series of them, `dicom_pixels`
volumes.
"""

from pathlib import Path

import numpy as np
from absl import logging
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from strega_jax.errors import ScanError
from strega_jax.scans.dicom_headers import is_dicom
from strega_jax.scans.dicom_pixels import grid_of, pixels_of, sort_slices
from strega_jax.scans.dicom_study import Series, Study, find_study
from strega_jax.scans.scan import Scan

__all__ = [
    "Series",
    "Study",
    "find_series",
    "find_study",
    "is_dicom",
    "one_series",
    "read_series",
    "sort_slices",
]


def find_series(folder: Path) -> list[Series]:
    """The anatomical MR series below a folder, sorted by name; what was passed over is logged.

    Raises:
        ScanError: none there.
    """
    study = find_study(folder)
    for what, why in study.skipped:
        logging.warning("%s: not used: %s", what, why)
    if not study.series:
        told = "; ".join(f"{what}: {why}" for what, why in study.skipped[:3])
        raise ScanError(f"{folder}: no anatomical MR series of a head in it: {told}")
    return study.series


def one_series(folder: Path) -> Series:
    """The only anatomical series of a folder. Raises ScanError where there are several."""
    found = find_series(folder)
    if len(found) > 1:
        names = ", ".join(f"{series.name} ({series.contrast or series.description})" for series in found[:8])
        raise ScanError(
            f"{folder}: {len(found)} DICOM series ({names}): give the folder of one, or do all of them with "
            "python -m strega_jax.predict --input"
        )
    return found[0]


def read_series(series: Series) -> Scan:
    """Read a series as one volume, its slices sorted by position.

    The scan's own grid has columns, rows and slices as axes; `native_affine` maps them to RAS millimetres.

    Raises:
        ScanError: not MR slices of one size, direction and distance; a slice missing or there twice; pixels that
            cannot be decoded.
    """
    slices = sort_slices(series)
    volume = pixels_of(slices)
    if not np.isfinite(volume).all():
        raise ScanError(f"{series.folder}: voxels that are NaN or infinite; export the series again")
    if volume.min() == volume.max():
        raise ScanError(f"{series.folder}: every voxel is {volume.flat[0]:g}; there is no image in it")
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    affine = grid_of([frame for frame, _ in slices])
    to_canonical = io_orientation(affine)
    canonical = np.ascontiguousarray(apply_orientation(volume, to_canonical))
    to_mm = affine @ inv_ornt_aff(to_canonical, shape)
    return Scan(canonical, to_mm, shape, affine, to_canonical, series.folder, series.contrast, forms=("dicom",))
