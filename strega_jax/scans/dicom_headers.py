"""One DICOM file, read without trusting it. Needs pydicom."""

import io
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from strega_jax.errors import ScanError

if TYPE_CHECKING:
    import pydicom

MAX_FILE_BYTES = 2**30  # a multi-frame file of a head at 0.4 mm has a quarter of it
CONVERT = "convert it with dcm2niix"
DEFLATED = b"1.2.840.10008.1.2.1.99"
PREAMBLE = 128
FIRST_GROUP = 0x0004  # of a data set (that of a DICOMDIR); elements rise from there
# A file without preamble is taken for DICOM when so many elements in a row look like the start of a data set.
PLAUSIBLE_ELEMENTS = 3
SHORT_VRS = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
             b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}  # fmt: skip
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: the mark after the preamble, or the first tags of a data set without one."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM" or _starts_data_set(head, path.stat().st_size)


def read_dataset(path: Path) -> "pydicom.Dataset":
    """Read a file with its pixel data.

    Raises:
        ScanError: too large, deflated, damaged; or pydicom is not installed.
    """
    module = _pydicom()
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ScanError(f"{path}: larger than the images of a head; {CONVERT}")
    try:
        # From memory: a length that the file does not have must not be asked of the operating system.
        content = path.read_bytes()
        if DEFLATED in content:
            raise ScanError(f"{path}: deflated DICOM, which may unpack to any size; {CONVERT}")
        data = module.filereader.read_partial(
            io.BytesIO(content),
            # What some exporters append, megabytes of zeros at times, would be read as elements of group 0000.
            stop_when=lambda tag, *_: tag.group < FIRST_GROUP,
            force=content[PREAMBLE : PREAMBLE + 4] != b"DICM",
        )
        if "TransferSyntaxUID" not in data.file_meta:  # pydicom found out how it is encoded, but does not say so there
            implicit, little = data.original_encoding
            explicit = module.uid.ExplicitVRLittleEndian if little else module.uid.ExplicitVRBigEndian
            data.file_meta.TransferSyntaxUID = module.uid.ImplicitVRLittleEndian if implicit else explicit
        # pydicom decodes an element when it is asked for, and may fail only then.
        known = str(data.get("SOPClassUID") or ""), "Rows" in data, "DirectoryRecordSequence" in data
        if not any(known):
            raise ValueError("it ends before it says what it is")
    except ScanError:
        raise
    except Exception as error:  # a damaged file takes pydicom to errors of almost any type
        raise ScanError(f"{path}: not a readable DICOM file ({short(error)}); copy it again") from error
    return data


def text(data: "pydicom.Dataset", name: str) -> str:
    """An element as printable text on one line, "" without one; several values are joined by backslashes."""
    value = data.get(name)
    if value is None:
        return ""
    values = value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
    joined = "\\".join(str(item) for item in values)
    return "".join(character for character in joined if character.isprintable())[:256].strip()


def words(data: "pydicom.Dataset", name: str) -> tuple[str, ...]:
    """The values of an element of code strings, in capitals."""
    return tuple(word.strip().upper() for word in text(data, name).split("\\") if word.strip())


def number(data: "pydicom.Dataset", name: str) -> float | None:
    """The first value of a numeric element; None where there is none that is finite."""
    try:
        value = float(np.atleast_1d(np.array(data[name].value, float)).flat[0])
    except Exception:  # absent, empty, or no number
        return None
    return value if math.isfinite(value) else None


def numbers(path: Path, data: "pydicom.Dataset", name: str, length: int) -> Float[np.ndarray, " n"]:
    """The values of an element without which an image has no place. Raises ScanError."""
    try:
        values = np.atleast_1d(np.array(data[name].value, float))
    except Exception as error:
        raise ScanError(f"{path}: no usable {name}, without which its place is unknown; {CONVERT}") from error
    if values.shape != (length,) or not np.isfinite(values).all():
        raise ScanError(f"{path}: no usable {name}: {length} numbers are wanted, not {values.tolist()}; {CONVERT}")
    return values


def short(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _starts_data_set(head: bytes, size: int) -> bool:
    """Whether bytes begin with elements of group 0002 or 0008 in rising order, each of which fits into the file."""
    place, last = 0, (0, 0)
    for _ in range(PLAUSIBLE_ELEMENTS):
        if len(head) < place + 12:
            return False
        group, element = struct.unpack_from("<HH", head, place)
        vr = head[place + 4 : place + 6]
        if vr in SHORT_VRS:
            start, length = 8, struct.unpack_from("<H", head, place + 6)[0]
        elif vr in LONG_VRS:
            start, length = 12, struct.unpack_from("<I", head, place + 8)[0]
        else:
            start, length = 8, struct.unpack_from("<I", head, place + 4)[0]
        if group not in (2, 8) or (group, element) <= last or place + start + length > size:
            return False
        place, last = place + start + length, (group, element)
    return True


def _pydicom() -> Any:
    try:
        import pydicom
        from pydicom import config
    except ImportError as error:
        raise ScanError("DICOM needs pydicom: pip install 'strega-jax[dicom]'; or convert with dcm2niix") from error
    # What matters is checked here; pydicom need not warn of the rest.
    config.settings.reading_validation_mode = config.IGNORE
    return pydicom
