"""Does a brain lie as its header says? Its coarse tissue map against MNI152's in every orientation of the axes."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from scipy import ndimage

from strega_jax.slices.incomplete import orientation_words, orientations
from strega_jax.slices.template import tissue_template
from strega_jax.slices.unseen import scanned

GRID_MM = 8.0
GRID_VOXELS = 28  # 224 mm: any brain in any orientation


@dataclasses.dataclass(frozen=True)
class Pose:
    """How a brain fits the template, as its header says and at best.

    Attributes:
        upright: correlation of brain outline and of tissue with the template's, summed, as the header says.
        best: the same in the best of the 24 orientations that mirror images leave to tell apart.
        orientation: in words, what would have to be done to the axes for `best`; empty when nothing.
        exchanged: `upright` with bright and dark tissue exchanged.
    """

    upright: float
    best: float
    orientation: str
    exchanged: float


def fit_pose(
    fractions: Float[np.ndarray, "x y z 3"],
    affine: Float[np.ndarray, "4 4"],
    alignment: Float[np.ndarray, "4 4"] | None = None,
) -> Pose:
    """Compare CSF, GM, WM fractions with the template's.

    Args:
        fractions: (x, y, z, 3), not all 0.
        affine: (4, 4), voxel index → scan millimetres.
        alignment: (4, 4), MNI152 millimetres → scan millimetres, for a brain of which a part was not scanned: it is
            compared there and in no other orientation, which the alignment has looked at.
    """
    if alignment is not None:
        return _aligned(fractions, affine, alignment)
    outline, tissue = _coarse(fractions, affine)[:2]
    like_outline, like_tissue, _ = _template()
    upright, best, words = -np.inf, -np.inf, ""
    for order, flips in orientations():
        turned = tuple(slice(None, None, flip) for flip in flips)
        value = _correlation(outline.transpose(order)[turned], like_outline)
        value += _correlation(tissue.transpose(order)[turned], like_tissue)
        if order == (0, 1, 2) and flips == (1, 1, 1):
            upright = value
        if value > best:
            best, words = value, orientation_words(order, flips)
    exchanged = _correlation(outline, like_outline) - _correlation(tissue, like_tissue)
    return Pose(upright, best, words, exchanged)


def _aligned(
    fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"], alignment: Float[np.ndarray, "4 4"]
) -> Pose:
    like_outline, like_tissue, grid_to_mni = _template()
    outline, tissue, _ = _coarse(fractions, affine, alignment @ grid_to_mni)
    index = np.indices(outline.shape).reshape(3, -1).T
    voxel = apply_affine(np.linalg.inv(affine) @ alignment @ grid_to_mni, index)
    low, high = scanned(fractions.sum(axis=-1)).T
    seen = ((voxel > low) & (voxel < high)).all(axis=1).reshape(outline.shape)
    alike = _correlation(outline[seen], like_outline[seen]), _correlation(tissue[seen], like_tissue[seen])
    return Pose(alike[0] + alike[1], alike[0] + alike[1], "", alike[0] - alike[1])


@functools.cache
def _template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _coarse(*tissue_template())


@functools.cache
def _template_volume() -> float:
    fractions, affine = tissue_template()
    return float(fractions.sum() * abs(np.linalg.det(affine[:3, :3])))


def _coarse(
    fractions: Float[np.ndarray, "x y z 3"],
    affine: Float[np.ndarray, "4 4"],
    grid_to_mm: Float[np.ndarray, "4 4"] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brain share, and WM − CSF share, on a coarse grid, and its affine (index → millimetres).

    The grid is `grid_to_mm`'s; without it an isotropic RAS one about the brain's centre, scaled by the brain's volume.
    """
    factor = np.maximum(1, np.floor(GRID_MM / voxel_sizes(affine) + 1e-3).astype(int))
    for axis, step in enumerate(factor):
        starts = np.arange(0, fractions.shape[axis], step)
        fractions = np.add.reduceat(fractions, starts, axis=axis) / np.float32(step)
    affine = affine @ from_matvec(np.diag(factor.astype(float)), (factor - 1) / 2)
    brain = fractions.sum(axis=-1)
    if grid_to_mm is None:
        centre = apply_affine(affine, ndimage.center_of_mass(brain))
        size = np.cbrt(float(brain.sum()) * abs(np.linalg.det(affine[:3, :3])) / _template_volume())
        step_mm = GRID_MM * size
        grid_to_mm = from_matvec(np.eye(3) * step_mm, centre - (GRID_VOXELS - 1) / 2 * step_mm)
    to_index = np.linalg.inv(affine) @ grid_to_mm
    shape = (GRID_VOXELS,) * 3
    maps = (brain, fractions[..., 2] - fractions[..., 0])
    outline, tissue = (ndimage.affine_transform(m, to_index, output_shape=shape, order=1) for m in maps)
    return outline, tissue, grid_to_mm


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))
