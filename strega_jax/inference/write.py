"""A detection on disk: native-space mask and residual, and the components in numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.inference.detect import Detection
from strega_jax.postprocess import find_components, slice_boxes
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import write_volume

DISCLAIMER = "Research use only. Not a medical device."


@dataclasses.dataclass(frozen=True)
class Written:
    """Paths of one detection's files."""

    mask: Path
    residual: Path
    boxes: Path


def output_paths(folder: Path, name: str) -> Written:
    """Where `write_detection` puts a scan's files."""
    return Written(
        folder / f"{name}_mask.nii.gz", folder / f"{name}_desc-residual.nii.gz", folder / f"{name}_boxes.json"
    )


def write_detection(folder: Path, name: str, detection: Detection, source: str) -> Written:
    """Write mask, score map and boxes with the scan's own affine and shape; the boxes last.

    Args:
        folder: made if need be.
        name: stem of the files.
        detection: what was found.
        source: the checkpoint, for the record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = output_paths(folder, name)
    write_volume(paths.mask, detection.mask, detection.scan)
    write_volume(paths.residual, detection.score.astype(np.float32), detection.scan)
    write_json(paths.boxes, summarise(detection, source))
    return paths


def summarise(detection: Detection, source: str) -> dict[str, Any]:
    """Components with boxes, volumes and world centroids, and the 2-D boxes of each slice, for JSON."""
    scan = detection.scan
    components = find_components(detection.mask, detection.score, scan.affine, scan.spacing_mm)
    return {
        "scan": scan.path.name,
        "checkpoint": source,
        "anomaly_ml": float(detection.mask.sum() * scan.voxel_ml),
        "brain_ml": float(detection.slices.brain.sum() * scan.voxel_ml),
        "components": [dataclasses.asdict(component) for component in components],
        "slice_boxes": [dataclasses.asdict(box) for box in slice_boxes(detection.mask)],
        "grid": "boxes count voxels of the scan in RAS order; centroids are scanner millimetres",
        "note": DISCLAIMER,
    }
