"""How much of a brain the field of view missed, and on which side."""

import numpy as np
from jaxtyping import Bool, Float
from nibabel.affines import apply_affine

from strega_jax.slices.template import brain_points

# A face of the brain's box that holds more brain than this, relative to the largest section, was cut off.
CUT_FACE = 0.25

Face = tuple[int, int]  # axis, and 0 for its low or 1 for its high end


def sections(brain: Float[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"]) -> list[Float[np.ndarray, " _"]]:
    """Area of the brain's sections across each axis, in voxels."""
    if brain.dtype == bool:  # counts, and two passes over the volume for three
        across_z, across_x = (brain.view(np.uint8).sum(axis=axis, dtype=np.uint32) for axis in (2, 0))
        areas = across_z.sum(axis=1), across_z.sum(axis=0), across_x.sum(axis=0)
        return [area.astype(np.float64) for area in areas]
    return [brain.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)]


def cut_faces(profiles: list[Float[np.ndarray, " _"]]) -> tuple[Face, ...]:
    """Faces of the brain's box at which the brain was cut off, all of one axis.

    Args:
        profiles: `sections`; empty ones at the ends are outside the box.
    """
    held = [profile[profile > 0] for profile in profiles]
    faces = np.array([profile[[0, -1]] / profile.max() for profile in held])
    # Slabs end along one axis; what ends squarely along several is no brain, and must not pass for a cropped one.
    axis = int(faces.max(axis=1).argmax())
    return tuple((axis, end) for end in (0, 1) if faces[axis, end] > CUT_FACE)


def scanned(brain: Float[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "3 2"]:
    """Voxel indices between which was scanned: the array's, or the brain's box where the brain ends squarely in it."""
    profiles = sections(brain)
    bounds = np.array([[-0.5, n - 0.5] for n in brain.shape])
    for axis, end in cut_faces(profiles):
        held = np.flatnonzero(profiles[axis])
        bounds[axis, end] = held[-1] + 0.5 if end else held[0] - 0.5
    return bounds


def unseen_shares(
    brain: Float[np.ndarray, "x y z"] | Bool[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    pose: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, "3 2"]:
    """Share of the template's brain beyond the low and the high face of each axis of what was `scanned`.

    Args:
        brain: brain mask, or share of brain in each voxel; not empty.
        affine: (4, 4), voxel index → scan millimetres.
        pose: (4, 4), MNI152 millimetres → scan millimetres.
    """
    index = apply_affine(np.linalg.inv(affine) @ pose, brain_points())
    bounds = scanned(brain)
    return np.stack([(index < bounds[:, 0]).mean(axis=0), (index > bounds[:, 1]).mean(axis=0)], axis=1)
