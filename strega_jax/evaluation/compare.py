"""Several trained detectors on the same volumes: one table, with what each costs."""

import dataclasses
import json
import logging
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from strega_jax.errors import ConfigError
from strega_jax.evaluation.evaluate import TABLE_METRICS, Row, evaluate
from strega_jax.evaluation.report import write_report
from strega_jax.evaluation.statistics import by_subject, compare, sentence
from strega_jax.evaluation.table import files_hash, latex_table, summarise, text_table, write_csv, write_results
from strega_jax.inference.calibration import load_calibration
from strega_jax.inference.model import Model, load_model
from strega_jax.scans.cohorts import Case
from strega_jax.scans.files import replacing
from strega_jax.training.metrics import read_metrics

log = logging.getLogger(__name__)

Cost = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TimedModel(Model):
    """A model that keeps how long each volume's slices took to score."""

    seconds: list[float] = dataclasses.field(default_factory=list)

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, "k h w"], Float[np.ndarray, "k h w c"]]:
        """As `Model.score`."""
        begin = time.perf_counter()
        result = super().score(images, position)
        self.seconds.append(time.perf_counter() - begin)
        return result


def compare_checkpoints(checkpoints: Sequence[str], cases: Sequence[Case], output: Path) -> list[str]:
    """Evaluate each checkpoint on all cases with its own preprocessing and postprocessing, and set them side by side.

    Under `output`: a folder NAME for each checkpoint (see `evaluate`), and of all together results.csv,
    results.json, costs.csv, table.tex and report.html. NAME is the name of the checkpoint's workdir. The untrained
    baselines are those of the first checkpoint's preprocessing.

    Returns:
        One message for each case that a checkpoint failed on.

    Raises:
        ConfigError: two checkpoints of one name.
        CheckpointError: a checkpoint that cannot be loaded or lacks its calibration.
    """
    names = checkpoint_names(checkpoints)
    rows: list[Row] = []
    costs: list[Cost] = []
    failures: list[str] = []
    for name, path in zip(names, checkpoints, strict=True):
        model = TimedModel(**vars_of(load_model(path)))
        failures += evaluate(model, cases, model.about.run.postprocess, load_calibration(path), output / name)
        rows += _rows_of(output / name / "results.json", model.about.run.detector, name, baselines=name == names[0])
        costs.append(_cost(name, path, model))
    _write(rows, costs, names, cases, output, failures)
    return failures


def checkpoint_names(checkpoints: Sequence[str]) -> list[str]:
    """The name of each checkpoint's workdir. Raises ConfigError if two are the same."""
    names = []
    for path in map(Path, checkpoints):
        parts = [part for part in path.resolve().parts if part != "checkpoints" and not part.isdigit()]
        names.append(parts[-1])
    if len(set(names)) < len(names):
        raise ConfigError(f"checkpoints of the same name ({', '.join(names)}) cannot be told apart; rename a workdir")
    return names


def vars_of(model: Model) -> dict[str, Any]:
    """The model's fields, not copied."""
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


def _rows_of(results: Path, detector: str, name: str, *, baselines: bool) -> list[Row]:
    if not results.exists():  # every case failed
        return []
    rows = json.loads(results.read_text())["rows"]
    own = [{**row, "method": name} for row in rows if row["method"] == detector]
    return own + [row for row in rows if baselines and row["method"] != detector]


def _cost(name: str, path: str, model: TimedModel) -> Cost:
    """Parameters, time to train, and time to score a volume; the first volume's, which compiles, does not count."""
    cost: Cost = {
        "method": name,
        "detector": model.about.run.detector,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.variables.get("params", {}))),
        "training_scans": model.about.training_scans,
        "steps": model.about.total_steps,
    }
    minutes = training_minutes(Path(path), model.about.run.training.batch_size)
    if minutes is not None:
        cost["training_minutes"] = minutes
    seconds = model.seconds[1:] or model.seconds
    if seconds:
        cost["seconds_a_volume"] = statistics.median(seconds)
    return cost


def training_minutes(checkpoint: Path, batch_size: int) -> float | None:
    """Time between the logged steps, from the throughput in the workdir's metrics.jsonl; None without one."""
    for folder in (checkpoint, *checkpoint.resolve().parents[:2]):
        if (folder / "metrics.jsonl").exists():
            lines = [line for line in read_metrics(folder) if line.get("images_per_second")]
            steps = [0.0, *(line["step"] for line in lines)]
            spans = zip(steps[:-1], steps[1:], lines, strict=True)
            return sum((now - then) * batch_size / line["images_per_second"] for then, now, line in spans) / 60
    return None


def _write(
    rows: list[Row], costs: list[Cost], names: list[str], cases: Sequence[Case], output: Path, failures: list[str]
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "costs.csv", costs)
    print(_cost_table(costs))
    if not rows:
        return
    summaries = summarise(rows)
    content = {
        "title": f"{len(names)} detectors on {len(cases)} scans",
        "about": {"data": files_hash(case.image for case in cases)}
        | {f"{cost['method']}: {key}": value for cost in costs for key, value in cost.items() if key != "method"},
        "rows": rows,
        "sentences": comparisons(rows, names[0]),
        "failures": failures,
    }
    write_csv(output / "results.csv", rows)
    write_results(output / "results.json", {**content, "summary": summaries, "costs": costs})
    with replacing(output / "table.tex") as temporary:
        temporary.write_text(latex_table(summaries, TABLE_METRICS), encoding="utf-8")
    write_report(output / "report.html", content)
    print(text_table(summaries, TABLE_METRICS))
    for line in content["sentences"]:
        print(line)
    print(f"report: {output / 'report.html'}")


def comparisons(rows: Sequence[Row], reference: str) -> list[str]:
    """In words, how every other method's Dice differs from the reference's; one value a subject with lesions."""
    lesions = [row for row in rows if row["dice"] is not None and math.isfinite(row["dice"])]
    methods = {}
    for method in dict.fromkeys(row["method"] for row in lesions):
        own = [row for row in lesions if row["method"] == method]
        methods[method] = by_subject([row["subject"] for row in own], [row["dice"] for row in own])
    if len(methods.get(reference, ())) < 2:
        return []
    return [sentence(comparison) for comparison in compare(methods, reference, "Dice")]


def _cost_table(costs: Sequence[Cost]) -> str:
    header = ["method", "detector", "parameters", "training_minutes", "seconds_a_volume"]
    lines = [header]
    for cost in costs:
        times = [f"{cost[name]:.3g}" if name in cost else "--" for name in header[3:]]
        lines.append([cost["method"], cost["detector"], f"{cost['parameters']:,}", *times])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
