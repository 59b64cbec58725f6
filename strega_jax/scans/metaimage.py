"""MetaImage (`.mha`), the format of BraTS 2013 and 2015: a text header, and the voxels after it.

Keys as in the format's documentation, https://itk.org/Wiki/ITK/MetaIO/Documentation. Read are 3-D images of one channel
in one file, plain or zlib-compressed. World coordinates are left-posterior-superior in the file and RAS here.
"""

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from nibabel.nifti1 import Nifti1Image

SUFFIX = ".mha"
# Of the keys that go by several names, the first is the one written today.
_OFFSET = ("Offset", "Position", "Origin")
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_HEADER_BYTES = 16_384  # headers are a few hundred bytes long
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Voxels:
    """The voxels of a file, read when they are asked for; what nibabel calls an array proxy."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    compressed: bool

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Shaped[np.ndarray, "..."]:
        wanted = math.prod(self.shape) * self.dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read() if self.compressed else file.read(wanted)
        if self.compressed:
            # No more than the header announces, whatever the stream would unpack to.
            content = zlib.decompressobj().decompress(content, wanted)
        if len(content) < wanted:
            raise ValueError(f"{len(content)} of {wanted} bytes")
        # The first axis runs fastest in the file.
        array = np.frombuffer(content, self.dtype, math.prod(self.shape)).reshape(self.shape, order="F")
        return array if dtype is None else array.astype(dtype)


def open_metaimage(path: Path) -> Nifti1Image:
    """The header as nibabel would give it, with the voxels still in the file.

    Raises:
        ValueError: not a MetaImage, or one that is not read here; the text says what is wrong.
    """
    with path.open("rb") as file:
        fields, offset = _header(file.read(_HEADER_BYTES))
    shape = tuple(int(n) for n in _numbers(fields, ("DimSize",), int(fields.get("NDims", "3"))))
    kind = fields.get("ElementType", "")
    if fields.get("ElementDataFile") != "LOCAL":
        raise ValueError("its voxels are in another file; save it as one .mha file")
    if kind not in _TYPES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise ValueError(f"its voxels ({kind or 'of no type'}) are not one real number each")
    if not _truth(fields.get("BinaryData", "True")):
        raise ValueError("its voxels are written as text; save it as binary")
    order = ">" if any(_truth(fields.get(name, "False")) for name in _BIG_ENDIAN) else "<"
    voxels = Voxels(path, offset, shape, np.dtype(order + _TYPES[kind]), _truth(fields.get("CompressedData", "False")))
    image = Nifti1Image(voxels, _affine(fields, len(shape)), dtype=voxels.dtype.newbyteorder("="))
    image.set_sform(image.affine, code=1)
    return image


def _header(start: bytes) -> tuple[dict[str, str], int]:
    """The fields, and where the voxels begin."""
    fields: dict[str, str] = {}
    offset = 0
    while "ElementDataFile" not in fields:
        line, newline, _ = start[offset:].partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not newline or not equals:
            raise ValueError("not a MetaImage header")
        fields[key.decode("ascii").strip()] = value.decode("ascii").strip()
        offset += len(line) + 1
    return fields, offset


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int) -> list[float]:
    text = next((fields[name] for name in names if name in fields), None)
    values = [] if text is None else [float(word) for word in text.split()]
    if len(values) != count:
        raise ValueError(f"{names[0]} is {text!r}; {count} numbers are wanted")
    return values


def _truth(text: str) -> bool:
    return text.lower() in ("true", "1")


def _affine(fields: dict[str, str], ndim: int) -> Float[np.ndarray, "4 4"]:
    """Voxel index → RAS millimetres, of the first three axes; the identity's directions where none are given."""
    affine = np.eye(4)
    n = min(ndim, 3)
    if any(name in fields for name in _DIRECTIONS):
        # One row of the file is the direction of one axis.
        affine[:n, :n] = np.reshape(_numbers(fields, _DIRECTIONS, ndim * ndim), (ndim, ndim)).T[:n, :n]
    affine[:n, :n] *= _numbers(fields, ("ElementSpacing",), ndim)[:n]
    if any(name in fields for name in _OFFSET):
        affine[:n, 3] = _numbers(fields, _OFFSET, ndim)[:n]
    return _LPS_TO_RAS @ affine
