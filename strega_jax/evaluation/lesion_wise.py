"""Lesion-wise Dice as BraTS 2023 ranks by it: every lesion counts alike, whatever its size.

The definition is that of the challenge for gliomas, whole tumour: Synapse syn51156910, discussion thread 10357, and the
organisers' github.com/rachitsaluja/BraTS-2023-Metrics.
"""

import math

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_erosion

# Three dilations with the 18-neighbourhood at 1 mm reach 3 mm along each axis, and 6 mm along all three together.
REACH_MM, SUM_MM = 3.0, 6.0
# Lesions of this volume and less are left out of the mean.
MIN_LESION_MM3 = 50.0
# Spacings in headers are rounded.
TOLERANCE_MM = 1e-3


def lesion_wise_dice(
    mask: Bool[np.ndarray, "x y z"], truth: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> float:
    """Mean Dice over lesions and false positives.

    Parts of the reference segmentation whose dilations touch (26-connectivity) are one lesion. Its Dice is that of its
    own, undilated voxels with all 26-connected components of the mask that overlap its dilation, each of them whole; a
    component may belong to several lesions. A component that overlaps no dilated lesion is a false positive and counts
    as 0, whatever its size. Lesions of 50 mm³ and less are left out; what overlaps their dilation is not false.

    The challenge's images are of 1 mm, where this is its definition to the voxel. On other grids volumes are in mm³, as
    there, and the dilation is the same body in mm: offsets of up to 3 mm along each axis and 6 mm in their sum. Voxels
    longer than 3 mm are not dilated along their length.

    Args:
        mask: what the detector marks.
        truth: what the expert marks.
        spacing_mm: voxel edge lengths.

    Returns:
        0 to 1; NaN for an empty reference segmentation, as all metrics here (the challenge: 1 without detections, else
        0), and where all lesions are left out and no component is false (the challenge: 1).
    """
    if not truth.any():
        return math.nan
    grown = cc3d.connected_components(dilate(truth, spacing_mm), connectivity=26)
    marks, mark_count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    mark_sizes, near = np.bincount(marks.reshape(-1)), (grown > 0) & mask
    pairs = np.unique(grown[near].astype(np.int64) * (mark_count + 1) + marks[near])
    lesion, mark = np.divmod(pairs, mark_count + 1)
    size, hits = (np.bincount(grown[voxels], minlength=int(grown.max()) + 1) for voxels in (truth, truth & mask))
    marked = np.bincount(lesion, weights=mark_sizes[mark], minlength=size.size)
    counted = size * math.prod(spacing_mm) > MIN_LESION_MM3
    entries = int(counted.sum()) + mark_count - np.unique(mark).size
    return float((2 * hits / np.maximum(size + marked, 1))[counted].sum() / entries) if entries else math.nan


def dilate(mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> Bool[np.ndarray, "x y z"]:
    """The mask and all voxels within `REACH_MM` along each axis and `SUM_MM` in the sum over axes."""
    offsets = _offsets(spacing_mm)
    margin = offsets.max(axis=0)
    padded = np.ascontiguousarray(np.pad(mask, [(int(n), int(n)) for n in margin]))
    # A path along the axes from any voxel to one outside leaves the mask at a voxel of its surface.
    surface = np.flatnonzero(padded & np.logical_not(binary_erosion(padded)))
    for step in offsets @ np.array(padded.strides):  # a voxel is a byte
        padded.reshape(-1)[surface + step] = True
    return padded[tuple(slice(int(n), int(n) + side) for n, side in zip(margin, mask.shape, strict=True))]


def _offsets(spacing_mm: tuple[float, float, float]) -> Int[np.ndarray, "n 3"]:
    """The voxels of the dilation around its centre."""
    spacing: Float[np.ndarray, " 3"] = np.asarray(spacing_mm, float)
    reach = np.floor((REACH_MM + TOLERANCE_MM) / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    return offsets[(np.abs(offsets) * spacing).sum(axis=1) <= SUM_MM + TOLERANCE_MM]
