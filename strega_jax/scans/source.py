"""The one door for scans: whatever a user calls a scan → an image, its contrast, and its brain alone.

Every command and the API come through `open_scan`, so that one file gives one answer wherever it enters.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from jaxtyping import Bool, Float

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import case_of_file
from strega_jax.scans.contrast import require_contrast
from strega_jax.scans.geometry import check_geometry
from strega_jax.scans.scan import Scan, read_scan

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series

PathLike = str | os.PathLike[str]
AUTO, GIVEN = "auto", "given"
BRAIN_HELP = (
    "Where the brain is: auto (a brain mask beside the scan, else the image if it is brain-extracted), given (the "
    "image is brain-extracted; do not check), or the PATH of a brain mask, or of a folder of brain masks with the "
    "scans' file names."
)


def open_scan(source: "PathLike | Case | Series", contrast: str = "", brain: PathLike = AUTO) -> Scan:
    """Read one scan, find out its contrast and cut out its brain.

    The contrast is the one asked for, else what the file's name or BIDS entities say, else what the DICOM header says,
    else unknown (empty).

    Args:
        source: an image file, the folder of one DICOM series, a `Case` of `find_cases`, or a `Series`.
        contrast: MR contrast, where it is known better than its name tells.
        brain: `auto`, `given`, or a brain mask; see `BRAIN_HELP`.

    Returns:
        The scan, 0 outside the brain.

    Raises:
        ScanError: the scan or its brain mask cannot be read, or they lie on different voxel grids.
        ConfigError: an unknown contrast, or a brain mask that does not exist.
    """
    chosen = require_contrast(contrast) if contrast else ""
    if isinstance(source, str | os.PathLike):
        source = _found(Path(source))
    if isinstance(source, Case):
        scan, told, beside = read_scan(source.image), source.contrast, source.brain
    else:
        from strega_jax.scans.dicom import read_series

        scan, told, beside = read_series(source), source.contrast, None
    scan = dataclasses.replace(scan, contrast=chosen or told)
    if os.fspath(brain) == GIVEN:
        return dataclasses.replace(scan, brain=GIVEN)
    mask = beside if os.fspath(brain) == AUTO else mask_for(scan.path, Path(brain))
    return scan if mask is None else cut_out(scan, mask)


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
    return dataclasses.replace(scan, data=_cut(scan.data, inside), brain=mask.name)


def told_contrast(scan: Scan, trained: str) -> str:
    """The contrast to read a scan as: its own, or the training contrast with a warning where nothing tells it."""
    if not scan.contrast:
        logging.warning("%s: nothing tells its contrast; read as %s. Name it with --contrast", scan.path, trained)
    return scan.contrast or trained


def scan_files(case: Case, brain: PathLike = AUTO) -> Sequence[Path]:
    """The files that a case's scan is made of, its brain mask included."""
    mask = case.brain if os.fspath(brain) == AUTO else None
    if os.fspath(brain) not in (AUTO, GIVEN):
        mask = mask_for(case.image, Path(brain))
    return (case.image, *([mask] if mask else ()))


def _found(path: Path) -> "Case | Series":
    if path.is_dir():
        from strega_jax.scans.dicom import one_series

        return one_series(path)
    return case_of_file(path)


def _cut(image: Float[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    brain = image[inside]
    if brain.min() < 0:  # z-scored: 0 must mean background, and nothing else
        step = np.float32((brain.max() - brain.min()) * 1e-3)
        image = image - brain.min() + step
    return np.where(inside, image, np.float32(0)).astype(np.float32)
