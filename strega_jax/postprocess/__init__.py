"""Score map → mask → boxes."""

from strega_jax.postprocess.components import Component, SliceBox, find_components, slice_boxes
from strega_jax.postprocess.extent import decide_extent
from strega_jax.postprocess.healthy import healthy_threshold, healthy_thresholds
from strega_jax.postprocess.mask import mask_from_score
from strega_jax.postprocess.otsu import otsu_thresholds
from strega_jax.postprocess.refine import refine_scores

__all__ = [
    "Component",
    "SliceBox",
    "decide_extent",
    "find_components",
    "healthy_threshold",
    "healthy_thresholds",
    "mask_from_score",
    "otsu_thresholds",
    "refine_scores",
    "slice_boxes",
]
