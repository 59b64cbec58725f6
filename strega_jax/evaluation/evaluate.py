"""Evaluate a model on cases with expert masks: detections on disk, every number a volume, baselines beside it."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped
from tqdm import tqdm

from strega_jax.config import Postprocess, settings_hash
from strega_jax.errors import ScanError
from strega_jax.evaluation.baselines import bright_mask, class_masks
from strega_jax.evaluation.calibration import healthy_burden
from strega_jax.evaluation.dose import dose_of, dose_response
from strega_jax.evaluation.figures import png_bytes, stage_picture
from strega_jax.evaluation.lesions import LesionMatch, froc, sensitivity_by_size
from strega_jax.evaluation.metrics import dice
from strega_jax.evaluation.report import picture, write_report
from strega_jax.evaluation.statistics import by_subject, compare, sentence
from strega_jax.evaluation.table import files_hash, latex_table, summarise, text_table, write_csv, write_results
from strega_jax.evaluation.volume import score_volume_and_lesions
from strega_jax.inference.calibration import Calibration
from strega_jax.inference.detect import Detection, detect_scan
from strega_jax.inference.model import Model
from strega_jax.inference.write import write_detection
from strega_jax.scans.cohorts import Case, read_truth
from strega_jax.scans.files import replacing
from strega_jax.scans.geometry import check_truth_in_brain
from strega_jax.scans.scan import Scan, read_scan

log = logging.getLogger(__name__)

Row = dict[str, Any]
# The terminal's table; everything else is in the files.
TABLE_METRICS = ("dice", "best_dice", "auprc", "lesion_sensitivity", "marked_ml")
PICTURED_CASES = 12


@dataclasses.dataclass
class _Results:
    rows: list[Row] = dataclasses.field(default_factory=list)
    matches: list[LesionMatch] = dataclasses.field(default_factory=list)
    pictures: list[dict[str, str]] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)


def evaluate(
    model: Model,
    cases: Sequence[Case],
    settings: Postprocess,
    calibration: Calibration | None,
    output: Path,
) -> list[str]:
    """Detect in every case, score against its mask, and write what a reader wants to see.

    Under `output`: masks/ (native space), results.csv, results.json, table.tex, stages.png, report.html. A case
    without a mask counts as healthy where its cohort says so, and is refused elsewhere.

    Returns:
        One message for each case that failed; the others are evaluated all the same.
    """
    output.mkdir(parents=True, exist_ok=True)
    results = _Results()
    for case in tqdm(cases, desc="evaluating", unit="scan"):
        try:
            _evaluate_case(model, case, settings, calibration, output, results)
        except ScanError as error:
            log.error("%s", error)
            results.failures.append(str(error))
    if results.rows:
        _write(model, cases, settings, output, results)
    return results.failures


def _evaluate_case(
    model: Model,
    case: Case,
    settings: Postprocess,
    calibration: Calibration | None,
    output: Path,
    results: _Results,
) -> None:
    scan = read_scan(case.image)
    truth = _truth(case, scan)
    detection = detect_scan(model, scan, settings, calibration, contrast=case.contrast or None)  # pyright: ignore
    write_detection(output / "masks", case.name, detection, model.source)
    # Contrasts are never pooled: one group of the table each.
    group = f"{case.cohort} {case.contrast}".strip()
    about = {"case": case.name, "cohort": group, "subject": case.subject, "contrast": case.contrast}
    brain = detection.slices.brain
    check_truth_in_brain(truth, brain, str(case.mask))
    numbers, match = score_volume_and_lesions(detection.score, detection.mask, truth, brain, scan.spacing_mm)
    results.rows.append({**about, "method": model.about.run.detector, **numbers, **dose_of(case.image)})
    results.matches.append(match)
    baselines = {**class_masks(detection.slices.tissue), "intensity threshold": bright_mask(scan, brain)}
    truth_ml = float(truth.sum() * scan.voxel_ml)
    for name, mask in baselines.items():
        marked_ml = float(mask.sum() * scan.voxel_ml)
        results.rows.append(
            {**about, "method": name, "dice": dice(mask, truth), "truth_ml": truth_ml, "marked_ml": marked_ml}
        )
    if len(results.pictures) < PICTURED_CASES:
        figure = stage_picture({case.name: stages(detection, truth)}, scan.spacing_mm[:2])
        if not results.pictures:
            with replacing(output / "stages.png") as temporary:
                temporary.write_bytes(png_bytes(figure))
        results.pictures.append(picture(figure, f"{case.name}: Dice {numbers['dice']:.3f}"))


def _truth(case: Case, scan: Scan) -> Bool[np.ndarray, "x y z"]:
    if case.mask is not None:
        return read_truth(case, scan)
    if case.healthy:
        return np.zeros(scan.data.shape, bool)
    raise ScanError(f"{case.image}: no lesion mask beside it; evaluation needs one (strega_jax.predict does not)")


def stages(detection: Detection, truth: Bool[np.ndarray, "x y z"]) -> dict[str, Shaped[np.ndarray, "x y"]]:
    """The pipeline's stages on the axial slice with most lesion (else most marked), on the scan's grid."""
    shown = truth if truth.any() else detection.mask
    z = int(shown.sum(axis=(0, 1)).argmax()) if shown.any() else shown.shape[2] // 2
    slices = detection.slices
    expected = slices.back(_as_one_channel(detection.reconstruction))
    return {
        "input": detection.scan.data[:, :, z],
        "tissue map": slices.tissue.pveseg[:, :, z],
        "reconstruction": expected[:, :, z],
        "residual": detection.score[:, :, z],
        "mask": detection.mask[:, :, z],
        "truth": truth[:, :, z],
    }


def _as_one_channel(images: Shaped[np.ndarray, "k h w c"]) -> Shaped[np.ndarray, "k h w"]:
    """Fractions CSF, GM, WM as one grey image, like the label map they stand for; a channel after them is left out."""
    if images.shape[-1] == 1:
        return images[..., 0]
    return images[..., :3] @ (np.arange(1, 4, dtype=np.float32) / 3)


def _write(model: Model, cases: Sequence[Case], settings: Postprocess, output: Path, results: _Results) -> None:
    name, rows = model.about.run.detector, results.rows
    own = [row for row in rows if row["method"] == name]
    content: dict[str, Any] = {
        "title": f"{name} on {len(own)} scans",
        "about": {
            "checkpoint": model.source,
            "training scans": model.about.training_scans,
            "config": settings_hash(model.about.run),
            "postprocessing": settings_hash(settings),
            "data": files_hash(case.image for case in cases),
            **{f"postprocess.{field}": value for field, value in dataclasses.asdict(settings).items()},
        },
        "rows": rows,
        "sizes": {name: sensitivity_by_size(results.matches)},
        "sentences": _comparisons(rows, name),
        "failures": results.failures,
    }
    false_positives, sensitivity = froc(results.matches)
    content["froc"] = {name: {"false_positives": false_positives, "sensitivity": sensitivity}}
    content["dose_response"] = dose_response(own)
    healthy = [row["marked_ml"] for row in own if row["truth_ml"] == 0]
    if healthy:
        content["healthy"] = {name: healthy_burden(healthy)}
    summaries = summarise(rows)
    write_csv(output / "results.csv", rows)
    write_results(output / "results.json", {**content, "summary": summaries, "pictures": results.pictures})
    with replacing(output / "table.tex") as temporary:
        temporary.write_text(latex_table(summaries, TABLE_METRICS), encoding="utf-8")
    write_report(output / "report.html", {**content, "pictures": results.pictures})
    print(text_table(summaries, TABLE_METRICS))
    print(f"native-space masks: {output / 'masks'}\npicture: {output / 'stages.png'}\nreport: {output / 'report.html'}")


def _comparisons(rows: Sequence[Row], reference: str) -> list[str]:
    lesions = [row for row in rows if math.isfinite(row["dice"])]
    methods = {}
    for method in dict.fromkeys(row["method"] for row in lesions):
        own = [row for row in lesions if row["method"] == method]
        methods[method] = by_subject([row["subject"] for row in own], [row["dice"] for row in own])
    if reference not in methods or len(methods[reference]) < 2:
        return []
    return [sentence(comparison) for comparison in compare(methods, reference, "Dice")]
