"""Feed damaged NIfTI files to the reader: it must refuse with ScanError or give a sane scan, whatever the bytes,
and in 2 GB of memory.

    python tests/fuzz_scans.py --cases 10000

Not collected by pytest; `test_scans_reading.py` runs a few hundred cases of it. Exits with 1 if anything was found.
"""

import functools
import gzip
import struct
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
from absl import logging
from fuzzing import Tally, command_line

from strega_jax.errors import ScanError
from strega_jax.scans.scan import read_scan, same_grid, write_volume

# Offset and struct format of the fields of a NIfTI-1 header that decide how a file is read.
FIELDS = [
    (0, "i"), *((40 + 2 * i, "h") for i in range(8)), (70, "h"), (72, "h"), *((76 + 4 * i, "f") for i in range(8)),
    (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"), *((256 + 4 * i, "f") for i in range(6)),
    *((280 + 4 * i, "f") for i in range(12)), (344, "I"), (348, "I"), (352, "i"), (356, "i"),
]  # fmt: skip
NUMBERS = {
    "f": [0.0, -0.0, 1.0, -1.0, 1e-40, 1e-6, 1e30, -1e30, np.inf, -np.inf, np.nan, 352.0, 351.0, 2.0**31, 0.7, 50.0],
    "h": [0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 511, 512, 768, 1024, 1536, 1792, 2048, 2304, 32767, -1, -32768],
    "i": [0, 1, 8, 16, 348, 540, -1, 2**31 - 1, -(2**31)],
    "I": [0, 1, 2**32 - 1, 0x00316E69, 0x00312B6E],
    "B": [0, 1, 2, 3, 10, 255],
}


def base_files(rng: np.random.Generator) -> list[bytes]:
    """Small valid files of several types, byte orders and geometries."""
    files = []
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        data = (100 * rng.random((7, 6, 5))).astype(dtype)
        for order in ("<", ">"):
            header = nibabel.Nifti1Header(endianness=order)
            image = nibabel.Nifti1Image(data, np.diag([-1.0, 1.5, 2.0, 1.0]), header)
            image.set_qform(image.affine, 1)
            image.header.set_slope_inter(0.5, 3)
            files.append(image.to_bytes())
    files.append(nibabel.Nifti2Image(data, np.eye(4)).to_bytes())
    return files


def damaged(rng: np.random.Generator, files: list[bytes]) -> tuple[str, bytes]:
    """One damaged file and the ending it pretends to have."""
    content = bytearray(files[rng.integers(len(files))])
    order = "<" if content[0] in (0x5C, 0x1C) else ">"
    for _ in range(rng.integers(1, 4)):
        way = rng.integers(6)
        if way <= 2:
            offset, kind = FIELDS[rng.integers(len(FIELDS))]
            number = NUMBERS[kind][rng.integers(len(NUMBERS[kind]))]
            content[offset : offset + struct.calcsize(kind)] = struct.pack(order + kind, number)
        elif way == 3:
            for place in rng.integers(0, min(len(content), 544), rng.integers(1, 9)):
                content[place] = rng.integers(256)
        elif way == 4:
            place = rng.integers(len(content))
            content[place:] = rng.bytes(len(content) - place)
        else:
            content = content[: max(rng.integers(len(content)), 360 if rng.random() < 0.7 else 0)]
            content += bytes(max(0, 360 - len(content)))
    if rng.random() < 0.05:
        content += b"\0" * 5_000_000  # so that large claims can be met
    if rng.random() < 0.6:
        return (".nii" if rng.random() < 0.97 else ".nii.gz"), bytes(content)
    packed = bytearray(gzip.compress(bytes(content), 1))
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            packed = packed[: rng.integers(len(packed))]
        else:
            packed[rng.integers(len(packed))] ^= 1 << rng.integers(8)
    return ".nii.gz", bytes(packed)


def check(path: Path, again: Path) -> str:
    """Read one file: 'refused', or 'read' if what came out is sane and survives being written."""
    try:
        scan = read_scan(path)
    except ScanError as error:
        if str(path) not in str(error):
            raise AssertionError(f"the error does not name the file: {error}") from error
        return "refused"
    assert scan.data.dtype == np.float32
    assert scan.data.ndim == 3
    assert np.isfinite(scan.data).all()
    assert scan.to_native(scan.data).shape == scan.native_shape
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    write_volume(again, scan.data, scan)
    second = read_scan(again)
    assert np.array_equal(second.data, scan.data)
    assert same_grid(second, scan)
    return "read"


def bombs(rng: np.random.Generator) -> list[tuple[bytes, int]]:
    """Gzip streams below 1 MB that unpack to hundreds of megabytes, and their unpacked size."""
    made = []
    for megabytes, pattern in ((100, bytes(256)), (400, bytes(256)), (150, rng.bytes(64)), (700, bytes(64))):
        packed = gzip.compress(pattern * (megabytes * 1_000_000 // len(pattern)), 6)
        assert len(packed) < 1_000_000
        made.append((packed, megabytes * 1_000_000))
    return made


def bomb(rng: np.random.Generator, made: list[tuple[bytes, int]]) -> bytes:
    """A header that claims about what one of the streams unpacks to, in front of it."""
    packed, size = made[rng.integers(len(made))]
    dtype = np.dtype([np.uint8, np.int16, np.float32, np.float64][rng.integers(4)])
    voxels = size * rng.uniform(0.2, 1.1) / dtype.itemsize
    x, y = rng.integers(3, 1200, 2)
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), dtype), np.diag([0.3, 0.3, 0.3, 1.0]))
    header = bytearray(image.to_bytes()[:352])
    header[40:48] = struct.pack("<4h", 3, x, y, int(np.clip(voxels / (x * y), 3, 32767)))
    return gzip.compress(bytes(header), 1) + packed


def fuzz(cases: int, seed: int, bomb_share: float = 0.01) -> Tally:
    """Read so many damaged files, of which a share are small files that unpack to large ones."""
    rng = np.random.default_rng(seed)
    files, made, tally = base_files(rng), bombs(rng) if bomb_share else [], Tally()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(cases):
            suffix, content = damaged(rng, files)
            if rng.random() < bomb_share:
                suffix, content = ".nii.gz", bomb(rng, made)
            path = Path(folder, f"case{suffix}")
            path.write_bytes(content)
            tally.run(number, functools.partial(check, path, Path(folder, "again.nii")))
            path.unlink()
    return tally


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    nibabel.imageglobals.logger.setLevel("CRITICAL")
    command_line(__doc__, fuzz)
