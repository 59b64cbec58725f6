"""Small bright lesions of white matter in FLAIR, which the network does not see: plaques, small infarcts.

The network hardly answers to a brightness below that of tumours (RESULTS.md). In FLAIR such lesions are brighter than
grey matter: where the template has white matter, what is brighter than all but a small share of the same scan's grey
matter is taken for one. Nothing in it is learnt. Only FLAIR is read this way: in T2w fluid is as bright as lesions, in
T1w grey matter as dark.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.config import Postprocess
from strega_jax.errors import ConfigError
from strega_jax.postprocess.morphology import drop_small_volumes
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.slices.template import tissue_template

CONTRAST = "FLAIR"
NOISE_MM = 1.0  # Gaussian sigma on the image
# Shares of the template's tissue from which a voxel counts as grey matter, for the threshold, and as white.
GREY, WHITE = 0.6, 0.3
SMALLEST_ML = 0.05


def bright_lesions(scan: Scan, slices: SliceVolume, settings: Postprocess) -> Bool[np.ndarray, "x y z"]:
    """White matter that is brighter than all but the share `settings.bright_lesions` of grey matter; specks dropped.

    Returns:
        On the scan's grid; nothing where the setting is 0 or the contrast another than FLAIR.

    Raises:
        ConfigError: the slices are not aligned to the template.
    """
    found = np.zeros(scan.data.shape, bool)
    if not settings.bright_lesions or scan.contrast != CONTRAST:
        return found
    if slices.alignment is None:
        raise ConfigError(
            "config field postprocess.bright_lesions needs slices aligned to the template; prepare with "
            "preprocess.grid='template', or leave bright_lesions out"
        )
    grey, white = (_template(tissue, scan, slices.alignment) for tissue in (1, 2))
    sigma = [NOISE_MM / mm for mm in scan.spacing_mm]
    image = ndimage.gaussian_filter(np.where(slices.brain, scan.data, np.float32(0)), sigma)
    image = image / np.maximum(ndimage.gaussian_filter(slices.brain.astype(np.float32), sigma), np.float32(0.05))
    own_grey = image[slices.brain & (grey > GREY) & (slices.tissue.pveseg > 1)]  # class 1 is fluid
    if own_grey.size:
        bright = image > np.quantile(own_grey, 1 - settings.bright_lesions)
        found = drop_small_volumes(
            slices.brain & (white > WHITE) & bright, SMALLEST_ML * 1000 / math.prod(scan.spacing_mm)
        )
    return found


def _template(tissue: int, scan: Scan, alignment: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "x y z"]:
    """A tissue's share in the template at the voxels of the scan; `alignment`: MNI152 mm → scan mm."""
    fractions, affine = tissue_template()
    to_index = np.linalg.inv(alignment @ affine) @ scan.affine
    return np.asarray(ndimage.affine_transform(fractions[..., tissue], to_index, output_shape=scan.data.shape, order=1))
