"""A cohort of scans → a slice store: idempotent, in parallel, past bad scans."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from strega_jax.config import Preprocess, settings_hash
from strega_jax.errors import ScanError
from strega_jax.scans.case import Case
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import AUTO, PathLike, open_scan, scan_files
from strega_jax.slices import store as slice_store
from strega_jax.slices.preprocess import preprocess

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `prepare_cohort` did."""

    prepared: int
    skipped: int  # were there already, made with the same settings from the same file
    failures: tuple[str, ...]  # one message a failed scan

    def describe(self, output: Path) -> str:
        """The outcome in words, for the terminal."""
        head = f"{output}: {self.prepared} prepared, {self.skipped} up to date, {len(self.failures)} failed"
        return "\n".join([head, *(f"  failed: {message}" for message in self.failures)])


def prepare_cohort(
    cases: Sequence[Case],
    splits: Mapping[str, str],
    output: Path,
    settings: Preprocess,
    *,
    workers: int = 2,
    brain: PathLike = AUTO,
    process_index: int = 0,
    process_count: int = 1,
) -> Outcome:
    """Prepare every scan of a cohort and seal the store with a manifest.

    Scans are read and written by `workers` threads while the device computes. Of several processes each
    takes its share of the subjects; every one ends by sealing all that is complete, so that the manifest of
    the last to finish lists everything.

    Args:
        cases: the scans.
        splits: split of each subject.
        output: folder of the store, made if need be.
        settings: preprocessing.
        workers: threads.
        brain: where the brain is, as `open_scan` takes it.
        process_index: of this process.
        process_count: of all.
    """
    (output / "scans").mkdir(parents=True, exist_ok=True)
    digest = settings_hash(settings)
    subjects = sorted({case.subject for case in cases})[process_index::process_count]
    mine = [case for case in cases if case.subject in set(subjects)]
    prepared, skipped, failures = 0, 0, []

    def one(case: Case) -> bool:
        source_sha256 = "+".join(slice_store.file_sha256(path) for path in scan_files(case, brain))
        entry = slice_store.read_entry(output, case.name)
        if entry and (entry.settings_hash, entry.source_sha256) == (digest, source_sha256):
            if entry.split != splits[case.subject]:
                entry = dataclasses.replace(entry, split=splits[case.subject])
                slice_store.write_entry(output, entry)
            return False
        scan = open_scan(case, brain=brain)
        _prepare(case, scan, splits[case.subject], output, settings, digest, source_sha256)
        return True

    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(one, case): case for case in mine}
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="preparing", unit="scan"):
            try:
                made = job.result()
                prepared, skipped = prepared + made, skipped + (not made)
            except (ScanError, OSError) as error:
                failures.append(str(error))
                log.error("%s", error)
    entries = [slice_store.read_entry(output, case.name) for case in cases]
    complete = [entry for entry in entries if entry is not None and entry.settings_hash == digest]
    if complete:
        slice_store.write_manifest(output, settings, complete)
    return Outcome(prepared, skipped, tuple(failures))


def _prepare(
    case: Case,
    scan: Scan,
    split: str,
    output: Path,
    settings: Preprocess,
    digest: str,
    source_sha256: str,
) -> None:
    volume = preprocess(scan, settings)
    tissue_ml = tuple(float(volume.tissue.pve[..., c].sum()) * scan.voxel_ml for c in range(3))
    slice_store.write_scan(
        output,
        volume,
        name=case.name,
        cohort=case.cohort,
        subject=case.subject,
        session=case.session,
        contrast=case.contrast,
        split=split,
        source=case.image.name,
        source_sha256=source_sha256,
        spacing_mm=scan.spacing_mm,
        grid_spacing_mm=volume.grid.spacing_mm(scan),
        tissue_ml=tissue_ml,
        settings_hash=digest,
    )
