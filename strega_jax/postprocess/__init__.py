"""Score map → mask → boxes."""

from strega_jax.postprocess.appearance import refine_by_appearance
from strega_jax.postprocess.components import Component, SliceBox, find_components, slice_boxes
from strega_jax.postprocess.healthy import healthy_threshold, healthy_thresholds
from strega_jax.postprocess.mask import grow_into, mask_from_score
from strega_jax.postprocess.otsu import otsu_thresholds
from strega_jax.postprocess.refine import refine_scores

__all__ = [
    "Component",
    "SliceBox",
    "find_components",
    "grow_into",
    "healthy_threshold",
    "healthy_thresholds",
    "mask_from_score",
    "otsu_thresholds",
    "refine_by_appearance",
    "refine_scores",
    "slice_boxes",
]
