"""The part of an anomaly that takes up contrast agent, in T1ce: brighter than white matter ever is.

The settings were chosen on the T1ce scans of 11 patients, six with glioblastoma in slices of 6.5 mm at two dates each
and five of BraTS at 1 mm, whose experts outlined what enhances; see docs/predict.md. Growing the label out of the mask
made it worse: vessels and dura came in.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from strega_jax.boxes import bounding_box
from strega_jax.errors import ScanError
from strega_jax.postprocess.morphology import drop_small_volumes
from strega_jax.tissue import TissueMap

ANOMALY, ENHANCING = 1, 2  # labels of `label_regions`
# How far beyond the median of white matter, as a share of the distance from that of fluid; 0.1 to 0.2 do as well.
BEYOND_WHITE = 0.15
# Dura and the vessels on the brain enhance in everybody: this much of its edge is left out.
EDGE_MM = 4.0
SMALLEST_ML = 0.1


def enhancing(
    image: Float[np.ndarray, "x y z"],
    tissue: TissueMap,
    mask: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
) -> Bool[np.ndarray, "x y z"]:
    """The voxels of an anomaly mask that take up contrast agent.

    Brighter than white matter once the bias field is divided out, not at the brain's edge; specks dropped.

    Args:
        image: T1ce intensities in any unit.
        tissue: the scan's tissue map, on the same grid.
        mask: what is anomalous, from whichever contrast, on the same grid.
        spacing_mm: voxel edge lengths.

    Returns:
        A part of `mask`.

    Raises:
        ScanError: fluid is not darker than white matter beside the mask.
    """
    marked = np.zeros(mask.shape, bool)
    around = _widened(tissue.seg > 0, spacing_mm)  # much of an image is not brain
    if around is not None:
        marked[around] = _enhancing(image[around], tissue.part(around), mask[around], spacing_mm)
    return marked


def _enhancing(
    image: Float[np.ndarray, "x y z"],
    tissue: TissueMap,
    mask: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
) -> Bool[np.ndarray, "x y z"]:
    marked = np.zeros(mask.shape, bool)
    box = _widened(mask, spacing_mm)
    if box is None:
        return marked
    beyond = beyond_white(image, tissue, mask)[box]
    brain = tissue.seg[box] > 0
    # The image's own faces are no edge of the brain: what lies beyond them was not seen.
    deep = brain if brain.all() else _depth_mm(brain, spacing_mm) > EDGE_MM
    bright = mask[box] & deep & (beyond > BEYOND_WHITE)
    marked[box] = drop_small_volumes(bright, SMALLEST_ML * 1000 / math.prod(spacing_mm))
    return marked


def label_regions(mask: Bool[np.ndarray, "x y z"], part: Bool[np.ndarray, "x y z"]) -> UInt8[np.ndarray, "x y z"]:
    """Labels: 0 background, 1 anomaly, 2 what of it enhances (`part`)."""
    labels = mask.astype(np.uint8) * np.uint8(ANOMALY)
    labels[mask & part] = ENHANCING
    return labels


def beyond_white(
    image: Float[np.ndarray, "x y z"], tissue: TissueMap, mask: Bool[np.ndarray, "x y z"]
) -> Float[np.ndarray, "x y z"]:
    """Bias-corrected intensities on a scale where the median of white matter is 0 and that of fluid −1.

    The medians are those of the classes outside `mask`: a bright rim is taken for white matter by the segmentation.

    Raises:
        ScanError: fluid is not darker than white matter.
    """
    brain = tissue.seg > 0
    # The field was estimated on the intensities that were segmented: linear in the image between two ends, beyond
    # which they were clipped. What is brighter than all that was segmented is what is looked for.
    segmented = (tissue.restored * tissue.bias)[brain]
    dark, bright = float(segmented.min()), float(segmented.max())
    rounding = 1e-4 * (bright - dark)
    low = float(image[brain][segmented <= dark + rounding].max())
    high = float(image[brain][segmented >= bright - rounding].min())
    slope = np.float32((bright - dark) / max(high - low, 1e-6))
    restored = np.where(brain, (np.float32(dark) + (image - np.float32(low)) * slope) / tissue.bias, np.float32(0))
    fluid, white = (_median(restored, tissue.pveseg == label, mask) for label in (1, 3))
    if not fluid < white:
        raise ScanError("its fluid is not darker than its white matter; is it a T1ce?")
    return (restored - np.float32(white)) / np.float32(white - fluid)


def _median(
    image: Float[np.ndarray, "x y z"], tissue: Bool[np.ndarray, "x y z"], mask: Bool[np.ndarray, "x y z"]
) -> float:
    """Of a tissue outside the mask, or of all of it where the mask leaves none."""
    outside = tissue & ~mask
    chosen = image[outside if outside.any() else tissue]
    return float(np.median(chosen)) if chosen.size else math.nan


def _widened(mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> tuple[slice, ...] | None:
    """The mask's box with as much around it as decides what is near the brain's edge."""
    box = bounding_box(mask)
    if box is None:
        return None
    margins = [math.ceil(EDGE_MM / edge) + 1 for edge in spacing_mm]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margins, strict=True))


def _depth_mm(mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> Float[np.ndarray, "x y z"]:
    """Distance of each voxel of a mask to the nearest one outside it; 0 outside."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing_mm), np.float32)
