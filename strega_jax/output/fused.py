"""The fused detection of a session on disk."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strega_jax.detection.found import Detection
from strega_jax.detection.fusion import on_grid
from strega_jax.detection.quality import QualityWarning
from strega_jax.detection.session import FUSED, FusedDetection
from strega_jax.output.files import ResultFiles
from strega_jax.output.patient_page import Panel, write_patient_page
from strega_jax.output.pictures import grey
from strega_jax.output.write import write_result


def write_fused(
    files: ResultFiles,
    fused: FusedDetection,
    source: str,
    record: Mapping[str, Any],
    parts: Mapping[str, ResultFiles],
    *,
    page: bool,
    sidecars: bool,
) -> None:
    """Write what the contrasts of a session say together: every file of the result or none.

    Args:
        files: where.
        fused: what was found.
        source: the checkpoint, for the record.
        record: more fields for the boxes' JSON and the page.
        parts: contrast → where its own result is.
        page: write the page of the patient.
        sidecars: write a JSON file beside every map, as BIDS wants.
    """
    contrasts = {
        contrast: {
            "name": part.name,
            "weight": fused.weights[contrast],
            "anomaly_ml": float(part.detection.mask.sum() * part.detection.scan.voxel_ml),
            "page": parts[contrast].page.name if page else "",
        }
        for contrast, part in fused.parts.items()
    }
    told = {"grid": fused.grid, "rule": "mean", "contrasts": contrasts, "left_out": list(fused.left_out)}

    def write(path: Path, detection: Detection, summary: Mapping[str, Any]) -> None:
        scan = detection.scan
        panels = _panels(fused, contrasts)
        write_patient_page(path, panels, detection.mask, detection.score, scan.affine, scan.spacing_mm, summary)

    summary = dict(record) | {"contrast": FUSED, "quality_control": _warnings(fused), FUSED: told}
    write_result(files, fused.detection, source, summary, page=write if page else None, sidecars=sidecars)


def fused_warnings(fused: FusedDetection) -> tuple[QualityWarning, ...]:
    """What was left out, and what counts less than the others, with the reasons."""
    out = [QualityWarning("left out", line) for line in fused.left_out]
    full = max(fused.weights.values())
    for contrast, weight in fused.weights.items():
        if weight < full:
            checks = ", ".join(dict.fromkeys(warning.check for warning in fused.parts[contrast].warnings))
            reason = f"{contrast} counts {weight / full:g} of the others, for its quality control ({checks})"
            out.append(QualityWarning("weighed down", reason))
    return tuple(out)


def _warnings(fused: FusedDetection) -> list[dict[str, Any]]:
    return [dataclasses.asdict(warning) for warning in fused_warnings(fused)]


def _panels(fused: FusedDetection, told: Mapping[str, Mapping[str, Any]]) -> Sequence[Panel]:
    """Every contrast that took part, on the grid of the fused map."""
    grid = fused.parts[fused.grid].map()
    panels = []
    for contrast, part in fused.parts.items():
        laid = on_grid(part.map(), grid)
        warnings = [dataclasses.asdict(warning) for warning in part.warnings]
        image = grey(laid.image, laid.brain)
        panels.append(Panel(contrast, image, laid.mask, laid.score, warnings, told[contrast]["page"]))
    return panels
