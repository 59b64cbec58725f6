"""What an image must be to be segmented, and what to do where it is not."""

import logging

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.errors import ScanError
from strega_jax.scans.background import remove_background
from strega_jax.scans.stripped import ANISOTROPIC, WAY_OUT, foreground

log = logging.getLogger(__name__)

OUTLYING = 0.02
# Below this 98th percentile log(I + 1) is almost linear and no longer turns the bias into a sum.
DIM = 10.0
RESCALED_TO = 1000.0
THICK_MM = 4.0


def brain_intensities(
    image: Float[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    mask: Bool[np.ndarray, "i j k"] | None,
    assume_stripped: bool,
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "x y z"]]:
    """Intensities fit for the logarithm, and the mask to segment.

    Backgrounds other than 0 and negative intensities are as `remove_background` leaves them. Intensities that end
    below 10 are scaled up and a warning is logged. So is one for thick slices and anisotropic voxels.

    Returns:
        (n,) float32, of the voxels of the mask in their order; and the mask.

    Raises:
        ScanError: not finite, not brain-extracted, constant, or a mask that does not fit or is empty.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ScanError(f"{np.count_nonzero(~np.isfinite(image))} voxels are NaN or infinite; mend the file")
    if mask is None:
        image = remove_background(image)
        inside, reason = foreground(image, spacing_mm)
        if reason and not assume_stripped:
            raise ScanError(f"the image does not look brain-extracted: {reason}; {WAY_OUT}")
    else:
        inside = np.asarray(mask) > 0
        if inside.shape != image.shape:
            raise ScanError(
                f"the brain mask has shape {inside.shape}, the image {image.shape}; give a mask of its grid"
            )
        image = remove_background(image, inside)
        inside = image > 0
    if not inside.any():
        raise ScanError("no voxel is brain; check the mask, or that the file holds the image you mean")
    brain = image[inside]
    if brain.min() == brain.max():
        raise ScanError(f"every brain voxel is {brain[0]:g}: a mask or an empty image, not an MR image")
    _warn_of_thick_slices(spacing_mm)
    offset, factor = _to_positive(brain)
    return np.maximum((brain - offset) * factor, np.float32(0)), inside


def too_few_kinds(n_classes: int) -> ScanError:
    """Of an image whose intensities do not fall into the classes asked for."""
    return ScanError(
        f"the image has fewer than {n_classes} kinds of intensity; ask for fewer classes (--n_classes,"
        " `n_classes=`), or check that it is an MR image and not a label map"
    )


def _warn_of_thick_slices(spacing_mm: tuple[float, float, float]) -> None:
    if max(spacing_mm) > THICK_MM or max(spacing_mm) > ANISOTROPIC * min(spacing_mm):
        log.warning(
            "voxels of %s mm: most hold several tissues; trust the fractions more than the labels",
            " × ".join(f"{mm:.3g}" for mm in spacing_mm),
        )


def _to_positive(brain: Float[np.ndarray, "n"]) -> tuple[np.float32, np.float32]:
    """What to subtract from the intensities and what then to multiply them by."""
    offset = np.float32(0)
    if (brain < 0).mean() > OUTLYING:
        offset = brain.min()
        log.warning("negative intensities: %.4g was added to all of the brain", -offset)
    factor = np.float32(1)
    if (brain - offset >= DIM).mean() < OUTLYING:
        high = np.percentile(brain, 100 * (1 - OUTLYING))
        factor = np.float32(RESCALED_TO / max(high - offset, 1e-30))
        log.warning("intensities end near %.3g: multiplied by %.4g for the logarithm", high, factor)
    return offset, factor
