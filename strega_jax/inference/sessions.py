"""Sessions: the contrasts of one subject at one date, detected one by one and then fused."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from strega_jax import failures
from strega_jax.detection.detect import detect_scan
from strega_jax.detection.fusion import NothingToFuseError
from strega_jax.detection.quality import detection_warnings
from strega_jax.detection.session import FusedDetection, Part, fuse_parts
from strega_jax.inference.batch import Done, Job, Settings, detect_all, is_complete, made_of, made_with
from strega_jax.models.opened import Opened
from strega_jax.output.files import ResultFiles, fused_files
from strega_jax.output.fused import fused_warnings, write_fused
from strega_jax.scans.contrast import UNKNOWN

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Session:
    """The scans of one subject at one date, of two or more contrasts.

    Attributes:
        name: subject and session.
        jobs: one a scan.
        paths: where the result of all together goes: beside those of the scans.
    """

    name: str
    jobs: tuple[Job, ...]
    paths: ResultFiles

    @property
    def source(self) -> Path:
        """Where its scans are, for messages."""
        return self.jobs[0].source.parent


def group_sessions(jobs: Sequence[Job]) -> list[Session]:
    """The sessions of two or more contrasts; a scan whose contrast nothing tells is in none."""
    groups: dict[tuple[Path, str], list[Job]] = {}
    for job in jobs:
        if job.session and job.contrast not in ("", UNKNOWN):
            groups.setdefault((job.paths.boxes.parent, job.session), []).append(job)
    return [
        Session(name, tuple(group), fused_files(folder, name))
        for (folder, name), group in groups.items()
        if len({job.contrast for job in group}) > 1
    ]


def detect_sessions(
    jobs: Sequence[Job], sessions: Sequence[Session], opened: Opened, settings: Settings
) -> Iterator[Done]:
    """Do the jobs as `detect_all` does, and each session once its last scan is done.

    A scan that failed is left out of its session, which its result says. A session of which fewer than two contrasts
    can be fused has no result; a warning is logged.

    Raises:
        BaseException: as `detect_all`.
    """
    session_of = {job.name: session for session in sessions for job in session.jobs}
    waiting: dict[str, list[Done]] = {}
    for done in detect_all(jobs, opened, settings, keep=lambda job: job.name in session_of):
        yield dataclasses.replace(done, part=None)
        session = session_of.get(done.name)
        if session is None:
            continue
        together = waiting.setdefault(session.name, [])
        together.append(done)
        if len(together) == len(session.jobs):
            del waiting[session.name]
            fused = _fuse(session, together, opened, settings)
            if fused is not None:
                yield fused


def is_fused(session: Session, opened: Opened, settings: Settings) -> bool:
    """Whether the results of all scans and the fused one are there, as they would be made now."""
    if not all(is_complete(job, opened, settings) for job in session.jobs):
        return False
    scans = [made_of(job, opened, settings) for job in session.jobs]
    return _is_complete(session, _made(scans, opened, settings), settings)


def _made(scans: Sequence[Mapping[str, Any]], opened: Opened, settings: Settings) -> dict[str, Any]:
    """What tells whether a fused result is still the one that would be made now; `scans`: of those that are done."""
    return {"made_from": [scan["made_from"] for scan in scans], "made_with": made_with(opened, settings)}


def _is_complete(session: Session, made: Mapping[str, Any], settings: Settings) -> bool:
    return session.paths.is_complete({"page"} if settings.pages else set(), made)


def _fuse(session: Session, scans: Sequence[Done], opened: Opened, settings: Settings) -> Done | None:
    """The result of a session; None where there is nothing to fuse."""
    good = [done for done in scans if done.error is None]
    made = _made([done.made for done in good], opened, settings)
    try:
        if not settings.overwrite and _is_complete(session, made, settings):
            return Done(session.name, session.source, session.paths, made, skipped=True, fused=True)
        fused = _fused(session, good, opened, settings)
        left_out = [f"{done.name}: {failures.one_line(done.error)}" for done in scans if done.error is not None]
        fused = dataclasses.replace(fused, left_out=(*left_out, *fused.left_out))
        record = {
            "name": session.name,
            **made,
            "postprocess": dataclasses.asdict(settings.postprocess),
            "model": opened.describe(),
        }
        paths = {contrast: _paths(session, part) for contrast, part in fused.parts.items()}
        write_fused(
            session.paths,
            fused,
            opened.model.source,
            record,
            paths,
            page=settings.pages,
            sidecars=settings.sidecars,
        )
        ml = float(fused.detection.mask.sum() * fused.detection.scan.voxel_ml)
        warnings = fused_warnings(fused)
        return Done(session.name, session.source, session.paths, made, anomaly_ml=ml, warnings=warnings, fused=True)
    except NothingToFuseError as error:
        log.warning("%s: not fused: %s", session.name, error)
        session.paths.remove()
        return None
    except BaseException as error:
        ending = failures.run_error(error, session.paths.boxes.parent)
        if ending is not None:
            raise ending from None
        session.paths.remove()
        return Done(session.name, session.source, session.paths, error=error, fused=True)


def _fused(session: Session, good: Sequence[Done], opened: Opened, settings: Settings) -> FusedDetection:
    job_of = {job.name: job for job in session.jobs}
    if len({job_of[done.name].contrast for done in good}) < 2:
        raise NothingToFuseError("the other contrasts failed")
    parts = [done.part or _detected(job_of[done.name], opened, settings) for done in good]
    return fuse_parts(parts, settings.postprocess, opened.calibration)


def _paths(session: Session, part: Part) -> ResultFiles:
    return next(job.paths for job in session.jobs if job.name == part.name)


def _detected(job: Job, opened: Opened, settings: Settings) -> Part:
    """The detection of a scan whose result is there already."""
    found = detect_scan(opened.model, job.read(), settings.postprocess, opened.calibration)
    warnings = detection_warnings(found, opened.model.about.preprocess.contrast, opened.reference)
    return Part(job.name, found, tuple(warnings))
