"""What a mask holds: 3-D components with their place and size, and 2-D boxes slice by slice."""

import dataclasses

import cc3d
import numpy as np
from jaxtyping import Bool, Float

from strega_jax.boxes import bounding_box


@dataclasses.dataclass(frozen=True)
class Component:
    """One 26-connected component of a mask on the canonical (RAS) grid."""

    label: int  # 1 is the largest
    voxels: int
    volume_ml: float
    box_lo: tuple[int, int, int]  # first voxel index along x, y, z
    box_hi: tuple[int, int, int]  # one past the last
    centroid_mm: tuple[float, float, float]  # scanner (world) coordinates
    peak_score: float
    mean_score: float


@dataclasses.dataclass(frozen=True)
class SliceBox:
    """The bounding box of one 8-connected component of an axial slice."""

    z: int  # index of the slice
    lo: tuple[int, int]  # first pixel index along x, y
    hi: tuple[int, int]  # one past the last
    pixels: int  # of the component, not of the box


def find_components(
    mask: Bool[np.ndarray, "x y z"],
    score: Float[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: tuple[float, float, float],
) -> list[Component]:
    """The 26-connected components of `mask`, largest first.

    Args:
        mask: what is marked.
        score: the score map on the same grid.
        affine: voxel index → scanner millimetres.
        spacing_mm: voxel edge lengths.
    """
    whole = bounding_box(mask)
    if whole is None:
        return []
    mask, score = mask[whole], score[whole]
    low = np.array([side.start for side in whole])
    labels, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    statistics = cc3d.statistics(labels)
    label_of, score_of = labels[mask], score[mask].astype(np.float64)
    peaks = np.full(count + 1, -np.inf)
    np.maximum.at(peaks, label_of, score_of)
    sizes = np.bincount(label_of, minlength=count + 1)
    sums = np.bincount(label_of, weights=score_of, minlength=count + 1)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    components = []
    for place, i in enumerate(sorted(range(1, count + 1), key=lambda i: -sizes[i]), start=1):
        box = statistics["bounding_boxes"][i]
        x, y, z = affine[:3, :3] @ (statistics["centroids"][i] + low) + affine[:3, 3]
        components.append(
            Component(
                label=place,
                voxels=int(sizes[i]),
                volume_ml=float(sizes[i] * voxel_ml),
                box_lo=(int(box[0].start + low[0]), int(box[1].start + low[1]), int(box[2].start + low[2])),
                box_hi=(int(box[0].stop + low[0]), int(box[1].stop + low[1]), int(box[2].stop + low[2])),
                centroid_mm=(float(x), float(y), float(z)),
                peak_score=float(peaks[i]),
                mean_score=float(sums[i] / sizes[i]),
            )
        )
    return components


def slice_boxes(mask: Bool[np.ndarray, "x y z"]) -> list[SliceBox]:
    """A box around every 8-connected component of every axial slice (paper, figs. 6–7), lowest slice first."""
    boxes: list[SliceBox] = []
    whole = bounding_box(mask)
    if whole is None:
        return boxes
    left, back, low = (side.start for side in whole)
    for z, part in enumerate(np.ascontiguousarray(np.moveaxis(mask[whole], 2, 0)), start=low):
        labels, count = cc3d.connected_components(part, connectivity=8, return_N=True)
        statistics = cc3d.statistics(labels)
        for i in range(1, count + 1):
            x, y = statistics["bounding_boxes"][i][:2]
            boxes.append(
                SliceBox(
                    z=z,
                    lo=(int(x.start) + left, int(y.start) + back),
                    hi=(int(x.stop) + left, int(y.stop) + back),
                    pixels=int(statistics["voxel_counts"][i]),
                )
            )
    return boxes
