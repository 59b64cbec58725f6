"""Scan in, mask out: the whole pipeline for one scan."""

import numpy as np
from jaxtyping import Bool, Float

from strega_jax import memory
from strega_jax.boxes import bounding_box, within_reach
from strega_jax.config import Postprocess, Preprocess
from strega_jax.detection.bright import bright_lesions
from strega_jax.detection.enhancing import enhancing
from strega_jax.detection.found import Detection
from strega_jax.errors import ConfigError
from strega_jax.models.calibration import Calibration, healthy_value
from strega_jax.models.scorer import Scorer, Scores
from strega_jax.postprocess import decide_extent, mask_from_score, refine_scores
from strega_jax.scans.contrast import ENHANCED_CONTRAST, same_brightness_order
from strega_jax.scans.scan import Scan
from strega_jax.slices.brain import brain_of
from strega_jax.slices.preprocess import SliceVolume, preprocess


def detect_scan(
    model: Scorer,
    scan: Scan,
    settings: Postprocess,
    calibration: Calibration | None = None,
    *,
    samples: int = 0,
) -> Detection:
    """Find what does not fit in one brain-extracted scan.

    Args:
        model: the trained model; the scan is preprocessed as its training scans were.
        scan: the scan.
        settings: score → mask.
        calibration: healthy scores, for `settings.threshold == "healthy"`.
        samples: latent samples for `Detection.uncertainty`; 0: none is made.

    Raises:
        ScanError: the scan is not what the method needs.
        CheckpointError: the settings ask for a calibration that the checkpoint lacks.
        ConfigError: the model has no latent distribution to sample.
    """
    slices = preprocess(scan, model.about.preprocess)
    return detect_slices(model, scan, slices, settings, calibration, samples=samples)


def detect_slices(
    model: Scorer,
    scan: Scan,
    slices: SliceVolume,
    settings: Postprocess,
    calibration: Calibration | None = None,
    *,
    samples: int = 0,
) -> Detection:
    """`detect_scan` for a scan that is preprocessed already."""
    score, found = anomaly_map(model, scan, slices, settings)
    memory.give_back_after_fine(scan.data.size)
    threshold = healthy_value(settings, calibration, scan.contrast)
    mask = mask_from_score(score, slices.brain, scan.spacing_mm, settings, healthy_threshold=threshold)
    memory.give_back_after_fine(scan.data.size)
    if settings.appearance_mm:
        sure = _sure(mask, scan, slices, found.probability, settings, model.about.preprocess.contrast)
        mask = decide_extent(mask, [scan.data], slices.brain, scan.spacing_mm, settings, sure)
    mask = mask | bright_lesions(scan, slices, settings)
    uncertainty = None
    if samples:
        from strega_jax.models.uncertainty import score_deviation

        uncertainty = slices.back(score_deviation(model, slices.images, slices.position, samples))
    source = "" if calibration is None or threshold is None else calibration.source(settings, scan.contrast)
    enhanced = scan.contrast == ENHANCED_CONTRAST
    part = enhancing(scan.data, slices.tissue, mask, scan.spacing_mm) if enhanced else None
    return Detection(scan, slices, found.reconstruction, score, mask, uncertainty, threshold, source, part)


def anomaly_map(
    model: Scorer, scan: Scan, slices: SliceVolume, settings: Postprocess
) -> tuple[Float[np.ndarray, "x y z"], Scores]:
    """Refined scores on the scan's canonical grid, 0 outside the brain; and what the network says of its slices."""
    found = model.score(slices.images, slices.position, scan.contrast)
    return slices.back(_refined(found.score, scan, slices, model, settings)), found


def _sure(
    mask: Bool[np.ndarray, "x y z"],
    scan: Scan,
    slices: SliceVolume,
    probability: Float[np.ndarray, "k h w"] | None,
    settings: Postprocess,
    trained: str,
) -> Bool[np.ndarray, "x y z"] | None:
    """Where the judge is sure, in the box that detections reach; None where it is not asked for, or none is there.

    Where tissues have another order of brightness, a judge is as sure of much that the segmentation made.
    """
    if not settings.grow_probability or not same_brightness_order(scan.contrast or trained, trained):
        return None
    if probability is None:
        raise ConfigError(
            "config field postprocess.grow_probability needs a detector with a judge (atlas_judge, cce_vae_judge); set "
            "it to 0"
        )
    found = bounding_box(mask)
    if found is None:
        return None
    near = within_reach(found, scan.spacing_mm, settings.appearance_mm, mask.shape)
    return slices.back(probability, near) > settings.grow_probability


def _refined(
    scores: Float[np.ndarray, "k h w"], scan: Scan, slices: SliceVolume, model: Scorer, settings: Postprocess
) -> Float[np.ndarray, "k h w"]:
    """Scores of the network's slices → refined scores of the same slices."""
    check_mirror(settings, model.about.preprocess)
    h, w, k = slices.grid.shape
    stack, brain = np.zeros((k, h, w), np.float32), np.zeros((k, h, w), bool)
    stack[slices.indices], brain[slices.indices] = scores, brain_of(slices.images)
    h_mm, w_mm, k_mm = slices.grid.spacing_mm(scan)
    return refine_scores(stack, brain, (k_mm, h_mm, w_mm), settings)[slices.indices]


def check_mirror(settings: Postprocess, preprocess: Preprocess) -> None:
    """Raise ConfigError where `mirror` is asked of slices whose midline is not known."""
    if settings.mirror and preprocess.grid != "template":
        raise ConfigError(
            f"config field postprocess.mirror needs slices aligned to the template; preprocess.grid is "
            f"{preprocess.grid!r}. Prepare with grid='template', or leave mirror out"
        )
