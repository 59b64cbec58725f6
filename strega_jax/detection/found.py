"""What was found in one scan."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from strega_jax.detection.enhancing import label_regions
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume


@dataclasses.dataclass(frozen=True)
class Detection:
    """What was found in one scan.

    Attributes:
        scan: the scan.
        slices: what the network saw.
        reconstruction: (k, h, w, c) float32, what it expected to see, as `slices.images`.
        score: (x, y, z) float32 anomaly score on the scan's canonical grid, refined as the threshold sees it; 0
            outside the brain.
        mask: (x, y, z) what is marked as anomalous.
        uncertainty: (x, y, z) float32 standard deviation of the score over latent samples, if it was asked for.
        healthy_threshold: the threshold that came from healthy scans, if one did.
        threshold_source: which healthy scans these were, in words; see `Calibration.source`.
        enhancing: (x, y, z) the part of `mask` that takes up contrast agent, in T1ce; None for other contrasts.
    """

    scan: Scan
    slices: SliceVolume
    reconstruction: Float[np.ndarray, "k h w c"]
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    uncertainty: Float[np.ndarray, "x y z"] | None = None
    healthy_threshold: float | None = None
    threshold_source: str = ""
    enhancing: Bool[np.ndarray, "x y z"] | None = None

    @property
    def regions(self) -> UInt8[np.ndarray, "x y z"] | None:
        """Labels 0 background, 1 anomaly, 2 enhancing; None where nothing tells what enhances."""
        return None if self.enhancing is None else label_regions(self.mask, self.enhancing)

    @property
    def enhancing_ml(self) -> float | None:
        """Volume of what enhances; None where nothing tells it."""
        return None if self.enhancing is None else float(self.enhancing.sum() * self.scan.voxel_ml)
