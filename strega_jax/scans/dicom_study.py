"""A folder as a scanner or an archive exports it → the anatomical MR series of a head in it, and what the rest is."""

import dataclasses
import os
from collections import Counter, defaultdict
from pathlib import Path

from strega_jax.errors import ScanError
from strega_jax.scans.dicom_contrasts import decide_contrast
from strega_jax.scans.dicom_files import Image, Skipped, label_of, once, read_image
from strega_jax.scans.dicom_frames import Frame, guarded
from strega_jax.scans.dicom_headers import is_dicom
from strega_jax.scans.dicom_volumes import MAX_VOLUMES, is_localiser, split_volumes
from strega_jax.scans.files import walk_files


@dataclasses.dataclass(frozen=True)
class Series:
    """One volume of a DICOM series: the whole series, or one echo, time or direction of it.

    Attributes:
        name: unique within one search; letters, digits, - and _ only.
        folder: where its files lie; the common one where they lie in several.
        files: its files, sorted.
        description: SeriesDescription, printable characters only.
        contrast: T1w, T1ce, T2w, FLAIR or PD; "" where it cannot be known.
        contrast_reason: what the contrast was decided by, or why it was not.
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        patient: label that is equal for all series of a patient's study, and says nothing of the patient.
        number: SeriesNumber.
        frames: file and number of the frame in it, from 0, of each slice; empty: all of all files.
        left_out: what belongs to the series and is not in the volume, with the reason; a line each.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    description: str = ""
    contrast: str = ""
    contrast_reason: str = ""
    uid: str = ""
    study_uid: str = ""
    patient: str = ""
    number: int | None = None
    frames: tuple[tuple[Path, int], ...] = ()
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """What a folder holds.

    Attributes:
        folder: the folder.
        series: its anatomical MR series, sorted by name.
        skipped: what else is in it, or cannot be read, and why it is not done; a line each.
    """

    folder: Path
    series: list[Series]
    skipped: list[tuple[str, str]]


def find_study(folder: Path) -> Study:
    """Every anatomical MR series of a head below a folder, and what else is there.

    Series are told apart by their UID, wherever their files lie; several volumes in one (echoes, times, directions)
    become a series each. Exact copies of a file count once.

    Args:
        folder: a folder, or the DICOMDIR in it.

    Raises:
        ScanError: no DICOM file below it, or none that can be read.
    """
    folder = folder.parent if folder.is_file() else folder
    files = walk_files(folder)
    skipped, images, readable = Skipped(), [], 0
    for path in files:
        if not is_dicom(path):
            continue
        try:
            images += guarded(path, lambda path=path: read_image(path, folder, files, skipped))
            readable += 1
        except ScanError as error:
            skipped.add([path], str(error).removeprefix(f"{path}: "))
    if not readable:
        told = "; ".join(f"{what}: {why}" for what, why in skipped.lines()[:3])
        raise ScanError(f"{folder}: no DICOM images in it that can be read{': ' if told else ''}{told}")
    groups: dict[tuple[str, str], list[Image]] = defaultdict(list)
    for image in once(images, skipped):
        groups[image.key].append(image)
    volumes = [found for key in sorted(groups) for found in _volumes_of(groups[key], skipped)]
    return Study(folder, _named(volumes), skipped.lines())


def _volumes_of(images: list[Image], skipped: Skipped) -> list[tuple[str, Series]]:
    """The volumes of one series: what tells each from the others, and the series, still without a name."""
    first, frames = images[0], [frame for image in images for frame in image.frames]
    paths = list(dict.fromkeys(frame.path for frame in frames))
    volumes, rest = split_volumes(frames)
    why = ""
    if is_localiser(frames):
        why = "a localiser (a few slices in each of several directions)"
    elif len(volumes) > MAX_VOLUMES:
        why = f"{len(volumes)} volumes in one series: a movie or a measurement, no single image"
    elif not volumes:
        why = f"too few slices for a volume ({len(rest)})"
    if why:
        skipped.add(paths, why, first.label, first.key)
        return []
    if rest:
        skipped.add([f.path for f in rest], "slices of another size, spacing or direction", first.label, first.key)
    left_out = tuple(f"{what}: {why}" for what, why in skipped.lines(first.key))
    return [(suffix, _series(first, volume, left_out)) for suffix, volume in volumes.items()]


def _series(first: Image, volume: list[Frame], left_out: tuple[str, ...]) -> Series:
    files = tuple(sorted({frame.path for frame in volume}))
    contrast, reason = decide_contrast(volume[0].acquisition)
    return Series(
        name="",
        folder=Path(os.path.commonpath([path.parent for path in files])),
        files=files,
        description=volume[0].acquisition.description,
        contrast=contrast,
        contrast_reason=reason,
        uid="" if first.key[1] == str(first.path.parent) else first.key[1],
        study_uid=first.key[0],
        patient=first.patient,
        number=first.number,
        frames=tuple(sorted((frame.path, frame.index) for frame in volume)),
        left_out=left_out,
    )


def _named(volumes: list[tuple[str, Series]]) -> list[Series]:
    """Series with names of their own, made of folder, series number and what tells volumes apart.

    What else a header says never becomes part of a path: it may name the patient, or lead elsewhere.
    """
    owners = {(series.study_uid, series.uid): series.folder for _, series in volumes}
    folders, labels = Counter(owners.values()), Counter(label_of(place) for place in set(owners.values()))
    order = {key: place for place, key in enumerate(owners, start=1)}
    bases = []
    for suffix, series in volumes:
        label, key = label_of(series.folder), (series.study_uid, series.uid)
        shown = order[key] if series.number is None else abs(series.number)
        alone = folders[owners[key]] == 1 and labels[label] == 1
        bases.append("_".join(filter(None, (label if alone else f"{label}_series-{shown:02d}", suffix))))
    named: dict[str, Series] = {}
    for base, (_, series) in zip(bases, volumes, strict=True):
        name = base if bases.count(base) == 1 else f"{series.patient}_{base}"
        name = next(n for n in (name, *(f"{name}-{again}" for again in range(2, len(bases) + 2))) if n not in named)
        named[name] = dataclasses.replace(series, name=name)
    return [named[name] for name in sorted(named)]
