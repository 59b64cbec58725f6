"""DICOM files → images of heads, each once; and a record of what was passed over, with the reason."""

import dataclasses
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from strega_jax.errors import ScanError
from strega_jax.scans.dicom_frames import Frame, acquisitions_of, frames_of
from strega_jax.scans.dicom_headers import number, read_dataset, text
from strega_jax.scans.dicom_kinds import why_not_anatomical

if TYPE_CHECKING:
    import pydicom


@dataclasses.dataclass(frozen=True)
class Image:
    """One file with frames of an anatomical image."""

    path: Path
    uid: str
    key: tuple[str, str]  # of study and series
    patient: str
    number: int | None
    label: str
    frames: tuple[Frame, ...]
    digest: bytes  # of its pixels

    def same_as(self, other: "Image") -> bool:
        """Whether both files hold the same image; how they are named or coded does not matter."""
        here, there = ([dataclasses.replace(f, path=Path()) for f in image.frames] for image in (self, other))
        return self.digest == other.digest and here == there


class Skipped:
    """What was passed over: files by series and reason."""

    def __init__(self) -> None:
        self._paths: dict[tuple[tuple[str, str], str, str], dict[Path, None]] = defaultdict(dict)

    def add(self, paths: Iterable[Path], why: str, label: str = "", key: tuple[str, str] = ("", "")) -> None:
        """Note files, the reason, and the series that they belong to."""
        self._paths[key, label, why] |= dict.fromkeys(paths)

    def lines(self, key: tuple[str, str] | None = None) -> list[tuple[str, str]]:
        """What and why, of one series or of all."""
        found = []
        for (owner, label, why), paths in self._paths.items():
            if key in (None, owner):
                more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
                found.append((f"{next(iter(paths))}{more}" + (f" ({label})" if label else ""), why))
        return sorted(found)


def read_image(path: Path, folder: Path, files: list[Path], skipped: Skipped) -> list[Image]:
    """The file as an image, or nothing where it is no anatomical MR, which is noted. Raises ScanError."""
    data = read_dataset(path)
    if "DirectoryRecordSequence" in data:  # a DICOMDIR
        _compare_index(path, data, files, skipped)
        return []
    study, series = text(data, "StudyInstanceUID"), text(data, "SeriesInstanceUID") or str(path.parent)
    written = number(data, "SeriesNumber")
    label = f"series {'' if written is None else f'{written:g} '}{text(data, 'SeriesDescription')!r}"
    reasons = [why_not_anatomical(acquisition) for acquisition in acquisitions_of(path, data)]
    for why in dict.fromkeys(filter(None, reasons)):
        skipped.add([path], why, label, (study, series))
    if "" not in reasons:
        return []
    try:
        frames = frames_of(path, data)
    except ScanError as error:
        skipped.add([path], str(error).removeprefix(f"{path}: "), label, (study, series))
        return []
    return [
        Image(
            path=path,
            uid=text(data, "SOPInstanceUID"),
            key=(study, series),
            patient=_patient(data, folder),
            number=None if written is None else int(written),
            label=label,
            frames=tuple(frame for frame, why in zip(frames, reasons, strict=True) if not why),
            digest=hashlib.sha256(data.PixelData).digest(),
        )
    ]


def _compare_index(path: Path, index: "pydicom.Dataset", files: list[Path], skipped: Skipped) -> None:
    """Note what a DICOMDIR lists and the folder lacks; some systems change the case of names when they copy."""
    here = {file.relative_to(path.parent).as_posix().lower() for file in files if file.is_relative_to(path.parent)}
    listed = [text(record, "ReferencedFileID") for record in index.get("DirectoryRecordSequence") or ()]
    missing = [name for name in listed if name and name.replace("\\", "/").lower() not in here]
    if missing:
        skipped.add([path], f"it lists {len(missing)} files that are not here, such as {missing[0]}; copy them as well")


def _patient(data: "pydicom.Dataset", folder: Path) -> str:
    """A label of patient and study. The study's UID keeps it from being guessed from lists of patient numbers."""
    patient, study = text(data, "PatientID"), text(data, "StudyInstanceUID")
    if not patient and not study:
        return label_of(folder)
    return "p" + hashlib.sha256(f"{patient}\0{study}".encode()).hexdigest()[:10]


def once(images: list[Image], skipped: Skipped) -> list[Image]:
    """Each image once: copies and files with the UID of another are noted."""
    known: dict[str, Image] = {}
    kept = []
    for image in images:
        first = known.setdefault(image.uid, image) if image.uid else image
        if first is image:
            kept.append(image)
        elif first.same_as(image):
            skipped.add([image.path], "copies of files that were read")
        else:
            why = f"the SOPInstanceUID of files in {first.path.parent}, but other content; those are used"
            skipped.add([image.path], why, image.label, image.key)
    return kept


def label_of(folder: Path) -> str:
    """A folder's name in letters and digits, as it may stand in names of files."""
    return re.sub(r"[^A-Za-z0-9]+", "-", folder.resolve().name).strip("-") or "series"
