"""Quality control of a brain mask, whoever made it."""

import cc3d
import numpy as np
from jaxtyping import Bool, Float
from nibabel.affines import apply_affine, from_matvec

from strega_jax.boxes import bounding_box
from strega_jax.scans.holes import enclosed_holes

# 82 brains (70 of IXI, 3 of OASIS, 9 of other sites) had 1162 to 1949 ml;
# a tenth above, and a third below, for children and atrophy.
SMALLEST_BRAIN_ML, LARGEST_BRAIN_ML = 800.0, 2150.0
# Outside their largest component lay 0.02 ml at most.
LOOSE_ML = 1.0


def mask_warnings(brain: Bool[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> list[tuple[str, str]]:
    """What speaks against a brain mask: its volume, holes, several components.

    Args:
        brain: the mask.
        affine: (4, 4), voxel index → scanner millimetres.

    Returns:
        (check, reason) for each warning; the check is `brain volume`, `brain hole` or `brain parts`.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    volume = np.count_nonzero(brain) * voxel_ml
    found: list[tuple[str, str]] = []
    if not SMALLEST_BRAIN_ML <= volume <= LARGEST_BRAIN_ML:
        found.append(
            (
                "brain volume",
                f"the brain mask has {volume:.0f} ml; brains have {SMALLEST_BRAIN_ML:.0f} to {LARGEST_BRAIN_ML:.0f}:"
                " look at its outline",
            )
        )
    box = bounding_box(brain)
    if box is None:
        return found
    brain, affine = brain[box], affine @ from_matvec(np.eye(3), [side.start for side in box])
    return found + _holes(brain, affine, voxel_ml) + _loose(brain, voxel_ml)


def _holes(
    brain: Bool[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], voxel_ml: float
) -> list[tuple[str, str]]:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    labels = cc3d.connected_components(enclosed_holes(brain, tuple(spacing)), connectivity=26)
    found = []
    for label in range(1, int(labels.max()) + 1):
        inside = np.argwhere(labels == label)
        x, y, z = apply_affine(affine, inside.mean(axis=0))
        reason = (
            f"{len(inside) * voxel_ml:.0f} ml in the brain, about x {x:.0f}, y {y:.0f}, z {z:.0f} mm, hold no image:"
            " what was cut out or set to 0 there cannot be judged"
        )
        found.append(("brain hole", reason))
    return found


def _loose(brain: Bool[np.ndarray, "x y z"], voxel_ml: float) -> list[tuple[str, str]]:
    labels, count = cc3d.connected_components(brain, connectivity=26, return_N=True)
    if count == 1:
        return []
    parts = np.sort(np.bincount(labels.ravel())[1:])[:-1] * voxel_ml
    if parts.sum() <= LOOSE_ML:
        return []
    reason = f"{parts.sum():.1f} ml of the brain mask lie apart from the rest: skull or eyes may be in it"
    return [("brain parts", reason)]
