"""Whether an image is brain-extracted."""

import cc3d
import numpy as np
from jaxtyping import Bool, Float

# Brain-extracted images have one background value on nearly all of their border (three whole heads: 54 to 97 %) …
STRIPPED_BORDER_SHARE = 0.98
# … and no connected foreground larger than any brain.
LARGEST_BRAIN_ML = 2500.0
ANISOTROPIC = 3.0

WAY_OUT = "give a brain mask (--brain=PATH), or, if the skull is off already, say so (--brain=given)"


def foreground(
    image: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> tuple[Bool[np.ndarray, "x y z"], str]:
    """What is not background, once `remove_background` has passed; and why it is no extracted brain, or nothing.

    Args:
        image: intensities.
        spacing_mm: voxel edge lengths.
    """
    background, share = border_mode(image, spacing_mm)
    inside = image != background if image.min() < 0 else image > background
    return inside, _why_not(image, inside, background, share, float(np.prod(spacing_mm)) / 1000.0)


def why_not_extracted(image: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> str:
    """Why an image does not look brain-extracted; empty where it does."""
    return foreground(image, spacing_mm)[1]


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


def _why_not(
    image: Float[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    background: float,
    border_share: float,
    voxel_ml: float,
) -> str:
    if border_share < STRIPPED_BORDER_SHARE:
        return (
            f"its border is no constant background (only {100 * border_share:.0f} % of it has the most frequent "
            f"value, {background:g})"
        )
    if (low := float(image.min())) < 0:
        return f"brain and background cannot be told apart: both have values around {background:g}, down to {low:.3g}"
    if inside.sum() * voxel_ml <= LARGEST_BRAIN_ML:
        return ""
    largest = cc3d.statistics(cc3d.connected_components(inside, connectivity=6))["voxel_counts"][1:].max() * voxel_ml
    if largest <= LARGEST_BRAIN_ML:
        return ""
    return f"its largest part has {largest:.0f} ml, a brain at most {LARGEST_BRAIN_ML:.0f}"
