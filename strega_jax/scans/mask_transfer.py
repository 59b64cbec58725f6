"""A brain mask of one scan on the grid of another scan of the same head."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation
from scipy.special import entr

from strega_jax.errors import ScanError
from strega_jax.scans.scan import Scan

# The two scans are matched on a grid of about this, in this many levels of grey.
COARSE_MM, BINS = 4.0, 32
HEAD_RADIUS_MM = 80.0
# A motion is believed where it raises the normalised mutual information, less 1, by this factor. Where nothing had
# moved, T2w, FLAIR and T1ce gained up to 1.04 on T1w; moved by 2° and 2 mm, at least 1.2.
LEAST_GAIN = 1.1


def move_mask(mask: Bool[np.ndarray, "x y z"], from_scan: Scan, to_scan: Scan) -> Bool[np.ndarray, "i j k"]:
    """A mask of one scan on the grid of another scan of the same head, which may have moved in between.

    The motion is the rigid one that gives the most mutual information.

    Args:
        mask: on `from_scan`'s canonical grid.
        from_scan: the scan that the mask was made for.
        to_scan: the scan that needs it; of any grid and contrast.

    Returns:
        The mask on `to_scan`'s canonical grid.

    Raises:
        ScanError: nothing of the mask lies in `to_scan`.
    """
    motion = _head_motion(mask, from_scan, to_scan)
    index = np.linalg.inv(motion @ from_scan.affine) @ to_scan.affine
    moved = ndimage.affine_transform(mask.astype(np.float32), index, output_shape=to_scan.data.shape, order=1)
    if not (moved > 0.5).any():
        raise ScanError(
            f"{to_scan.path}: by the headers it shows nothing of the brain of {from_scan.path}; give it a brain mask "
            "of its own (--brain=PATH)"
        )
    return moved > 0.5


def _head_motion(mask: Bool[np.ndarray, "x y z"], from_scan: Scan, to_scan: Scan) -> Float[np.ndarray, "4 4"]:
    """The rigid motion, in scanner millimetres, from one scan to the other: the nearest one of most information."""
    inside = ndimage.binary_dilation(_coarse(mask.astype(np.float32), from_scan)[0] > 0.5, iterations=2)
    still, still_affine = _coarse(from_scan.data, from_scan)
    moving, moving_affine = _coarse(to_scan.data, to_scan)
    inside &= np.indices(inside.shape).sum(axis=0) % 2 == 0  # every second point tells as much
    points = (still_affine @ np.vstack([np.argwhere(inside).T, np.ones(inside.sum())]))[:3]
    centre = points.mean(axis=1)
    to_index = np.linalg.inv(moving_affine)
    levels = np.round(_levels(still)[inside]).astype(np.int64)
    moving = _levels(moving)

    def loss(parameters: np.ndarray) -> float:
        index = to_index @ _rigid(parameters, centre)
        there = ndimage.map_coordinates(moving, index[:3, :3] @ points + index[:3, 3:], order=1)
        return -_mutual_information(levels, there)

    best = optimize.minimize(loss, np.zeros(6), method="Powell", options={"xtol": 0.1, "ftol": 1e-4, "maxfev": 600})
    gain = (-best.fun - 1) / max(-loss(np.zeros(6)) - 1, 1e-30)
    return _rigid(best.x, centre) if gain > LEAST_GAIN else np.eye(4)


def _rigid(parameters: Float[np.ndarray, "6"], centre: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """Shifts in mm, and turns about the centre in mm at `HEAD_RADIUS_MM`, so that one step length suits both."""
    turn = Rotation.from_rotvec(parameters[3:] / HEAD_RADIUS_MM).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, centre - turn @ centre + parameters[:3]
    return matrix


def _coarse(
    image: Float[np.ndarray, "x y z"], scan: Scan
) -> tuple[Float[np.ndarray, "a b c"], Float[np.ndarray, "4 4"]]:
    """An image smoothed and sampled at about `COARSE_MM`, and its affine."""
    step = np.maximum(1, np.round(COARSE_MM / np.array(scan.spacing_mm))).astype(int)
    smooth = ndimage.uniform_filter(image, step.tolist(), mode="nearest")
    x, y, z = step
    return smooth[x // 2 :: x, y // 2 :: y, z // 2 :: z], scan.affine @ _stepped(step)


def _stepped(step: np.ndarray) -> Float[np.ndarray, "4 4"]:
    matrix = np.diag([*step.astype(float), 1.0])
    # A filter of even length looks half a voxel back.
    matrix[:3, 3] = step // 2 - np.where(step % 2 == 0, 0.5, 0.0)
    return matrix


def _levels(image: Float[np.ndarray, "a b c"]) -> Float[np.ndarray, "a b c"]:
    """Grey levels from 0 to `BINS` - 1; the brightest hundredth is one level."""
    low, high = float(image.min()), float(np.quantile(image, 0.99))
    return np.clip((image - low) / max(high - low, 1e-30), 0, 1) * (BINS - 1)


def _mutual_information(levels: np.ndarray, values: Float[np.ndarray, "n"]) -> float:
    """Normalised (Studholme et al. 1999); a value counts for the two bins beside it, so that it changes smoothly."""
    low = np.minimum(values.astype(np.int64), BINS - 2)
    share = values - low
    joint = np.bincount(levels * BINS + low, weights=1 - share, minlength=BINS * BINS)
    joint = joint + np.bincount(levels * BINS + low + 1, weights=share, minlength=BINS * BINS)
    joint = (joint / joint.sum()).reshape(BINS, BINS)
    together = entr(joint).sum()
    return float((entr(joint.sum(axis=0)).sum() + entr(joint.sum(axis=1)).sum()) / max(together, 1e-30))
