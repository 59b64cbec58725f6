"""Detection from Python: one call, arrays on the file's own grid."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from strega_jax.config import Postprocess, build_dataclass
from strega_jax.detection.detect import detect_scan
from strega_jax.detection.quality import QualityWarning, detection_warnings
from strega_jax.detection.session import Part, fuse_parts
from strega_jax.models.opened import SHIPPED, Opened
from strega_jax.models.opening import open_model
from strega_jax.output.write import components_of
from strega_jax.postprocess import Component
from strega_jax.scans.contrast import Contrast
from strega_jax.scans.source import AUTO, choose_lender, open_scan


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


@dataclasses.dataclass(frozen=True)
class SessionResult:
    """What was found in the contrasts of one session together, on the grid of the file of `grid`.

    Attributes:
        contrasts: contrast → what was found in it alone, on its own grid.
        grid: the contrast with the smallest voxels (of equal ones, with the larger brain), whose grid this is on.
        weights: contrast → its weight in the fused anomaly map; 0.5 of the others with a quality-control warning.
        left_out: a line for each scan that was left out, with the reason.
        mask: (i, j, k) what is marked as anomalous.
        regions: (i, j, k) uint8: 0 background, 1 anomaly, 2 the part of it that enhances; None without T1ce.
        score: (i, j, k) float32 fused anomaly score ≥ 0, 0 outside the brain.
        affine: (4, 4) float64, voxel index → scanner millimetres (RAS+).
        components: 3-D components of the mask, largest first; their boxes count voxels in RAS order.
        anomaly_ml, brain_ml: volume marked, and volume of the brain.
    """

    contrasts: dict[str, Result]
    grid: str
    weights: dict[str, float]
    left_out: tuple[str, ...]
    mask: Bool[np.ndarray, "i j k"]
    regions: UInt8[np.ndarray, "i j k"] | None
    score: Float[np.ndarray, "i j k"]
    affine: Float[np.ndarray, "4 4"]
    components: tuple[Component, ...]
    anomaly_ml: float
    brain_ml: float


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
    part = _part(path, opened, contrast, brain, _settings(opened, postprocess), samples)
    return _result(part, opened)


def detect_session(
    paths: Mapping[Contrast, str | os.PathLike[str]],
    checkpoint: str | os.PathLike[str] | Opened = SHIPPED,
    *,
    brain: str | os.PathLike[str] = AUTO,
    postprocess: Mapping[str, Any] | None = None,
) -> SessionResult:
    """Find what does not fit in one patient's scans of one date, in each alone and in all together.

    Args:
        paths: MR contrast → NIfTI file or folder of a DICOM series; two or more.
        checkpoint, brain, postprocess: as `detect` takes them.

    Raises:
        StregaError: as `detect`; also where fewer than two scans show one place of the scanner.
    """
    opened = checkpoint if isinstance(checkpoint, Opened) else open_model(checkpoint)
    settings = _settings(opened, postprocess)
    lender = choose_lender(paths)
    parts = [_part(path, opened, contrast, brain, settings, lender=lender) for contrast, path in paths.items()]
    fused = fuse_parts(parts, settings, opened.calibration)
    found = fused.detection
    scan = found.scan
    return SessionResult(
        contrasts={part.contrast: _result(part, opened) for part in parts},
        grid=fused.grid,
        weights=fused.weights,
        left_out=fused.left_out,
        mask=scan.to_native(found.mask),
        regions=None if found.regions is None else scan.to_native(found.regions),
        score=scan.to_native(found.score),
        affine=scan.native_affine,
        components=tuple(components_of(found)),
        anomaly_ml=float(found.mask.sum() * scan.voxel_ml),
        brain_ml=float(found.slices.brain.sum() * scan.voxel_ml),
    )


def _settings(opened: Opened, changed: Mapping[str, Any] | None) -> Postprocess:
    fields = dataclasses.asdict(opened.model.about.run.postprocess) | dict(changed or {})
    return build_dataclass(Postprocess, fields, "postprocess")


def _part(
    path: str | os.PathLike[str],
    opened: Opened,
    contrast: Contrast | None,
    brain: str | os.PathLike[str],
    settings: Postprocess,
    samples: int = 0,
    lender: str | os.PathLike[str] | None = None,
) -> Part:
    scan = open_scan(path, contrast or "", brain, lender)
    found = detect_scan(opened.model, scan, settings, opened.calibration, samples=samples)
    warnings = detection_warnings(found, opened.model.about.preprocess.contrast, opened.reference)
    return Part(scan.path.name, found, tuple(warnings))


def _result(part: Part, opened: Opened) -> Result:
    found = part.detection
    scan = found.scan
    return Result(
        contrast=part.contrast,
        mask=scan.to_native(found.mask),
        regions=None if found.regions is None else scan.to_native(found.regions),
        score=scan.to_native(found.score),
        uncertainty=None if found.uncertainty is None else scan.to_native(found.uncertainty),
        affine=scan.native_affine,
        components=tuple(components_of(found)),
        anomaly_ml=float(found.mask.sum() * scan.voxel_ml),
        brain_ml=float(found.slices.brain.sum() * scan.voxel_ml),
        warnings=part.warnings,
        compared_with_training=opened.reference is not None,
    )
