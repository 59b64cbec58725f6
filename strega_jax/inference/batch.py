"""Many scans: read, segment, detect and write in overlapping stages; skip what is done; go on past bad scans."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from strega_jax.config import Postprocess, settings_hash
from strega_jax.detection.detect import detect_slices
from strega_jax.detection.found import Detection
from strega_jax.detection.quality import Flag, measure, reference_flags, scan_flags
from strega_jax.errors import ScanError
from strega_jax.inference.pipeline import staged
from strega_jax.models.opened import Opened
from strega_jax.output.page import write_page
from strega_jax.output.write import Written, summarise, write_detection
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume, preprocess


class AbstainedError(ScanError):
    """A scan that was not judged, because its input checks raised doubts and `strict` was asked for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One scan to do.

    Attributes:
        name: for messages and the group page.
        read: makes the scan.
        digest: makes a text that changes with the scan's files.
        paths: where the results go.
        contrast: MR contrast, or empty for the training contrast.
        after: writes more from the detection (a DICOM SEG), if anything.
    """

    name: str
    read: Callable[[], Scan]
    digest: Callable[[], str]
    paths: Written
    contrast: str = ""
    after: Callable[[Detection, str], None] | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to do them."""

    postprocess: Postprocess
    samples: int = 0
    strict: bool = False
    overwrite: bool = False
    pages: bool = True
    sidecars: bool = False  # BIDS: a JSON file beside every map


@dataclasses.dataclass
class _Work:
    job: Job
    record: dict[str, Any]
    skipped: bool = False
    scan: Scan | None = None
    slices: SliceVolume | None = None
    flags: list[Flag] = dataclasses.field(default_factory=list)
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    detection: Detection | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of one scan; `error` is None where it was detected or skipped."""

    job: Job
    skipped: bool
    anomaly_ml: float
    flags: tuple[Flag, ...]
    error: Exception | None


def is_complete(job: Job, opened: Opened, settings: Settings) -> bool:
    """Whether the results are there, made from the same scan by the same model with the same settings."""
    wanted = _record(job, opened, settings)
    try:
        found = json.loads(job.paths.boxes.read_text(encoding="utf-8"))
        same = all(found[key] == wanted[key] for key in ("made_from", "made_with"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    files = [job.paths.mask, job.paths.anomaly_map, job.paths.components]
    files += [job.paths.uncertainty] * (settings.samples > 0) + [job.paths.page] * settings.pages
    return same and all(file.is_file() for file in files)


def detect_all(jobs: Sequence[Job], opened: Opened, settings: Settings) -> Iterator[Done]:
    """Do the jobs, in order; a bad scan is told in its `Done` and the others go on.

    Raises:
        StregaError: what no scan can be blamed for, such as a setting that the checkpoint does not allow.
    """

    def read(job: Job) -> _Work:
        work = _Work(job, _record(job, opened, settings))
        work.skipped = not settings.overwrite and is_complete(job, opened, settings)
        if not work.skipped:
            work.scan = job.read()
        return work

    def segment(work: _Work) -> _Work:
        if work.scan is not None:
            about = opened.model.about
            work.slices = preprocess(work.scan, about.preprocess)
            work.flags = scan_flags(work.scan, work.slices, about.preprocess.contrast)
            _abstain(work, settings)
        return work

    def detect(work: _Work) -> _Work:
        if work.scan is not None and work.slices is not None:
            work.detection = detect_slices(
                opened.model, work.scan, work.slices, settings.postprocess, opened.calibration, samples=settings.samples
            )
            work.measured = measure(work.detection)
            work.flags = work.flags + reference_flags(work.measured, opened.reference)
            _abstain(work, settings)
        return work

    def write(work: _Work) -> Done:
        ml = 0.0
        if work.detection is not None and work.scan is not None:
            _write(work, work.detection, opened, settings)
            ml = float(work.detection.mask.sum() * work.scan.voxel_ml)
        return Done(work.job, work.skipped, ml, tuple(work.flags), None)

    for job, done, error in staged(jobs, (read, segment, detect, write)):
        if error is not None and not isinstance(error, (ScanError, OSError)):
            raise error
        yield done if error is None else Done(job, False, 0.0, (), error)


def _abstain(work: _Work, settings: Settings) -> None:
    if settings.strict and work.flags:
        reasons = "; ".join(f"{flag.check}: {flag.reason}" for flag in work.flags)
        raise AbstainedError(f"{work.job.name}: not judged, since its input checks raised doubts ({reasons})")


def _record(job: Job, opened: Opened, settings: Settings) -> dict[str, Any]:
    """What tells whether a result is still the one that would be made now."""
    made_with = [opened.fingerprint, settings_hash(settings.postprocess), settings.samples, job.contrast]
    return {"name": job.name, "made_from": job.digest(), "made_with": made_with}


def _write(work: _Work, detection: Detection, opened: Opened, settings: Settings) -> None:
    paths = work.job.paths
    # While it is renewed the old result is not complete.
    paths.boxes.unlink(missing_ok=True)
    record = {
        **work.record,
        "contrast": detection.scan.contrast or "unknown",
        "flags": [dataclasses.asdict(flag) for flag in work.flags],
        "compared_with_training": opened.reference is not None,
        "measured": work.measured,
        "training": opened.reference.to_dict()["numbers"] if opened.reference else {},
        "postprocess": dataclasses.asdict(settings.postprocess),
        "model": opened.describe(),
        "page": paths.page.name if settings.pages else "",
    }
    paths.boxes.parent.mkdir(parents=True, exist_ok=True)
    if settings.pages:
        write_page(paths.page, detection, summarise(detection, opened.model.source) | record)
    if work.job.after is not None:
        work.job.after(detection, opened.model.source)
    if settings.sidecars:
        _write_sidecars(paths, detection, record)
    write_detection(paths.boxes.parent, work.job.name, detection, opened.model.source, record=record, paths=paths)


def _write_sidecars(paths: Written, detection: Detection, record: dict[str, Any]) -> None:
    about = {
        "Sources": [detection.scan.path.name],
        "SpatialReference": "orig",
        "Checkpoint": record["model"]["checkpoint"],
        "CheckpointFingerprint": record["model"]["fingerprint"],
    }
    kinds: dict[Path, dict[str, Any]] = {
        paths.mask: {"Type": "Lesion", "Description": "voxels marked as anomalous, unconfirmed"},
        paths.anomaly_map: {"Description": "anomaly score", "SkullStripped": True},
    }
    if detection.uncertainty is not None:
        kinds[paths.uncertainty] = {"Description": "standard deviation of the score", "SkullStripped": True}
    for path, fields in kinds.items():
        write_json(path.with_name(path.name.removesuffix(".nii.gz") + ".json"), about | fields)
