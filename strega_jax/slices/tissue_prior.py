"""Grey and white matter from the template, for contrasts that tell fluid from tissue but not grey from white."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from strega_jax.config import Preprocess
from strega_jax.slices.grid import template_pixels
from strega_jax.slices.template import tissue_template

# Where the template has less tissue than this, its share of grey matter is taken as 1: only cortex lies at the edge.
LEAST_TISSUE = 0.02


def grey_share(settings: Preprocess, step_mm: float) -> Float[np.ndarray, "k h w"]:
    """Share of grey matter in the template's grey and white matter, on the slices of MNI152.

    `step_mm` is the distance of slices where the settings leave it to the scan.
    """
    fractions, affine = tissue_template()
    shape, to_template = template_pixels(settings, step_mm)
    to_index = np.linalg.inv(affine) @ to_template
    grey, white = (
        ndimage.affine_transform(fractions[..., c], to_index, output_shape=shape, order=1).transpose(2, 0, 1)
        for c in (1, 2)
    )
    tissue = grey + white
    return np.where(tissue > LEAST_TISSUE, grey / np.maximum(tissue, LEAST_TISSUE), 1).astype(np.float32)


def divide_tissue(
    fluid: Float[np.ndarray, "k h w"], excess: Float[np.ndarray, "k h w"], grey: Float[np.ndarray, "k h w"]
) -> Float[np.ndarray, "k h w 4"]:
    """CSF, GM and WM shares and excess of slices whose tissue is grey and white as the template's.

    What is brighter than tissue is none of both: its grey share passes into white as the excess rises to a third, so
    that brightness rises along the tissue scale.

    Args:
        fluid: share of CSF.
        excess: how far brighter than tissue, 0 to 1.
        grey: share of GM in the tissue, of `grey_share`.
    """
    tissue = np.clip(1 - fluid, 0, 1)
    grey = tissue * grey * (1 - np.clip(3 * excess, 0, 1))
    return np.stack([fluid, grey, tissue - grey, excess], axis=-1)
