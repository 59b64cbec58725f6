"""Many scans: read, segment, detect and write in overlapping stages; skip what is done; go on past bad scans."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strega_jax import failures, memory
from strega_jax.config import Postprocess, settings_hash
from strega_jax.detection.detect import detect_slices
from strega_jax.detection.found import Detection
from strega_jax.detection.quality import QualityWarning, image_warnings, measure, pose_warnings, reference_warnings
from strega_jax.detection.session import Part
from strega_jax.errors import ScanError
from strega_jax.inference.warm_up import warm_up
from strega_jax.models.opened import Opened
from strega_jax.output.files import ResultFiles
from strega_jax.output.page import write_page
from strega_jax.output.write import write_result
from strega_jax.pipeline import staged
from strega_jax.scans.contrast import ENHANCED_CONTRAST
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import cut_slices, segment_scan
from strega_jax.tissue import TissueMap

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series


log = logging.getLogger(__name__)


class AbstainedError(ScanError):
    """A scan that was skipped, because it failed quality control and `strict` was asked for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One scan to do.

    Attributes:
        name: for the group page.
        source: the scan's file or folder, for messages.
        read: makes the scan.
        digest: makes a text that changes with the scan's files.
        paths: where the results go.
        contrast: MR contrast, or empty for the training contrast.
        series: the DICOM series to write a DICOM SEG for, if any.
        session: name of its subject and date, equal for the contrasts of one; empty where they are not known.
    """

    name: str
    source: Path
    read: Callable[[], Scan]
    digest: Callable[[], str]
    paths: ResultFiles
    contrast: str = ""
    series: "Series | None" = None
    session: str = ""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to do them."""

    postprocess: Postprocess
    samples: int = 0
    strict: bool = False
    overwrite: bool = False
    pages: bool = True
    sidecars: bool = False  # BIDS: a JSON file beside every map

    def optional_files(self, job: Job) -> set[str]:
        """Which files of `ResultFiles` a result must have beside those that every result has."""
        asked = {
            "regions": job.contrast == ENHANCED_CONTRAST,
            "uncertainty": self.samples > 0,
            "page": self.pages,
            "segmentation": job.series is not None,
        }
        return {name for name, wanted in asked.items() if wanted}


@dataclasses.dataclass
class _Work:
    job: Job
    made: dict[str, Any]
    skipped: bool = False
    scan: Scan | None = None
    tissue: TissueMap | None = None
    checks: tuple[Future[list[QualityWarning]], ...] = ()
    warnings: list[QualityWarning] = dataclasses.field(default_factory=list)
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    detection: Detection | None = None

    def found_by_checks(self) -> list[QualityWarning]:
        """What the checks found, once they have ended."""
        return [warning for check in self.checks for warning in check.result()]


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of one scan, or of the contrasts of a session together.

    Attributes:
        name: for the group page.
        source: the scan's file or folder.
        paths: where the result is.
        made: what the result was made from and with.
        skipped: it was there already.
        anomaly_ml: volume of the detections.
        warnings: of quality control.
        error: None where it was detected or skipped.
        part: the detection, where it was made now and is to be kept.
        fused: it is the contrasts of a session together.
    """

    name: str
    source: Path
    paths: ResultFiles
    made: dict[str, Any] = dataclasses.field(default_factory=dict)
    skipped: bool = False
    anomaly_ml: float = 0.0
    warnings: tuple[QualityWarning, ...] = ()
    error: BaseException | None = None
    part: Part | None = None
    fused: bool = False


def is_complete(job: Job, opened: Opened, settings: Settings) -> bool:
    """Whether the results are there, made from the same scan by the same model with the same settings."""
    try:
        return _is_complete(job, made_of(job, opened, settings), settings)
    except (ScanError, OSError):  # its reader will tell
        return False


def detect_all(
    jobs: Sequence[Job], opened: Opened, settings: Settings, keep: Callable[[Job], bool] = lambda _: False
) -> Iterator[Done]:
    """Do the jobs, in order; whatever goes wrong with one scan is told in its `Done`, and the others go on.

    A scan that fails leaves no result, and no earlier one. `keep` says of which jobs the detection is handed on.

    Raises:
        BaseException: what no scan can be blamed for, such as a setting that the checkpoint does not allow or a full
            disk; see `failures.run_error`.
    """

    background = ThreadPoolExecutor(2)
    warming: dict[str, Future[None]] = {}

    def warm(contrast: str) -> None:
        if contrast not in warming:
            warming[contrast] = background.submit(warm_up, opened.model, contrast)

    def read(job: Job) -> _Work:
        work = _Work(job, made_of(job, opened, settings))
        work.skipped = not settings.overwrite and _is_complete(job, work.made, settings)
        if not work.skipped:
            work.scan = job.read()
            memory.give_back_after_fine(work.scan.data.size)
        return work

    def segment(work: _Work) -> _Work:
        if work.scan is not None:
            wanted = opened.model.about.preprocess
            tissue = segment_scan(work.scan, wanted, meanwhile=lambda: warm(work.job.contrast))
            memory.give_back_after_fine(work.scan.data.size)
            work.tissue = tissue
            # Nothing waits for the checks but what is written; these need no slices.
            work.checks = (background.submit(image_warnings, work.scan, tissue.seg > 0),)
        return work

    def detect(work: _Work) -> _Work:
        if work.scan is not None and work.tissue is not None:
            wanted = opened.model.about.preprocess
            slices, work.tissue = cut_slices(work.scan, work.tissue, wanted), None
            memory.give_back_after_fine(work.scan.data.size)
            work.checks = background.submit(pose_warnings, work.scan, slices, wanted.contrast), *work.checks
            if settings.strict:
                work.warnings = work.found_by_checks()
                _abstain(work, settings)
            warming[work.job.contrast].result()
            work.detection = detect_slices(
                opened.model, work.scan, slices, settings.postprocess, opened.calibration, samples=settings.samples
            )
            work.measured = measure(work.detection)
            work.warnings = work.found_by_checks() + reference_warnings(work.measured, opened.reference)
            _abstain(work, settings)
        return work

    def write(work: _Work) -> Done:
        job, ml, part = work.job, 0.0, None
        if work.detection is not None and work.scan is not None:
            _write(work, work.detection, opened, settings)
            ml = float(work.detection.mask.sum() * work.scan.voxel_ml)
            part = Part(job.name, work.detection, tuple(work.warnings)) if keep(job) else None
        return Done(job.name, job.source, job.paths, work.made, work.skipped, ml, tuple(work.warnings), None, part)

    with background:
        for job, done, error in staged(jobs, (read, segment, detect, write)):
            yield done if error is None else _failed(job, error)


def _failed(job: Job, error: BaseException) -> Done:
    ending = failures.run_error(error, job.paths.boxes.parent)
    if ending is not None:
        raise ending
    try:
        job.paths.remove()
    except OSError as left:
        log.warning("%s: its earlier result could not be removed: %s", job.source, failures.one_line(left))
    return Done(job.name, job.source, job.paths, error=error)


def _abstain(work: _Work, settings: Settings) -> None:
    if settings.strict and work.warnings:
        reasons = "; ".join(f"{warning.check}: {warning.reason}" for warning in work.warnings)
        raise AbstainedError(f"{work.job.source}: skipped, since it failed quality control ({reasons})")


def made_of(job: Job, opened: Opened, settings: Settings) -> dict[str, Any]:
    """What tells whether a result is still the one that would be made now."""
    return {"made_from": job.digest(), "made_with": [*made_with(opened, settings), job.contrast]}


def made_with(opened: Opened, settings: Settings) -> list[Any]:
    """The model and the settings, as results name them."""
    return [opened.fingerprint, settings_hash(settings.postprocess), settings.samples]


def _is_complete(job: Job, made: dict[str, Any], settings: Settings) -> bool:
    if settings.strict:
        made = made | {"quality_control": []}
    return job.paths.is_complete(settings.optional_files(job), made)


def _write(work: _Work, detection: Detection, opened: Opened, settings: Settings) -> None:
    record = {
        "name": work.job.name,
        **work.made,
        "contrast": detection.scan.contrast or "unknown",
        "quality_control": [dataclasses.asdict(warning) for warning in work.warnings],
        "compared_with_training": opened.reference is not None,
        "measured": work.measured,
        "training": opened.reference.to_dict()["numbers"] if opened.reference else {},
        "postprocess": dataclasses.asdict(settings.postprocess),
        "model": opened.describe(),
    }
    write_result(
        work.job.paths,
        detection,
        opened.model.source,
        record,
        page=write_page if settings.pages else None,
        sidecars=settings.sidecars,
        series=work.job.series,
    )
