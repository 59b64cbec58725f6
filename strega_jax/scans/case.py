"""One image of a cohort, with what the cohort says of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from strega_jax.scans.geometry import check_geometry
from strega_jax.scans.scan import Scan, read_scan

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series


@dataclasses.dataclass(frozen=True)
class Case:
    """One image of one subject at one date, with its lesion label if there is one.

    Attributes:
        cohort: name of the data set (for BIDS the folder that holds the `sub-*` folders).
        subject: `sub-…`, as in `participants.tsv`.
        session: `ses-…`, or empty.
        contrast: T1w, T1ce, T2w, FLAIR, PD, or empty where the file's name does not tell.
        image: the scan.
        mask: its lesion label map (label > 0 is lesion), or None.
        name: unique within one search, fit for file names, e.g. `sub-gbm01_ses-pre_T1ce`.
        healthy: True where the cohort vouches for it, False where it is a patient, None where nobody says.
        brain: brain mask that the data set brings along, or None.
        series: the DICOM series that it is, or None; `image` is then its folder.
    """

    cohort: str
    subject: str
    session: str
    contrast: str
    image: Path
    mask: Path | None
    name: str
    healthy: bool | None = None
    brain: Path | None = None
    series: "Series | None" = None

    @property
    def date(self) -> tuple[str, str, str]:
        """Equal for the scans of one subject at one date."""
        return self.cohort, self.subject, self.session

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of its image."""
        return self.series.files if self.series else (self.image,)


def read_truth(case: Case, scan: Scan) -> Bool[np.ndarray, "x y z"]:
    """The lesion label (label > 0) on the canonical grid of `scan`, which must be the case's image.

    A case without a label map, or with an empty one, has no lesion: all False.

    Raises:
        ScanError: the label map cannot be read or lies on another voxel grid.
    """
    if case.mask is None:
        return np.zeros(scan.data.shape, bool)
    label = read_scan(case.mask, allow_constant=True)
    check_geometry(scan, label)
    return label.data > 0
