"""Holes in a brain: what a brain extraction left out, or a lesion whose voxels were set to 0."""

import cc3d
import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from strega_jax.boxes import block_sums, bounding_box

GRID_MM = 2.0  # of the search; coarser voxels are kept
CHANNEL_MM = 6.0  # a hole that is open to the outside through a narrower gap is enclosed
WIDTH_MM = 6.0  # what is narrower is a sulcus, a fissure or the horn of a ventricle
# The brain masks of 210 scans of eight sources, made in at least six ways, held none of more than 1.2 ml.
LEAST_ML = 2.0


def enclosed_holes(
    brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> Bool[np.ndarray, "x y z"]:
    """Voxels outside a brain mask that brain surrounds, in pieces of at least `LEAST_ML`.

    The mask is closed, so that narrow channels to the outside do not count, and filled; what that added is opened, so
    that sulci do not count. All with boxes, on voxels of about 2 mm.

    Args:
        brain: brain mask.
        spacing_mm: voxel edge lengths.
    """
    found = np.zeros(brain.shape, bool)
    box = bounding_box(brain)
    if box is None:
        return found
    block = np.maximum(1, np.floor(GRID_MM / np.array(spacing_mm) + 1e-3).astype(int))
    edge_mm = block * spacing_mm
    gap = 2 * np.round(CHANNEL_MM / edge_mm / 2).astype(int) + 1
    # Closing must not touch the array's faces.
    coarse = np.pad(_blocks(brain[box], block), [(n, n) for n in gap])
    closed = ndimage.grey_closing(coarse, tuple(gap))
    filled = fill_holes(closed > 0)
    added = filled & (coarse == 0)
    width = 2 * np.round(WIDTH_MM / edge_mm / 2 - 0.5).astype(int) + 1
    opened = ndimage.grey_opening(added.astype(np.uint8), tuple(width))
    least = max(1, int(np.ceil(LEAST_ML * 1000 / np.prod(edge_mm))))
    large = cc3d.dust(opened, threshold=least, connectivity=6) > 0
    # The rim that blocks with brain in them hid.
    large = ndimage.binary_dilation(large) & filled
    inner = large[tuple(slice(n, -n) for n in gap)]
    for axis, n in enumerate(block):
        inner = np.repeat(inner, n, axis=axis)
    size = found[box].shape
    found[box] = inner[: size[0], : size[1], : size[2]] & ~brain[box]
    return found


def fill_holes(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The mask and what it encloses: what no path of neighbours by faces joins to the outside.

    As `scipy.ndimage.binary_fill_holes`, which takes seven times as long.
    """
    around = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=6)
    return (around != around[0, 0, 0])[1:-1, 1:-1, 1:-1]


def _blocks(mask: Bool[np.ndarray, "x y z"], block: np.ndarray) -> np.ndarray:
    """1 where at least half of a block of voxels is in the mask."""
    return (2 * block_sums(mask, block.tolist()) >= block.prod()).astype(np.uint8)
