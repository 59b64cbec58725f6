"""Feed damaged DICOM studies to the reader: it must refuse with ScanError or give sane scans, whatever the bytes.

Every file must be part of a series or be named as skipped.

    python tests/fuzz_dicom.py --cases 10000

Not collected by pytest; `test_dicom.py` runs some cases of it. Exits with 1 if anything was found.
"""

import functools
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
from fuzzing import Tally, command_line

from strega_jax.errors import ScanError
from strega_jax.scans.dicom import Study, find_study, is_dicom, read_series

# Elements whose bytes decide how a series is read: group and element in little endian.
ELEMENTS = [
    (0x28, 0x10), (0x28, 0x11), (0x28, 0x30), (0x20, 0x37), (0x20, 0x32), (0x28, 0x100), (0x28, 0x2), (0x28, 0x4),
    (0x28, 0x1053), (0x28, 0x1052), (0x28, 0x8), (0x7FE0, 0x10), (0x2, 0x10), (0x20, 0xE), (0x8, 0x18), (0x8, 0x103E),
    (0x8, 0x16), (0x8, 0x60), (0x18, 0x81), (0x20, 0x9056), (0x20, 0x9113), (0x20, 0x9116), (0x28, 0x9110),
    (0x28, 0x9145), (0x5200, 0x9229), (0x5200, 0x9230),
]  # fmt: skip
TEXTS = [b"nan", b"1e400", b"-1", b"0", b"99999999999", b"\\\\", b"1\\2", b"", b"../../x", b"\xff\xfe", b"inf\\0\\0"]
ROOT = b"1.2.840.10008.1.2"
SYNTAXES = [ROOT + end for end in (b"", b".1.99", b".2", b".5", b".4.90")]


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """One file's bytes, damaged in one of six ways."""
    data = bytearray(content)
    kind = rng.integers(6)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(132, len(data))] ^= 1 << rng.integers(8)
        return bytes(data)
    if kind == 2:
        group, element = ELEMENTS[rng.integers(len(ELEMENTS))]
        place = data.find(group.to_bytes(2, "little") + element.to_bytes(2, "little"))
        if place > 0:
            text = TEXTS[rng.integers(len(TEXTS))]
            data[place + 8 : place + 8 + len(text)] = text
        return bytes(data)
    if kind == 3:  # lengths
        group, element = ELEMENTS[rng.integers(len(ELEMENTS))]
        place = data.find(group.to_bytes(2, "little") + element.to_bytes(2, "little"))
        if place > 0:
            data[place + 6 : place + 6 + 4] = rng.integers(0, 256, 4).astype(np.uint8).tobytes()
        return bytes(data)
    if kind == 4:
        place = data.find(b"1.2.840.10008.1.2.1\0")
        syntax = SYNTAXES[rng.integers(len(SYNTAXES))]
        data[place : place + len(syntax)] = syntax
        return bytes(data)
    start = rng.integers(132, len(data))
    return bytes(data[:start] + data[start + rng.integers(1, 64) :] + rng.bytes(rng.integers(64)))


def accounted(study: Study) -> int:
    """How many files the study says something of."""
    more = [re.search(r" and (\d+) more", what) for what, _ in study.skipped]
    named = sum(1 + (int(match[1]) if match else 0) for match in more)
    return named + len({path for series in study.series for path in series.files})


def check(folder: Path) -> str:
    """Read a folder: 'refused', or 'read' if what came out is sane."""
    try:
        study = find_study(folder)
        files = [path for path in folder.iterdir() if is_dicom(path)]
        assert accounted(study) >= len(files), "a file was dropped without a word"
        scans = [read_series(series) for series in study.series]
    except ScanError as error:
        if str(folder) not in str(error):
            raise AssertionError(f"the error names no file: {error}") from error
        return "refused"
    for scan in scans:
        assert scan.data.dtype == np.float32
        assert np.isfinite(scan.data).all()
        assert np.isfinite(scan.affine).all()
        assert scan.to_native(scan.data).shape == scan.native_shape
        assert abs(np.linalg.det(scan.affine[:3, :3])) > 0
    return "read" if scans else "refused"


def fuzz(cases: int, seed: int) -> Tally:
    """Read so many damaged studies: of one file a slice, or of one file."""
    from test_dicom import oblique, write_dicom
    from test_dicom_enhanced import write_enhanced

    rng = np.random.default_rng(seed)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's own, of which the files are full
        volumes = rng.integers(0, 900, (2, 10, 12, 4))
        classic = write_dicom(Path(folder, "fuzzed"), volumes[0], oblique())
        enhanced = [write_enhanced(Path(folder, "multi-frame", "file"), list(volumes), oblique(), echoes=[3.0, 9.0])]
        whole = {path: path.read_bytes() for path in (*classic, *enhanced)}
        for number in range(cases):
            paths = enhanced if rng.random() < 0.3 else classic
            # Now and then all files suffer alike, so that they still agree with one another.
            chosen = paths if rng.random() < 0.2 else [paths[rng.integers(len(paths))]]
            seed_of_case = rng.integers(2**32)
            for path in chosen:
                path.write_bytes(damaged(np.random.default_rng(seed_of_case), whole[path]))
            tally.run(number, functools.partial(check, paths[0].parent))
            for path in chosen:
                path.write_bytes(whole[path])
    return tally


if __name__ == "__main__":
    command_line(__doc__, fuzz)
