"""Affine alignment of a brain's tissue fractions to the MNI152 template, so that all scans share one pose.

A scan enters as CSF, GM and WM fractions, which makes contrasts alike, and is resampled onto one 4 mm grid about its
centre of gravity, so that a single compiled program serves every scan (`registration`). A whole brain is aligned from
its centre of gravity and size. Where the brain is cut off, or that fit is poor, several starts are tried, and the pose
must fit better than any other orientation does (`incomplete`).
"""

from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from scipy import ndimage

from strega_jax.boxes import block_sums, bounding_box
from strega_jax.errors import ScanError
from strega_jax.slices import registration
from strega_jax.slices.incomplete import Brain, Rival, find_pose
from strega_jax.slices.registration import (
    GRID_MM,
    GRID_VOXELS,
    RADIUS_MM,
    Prior,
    agreement,
    cayley,
    matrix,
    minimise,
)  # fmt: skip
from strega_jax.slices.template import SMOOTHING_MM, Template, features, mni152_template
from strega_jax.slices.unseen import Face, cut_faces, sections, unseen_shares

# Coarse to fine: robust scale c in units of the weighted features.
ROBUST_SCALE = (1.0, 0.4)
ITERATIONS = (30, 20)
PRIOR = Prior(scale_range=(0.65, 1.4), aspect=(0.0, 0.0, 0.0), scale_std=0.1, shear_std=0.05, weight=1e-4)
# A pose is believed when the brains' outlines agree well, or fairly and the tissues inside agree too. (Tissue alone
# decides nothing: of some T2w and contrast-enhanced scans it is segmented badly, and the pose is right nonetheless.)
GOOD_DICE = 0.935
FAIR_DICE, FAIR_CORRELATION = 0.88, 0.45
# Where a part is missing, outlines agree less, and what other orientations of the axes cost counts too, relative to the
# pose found: 0.9 to 3 of 207 cut brains under their own header, but for one of 0.73, which is refused for it; 0.2 to 1
# of the same under a wrong one.
LEAST_RIVAL = 0.85
RIVAL_WEIGHT, RIVAL_DICE, RIVAL_MOST = 0.37, 0.94, 1.5
MOST_MISSING = 0.6  # of the template's brain; less than the rest does not fix a pose


def align_to_template(
    fractions: Float[np.ndarray, "x y z 3"],
    affine: Float[np.ndarray, "4 4"],
    *,
    kind: Literal["affine", "rigid"] = "affine",
) -> Float[np.ndarray, "4 4"]:
    """Find where the template's brain lies in a scan.

    The start is the brain's centre of gravity and size, with the axes that the affine names; head rotations
    up to about 30° from there are found. The origin of the scan's millimetres does not matter.

    Args:
        fractions: (x, y, z, 3) float32, CSF, GM and WM shares of each voxel; 0 outside the brain.
        affine: (4, 4), voxel index → scan millimetres (RAS+).
        kind: "affine", 12 parameters; "rigid", rotation and translation alone.

    Returns:
        (4, 4) float64, MNI152 millimetres → scan millimetres.

    Raises:
        ScanError: no brain, or nothing like a brain in any pose that was tried.
    """
    if fractions.ndim != 4 or fractions.shape[3] != 3:
        raise ValueError(f"fractions have shape {fractions.shape}, not (x, y, z, 3)")
    if kind not in ("affine", "rigid"):
        raise ValueError(f"kind={kind!r} is neither 'affine' nor 'rigid'")
    template = mni152_template()
    fractions, affine = np.asarray(fractions, np.float32), np.asarray(affine, np.float64)
    maps, frame, volume, cut = _resample(fractions, affine)
    pyramid = tuple(features(maps, sigma) for sigma in SMOOTHING_MM)
    brain = Brain(pyramid, frame[:3, :3], volume, cut)
    parameters, doubt = _find(template, brain, np.array([1] * 6 + [kind == "affine"] * 6, np.float32))
    linear = matrix(parameters.astype(np.float64))
    pose = frame @ from_matvec(linear[:, :3], RADIUS_MM * linear[:, 3] - linear[:, :3] @ template.centre)
    if not doubt and cut and unseen_shares(fractions.sum(axis=-1), affine, pose).sum() > MOST_MISSING:
        doubt = f"more than {MOST_MISSING:.0%} of it lies beyond the field of view"
    if doubt:
        raise ScanError(
            f"the brain could not be aligned to MNI152 ({doubt}): check that the scan is brain-extracted, that its "
            "contrast is named rightly and that its header tells front from back and top from bottom; or choose a grid "
            "other than 'template', which needs no alignment"
        )
    return pose


def prepare() -> None:
    """Load the template, and compile the alignment's program or fetch it from where it is kept."""
    registration.prepare()
    mni152_template()


def _find(template: Template, brain: Brain, free: Float[np.ndarray, "12"]) -> tuple[Float[np.ndarray, "12"], str]:
    """Parameters of the pose, and why it is not believed (empty where it is)."""
    if not brain.cut:
        start = np.zeros(12, np.float32)
        start[3:6] = cayley(brain.rotation.T)
        if free[6]:
            start[6:9] = np.log(np.clip(np.cbrt(brain.volume / template.volume), *PRIOR.scale_range))
        parameters = _register(template, brain, start, free)
        if not _doubt(*agreement(template.levels[-1], brain.pyramid[-1], parameters)):
            return parameters, ""
    found = find_pose(template, brain, free)
    return found.parameters, _doubt(found.dice, found.correlation, found.rival)


def _doubt(dice: float, correlation: float, rival: Rival | None = None) -> str:
    """Why a pose is not believed; empty where it is."""
    good = dice >= GOOD_DICE or (dice >= FAIR_DICE and correlation >= FAIR_CORRELATION)
    if rival is not None:
        if rival.cost < LEAST_RIVAL:
            return f"it fits better with {rival.words}"
        good = good or dice + RIVAL_WEIGHT * (min(rival.cost, RIVAL_MOST) - 1) >= RIVAL_DICE
    return "" if good else f"overlap {dice:.2f}, needed {GOOD_DICE}; tissue correlation {correlation:.2f}"


def _resample(
    fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "g g g 4"], Float[np.ndarray, "4 4"], float, tuple[Face, ...]]:
    """CSF, GM, WM and field of view on an isotropic grid about the brain's centre; its frame; volume; cut faces.

    The grid's axes are the scan's own, so that an oblique header changes no sample; the frame maps millimetres about
    the grid's centre to scan millimetres.
    """
    # Flipped and permuted copies of a scan become one array here, so that they end in one pose.
    order = io_orientation(affine)
    affine = affine @ inv_ornt_aff(order, fractions.shape[:3])
    fractions = apply_orientation(fractions, order)
    brain = fractions[..., 0] + fractions[..., 1] + fractions[..., 2]  # NumPy sums short axes slowly
    box = bounding_box(brain > 0)
    if box is None:
        raise ScanError("there is no brain in the tissue map: check the scan's brain mask")
    fractions, brain = fractions[box], brain[box]
    affine = affine @ from_matvec(np.eye(3), [side.start for side in box])
    mass = brain.sum(dtype=np.float64)
    profiles = sections(brain)
    index = np.array([np.arange(len(profile)) @ profile / mass for profile in profiles])
    centre = apply_affine(affine, index)
    volume = mass * abs(np.linalg.det(affine[:3, :3]))
    maps, affine, whole = _shrink(fractions, affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / voxel_sizes(affine))
    frame = from_matvec(left @ right, centre)  # the rotation nearest to the axes, which may be sheared
    half = (GRID_VOXELS - 1) / 2 * GRID_MM
    to_index = np.linalg.inv(affine) @ frame @ from_matvec(np.diag([GRID_MM] * 3), [-half] * 3)
    shape = (GRID_VOXELS,) * 3
    out = [ndimage.affine_transform(maps[..., c], to_index, output_shape=shape, order=1) for c in range(3)]
    cut = cut_faces(profiles)
    out.append(_field_of_view(cut, to_index, whole).astype(np.float32))
    return np.stack(out, axis=-1), frame, float(volume), cut


def _shrink(
    maps: Float[np.ndarray, "x y z c"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "i j k c"], Float[np.ndarray, "4 4"], Int[np.ndarray, "3"]]:
    """Means over whole voxels of a fine scan, up to the grid's spacing, so that sampling it does not alias.

    The third is how many means along each axis hold no padding.
    """
    factor = np.maximum(1, np.floor(GRID_MM / voxel_sizes(affine) + 1e-3).astype(int))
    whole = np.array(maps.shape[:3]) // factor
    blocks = block_sums(maps, factor.tolist()) / np.float32(factor.prod())
    return blocks, affine @ from_matvec(np.diag(factor.astype(float)), (factor - 1) / 2), whole


def _field_of_view(
    cut: tuple[Face, ...], to_index: Float[np.ndarray, "4 4"], whole: Int[np.ndarray, "3"]
) -> Bool[np.ndarray, "g g g"]:
    """Grid voxels that were scanned: all but those beyond a face of the brain's box where the brain is cut off.

    Beyond the centres of the outermost voxels nothing can be interpolated; what reads as empty there is unknown.
    """
    grid = np.indices((GRID_VOXELS,) * 3).reshape(3, -1)
    inside = np.ones(grid.shape[1], bool)
    for axis, end in cut:
        index = to_index[axis, :3] @ grid + to_index[axis, 3]
        inside &= index <= whole[axis] - 1 if end else index >= 0
    return inside.reshape((GRID_VOXELS,) * 3)


def _register(
    template: Template, brain: Brain, start: Float[np.ndarray, "12"], free: Float[np.ndarray, "12"]
) -> Float[np.ndarray, "12"]:
    p = start
    for level, volume, c, iterations in zip(template.levels, brain.pyramid, ROBUST_SCALE, ITERATIONS, strict=True):
        p = minimise(level, volume, c, iterations, p, free, PRIOR).parameters
    return np.asarray(jax.device_get(p))
