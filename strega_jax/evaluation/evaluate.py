"""Evaluate a model on cases with expert masks: detections on disk, every number a volume, baselines beside it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from strega_jax.config import Postprocess, settings_hash
from strega_jax.evaluation.content import report_content
from strega_jax.evaluation.drawing import draw_cases
from strega_jax.evaluation.figures import boxes_picture, stage_picture
from strega_jax.evaluation.report import file_name, write_report
from strega_jax.evaluation.scoring import Results, Scored, score_cases
from strega_jax.evaluation.table import files_hash, latex_table, text_table, write_csv, write_results
from strega_jax.failures import Failures
from strega_jax.models.calibration import Calibration
from strega_jax.models.scorer import Scorer
from strega_jax.scans.case import Case
from strega_jax.scans.files import replacing

# The terminal's table; everything else is in the files.
TABLE_METRICS = ("dice", "lesion_wise_dice", "best_dice", "auprc", "lesion_sensitivity", "marked_ml")
STAGED_CASES = 3  # of a cohort in the picture of stages: the best, the middle and the worst
BOXED_CASES = 8  # of a cohort in the picture of boxes
LABEL_CHARACTERS = 20  # of a line of a panel's title


def evaluate(
    model: Scorer,
    cases: Sequence[Case],
    settings: Postprocess,
    calibration: Calibration | None,
    output: Path,
) -> list[str]:
    """Detect in every case, score against its mask, and write what a reader wants to see.

    Under `output`: masks/ (native space), results.csv, results.json, table.tex, report.html and figures/. A case
    without a mask counts as healthy where its cohort says so, and is refused elsewhere.

    Returns:
        One message for each case or picture that failed; the others are evaluated all the same.
    """
    output.mkdir(parents=True, exist_ok=True)
    method = model.about.run.detector
    results = score_cases(model, cases, settings, calibration, output / "masks", method=method)
    if results.rows:
        about = about_model(model, settings) | {"data": files_hash(case.image for case in cases)}
        write_evaluation(output, results, {method: settings}, method, about, pictures_of)
        print(f"native-space masks: {output / 'masks'}")
    return results.failures


def about_model(model: Scorer, settings: Postprocess) -> dict[str, Any]:
    """What a report says of a model and its settings."""
    return {
        "checkpoint": model.source,
        "weights": model.fingerprint()[:12],
        "training scans": model.about.training_scans,
        "config": settings_hash(model.about.run),
        "postprocessing": settings_hash(settings),
        **{f"postprocess.{field}": value for field, value in dataclasses.asdict(settings).items()},
    }


def write_evaluation(
    output: Path,
    results: Results,
    settings: Mapping[str, Postprocess],
    reference: str,
    about: Mapping[str, Any],
    pictures: Callable[[Sequence[Scored], Failures], list[dict[str, str]]],
    **more: Any,
) -> None:
    """Write results.csv, results.json, table.tex, report.html and figures/, and print the table and the sentences.

    Args:
        output: folder, made if need be.
        results: what was scored; at least one row. What could not be drawn is added to its failures.
        settings: postprocessing of each method.
        reference: the method that the others are compared with.
        about: what the report says of how it was made.
        pictures: draws them, such as `pictures_of`.
        more: further entries of the results.
    """
    output.mkdir(parents=True, exist_ok=True)
    failures = Failures(output)
    drawn = pictures(results.scored, failures)
    results.failures += failures.messages
    volumes = len({(row["cohort"], row["case"]) for row in results.rows})
    content = {
        "title": f"{', '.join(settings)} on {volumes} {'scan' if volumes == 1 else 'scans'}",
        "about": about,
        **report_content(results, settings, reference),
        **more,
        "pictures": drawn,
    }
    write_csv(output / "results.csv", content["rows"])
    write_results(output / "results.json", content)
    with replacing(output / "table.tex") as temporary:
        temporary.write_text(latex_table(content["summary"], TABLE_METRICS), encoding="utf-8")
    results.failures += write_report(output, content)
    print(text_table(content["summary"], TABLE_METRICS))
    for line in content["sentences"]:
        print(line)
    print(f"figures: {output / 'figures'}\nreport: {output / 'report.html'}")


def pictures_of(scored: Sequence[Scored], failures: Failures) -> list[dict[str, str]]:
    """Stages and boxes of each cohort: volumes spread evenly from the best to the worst."""
    pictures = []
    for cohort in dict.fromkeys(of.row["cohort"] for of in scored):
        own = [of for of in scored if of.row["cohort"] == cohort]
        lesions = [of for of in own if of.match.lesions]
        ranked = sorted(lesions, key=lambda of: -of.row["dice"]) or sorted(own, key=lambda of: of.row["marked_ml"])
        which = (
            "the slice with most lesion of volumes from the highest to the lowest Dice"
            if lesions
            else "the slice with most marked of volumes from the least to the most marked"
        )
        caption = (
            f"Stages of the pipeline, {cohort}: {which}. The residual is scaled to the volume's greatest; threshold: "
            "before small components are dropped."
        )
        cases = spread(ranked, STAGED_CASES)
        pictures += draw_cases(cases, _stages, file_name(f"stages_{cohort}"), caption, failures)
        if lesions:
            caption = f"Boxes around detections and reference segmentation, {cohort}; Dice of the volume above each."
            cases = spread(ranked, BOXED_CASES)
            pictures += draw_cases(cases, _boxes, file_name(f"boxes_{cohort}"), caption, failures)
    return pictures


def _stages(scored: Sequence[Scored]) -> Figure:
    return stage_picture({label(of): of.shown for of in scored})


def _boxes(scored: Sequence[Scored]) -> Figure:
    return boxes_picture({label(of): of.shown for of in scored})


def spread(ranked: Sequence[Scored], count: int) -> list[Scored]:
    """At most `count` of them, the first and the last among them, evenly spaced."""
    if len(ranked) <= count:
        return list(ranked)
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def label(scored: Scored) -> str:
    """The volume's name, over as many lines as its panel needs, and what was reached or marked."""
    lines = [""]
    for part in scored.row["case"].split("_"):
        if part == scored.row["contrast"]:  # the cohort says it
            continue
        if lines[-1] and len(lines[-1]) + len(part) >= LABEL_CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]}_{part}" if lines[-1] else part
    value = f"Dice {scored.row['dice']:.2f}" if scored.match.lesions else f"{scored.row['marked_ml']:.1f} ml marked"
    return "\n".join([*lines, value])
