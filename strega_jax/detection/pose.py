"""Does a brain lie as its header says? Its coarse tissue map against MNI152's in every orientation of the axes."""

import dataclasses
import functools
import itertools
from importlib import resources

import numpy as np
from jaxtyping import Float
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from scipy import ndimage

GRID_MM = 8.0
GRID_VOXELS = 28  # 224 mm: any brain in any orientation
AXES = ("left-right", "front-back", "top-bottom")


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


def fit_pose(fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"]) -> Pose:
    """Compare CSF, GM, WM fractions with the template's. The brain must not be empty."""
    outline, tissue = _coarse(fractions, affine, _template_volume())
    like_outline, like_tissue = _template()
    upright, best, words = -np.inf, -np.inf, ""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=2):
            # The brain is all but symmetric: left and right cannot be told, so the first axis is never flipped.
            turned = (slice(None), slice(None, None, flips[0]), slice(None, None, flips[1]))
            value = _correlation(outline.transpose(order)[turned], like_outline)
            value += _correlation(tissue.transpose(order)[turned], like_tissue)
            if order == (0, 1, 2) and flips == (1, 1):
                upright = value
            if value > best:
                best, words = value, _words(order, flips)
    exchanged = _correlation(outline, like_outline) - _correlation(tissue, like_tissue)
    return Pose(upright, best, words, exchanged)


def _words(order: tuple[int, ...], flips: tuple[int, ...]) -> str:
    parts = [f"{AXES[i]} taken for {AXES[axis]}" for axis, i in enumerate(order) if i != axis]
    parts += [f"{AXES[axis + 1]} reversed" for axis, flip in enumerate(flips) if flip < 0]
    return ", ".join(parts)


@functools.cache
def _stored() -> tuple[np.ndarray, np.ndarray]:
    with resources.files("strega_jax.slices").joinpath("mni152_tissue.npz").open("rb") as file:
        stored = np.load(file)
        return stored["fractions"].astype(np.float32) / 255, stored["affine"]


@functools.cache
def _template() -> tuple[np.ndarray, np.ndarray]:
    return _coarse(*_stored(), _template_volume())


@functools.cache
def _template_volume() -> float:
    fractions, affine = _stored()
    return float(fractions.sum() * abs(np.linalg.det(affine[:3, :3])))


def _coarse(
    fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"], volume: float
) -> tuple[np.ndarray, np.ndarray]:
    """Brain share, and WM − CSF share, on an isotropic RAS grid about the brain's centre, scaled to `volume` mm³."""
    factor = np.maximum(1, np.floor(GRID_MM / voxel_sizes(affine) + 1e-3).astype(int))
    for axis, step in enumerate(factor):
        starts = np.arange(0, fractions.shape[axis], step)
        fractions = np.add.reduceat(fractions, starts, axis=axis) / np.float32(step)
    affine = affine @ from_matvec(np.diag(factor.astype(float)), (factor - 1) / 2)
    brain = fractions.sum(axis=-1)
    centre = apply_affine(affine, ndimage.center_of_mass(brain))
    size = np.cbrt(float(brain.sum()) * abs(np.linalg.det(affine[:3, :3])) / volume)
    step_mm = GRID_MM * size
    grid_to_mm = from_matvec(np.eye(3) * step_mm, centre - (GRID_VOXELS - 1) / 2 * step_mm)
    to_index = np.linalg.inv(affine) @ grid_to_mm
    shape = (GRID_VOXELS,) * 3
    maps = (brain, fractions[..., 2] - fractions[..., 0])
    outline, tissue = (ndimage.affine_transform(m, to_index, output_shape=shape, order=1) for m in maps)
    return outline, tissue


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))
