"""One brain scan: read from disk into RAS canonical order, and written back onto its own grid."""

import dataclasses
import gzip
import os
import tempfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped

from strega_jax.errors import ScanError

# A header may claim any size: refuse what no brain scan has before memory is asked for it.
MAX_VOXELS = 1024**3
MIN_AXIS_VOXELS = 3
MAX_SPACING_MM = 50.0
# Two affines describe one grid when no voxel centre differs by more than this.
AFFINE_TOLERANCE_MM = 0.05


@dataclasses.dataclass(frozen=True)
class Scan:
    """A 3-D image in RAS canonical order with everything needed to return to the file's own grid.

    Attributes:
        data: (x, y, z) float32; axes run left→right, posterior→anterior, inferior→superior as far as
            the file's axes allow (oblique scans are reoriented, never resampled).
        affine: (4, 4) float64, voxel index of `data` → scanner millimetres.
        native_shape: shape of the file's own grid.
        native_affine: (4, 4) affine of the file's own grid.
        native_to_canonical: (3, 2) nibabel orientation transform from the file's axes to `data`'s.
        path: where it came from; for messages and names only.
    """

    data: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    native_shape: tuple[int, int, int]
    native_affine: Float[np.ndarray, "4 4"]
    native_to_canonical: Float[np.ndarray, "3 2"]
    path: Path

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths of `data` in millimetres."""
        x, y, z = nib.affines.voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_native(self, volume: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "i j k"]:
        """Put a volume on `data`'s grid back into the file's own axis order. Exact; no interpolation."""
        if volume.shape != self.data.shape:
            raise ValueError(f"volume has shape {volume.shape}, the scan {self.data.shape}")
        back = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(self.affine),
            nib.orientations.io_orientation(self.native_affine),
        )
        return nib.orientations.apply_orientation(volume, back)


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Read one NIfTI volume.

    Raises:
        ScanError: missing, truncated or unreadable file; not one 3-D volume; NaN or infinite voxels; a
            constant image; a geometry that no brain scan has.
    """
    path = Path(path)
    image = _open(path)
    shape = _single_volume_shape(path, image)
    _check_geometry(path, image, shape)
    try:
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)  # pyright: ignore
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile, OverflowError) as error:
        raise ScanError(
            f"{path}: the voxels cannot be read ({error}); the file looks truncated or damaged, copy it again"
        ) from error
    if not np.isfinite(data).all():
        raise ScanError(f"{path}: {np.count_nonzero(~np.isfinite(data))} voxels are NaN or infinite; mend the file")
    if data.min() == data.max():
        raise ScanError(f"{path}: every voxel is {data.flat[0]:g}; there is no image in it")
    native_affine = np.asarray(image.affine, dtype=np.float64)
    to_canonical = nib.orientations.io_orientation(native_affine)
    affine = native_affine @ nib.orientations.inv_ornt_aff(to_canonical, shape)
    canonical = np.ascontiguousarray(nib.orientations.apply_orientation(data, to_canonical))
    return Scan(canonical, affine, shape, native_affine, to_canonical, path)


def write_volume(path: str | os.PathLike[str], volume: Shaped[np.ndarray, "x y z"], like: Scan) -> None:
    """Write a volume on `like`'s canonical grid as NIfTI with the native shape and affine of `like`'s file.

    The dtype is kept (bool becomes uint8). The file appears whole or not at all.
    """
    if volume.dtype == bool:
        volume = volume.astype(np.uint8)
    image = nib.Nifti1Image(like.to_native(volume), like.native_affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(like.native_affine, code=1)
    image.set_sform(like.native_affine, code=1)
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / path.name
        nib.save(image, temporary)
        os.replace(temporary, path)


def same_grid(a: Scan, b: Scan) -> bool:
    """Whether two scans share one voxel grid in scanner space, to `AFFINE_TOLERANCE_MM`."""
    if a.data.shape != b.data.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.data.shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs((a.affine - b.affine) @ corners).max() < AFFINE_TOLERANCE_MM)


def _open(path: Path) -> nib.nifti1.Nifti1Image:
    if not path.exists():
        raise ScanError(f"{path}: no such file")
    try:
        image = nib.load(path)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:
        raise ScanError(f"{path}: not a readable NIfTI file ({error})") from error
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise ScanError(f"{path}: a {type(image).__name__}, not NIfTI; convert it (for DICOM: dcm2niix)")
    return image  # pyright: ignore


def _single_volume_shape(path: Path, image: nib.nifti1.Nifti1Image) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ScanError(f"{path}: shape {image.shape} is not one 3-D volume; split it into volumes first")
    return shape


def _check_geometry(path: Path, image: nib.nifti1.Nifti1Image, shape: tuple[int, int, int]) -> None:
    if min(shape) < MIN_AXIS_VOXELS or np.prod(np.array(shape, dtype=object)) > MAX_VOXELS:
        raise ScanError(f"{path}: a volume of {shape} voxels is no brain scan")
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = nib.affines.voxel_sizes(affine) if np.isfinite(affine).all() else np.full(3, np.nan)
    sane = np.isfinite(spacing).all() and (spacing > 0).all() and (spacing <= MAX_SPACING_MM).all()
    if not sane or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(f"{path}: the header's affine is not usable (spacing {spacing} mm); set a valid sform or qform")
