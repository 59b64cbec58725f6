"""From scored volumes to what a report holds: summaries, curves, calibration, statistics and sentences.

Cohorts and contrasts are never pooled: whatever sums up volumes says of which cohort. What needs healthy subjects
takes them from the controls of the same evaluation.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from strega_jax.config import Postprocess
from strega_jax.detection.session import FUSED
from strega_jax.evaluation.calibration import TARGET_RATES, cross_fitted_rates, healthy_burden
from strega_jax.evaluation.dose import dose_response
from strega_jax.evaluation.lesions import froc, sensitivity_by_size
from strega_jax.evaluation.metrics import detection
from strega_jax.evaluation.scoring import Results, Row, Scored
from strega_jax.evaluation.statistics import by_subject, compare_cohorts, result_sentence, sentence
from strega_jax.evaluation.table import mean_over_seeds, summarise
from strega_jax.models.calibration import Calibration

FROC_POINTS = 400  # of a curve in the JSON; steps in between are left out


def report_content(results: Results, settings: Mapping[str, Postprocess], reference: str) -> dict[str, Any]:
    """Everything of a report but its title, its `about` and its pictures.

    Args:
        results: all scored volumes, of one method or several.
        settings: postprocessing of each method.
        reference: the method that the others are compared with.
    """
    by_method = _grouped(results.scored, lambda scored: scored.row["method"])
    content: dict[str, Any] = {name: [] for name in ("detection", "froc", "sizes", "healthy", "rates")}
    content["dose_response"] = []
    for method, scored in by_method.items():
        healthy = [of for of in scored if of.healthy_scores is not None]
        for cohort, own in _grouped(scored, lambda of: of.row["cohort"]).items():
            who = {"cohort": cohort, "method": method}
            patients = [of for of in own if of.healthy_scores is None]
            if patients:
                content["detection"] += [{**who, **row} for row in detection_rows(patients, healthy)]
                content["froc"].append({**who, **_froc(patients)})
                sizes = sensitivity_by_size([of.match for of in patients])
                content["sizes"] += [{**who, **row} for row in sizes if row["lesions"]]
            controls = [of.row["marked_ml"] for of in own if of.healthy_scores is not None]
            if controls:
                content["healthy"].append({**who, **healthy_burden(controls)})
            for plot in dose_response([of.row for of in own]):
                content["dose_response"].append({**who, **plot})
        content["rates"] += [
            {"method": method, **row} for row in _rates(healthy, settings[method], results.calibration[method])
        ]
    rows = results.rows
    comparisons = compare_cohorts(_by_cohort(rows), reference, "Dice")
    of_reference = [row for row in rows if row["method"] == reference]
    comparisons += compare_cohorts(_by_contrast(of_reference), FUSED, "Dice")
    return {
        "rows": rows,
        "summary": summarise(rows),
        **content,
        "comparisons": [dataclasses.asdict(comparison) for comparison in comparisons],
        "sentences": [*result_sentences(rows, list(by_method)), *map(sentence, comparisons)],
        "failures": results.failures,
    }


def detection_rows(patients: Sequence[Scored], healthy: Sequence[Scored]) -> list[dict[str, Any]]:
    """How well slices and subjects with anomalies are told from those without: AUROC, average precision, prevalence.

    Slices once within the patients alone, where scanner and contrast are the same, and once with the slices of healthy
    subjects; subjects with healthy subjects, a subject's score being the mean over its volumes.
    """
    levels = {"slice, patients alone": _slices(patients)}
    if healthy:
        levels["slice, with controls"] = _slices([*patients, *healthy])
        levels["subject, with controls"] = _subjects(patients, healthy)
    rows = []
    for level, (scores, anomalous) in levels.items():
        found = detection(scores, anomalous)
        prevalence = float(np.mean(anomalous)) if anomalous.size else math.nan
        rows.append({"level": level, **found, "prevalence": prevalence})
    return rows


def _slices(scored: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([of.slice_scores for of in scored]), np.concatenate([of.slice_anomalous for of in scored])


def _subjects(patients: Sequence[Scored], healthy: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    means = [by_subject([of.row["subject"] for of in group], [of.subject_score for of in group]).values()
             for group in (patients, healthy)]  # fmt: skip
    scores = np.array([score for group in means for score in group])
    return scores, np.arange(scores.size) < len(means[0])


def _froc(patients: Sequence[Scored]) -> dict[str, Any]:
    false_positives, sensitivity = froc([of.match for of in patients])
    kept = np.unique(np.linspace(0, len(sensitivity) - 1, FROC_POINTS).round().astype(int))
    return {
        "volumes": len(patients),
        "false_positives": false_positives[kept],
        "sensitivity": sensitivity[kept],
    }


def _rates(
    healthy: Sequence[Scored], settings: Postprocess, calibration: Calibration | None
) -> list[dict[str, float | str]]:
    """Target and realised shares of healthy voxels above a threshold, by where the threshold came from."""
    scores = [of.healthy_scores for of in healthy if of.healthy_scores is not None]
    rows: list[dict[str, float | str]] = [
        {"threshold from": "the other half of the controls", **row} for row in cross_fitted_rates(scores)
    ]
    if calibration is not None and calibration.refinement == settings.refinement and scores:
        voxels = sum(of.size for of in scores)
        for target in (settings.false_positive_rate, *TARGET_RATES):
            threshold = calibration.threshold(dataclasses.replace(settings, false_positive_rate=target))
            above = sum(int(np.count_nonzero(of > threshold)) for of in scores)
            where = {"threshold from": "the checkpoint's calibration", "target": target, "threshold": threshold}
            rows.append({**where, "realised": above / voxels})
    return rows


def result_sentences(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """One sentence for each cohort with lesions and each of the methods."""
    found = []
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        for method in methods:
            own = [row for row in rows if (row["cohort"], row["method"]) == (cohort, method) and _defined(row)]
            if own:
                seeds = _grouped(own, lambda row: row.get("seed", 0)).values()
                of_seed = [by_subject([row["subject"] for row in of], [row["dice"] for row in of]) for of in seeds]
                volumes = [row["dice"] for row in mean_over_seeds(own)]
                found.append(result_sentence(method, cohort, "Dice", volumes, of_seed))
    return found


def _by_cohort(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Cohort → method → subject → Dice."""
    lesions = [row for row in rows if _defined(row)]
    return {
        cohort: {
            method: by_subject([row["subject"] for row in own], [row["dice"] for row in own])
            for method, own in _grouped(of, lambda row: row["method"]).items()
        }
        for cohort, of in _grouped(lesions, lambda row: row["cohort"]).items()
    }


def _by_contrast(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Cohort without contrast → contrast → subject → Dice, of cohorts with fused contrasts."""
    by_cohort: dict[str, dict[str, dict[str, float]]] = {}
    for row in filter(_defined, rows):
        cohort = row["cohort"].removesuffix(row["contrast"]).strip()
        by_cohort.setdefault(cohort, {}).setdefault(row["contrast"], {})
    for cohort, contrasts in by_cohort.items():
        for contrast in contrasts:
            own = [row for row in rows if row["cohort"] == f"{cohort} {contrast}" and _defined(row)]
            contrasts[contrast] = by_subject([row["subject"] for row in own], [row["dice"] for row in own])
    return {cohort: contrasts for cohort, contrasts in by_cohort.items() if FUSED in contrasts}


def _defined(row: Row) -> bool:
    return row["dice"] is not None and math.isfinite(row["dice"])


def _grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
