"""One brain scan: read from disk into RAS canonical order, and written back onto its own grid."""

import contextlib
import dataclasses
import math
import os
from pathlib import Path

import nibabel
import numpy as np
from absl import logging
from isal import igzip
from jaxtyping import Float, Shaped
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from scipy import ndimage

from strega_jax.errors import ScanError
from strega_jax.scans import metaimage
from strega_jax.scans.files import replacing

SUFFIXES = (".nii.gz", ".nii", metaimage.SUFFIX)
# A header may claim any size: refuse what no brain scan has before memory is asked for it.
MAX_VOXELS = 1024**3
MIN_AXIS_VOXELS = 3
# A label map that claims to unpack to this many times its size must stay below this much memory.
SPARSE_RATIO = 50
SPARSE_BYTES = 1.5e9
# An image with more voxels than a 256³ volume has at most this many for each byte of its file, where brains of fine
# voxels have about ten: what follows takes up to 110 bytes a voxel.
DENSE_VOXELS = 256**3
MAX_VOXELS_A_BYTE = 16
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 50.0
MAX_ORIGIN_MM = 10_000.0
MIN_SKEW = 0.01  # volume of a voxel over the product of its edges
# Two affines describe one grid when no voxel centre differs by more than this.
AFFINE_TOLERANCE_MM = 0.05
FORMS_APART_MM = 0.5  # a sform and a qform further apart are worth a warning


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
        contrast: MR contrast, or empty where nothing tells it.
        forms: which of `sform` and `qform` the header sets; `dicom` for a series.
        brain: how its brain was found: the name of a mask, a method, `given`, or empty where the image is taken as is.
    """

    data: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    native_shape: tuple[int, int, int]
    native_affine: Float[np.ndarray, "4 4"]
    native_to_canonical: Float[np.ndarray, "3 2"]
    path: Path
    contrast: str = ""
    forms: tuple[str, ...] = ()
    brain: str = ""

    @classmethod
    def from_array(cls, data: Float[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], path: Path) -> "Scan":
        """A scan made in memory, whose own grid is `data`'s; `affine` must already be RAS canonical."""
        affine = np.asarray(affine, np.float64)
        if not np.array_equal(io_orientation(affine), [[0, 1], [1, 1], [2, 1]]):
            raise ValueError(f"axes {aff2axcodes(affine)} are not RAS")
        return cls(
            np.asarray(data, np.float32), affine, data.shape, affine, io_orientation(affine), path, forms=("sform",)
        )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths of `data` in millimetres."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_native(self, volume: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "i j k"]:
        """Put a volume on `data`'s grid back into the file's own axis order. Exact; no interpolation."""
        if volume.shape != self.data.shape:
            raise ValueError(f"volume has shape {volume.shape}, the scan {self.data.shape}")
        back = np.empty((3, 2))
        for axis, (canonical_axis, direction) in enumerate(self.native_to_canonical):
            back[int(canonical_axis)] = axis, direction
        return apply_orientation(volume, back)


def read_scan(path: str | os.PathLike[str], *, allow_constant: bool = False) -> Scan:
    """Read one NIfTI or MetaImage volume.

    The geometry is the sform's if its code is set, else the qform's; where both are set and disagree a warning
    is logged. NaN background, as SPM writes it, becomes 0.

    Args:
        path: `.nii`, `.nii.gz` or `.mha`.
        allow_constant: accept a volume of one value, as an empty label map is.

    Raises:
        ScanError: missing, truncated or unreadable file; not one 3-D volume of real numbers; NaN inside the image or
            infinite voxels; a constant image; a geometry that no brain scan has; a size that the file cannot hold.
    """
    path = Path(path)
    # Numpy must not warn of what is checked below: numbers from a damaged header, or too large for float32.
    with np.errstate(all="ignore"):
        image = _open(path)
        shape = _single_volume_shape(path, image)
        affine, forms = _native_affine(path, image, shape)
        data = _voxels(path, image, shape, label=allow_constant)
    data = _finite(path, data)
    if not allow_constant and data.min() == data.max():
        raise ScanError(f"{path}: every voxel is {data.flat[0]:g}; there is no image in it")
    to_canonical = io_orientation(affine)
    canonical = np.ascontiguousarray(apply_orientation(data, to_canonical))
    return Scan(canonical, affine @ inv_ornt_aff(to_canonical, shape), shape, affine, to_canonical, path, forms=forms)


def write_volume(path: str | os.PathLike[str], volume: Shaped[np.ndarray, "x y z"], like: Scan) -> None:
    """Write a volume on `like`'s canonical grid as NIfTI with the native shape and affine of `like`'s file.

    The dtype is kept (bool becomes uint8). The file appears whole or not at all.
    """
    if volume.dtype == bool:
        volume = volume.astype(np.uint8)
    image = Nifti1Image(like.to_native(volume), like.native_affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(like.native_affine, code=1)
    image.set_sform(like.native_affine, code=1)
    if _distance_mm(image.get_qform(), like.native_affine, like.native_shape) > AFFINE_TOLERANCE_MM:
        image.set_qform(None, code=0)  # a qform cannot hold shears
    with replacing(path) as temporary, contextlib.ExitStack() as open_files:
        file = open_files.enter_context(temporary.open("wb"))
        if temporary.name.lower().endswith(".gz"):
            # Less than half of zlib's time. Without name and time of day the same volume gives the same bytes.
            packed = igzip.IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0)
            file = open_files.enter_context(packed)
        image.to_stream(file)


def same_grid(a: Scan, b: Scan) -> bool:
    """Whether two scans share one voxel grid in scanner space, to `AFFINE_TOLERANCE_MM`."""
    return a.data.shape == b.data.shape and _distance_mm(a.affine, b.affine, a.data.shape) < AFFINE_TOLERANCE_MM


def stem(path: Path) -> str:
    """The file's name without what says that it is an image, in any case."""
    name = path.name
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def _distance_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines put a voxel centre at most (which is at a corner of the grid)."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.abs((one - other) @ corners).max())


def _open(path: Path) -> Nifti1Image:
    if not path.is_file():
        raise ScanError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if not path.name.lower().endswith(SUFFIXES):
        raise ScanError(f"{path}: none of {', '.join(SUFFIXES)}; convert it (for DICOM: dcm2niix)")
    if path.name.lower().endswith(metaimage.SUFFIX):
        try:
            return metaimage.open_metaimage(path)
        except Exception as error:  # what is wrong with a header, or what nibabel says of its numbers
            raise ScanError(f"{path}: not a readable MetaImage file ({error})") from error
    try:
        # No memory map: the array must outlive a change of the file.
        image = nibabel.load(path, mmap=False)
    except Exception as error:  # a damaged header takes nibabel to errors of almost any type
        raise ScanError(f"{path}: not a readable NIfTI file ({error})") from error
    if not isinstance(image, Nifti1Image):
        raise ScanError(f"{path}: a {type(image).__name__}, not NIfTI; convert it (for DICOM: dcm2niix)")
    return image


def _single_volume_shape(path: Path, image: Nifti1Image) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ScanError(f"{path}: shape {image.shape} is not one 3-D volume; split it into volumes first")
    if min(shape) < MIN_AXIS_VOXELS or math.prod(shape) > MAX_VOXELS:
        raise ScanError(f"{path}: a volume of {shape} voxels is no brain scan")
    return shape


def _native_affine(
    path: Path, image: Nifti1Image, shape: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """The affine that the header gives, by the one policy for sform and qform; and which of them are set."""
    forms: list[tuple[str, np.ndarray]] = []
    for name, read in (("sform", image.header.get_sform), ("qform", image.header.get_qform)):
        try:
            affine, code = read(coded=True)
        except Exception:  # e.g. a quaternion that is no rotation
            continue
        if code and affine is not None and _usable(affine):
            forms.append((name, np.asarray(affine, np.float64)))
    if not forms:
        affine = np.asarray(image.affine, np.float64)
        if not _usable(affine):
            raise ScanError(
                f"{path}: the header's affine is not usable ({np.array2string(affine[:3], precision=3)}); set a valid "
                "sform or qform"
            )
        logging.warning("%s: neither sform nor qform is set: left and right are a guess", path)
        return affine, ()
    if len(forms) == 2 and (apart := _distance_mm(forms[0][1], forms[1][1], shape)) > FORMS_APART_MM:
        logging.warning("%s: sform and qform disagree by up to %.1f mm; the sform is used", path, apart)
    return forms[0][1], tuple(name for name, _ in forms)


def _usable(affine: np.ndarray) -> bool:
    """Whether an affine can be that of a brain scan: sane voxel edges that span a volume, near the scanner's centre."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > MAX_ORIGIN_MM:
        return False
    spacing = voxel_sizes(affine)
    if spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3])) > MIN_SKEW * spacing.prod())


def require_dense(path: Path, shape: tuple[int, int, int], held: int) -> None:
    """Refuse an image whose files, of `held` bytes, are too small for its voxels. Raises ScanError."""
    if math.prod(shape) > max(DENSE_VOXELS, MAX_VOXELS_A_BYTE * held):
        raise ScanError(
            f"{path}: claims {shape} voxels in {held} bytes; no brain scan compresses like that. If it is one, crop it "
            "to the brain or save it uncompressed"
        )


def _voxels(path: Path, image: Nifti1Image, shape: tuple[int, int, int], *, label: bool) -> Float[np.ndarray, "i j k"]:
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ScanError(f"{path}: voxels of type {dtype} are not an intensity image; save it as int16 or float32")
    claimed, held = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if claimed > held and not _compressed(path, image):
        raise ScanError(f"{path}: {held} bytes cannot hold {shape} voxels; the file is truncated, copy it again")
    if not label:
        require_dense(path, shape, held)
    if claimed > SPARSE_RATIO * held and math.prod(shape) * (dtype.itemsize + 8) > SPARSE_BYTES:
        raise ScanError(f"{path}: claims {shape} voxels in {held} bytes; no brain scan compresses like that")
    try:
        return _unpacked(path, image).reshape(shape)
    except Exception as error:  # zlib, gzip, OS, memory and header errors alike
        raise ScanError(
            f"{path}: the voxels cannot be read ({error}); the file looks truncated or damaged, copy it again"
        ) from error


def _unpacked(path: Path, image: Nifti1Image) -> Float[np.ndarray, "..."]:
    held = image.dataobj
    if not isinstance(held, ArrayProxy) or not path.name.lower().endswith(".gz"):
        return np.asarray(held, dtype=np.float32)
    with igzip.open(path) as file:  # half of zlib's time
        spec = (held.shape, held.dtype, held.offset, held.slope, held.inter)
        return np.asarray(ArrayProxy(file, spec), dtype=np.float32)


def _compressed(path: Path, image: Nifti1Image) -> bool:
    voxels = image.dataobj
    return voxels.compressed if isinstance(voxels, metaimage.Voxels) else path.name.lower().endswith(".gz")


def _finite(path: Path, data: Float[np.ndarray, "i j k"]) -> Float[np.ndarray, "i j k"]:
    """The voxels with NaN background set to 0; NaN is background where the eight corners and all NaN around are."""
    if np.isfinite(data).all():
        return data
    missing = np.isnan(data)
    if missing[:: data.shape[0] - 1, :: data.shape[1] - 1, :: data.shape[2] - 1].all():
        labels, _ = ndimage.label(missing)  # pyright: ignore[reportGeneralTypeIssues]
        background = np.isin(labels, np.unique(labels[_faces(data.shape)])) & missing
        data = np.where(background, np.float32(0), data)
    bad = np.count_nonzero(~np.isfinite(data))
    if bad:
        raise ScanError(f"{path}: {bad} voxels inside the image are NaN or infinite; mend the file")
    return data


def _faces(shape: tuple[int, ...]) -> np.ndarray:
    faces = np.ones(shape, bool)
    faces[1:-1, 1:-1, 1:-1] = False
    return faces
