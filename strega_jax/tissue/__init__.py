"""Tissue segmentation: what FSL FAST computes, in JAX."""

from strega_jax.tissue.segmentation import TissueMap, segment

__all__ = ["TissueMap", "segment"]
