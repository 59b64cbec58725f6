"""What an image must be to be segmented, and what to do where it is not."""

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.errors import ScanError


def brain_intensities(
    image: Float[np.ndarray, "x y z"], mask: Bool[np.ndarray, "x y z"] | None
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Non-negative intensities and the mask to segment."""
    image = np.asarray(image, np.float32)
    mask = image > 0 if mask is None else np.asarray(mask, bool)
    return image, mask


def require_distinct_classes(means: Float[np.ndarray, "k"], variances: Float[np.ndarray, "k"]) -> None:
    """Refuse an image whose intensities do not fall into the classes asked for."""
    if not (np.isfinite(means).all() and (np.diff(means) > 0).all() and (variances > 0).all()):
        raise ScanError(
            f"the image has fewer than {means.size} kinds of intensity; ask for fewer classes, or check that it is"
            " an MR image and not a label map or a mask"
        )
