"""Which voxels of a brain-extracted scan are background, made exactly 0, and the brain made positive."""

import logging
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

log = logging.getLogger(__name__)

# A value that at least half of the faces of the volume have is the background's.
CONSTANT = 0.5
# Voxels are dark below 1 % of the bright brain. There are ripples where more than 3 % of all that are not 0 are dark,
# or 10 % where the brain's mean itself may be 0; of 215 brains at most 0.8 % were, z-scored at most 3.1 %.
DARK, RIPPLING, RIPPLING_SIGNED = 0.01, 0.03, 0.1
# So many voxels may be brighter than all brain by any factor.
HOT = 0.005
# At the brain's edge ripples make fewer of its voxels negative; of z-scored brains about half are.
SIGNED = 0.25
# Up to this share negative voxels are undershoot of an image that is positive by nature.
OUTLYING = 0.02
# Pieces smaller than this share of the largest are ripples, not brain.
SPECK = 0.01
# The darkest voxel of a brain, as a share of its range, where negative ones had to become positive.
LEAST = 1e-6
# Of larger volumes every third voxel along each axis is looked at.
SAMPLED = 1_000_000


def remove_background(
    image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"] | None = None
) -> Float[np.ndarray, "x y z"]:
    """The image with its background exactly 0 and its brain positive, so that `> 0` is the brain.

    A constant background that is not 0 is found on the faces of the volume and subtracted. Ripples around the
    background, which resampling by splines leaves, are removed: all that is darker than 1 % of the brain. Where
    more than 2 % of the brain is negative (z-scored images) the darkest voxel becomes the least positive one; where
    fewer are, they alone do.

    Args:
        image: finite intensities of a brain-extracted scan. A whole head comes back as it is.
        brain: where the brain is, if that is known; all else is background.

    Returns:
        `image` itself where nothing is to be done, so also after a first call; and where the background cannot be
        told: then it has negative voxels, or a border that is not 0.
    """
    level = _background_level(image)
    above = image - np.float32(level) if level else image
    inside = above != 0
    if brain is not None:
        inside &= brain
    elif not (found := _ripples(above, known=level is not None)).told:
        return image
    elif found.brightest > 0:
        log.warning("ripples around the background: voxels darker than %.3g were set to 0", found.brightest)
        return _without_specks(above, above >= found.brightest)
    elif not level and image.min() >= 0:
        return image
    if not inside.any():
        return np.zeros_like(image)
    result = np.zeros_like(image)
    result[inside] = _positive(image[inside], above[inside])
    return result


def _background_level(image: Float[np.ndarray, "x y z"]) -> float | None:
    """The value that at least half of the voxels on the volume's faces have, if one has."""
    faces = np.concatenate([np.moveaxis(image, axis, 0)[i].ravel() for axis in range(3) for i in (0, -1)])
    if np.count_nonzero(faces == 0) >= CONSTANT * faces.size:
        return 0.0
    middle = np.partition(faces, faces.size // 2)[faces.size // 2]  # a value that half of them have is their median
    return float(middle) if np.count_nonzero(faces == middle) >= CONSTANT * faces.size else None


class _Ripples(NamedTuple):
    brightest: float  # 0 where there are none
    told: bool  # whether it can be told what is background


def _ripples(above: Float[np.ndarray, "x y z"], known: bool) -> _Ripples:
    """Whether there are ripples around a background of 0; `known` says that its far parts are exactly that."""
    sample = above[::3, ::3, ::3] if above.size > SAMPLED else above
    values = sample[sample != 0]
    size = np.abs(values)
    if size.size == 0:
        return _Ripples(0.0, True)
    capped = np.minimum(size, np.percentile(size, 100 * (1 - HOT)))
    bright = np.median(capped[capped >= capped.mean()])
    dark = size < DARK * bright
    negative = values < 0
    if negative[~dark].mean() >= SIGNED:
        return _Ripples(0.0, known and dark.mean() <= RIPPLING_SIGNED)
    if dark.mean() <= RIPPLING:
        return _Ripples(0.0, known)
    # Air of a whole head is as dark at best, but never negative.
    return _Ripples(float(DARK * bright), known or negative[dark].mean() > SIGNED)


def _without_specks(image: Float[np.ndarray, "x y z"], inside: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """The image within `inside` but for its small pieces."""
    pieces, _ = cast("tuple[np.ndarray, int]", ndimage.label(inside))
    voxels = np.bincount(pieces.ravel())
    voxels[0] = 0
    return np.where((voxels >= SPECK * voxels.max())[pieces], image, np.float32(0))


def _positive(brain: Float[np.ndarray, "n"], above: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Intensities above the background where it is darker than the brain, else above the darkest voxel."""
    darkest, dark, bright = np.percentile(brain, (0, 1, 99))
    below = np.mean(above < 0)
    if below > OUTLYING or OUTLYING < np.mean(brain < 0) < 1 - OUTLYING:
        # A voxel far below all others would take the room of the others in the logarithm.
        darkest = max(darkest, dark - (bright - dark))
        log.warning("negative intensities: %.4g was added to all of the brain", -darkest)
        above = brain - np.float32(darkest)
    return np.maximum(above, np.float32(LEAST * (bright - dark)) or np.float32(LEAST))
