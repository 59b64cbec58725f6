"""A detection on disk: native-space maps, and what was found in numbers."""

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strega_jax.detection.found import Detection
from strega_jax.output.files import ResultFiles
from strega_jax.postprocess import Component, find_components, slice_boxes
from strega_jax.scans.files import replacing, write_json
from strega_jax.scans.scan import write_volume
from strega_jax.scans.source import GIVEN

if TYPE_CHECKING:
    from strega_jax.scans.dicom import Series

DISCLAIMER = "Research use only. Not a medical device."
COLUMNS = ("component", "volume_ml", "x_mm", "y_mm", "z_mm", "peak_score", "mean_score", "voxels",
           "x_first", "x_end", "y_first", "y_end", "z_first", "z_end")  # fmt: skip


def write_result(
    files: ResultFiles,
    detection: Detection,
    source: str,
    record: Mapping[str, Any] | None = None,
    *,
    page: Callable[[Path, Detection, Mapping[str, Any]], None] | None = None,
    sidecars: bool = False,
    series: "Series | None" = None,
) -> None:
    """Write all that was found in one scan: every file of the result or, where one cannot be written, none.

    Maps have the scan's own affine and shape. Regions and uncertainty map are written where there are any, the brain
    mask where the brain was cut out by one.

    Args:
        files: where.
        detection: what was found.
        source: the checkpoint, for the record.
        record: more fields for the boxes' JSON and the page.
        page: writes the page, such as `page.write_page`; None: there is none.
        sidecars: write a JSON file beside every map, as BIDS wants.
        series: the DICOM series that the scan was read from, for a DICOM SEG.
    """
    components = components_of(detection)
    summary = summarise(detection, source, components) | dict(record or {})
    summary["page"] = files.page.name if page else ""
    with files.replacing() as new, ThreadPoolExecutor(1) as drawing:
        drawn = drawing.submit(page, new.page, detection, summary) if page else None
        for name, volume in _maps(detection).items():
            write_volume(new.paths()[name], volume, detection.scan)
            if sidecars:
                write_json(new.sidecars()[name], _sidecar(name, detection, summary))
        _write_table(new.components, components)
        if series is not None:
            from strega_jax.output.dicom_seg import write_segmentation

            write_segmentation(new.segmentation, detection, series, source)
        if drawn is not None:
            drawn.result()
        written = sorted(path.name for path in new.boxes.parent.iterdir())
        write_json(new.boxes, summary | {"files": written})


# Of BIDS sidecars.
DESCRIPTIONS = {
    "mask": {"Type": "Lesion", "Description": "voxels marked as anomalous, unconfirmed"},
    "anomaly_map": {"Description": "anomaly score", "SkullStripped": True},
    "regions": {"Description": "0 background, 1 anomaly, 2 the part of it that takes up contrast agent; unconfirmed"},
    "uncertainty": {"Description": "standard deviation of the score", "SkullStripped": True},
    "brain_mask": {"Type": "Brain", "Description": "the brain that was judged"},
}


def _maps(detection: Detection) -> dict[str, np.ndarray]:
    """Field of `ResultFiles` → volume, of all that are to be written."""
    maps: dict[str, np.ndarray] = {"mask": detection.mask, "anomaly_map": detection.score.astype(np.float32)}
    regions = detection.regions
    if regions is not None:
        maps["regions"] = regions
    if detection.uncertainty is not None:
        maps["uncertainty"] = detection.uncertainty.astype(np.float32)
    if detection.scan.brain not in ("", GIVEN):
        maps["brain_mask"] = detection.slices.brain
    return maps


def _sidecar(name: str, detection: Detection, summary: Mapping[str, Any]) -> dict[str, Any]:
    model = summary.get("model", {})
    return {
        "Sources": [detection.scan.path.name],
        "SpatialReference": "orig",
        "Checkpoint": model.get("checkpoint", summary["checkpoint"]),
        "CheckpointFingerprint": model.get("fingerprint", ""),
        **DESCRIPTIONS[name],
    }


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
        "anomaly_ml": np.count_nonzero(detection.mask) * scan.voxel_ml,
        "enhancing_ml": detection.enhancing_ml,
        "brain_ml": np.count_nonzero(detection.slices.brain) * scan.voxel_ml,
        "healthy_threshold": detection.healthy_threshold,
        "healthy_threshold_from": detection.threshold_source,
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
