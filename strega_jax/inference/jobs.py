"""What there is to do: found scans → jobs for `batch.detect_all`."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from strega_jax.inference.batch import Job
from strega_jax.output.files import ResultFiles, result_files
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import session_names
from strega_jax.scans.source import AUTO, PathLike, choose_lender, open_scan, scan_digest


def make_jobs(
    cases: Sequence[Case],
    output: Path,
    brain: PathLike = AUTO,
    paths: Callable[[Path, Case], ResultFiles] | None = None,
    segmentation: bool = False,
) -> list[Job]:
    """One job for each scan.

    Args:
        cases: the scans.
        output: folder of the results.
        brain: where their brains are, as `open_scan` takes it.
        paths: where a case's results go; default: by its name, directly in `output`.
        segmentation: write the masks of DICOM series as DICOM SEG, too.
    """
    names = session_names(cases)
    sessions: dict[tuple[str, str, str], dict[str, Case]] = {}
    for case in cases:
        sessions.setdefault(case.date, {}).setdefault(case.contrast, case)

    def lender(case: Case) -> Case | None:
        chosen = choose_lender(sessions[case.date]) if names[case.date] else None
        return None if chosen is None or (chosen.contrast == case.contrast and chosen != case) else chosen

    return [
        Job(
            name=case.name,
            read=functools.partial(open_scan, case, brain=brain, lender=lender(case)),
            digest=functools.partial(scan_digest, case, brain, lender(case)),
            source=case.image,
            paths=paths(output, case) if paths else result_files(output, case.name),
            contrast=case.contrast,
            series=case.series if segmentation else None,
            session=names[case.date],
        )
        for case in cases
    ]
