"""Detection from Python: one call, arrays on the file's own grid."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from strega_jax.config import Postprocess, build_dataclass
from strega_jax.detection.detect import detect_scan
from strega_jax.detection.quality import QualityWarning, measure, reference_warnings, scan_warnings
from strega_jax.models.opened import SHIPPED, Opened
from strega_jax.models.opening import open_model
from strega_jax.output.write import components_of
from strega_jax.postprocess import Component
from strega_jax.scans.contrast import Contrast
from strega_jax.scans.source import AUTO, open_scan


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found in one scan, on the grid of its file.

    Attributes:
        contrast: its MR contrast; where nothing tells it `unknown`, and it was read as the training contrast.
        mask: (i, j, k) what is marked as anomalous.
        regions: (i, j, k) uint8 labels of a T1ce scan: 1 what is marked, 2 the part of it that takes up contrast agent;
            None for other contrasts.
        score: (i, j, k) float32 anomaly score ≥ 0, 0 outside the brain.
        uncertainty: (i, j, k) float32 standard deviation of the score over latent samples, or None.
        affine: (4, 4) float64, voxel index → scanner millimetres (RAS+); the file's own.
        components: 3-D components of the mask, largest first; their boxes count voxels in RAS order.
        anomaly_ml, brain_ml: volume marked, and volume of the brain.
        warnings: what quality control found; empty where it found nothing.
        compared_with_training: whether quality control could compare the scan with the training cohort.
    """

    contrast: str
    mask: Bool[np.ndarray, "i j k"]
    regions: UInt8[np.ndarray, "i j k"] | None
    score: Float[np.ndarray, "i j k"]
    uncertainty: Float[np.ndarray, "i j k"] | None
    affine: Float[np.ndarray, "4 4"]
    components: tuple[Component, ...]
    anomaly_ml: float
    brain_ml: float
    warnings: tuple[QualityWarning, ...]
    compared_with_training: bool


def detect(
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | Opened = SHIPPED,
    *,
    contrast: Contrast | None = None,
    brain: str | os.PathLike[str] = AUTO,
    postprocess: Mapping[str, Any] | None = None,
    samples: int = 0,
) -> Result:
    """Find what does not fit in one brain-extracted scan.

    Args:
        path: NIfTI file, or the folder of one DICOM series.
        checkpoint: workdir of a training run, one of its checkpoints, what `strega_jax.export` made, or what
            `strega_jax.models.opening.open_model` made of one, which saves loading it again for every scan; default:
            the weights that come with the package.
        contrast: MR contrast of the scan; default: what the file's name or the DICOM header tells.
        brain: `auto` (a brain mask beside the scan, else the image if it is brain-extracted, else brain extraction with
            what is installed), `given` (the image is brain-extracted; do not check), `deepbet`, `hd-bet`, or the path
            of a brain mask.
        postprocess: settings that replace the checkpoint's, e.g. `{"threshold": "fixed", "value": 0.4}`.
        samples: latent samples for `Result.uncertainty`; 0: none is made.

    Raises:
        StregaError: the scan, the checkpoint or a setting is not what it must be; the text says what to do.
    """
    opened = checkpoint if isinstance(checkpoint, Opened) else open_model(checkpoint)
    about = opened.model.about
    fields = dataclasses.asdict(about.run.postprocess) | dict(postprocess or {})
    settings = build_dataclass(Postprocess, fields, "postprocess")
    scan = open_scan(path, contrast or "", brain)
    found = detect_scan(opened.model, scan, settings, opened.calibration, samples=samples)
    warnings = scan_warnings(scan, found.slices, about.preprocess.contrast)
    warnings += reference_warnings(measure(found), opened.reference)
    regions = found.regions
    return Result(
        contrast=scan.contrast or "unknown",
        mask=scan.to_native(found.mask),
        regions=None if regions is None else scan.to_native(regions),
        score=scan.to_native(found.score),
        uncertainty=None if found.uncertainty is None else scan.to_native(found.uncertainty),
        affine=scan.native_affine,
        components=tuple(components_of(found)),
        anomaly_ml=float(found.mask.sum() * scan.voxel_ml),
        brain_ml=float(found.slices.brain.sum() * scan.voxel_ml),
        warnings=tuple(warnings),
        compared_with_training=opened.reference is not None,
    )
