"""The one door for scans: whatever a user calls a scan → an image, its contrast, and its brain alone.

Every command and the API come through `open_scan`, so that one file gives one answer wherever it enters; but a whole
head in a session takes the brain that another contrast lends.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from absl import logging
from jaxtyping import Bool

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.background import remove_background
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import case_of_file, case_of_series
from strega_jax.scans.contrast import require_contrast
from strega_jax.scans.extraction import INSTALL, METHODS, already_extracted, extract_brain, installed_method
from strega_jax.scans.files import file_sha256
from strega_jax.scans.geometry import check_geometry
from strega_jax.scans.options import AUTO, BRAIN_HELP, GIVEN
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.scans.stripped import WAY_OUT, why_not_extracted

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series

PathLike = str | os.PathLike[str]
Source = TypeVar("Source")
# Contrasts whose brain the other scans of a session take, the first there is.
LENDING = ("T1w", "T1ce")


def open_scan(
    source: "PathLike | Case | Series",
    contrast: str = "",
    brain: PathLike = AUTO,
    lender: "PathLike | Case | Series | None" = None,
) -> Scan:
    """Read one scan, find out its contrast and cut out its brain.

    The contrast is the one asked for, else what the file's name or BIDS entities say, else what the DICOM header says,
    else unknown (empty).

    Args:
        source: an image file, the folder of one DICOM series, a `Case` of `find_cases`, or a `Series`.
        contrast: MR contrast, where it is known better than its name tells.
        brain: `auto`, `given`, a key of `extraction.METHODS`, or a brain mask; see `options.BRAIN_HELP`.
        lender: a scan of the same session, see `choose_lender`: of a whole head its brain is moved here, where that can
            be done, and none is extracted.

    Returns:
        The scan, 0 outside the brain.

    Raises:
        ScanError: the scan or its brain mask cannot be read, or they lie on different voxel grids; a whole head in
            which no brain is found, or without anything installed that could.
        ConfigError: an unknown contrast, a brain mask that does not exist, or a method that is not installed.
    """
    chosen = require_contrast(contrast) if contrast else ""
    case = _case_of(source)
    scan = _read(case)
    scan = dataclasses.replace(scan, contrast=chosen or case.contrast)
    find = functools.partial(_brain_of, case, None if lender is None else _case_of(lender), scan)
    if os.fspath(brain) == GIVEN:
        return dataclasses.replace(scan, data=remove_background(scan.data), brain=GIVEN)
    if os.fspath(brain) in METHODS:
        method = os.fspath(brain)
        return dataclasses.replace(scan, data=remove_background(scan.data, find(method)), brain=method)
    mask = case.brain if os.fspath(brain) == AUTO else mask_for(scan.path, Path(brain))
    return _auto(scan, find) if mask is None else cut_out(scan, mask)


def choose_lender(contrasts: Mapping[Any, Source]) -> Source | None:
    """Of the scans of one session, by contrast, the one whose brain the others take; None: each has its own."""
    return next((contrasts[name] for name in LENDING if name in contrasts), None)


def mask_for(scan: Path, brain: Path) -> Path:
    """The brain mask that `--brain=PATH` means for a scan: the file, or the file of the scan's name in the folder.

    Raises:
        ConfigError: there is no such file or folder.
        ScanError: the folder has no mask for this scan.
    """
    if brain.is_file():
        return brain
    if not brain.is_dir():
        raise ConfigError(f"--brain={brain}: no such file or folder; {BRAIN_HELP}")
    mask = brain / scan.name
    if not mask.is_file():
        raise ScanError(f"{scan}: no brain mask {mask.name} in {brain}; add it, or leave the scan out")
    return mask


def cut_out(scan: Scan, mask: Path) -> Scan:
    """The scan, 0 where the brain mask in the file `mask` is 0 and above 0 elsewhere.

    Raises:
        ScanError: the mask cannot be read, is empty, or lies on another voxel grid.
    """
    volume = read_scan(mask, allow_constant=True)
    check_geometry(scan, volume)
    inside = volume.data > 0
    if not inside.any():
        raise ScanError(f"{mask}: an empty brain mask; give the brain's")
    return dataclasses.replace(scan, data=remove_background(scan.data, inside), brain=mask.name)


def told_contrast(scan: Scan, trained: str) -> str:
    """The contrast to read a scan as: its own, or the training contrast with a warning where nothing tells it."""
    if not scan.contrast:
        logging.warning("%s: nothing tells its contrast; read as %s. Name it with --contrast", scan.path, trained)
    return scan.contrast or trained


def scan_files(case: Case, brain: PathLike = AUTO) -> Sequence[Path]:
    """The files that a case's scan is made of, its brain mask included."""
    mask = case.brain if os.fspath(brain) == AUTO else None
    if os.fspath(brain) not in (AUTO, GIVEN, *METHODS):
        mask = mask_for(case.image, Path(brain))
    return (*case.files, *([mask] if mask else ()))


def scan_digest(case: Case, brain: PathLike = AUTO, lender: Case | None = None) -> str:
    """A text that changes with the files of a scan, its brain mask, and how and where its brain is to be found."""
    # A missing file is the reader's to tell of.
    files = [*scan_files(case, brain)]
    if lender is not None and lender != case and os.fspath(brain) in (AUTO, *METHODS):
        files += lender.files
    parts = [file_sha256(path) for path in files if path.is_file()]
    parts += [os.fspath(brain)] if os.fspath(brain) in (GIVEN, *METHODS) else []
    return parts[0] if len(parts) == 1 else hashlib.sha256("+".join(parts).encode()).hexdigest()


def _case_of(source: "PathLike | Case | Series") -> Case:
    if isinstance(source, Case):
        return source
    if not isinstance(source, str | os.PathLike):
        return case_of_series(source)
    if Path(source).is_dir():
        from strega_jax.scans.dicom import one_series

        return case_of_series(one_series(Path(source)))
    return case_of_file(Path(source))


def _read(case: Case) -> Scan:
    if case.series is None:
        return read_scan(case.image)
    from strega_jax.scans.dicom import read_series

    return read_series(case.series)


def _brain_of(case: Case, lender: Case | None, scan: Scan, method: str) -> Bool[np.ndarray, "x y z"]:
    """The brain of a whole head: the lender's, moved to it, else what `method` finds."""
    if lender is not None:
        from strega_jax.scans.mask_transfer import move_mask  # much of SciPy that few scans need

        try:
            whole, brain = _lent(lender, method, scan_digest(lender))
            return brain if lender == case else move_mask(brain, whole, scan)
        except ScanError as error:
            logging.warning("%s: the brain of %s is of no use for it: %s", scan.path, lender.name, error)
    return extract_brain(scan, method)


@functools.lru_cache(maxsize=1)  # the scans of a session follow one another
def _lent(lender: Case, method: str, _digest: str) -> tuple[Scan, Bool[np.ndarray, "x y z"]]:
    """The lender's image, the skull on, and its brain."""
    scan = _read(lender)
    return scan, extract_brain(scan, method)


def _auto(scan: Scan, find: Callable[[str], Bool[np.ndarray, "x y z"]]) -> Scan:
    """The scan as it is where it is brain-extracted, else the brain that is found with the first method installed."""
    scan = dataclasses.replace(scan, data=remove_background(scan.data))
    reason = why_not_extracted(scan.data, scan.spacing_mm)
    if not reason:
        return scan
    method = installed_method()
    if not method:
        raise ScanError(
            f"{scan.path}: the image does not look brain-extracted: {reason}. For whole heads: {INSTALL}; or {WAY_OUT}"
        )
    brain = find(method)
    if already_extracted(scan, brain):
        logging.info("%s: %s, yet there is no skull in it; taken as it is", scan.path, reason)
        return dataclasses.replace(scan, brain=GIVEN)
    logging.info("%s: a whole head (%s); its brain was extracted with %s", scan.path, reason, method)
    return dataclasses.replace(scan, data=remove_background(scan.data, brain), brain=method)
