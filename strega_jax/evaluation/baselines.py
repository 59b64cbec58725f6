"""What needs no training: the tissue map's classes, and an intensity threshold."""

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.scans.scan import Scan
from strega_jax.tissue import TissueMap

CLASSES = ("CSF", "GM", "WM")
# Meissen et al. 2021: intensities equalised over the brain, the brightest tenth marked.
INTENSITY_SHARE = 0.1


def class_masks(tissue: TissueMap) -> dict[str, Bool[np.ndarray, "x y z"]]:
    """Each tissue class taken as the anomaly (paper, sec. 4.2 does so with CSF)."""
    return {f"tissue class {name}": tissue.pveseg == label for label, name in enumerate(CLASSES, start=1)}


def equalised_intensity(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Histogram-equalised intensity: a voxel's rank among the brain's, in (0, 1]; 0 outside the brain."""
    inside = scan.data[brain]
    ranks = np.searchsorted(np.sort(inside), inside, side="right") / inside.size
    score = np.zeros(scan.data.shape, np.float32)
    score[brain] = ranks
    return score


def bright_mask(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The brightest `INTENSITY_SHARE` of the brain."""
    return equalised_intensity(scan, brain) > 1 - INTENSITY_SHARE
