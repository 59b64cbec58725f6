"""What an image must be to be segmented, and what to do where it is not."""

import logging

import cc3d
import numpy as np
from jaxtyping import Bool, Float

from strega_jax.errors import ScanError

log = logging.getLogger(__name__)

# Brain-extracted images have one background value on nearly all of their border …
STRIPPED_BORDER_SHARE = 0.99
# … and no connected foreground larger than any brain.
LARGEST_BRAIN_ML = 2500.0
OUTLYING = 0.02
# Below this 98th percentile log(I + 1) is almost linear and no longer turns the bias into a sum.
DIM = 10.0
RESCALED_TO = 1000.0
THICK_MM, ANISOTROPIC = 4.0, 3.0

WAY_OUT = (
    "extract the brain first (for healthy T1w: `pip install strega-jax[deepbet]`, then deepbet; for tumours HD-BET or"
    " SynthStrip), or give a brain mask (--mask, `mask=`), or, if the skull is off already, say so (--assume_stripped,"
    " --config.preprocess.assume_stripped, `assume_stripped=True`)"
)


def brain_intensities(
    image: Float[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    mask: Bool[np.ndarray, "x y z"] | None,
    assume_stripped: bool,
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Intensities fit for the logarithm, and the mask to segment.

    A background that is not 0 (z-scored images) is found as the most frequent value of the border. A few negative
    voxels are set to 0; where more than 2 % of the brain are negative, the darkest voxel becomes 0. Intensities
    that end below 10 are scaled up and a warning is logged. So is one for thick slices and anisotropic voxels.

    Returns:
        (x, y, z) float32, 0 outside the mask; and the mask.

    Raises:
        ScanError: not finite, not brain-extracted, constant, or a mask that does not fit or is empty.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ScanError(f"{np.count_nonzero(~np.isfinite(image))} voxels are NaN or infinite; mend the file")
    if mask is None:
        background, share = border_mode(image, spacing_mm)
        inside = image != background if image.min() < 0 else image > background
        if not assume_stripped:
            _require_stripped(inside, share, float(np.prod(spacing_mm)) / 1000.0)
    else:
        inside = np.asarray(mask) > 0
        if inside.shape != image.shape:
            raise ScanError(
                f"the brain mask has shape {inside.shape}, the image {image.shape}; give a mask of its grid"
            )
        if image.min() >= 0:
            inside = inside & (image > 0)
    if not inside.any():
        raise ScanError("no voxel is brain; check the mask, or that the file holds the image you mean")
    brain = image[inside]
    if brain.min() == brain.max():
        raise ScanError(f"every brain voxel is {brain[0]:g}: a mask or an empty image, not an MR image")
    _warn_of_thick_slices(spacing_mm)
    offset, factor = _to_positive(brain)
    return np.where(inside, np.maximum((image - offset) * factor, np.float32(0)), np.float32(0)), inside


def border_mode(image: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """The most frequent value on the faces of the volume, and the share of the faces that has it.

    Stacks of thick slices often begin and end inside the brain: their first and last slice do not count. Nor does the
    face with the least background, at which the field of view may cut the brain off.
    """
    thin = [axis for axis in range(3) if spacing_mm[axis] <= ANISOTROPIC * min(spacing_mm)]
    faces = [image.take(i, axis).ravel() for axis in thin for i in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    mode = values[counts.argmax()]
    shares = [float((face == mode).mean()) for face in faces]
    del faces[int(np.argmin(shares))]
    return float(mode), float((np.concatenate(faces) == mode).mean())


def require_distinct_classes(means: Float[np.ndarray, "k"], variances: Float[np.ndarray, "k"]) -> None:
    """Refuse an image whose intensities do not fall into the classes asked for."""
    if not (np.isfinite(means).all() and (np.diff(means) > 0).all() and (variances > 0).all()):
        raise ScanError(
            f"the image has fewer than {means.size} kinds of intensity; ask for fewer classes (--n_classes,"
            " `n_classes=`), or check that it is an MR image and not a label map"
        )


def _require_stripped(mask: Bool[np.ndarray, "x y z"], border_share: float, voxel_ml: float) -> None:
    if border_share < STRIPPED_BORDER_SHARE:
        raise ScanError(
            f"the image does not look brain-extracted: only {100 * border_share:.0f} % of its border is background;"
            f" {WAY_OUT}"
        )
    if mask.sum() * voxel_ml <= LARGEST_BRAIN_ML:
        return
    largest = cc3d.statistics(cc3d.connected_components(mask, connectivity=6))["voxel_counts"][1:].max() * voxel_ml
    if largest > LARGEST_BRAIN_ML:
        raise ScanError(
            f"the image does not look brain-extracted: its largest part has {largest:.0f} ml, a brain at most"
            f" {LARGEST_BRAIN_ML:.0f}; {WAY_OUT}"
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
