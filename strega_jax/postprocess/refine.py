"""Score stacks made ready for a threshold: capped, smoothed within the brain, compared with the other hemisphere."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.config import Postprocess

# Where less than this share of the Gaussian lies in the brain, its weight is taken as this: a lone voxel at the
# brain's edge is not blown up to the level of its neighbourhood.
LEAST_WEIGHT = 0.05


def refine_scores(
    scores: Float[np.ndarray, "k h w"],
    brain: Bool[np.ndarray, "k h w"],
    spacing_mm: tuple[float, float, float],
    settings: Postprocess,
) -> Float[np.ndarray, "k h w"]:
    """Scores of all slices of a grid, gaps filled with zeros, as the threshold is to see them.

    In this order, each if it is set: `clip`; a Gaussian of `smooth_mm`, normalised by its weight in the brain, so
    that the brain's edge is not dimmed; less `mirror` times the score at the mirrored place along h, never below 0.

    Args:
        scores: ≥ 0; what lies outside the brain is taken as 0.
        brain: the brain on the same grid; for `mirror` its midsagittal plane lies between the middle columns of h.
        spacing_mm: along k, h, w.
        settings: how.

    Returns:
        float32, 0 outside the brain.
    """
    refined = np.where(brain, scores, np.float32(0)).astype(np.float32)
    if settings.clip > 0:
        refined = np.minimum(refined, np.float32(settings.clip))
    if settings.smooth_mm > 0:
        sigma = [settings.smooth_mm / edge for edge in spacing_mm]
        with ThreadPoolExecutor(2) as pool:  # SciPy lets go of the interpreter
            smooth = functools.partial(ndimage.gaussian_filter, sigma=sigma, mode="constant")
            refined, weight = pool.map(smooth, (refined, brain.astype(np.float32)))
        refined = refined / np.maximum(weight, np.float32(LEAST_WEIGHT))
        refined = np.where(brain, refined, np.float32(0))
    if settings.mirror > 0:
        refined = np.maximum(refined - np.float32(settings.mirror) * refined[:, ::-1], np.float32(0))
    return refined
