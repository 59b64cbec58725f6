"""A cohort of scans → a slice store: idempotent, in parallel, past bad scans.

Training scans may be stored a second time, rendered in other contrasts (`slices.rendering`) and segmented as a scan of
that contrast would be: what a segmentation makes of T2w or FLAIR cannot be drawn on the segmentation of a T1w scan.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from strega_jax.config import Preprocess, settings_hash
from strega_jax.errors import ConfigError, ScanError, StoreError
from strega_jax.failures import Failures
from strega_jax.pipeline import in_threads
from strega_jax.scans.case import Case
from strega_jax.scans.looks import LOOKS, check_renderable
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import AUTO, PathLike, open_scan, scan_digest
from strega_jax.scans.splits import SplitRule, share_of
from strega_jax.slices import store as slice_store
from strega_jax.slices.preprocess import preprocess
from strega_jax.slices.rendering import render_contrasts

log = logging.getLogger(__name__)

# Renderings belong to the data, not to a run: trainings with other seeds see the same ones.
RENDERING_SEED = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `prepare_cohort` did."""

    prepared: int
    skipped: int  # were there already, made with the same settings from the same file
    failures: tuple[str, ...]  # one message a failed scan
    others: int = 0  # scans of other cohorts in the store
    removed: int = 0  # renderings that were in the store and are not asked for any more

    def describe(self, output: Path) -> str:
        """The outcome in words, for the terminal."""
        head = f"{output}: {self.prepared} prepared, {self.skipped} up to date, {len(self.failures)} failed"
        if self.others:
            head += f"; {self.others} other scans were there and stay"
        if self.removed:
            head += f"; renderings that are not asked for any more and were deleted: {self.removed}"
        return "\n".join([head, *(f"  failed: {message}" for message in self.failures)])


def prepare_cohort(
    cases: Sequence[Case],
    splits: Mapping[str, str],
    output: Path,
    settings: Preprocess,
    *,
    rule: SplitRule | None = None,
    rendered: Sequence[str] = (),
    workers: int = 2,
    brain: PathLike = AUTO,
    process_index: int = 0,
    process_count: int = 1,
) -> Outcome:
    """Prepare every scan of a cohort, beside those of other cohorts that a store holds, and seal the store.

    Scans are read and written by `workers` threads while the device computes. Of several processes each
    takes its share of the subjects and seals the store when it is done: wait for all of them before you open it.

    Args:
        cases: the scans.
        splits: split of each subject.
        output: folder of the store, made if need be.
        settings: preprocessing.
        rule: that `splits` follows where no table gives them; kept in the store.
        rendered: contrasts that T1w scans of the split `train` are rendered in, to be stored beside them.
        workers: threads.
        brain: where the brain is, as `open_scan` takes it.
        process_index: of this process.
        process_count: of all.

    Raises:
        StoreError: the store holds scans of other cohorts that were prepared with other settings or split otherwise.
        ConfigError: a contrast that cannot be rendered, or scans that are not T1w to render from.
        StregaError: what no scan can be blamed for, such as a full disk; see `failures.run_error`.
    """
    rule = rule or SplitRule()
    check_renderable(rendered)
    if rendered and settings.contrast != "T1w":
        raise ConfigError(
            f"config.data.rendered asks to render T1w scans, but config.preprocess.contrast is {settings.contrast}; "
            "set --config.data.rendered='()'"
        )
    (output / "scans").mkdir(parents=True, exist_ok=True)
    names = {name for case in cases for name in _names(case.name)}
    _count_others(output, settings, rule, names)
    mine = share_of(cases, process_index, process_count)
    made: dict[str, tuple[bool, int]] = {}
    failures = Failures(output)

    def update(case: Case) -> tuple[bool, int]:
        split = splits[case.subject]
        return _update(case, split, output, settings, brain, rendered if split == "train" else ())

    for case, done, error in tqdm(in_threads(mine, update, workers), total=len(mine), desc="preparing", unit="scan"):
        if error is None:
            made[case.name] = done
        else:
            log.error("%s", failures.add(case.image, error))
    # Those that failed may still change; what was made of the others is theirs.
    of_made = {name for scan in made for name in _names(scan)}
    others = _count_others(output, settings, rule, names - of_made) - len(of_made & slice_store.entry_names(output))
    if made or others:
        slice_store.write_manifest(output, settings, rule)
    prepared, removed = sum(anew for anew, _ in made.values()), sum(number for _, number in made.values())
    return Outcome(prepared, len(made) - prepared, tuple(failures.messages), others, removed)


def _names(scan: str) -> dict[str, str | None]:
    """What a scan and its renderings are called in the store → contrast it is rendered in; None: as it is."""
    return {scan: None} | {f"{scan}_as-{contrast}": contrast for contrast in LOOKS}


def _count_others(output: Path, settings: Preprocess, rule: SplitRule, changing: set[str]) -> int:
    """How many scans the store holds beside those that may still change. All must go with these settings."""
    manifest = slice_store.read_manifest(output)
    entries = [slice_store.read_entry(output, name) for name in sorted(slice_store.entry_names(output) - changing)]
    others = [entry for entry in entries if entry is not None]
    odd = [entry.name for entry in others if entry.settings_hash != settings_hash(settings)]
    if odd:
        raise StoreError(
            f"{output}: holds {len(odd)} other scans, such as {odd[0]}, that were prepared with other settings; "
            "prepare into another store, or delete them"
        )
    if manifest is None or manifest in ((settings, rule), (settings, None)):
        return len(others)
    if others and manifest[1] != rule:
        raise StoreError(
            f"{output}: the subjects of its {len(others)} other scans were split by {manifest[1]}, these by {rule}; "
            "prepare into another store, or split alike"
        )
    # Until all are prepared anew, or split anew, there is nothing to open.
    (output / slice_store.MANIFEST).unlink(missing_ok=True)
    return len(others)


def _update(
    case: Case, split: str, output: Path, settings: Preprocess, brain: PathLike, rendered: Sequence[str]
) -> tuple[bool, int]:
    """Prepare one scan and its renderings unless they are up to date.

    Returns:
        Whether anything had to be prepared, and how many renderings were deleted that are not wanted any more.
    """
    digest = settings_hash(settings)
    possible = _names(case.name)
    wanted = {name: contrast for name, contrast in possible.items() if contrast is None or contrast in rendered}
    entry = slice_store.read_entry(output, case.name)
    try:
        source_sha256 = scan_digest(case, brain)
    except (ScanError, OSError):
        if entry and entry.cohort == case.cohort:  # what was made of it is out of date
            _remove(output, possible)
        raise
    if entry and entry.cohort != case.cohort and entry.source_sha256 != source_sha256:
        raise ScanError(
            f"{case.image}: {output} holds another scan called {case.name}, of {entry.cohort}; prepare into another "
            "store, or rename the subject"
        )
    removed = sum(slice_store.delete_scan(output, name) for name in possible.keys() - wanted.keys())
    stale: dict[str, str | None] = {}
    for name, contrast in wanted.items():
        entry = slice_store.read_entry(output, name)
        if entry is None or (entry.settings_hash, entry.source_sha256) != (digest, source_sha256):
            stale[name] = contrast
        elif entry.split != split:
            slice_store.write_entry(output, dataclasses.replace(entry, split=split))
    if not stale:
        return False, removed
    _remove(output, stale)
    scan = open_scan(case, brain=brain)
    contrasts = tuple(contrast for contrast in stale.values() if contrast)
    images: dict[str, Scan] = render_contrasts(scan, contrasts, RENDERING_SEED) if contrasts else {}
    # All before any is written: a scan that fails in one contrast is not half in the store.
    volumes = {name: preprocess(images[contrast] if contrast else scan, settings) for name, contrast in stale.items()}
    for name, contrast in stale.items():
        volume = volumes[name]
        tissue_ml = tuple(float(volume.tissue.pve[..., c].sum()) * scan.voxel_ml for c in range(3))
        slice_store.write_scan(
            output,
            volume,
            name=name,
            cohort=case.cohort,
            subject=case.subject,
            session=case.session,
            contrast=contrast or case.contrast,
            split=split,
            source=case.image.name,
            source_sha256=source_sha256,
            spacing_mm=scan.spacing_mm,
            grid_spacing_mm=volume.grid.spacing_mm(scan),
            tissue_ml=tissue_ml,
            settings_hash=digest,
            rendered=contrast is not None,
        )
    return True, removed


def _remove(output: Path, names: Iterable[str]) -> None:
    for name in names:
        slice_store.remove_entry(output, name)
