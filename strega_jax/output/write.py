"""A detection on disk: native-space maps, and what was found in numbers."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.detection.found import Detection
from strega_jax.output.files import ResultFiles, result_files
from strega_jax.postprocess import Component, find_components, slice_boxes
from strega_jax.scans.files import replacing, write_json
from strega_jax.scans.scan import write_volume

DISCLAIMER = "Research use only. Not a medical device."
COLUMNS = ("component", "volume_ml", "x_mm", "y_mm", "z_mm", "peak_score", "mean_score", "voxels",
           "x_first", "x_end", "y_first", "y_end", "z_first", "z_end")  # fmt: skip


def write_detection(
    folder: Path,
    name: str,
    detection: Detection,
    source: str,
    *,
    record: Mapping[str, Any] | None = None,
    paths: ResultFiles | None = None,
) -> ResultFiles:
    """Write mask, score map, uncertainty map (if there is one), component table and boxes; the boxes last.

    Maps have the scan's own affine and shape.

    Args:
        folder: made if need be.
        name: stem of the files.
        detection: what was found.
        source: the checkpoint, for the record.
        record: more fields for the boxes' JSON.
        paths: where to write, instead of `result_files(folder, name)`.
    """
    paths = paths or result_files(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(paths.mask, detection.mask, detection.scan)
    write_volume(paths.anomaly_map, detection.score.astype(np.float32), detection.scan)
    if detection.uncertainty is not None:
        write_volume(paths.uncertainty, detection.uncertainty.astype(np.float32), detection.scan)
    components = components_of(detection)
    _write_table(paths.components, components)
    write_json(paths.boxes, summarise(detection, source, components) | dict(record or {}))
    return paths


def components_of(detection: Detection) -> list[Component]:
    """The 3-D components of what is marked, largest first."""
    scan = detection.scan
    return find_components(detection.mask, detection.score, scan.affine, scan.spacing_mm)


def summarise(detection: Detection, source: str, components: Sequence[Component] | None = None) -> dict[str, Any]:
    """Components with boxes, volumes and world centroids, and the 2-D boxes of each slice, for JSON."""
    scan = detection.scan
    components = components_of(detection) if components is None else components
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


def _write_table(path: Path, components: Sequence[Component]) -> None:
    """One line a component: place and size in scanner millimetres and in voxels of the scan in RAS order."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for c in components:
            box = [edge for pair in zip(c.box_lo, c.box_hi, strict=True) for edge in pair]
            centre = [f"{mm:.2f}" for mm in c.centroid_mm]
            scores = [f"{c.peak_score:.6g}", f"{c.mean_score:.6g}"]
            table.writerow([c.label, f"{c.volume_ml:.4f}", *centre, *scores, c.voxels, *box])
