"""Scan in, mask out: the whole pipeline for one scan."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.config import Contrast, Postprocess
from strega_jax.errors import CheckpointError
from strega_jax.inference.calibration import Calibration
from strega_jax.inference.model import Model
from strega_jax.postprocess import mask_from_score
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume, preprocess


@dataclasses.dataclass(frozen=True)
class Detection:
    """What was found in one scan.

    Attributes:
        scan: the scan.
        slices: what the network saw.
        reconstruction: (k, h, w, c) float32, what it expected to see, as `slices.images`.
        score: (x, y, z) float32 anomaly score on the scan's canonical grid; 0 outside the brain.
        mask: (x, y, z) what is marked as anomalous.
    """

    scan: Scan
    slices: SliceVolume
    reconstruction: Float[np.ndarray, "k h w c"]
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]


def detect_scan(
    model: Model,
    scan: Scan,
    settings: Postprocess,
    calibration: Calibration | None = None,
    *,
    contrast: Contrast | None = None,
    fast_output: Path | None = None,
) -> Detection:
    """Find what does not fit in one brain-extracted scan.

    Args:
        model: the trained model; the scan is preprocessed as its training scans were.
        scan: the scan.
        settings: score → mask.
        calibration: healthy scores, for `settings.threshold == "healthy"`.
        contrast: MR contrast of this scan, where it is not the training contrast.
        fast_output: folder of an existing FAST result, for models trained on such.

    Raises:
        ScanError: the scan is not what the method needs.
        CheckpointError: the settings ask for a calibration that the checkpoint lacks.
    """
    slices = preprocess(scan, model.about.preprocess, contrast, fast_output)
    scores, reconstruction = model.score(slices.images, slices.position)
    score = slices.back(scores)
    mask = mask_from_score(
        score, slices.brain, scan.spacing_mm, settings, healthy_threshold=healthy_value(settings, calibration)
    )
    return Detection(scan, slices, reconstruction, score, mask)


def healthy_value(settings: Postprocess, calibration: Calibration | None) -> float | None:
    """The threshold that the settings take from healthy scans, if they do."""
    if settings.threshold != "healthy":
        return None
    if calibration is None:
        raise CheckpointError(
            "postprocess.threshold is 'healthy', but the checkpoint has no calibration.json beside "
            "it; make it with `python -m strega_jax.train --evaluate`, or choose 'otsu'"
        )
    return calibration.threshold(settings.healthy_rate, settings.smooth_mm)
