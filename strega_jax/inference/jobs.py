"""What there is to do: found scans → jobs for `batch.detect_all`."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from strega_jax.detection.found import Detection
from strega_jax.inference.batch import Job
from strega_jax.output.write import Written, output_paths
from strega_jax.scans.case import Case
from strega_jax.scans.source import AUTO, PathLike, open_scan, scan_files


def nifti_jobs(
    cases: Sequence[Case],
    output: Path,
    contrast: str = "",
    brain: PathLike = AUTO,
    paths: Callable[[Path, Case], Written] | None = None,
) -> list[Job]:
    """One job for each scan.

    Args:
        cases: the scans.
        output: folder of the results.
        contrast: of all scans, where it is known; else as each case says.
        brain: where their brains are, as `open_scan` takes it.
        paths: where a case's results go; default: by its name, directly in `output`.
    """
    return [
        Job(
            name=case.name,
            read=functools.partial(open_scan, case, contrast, brain),
            digest=functools.partial(_digest, case, brain),
            paths=paths(output, case) if paths else output_paths(output, case.name),
            contrast=contrast or case.contrast,
        )
        for case in cases
    ]


def dicom_jobs(source: Path, output: Path, contrast: str, segmentation: bool, brain: PathLike = AUTO) -> list[Job]:
    """One job for each DICOM series below a folder; with `segmentation`, its mask as a DICOM SEG as well."""
    from strega_jax.scans.dicom import Series, find_series

    def write_seg(series: Series, path: Path, detection: Detection, source: str) -> None:
        from strega_jax.output.dicom_seg import write_segmentation

        write_segmentation(path, detection, series, source)

    return [
        Job(
            name=series.name,
            read=functools.partial(open_scan, series, contrast, brain),
            digest=functools.partial(_sha256, series.files),
            paths=output_paths(output, series.name),
            contrast=contrast or series.contrast,
            after=functools.partial(write_seg, series, output / f"{series.name}_seg.dcm") if segmentation else None,
        )
        for series in find_series(source)
    ]


def _digest(case: Case, brain: PathLike) -> str:
    return _sha256(scan_files(case, brain))


def _sha256(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        # A missing file is the reader's to tell of.
        if path.is_file():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
