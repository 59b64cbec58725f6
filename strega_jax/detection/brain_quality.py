"""Quality control of a brain mask, whoever made it."""

import cc3d
import numpy as np
from jaxtyping import Bool

from strega_jax.postprocess import bounding_box
from strega_jax.scans.extraction import enclosed

# 82 brains (70 of IXI, 3 of OASIS, 9 of other sites) had 1162 to 1949 ml;
# a tenth above, and a third below, for children and atrophy.
SMALLEST_BRAIN_ML, LARGEST_BRAIN_ML = 800.0, 2150.0
# Those brains (image > 0) enclosed 13.2 ml of zeros at most, none of more than 0.5 ml in one piece.
HOLES_ML, LARGEST_HOLE_ML = 25.0, 2.0
# Outside their largest component lay 0.02 ml at most.
LOOSE_ML = 1.0
# Of the largest section, on a face of the volume. 83 of 90 masks had less; seven, of short or thick stacks that begin
# in the cerebellum, 0.11 to 0.22.
CUT_SHARE = 0.1
SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))


def mask_warnings(brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> list[tuple[str, str]]:
    """What speaks against a brain mask: volume, enclosed holes, several components, an end at the image's border.

    Args:
        brain: the mask.
        spacing_mm: voxel edges.

    Returns:
        (check, reason) for each warning; the check is `brain volume`, `brain holes`, `brain parts` or `field of view`.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    volume = float(brain.sum()) * voxel_ml
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
    found += cut_warnings(brain)
    brain = brain[box]
    holes = np.bincount(enclosed(brain).ravel())[1:] * voxel_ml
    if holes.sum() > HOLES_ML or holes.max(initial=0) > LARGEST_HOLE_ML:
        found.append(
            (
                "brain holes",
                f"the brain mask encloses holes of {holes.sum():.1f} ml, the largest of {holes.max():.1f}: anomalies"
                " there are not seen",
            )
        )
    return found + _loose(brain, voxel_ml)


def _loose(brain: Bool[np.ndarray, "x y z"], voxel_ml: float) -> list[tuple[str, str]]:
    labels = cc3d.connected_components(brain, connectivity=26)
    parts = np.sort(np.bincount(labels.ravel())[1:])[:-1] * voxel_ml
    if parts.sum() <= LOOSE_ML:
        return []
    reason = f"{parts.sum():.1f} ml of the brain mask lie apart from the rest: skull or eyes may be in it"
    return [("brain parts", reason)]


def cut_warnings(brain: Bool[np.ndarray, "x y z"]) -> list[tuple[str, str]]:
    """Sides at which the brain goes on beyond the image, as `mask_warnings` tells them."""
    ends = []
    for axis, names in enumerate(SIDES):
        area = brain.sum(axis=tuple({0, 1, 2} - {axis}))
        shares = zip(names, (area[0] / area.max(), area[-1] / area.max()), strict=True)
        ends += [f"{name} ({share:.0%} of the largest section)" for name, share in shares if share > CUT_SHARE]
    if not ends:
        return []
    return [("field of view", f"the brain goes on beyond the border of the image at the {' and the '.join(ends)}")]
