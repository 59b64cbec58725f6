"""Is white matter the brighter one? For contrasts whose segmentation tells fluid from tissue alone."""

import numpy as np
from jaxtyping import Float
from nibabel.affines import apply_affine
from scipy import ndimage

from strega_jax.slices.template import tissue_template

VOXELS = 50_000
LEAST_TISSUE = 0.8  # of a voxel, in the scan and in the template


def white_brightness(
    fractions: Float[np.ndarray, "x y z 3"], affine: Float[np.ndarray, "4 4"], alignment: Float[np.ndarray, "4 4"]
) -> float:
    """Correlation of the brightest class' share in the tissue with white matter's in the template; 0 without tissue.

    Args:
        fractions: of three classes by rising brightness, the first one fluid.
        affine: voxel index → scan millimetres.
        alignment: MNI152 millimetres → scan millimetres.
    """
    solid = np.flatnonzero(fractions[..., 1] + fractions[..., 2] > LEAST_TISSUE)
    index = np.column_stack(np.unravel_index(solid[:: max(1, solid.size // VOXELS)], fractions.shape[:3]))
    template, template_affine = tissue_template()
    place = apply_affine(np.linalg.inv(alignment @ template_affine) @ affine, index).T
    grey, white = (ndimage.map_coordinates(template[..., c], place, order=1) for c in (1, 2))
    held = grey + white > LEAST_TISSUE
    middle, bright = (fractions[(*index[held].T, c)] for c in (1, 2))
    shares = bright / (middle + bright), white[held] / (grey + white)[held]
    if held.sum() < 2 or min(share.std() for share in shares) == 0:
        return 0.0
    return float(np.corrcoef(*shares)[0, 1])
