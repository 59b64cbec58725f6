"""Several trained detectors on the same volumes: one table, with what each costs."""

import dataclasses
import functools
import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from strega_jax.config import Data, Run, changed_postprocess, settings_hash
from strega_jax.errors import ConfigError
from strega_jax.evaluation.drawing import draw_cases
from strega_jax.evaluation.evaluate import about_model, label, pictures_of, spread, write_evaluation
from strega_jax.evaluation.figures import comparison_picture
from strega_jax.evaluation.report import file_name
from strega_jax.evaluation.scoring import Region, Results, Scored, score_cases
from strega_jax.evaluation.table import files_hash, write_csv
from strega_jax.failures import Failures
from strega_jax.models.opened import SHIPPED
from strega_jax.models.opening import open_model
from strega_jax.models.scorer import Scorer, Scores
from strega_jax.scans.case import Case
from strega_jax.scans.files import PathLike, find_beside
from strega_jax.training.metrics import FILE, read_metrics

Cost = dict[str, Any]
SHIPPED_NAME = "packaged"
COMPARED_CASES = 2  # of a cohort in the picture of all methods


@dataclasses.dataclass
class TimedModel:
    """A model that keeps how long each volume's slices took to score."""

    model: Scorer
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def about(self) -> Any:
        """The model's."""
        return self.model.about

    @property
    def source(self) -> str:
        """The model's."""
        return self.model.source

    def prepare(self, contrast: str = "") -> None:
        """As the model's."""
        self.model.prepare(contrast)

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"], contrast: str = ""
    ) -> Scores:
        """As the model's."""
        begin = time.perf_counter()
        result = self.model.score(images, position, contrast)
        self.seconds.append(time.perf_counter() - begin)
        return result

    def fingerprint(self) -> str:
        """The model's."""
        return self.model.fingerprint()


def compare_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]],
    cases: Sequence[Case],
    output: Path,
    region: Region = "whole",
    *,
    fuse: bool = False,
    postprocess: Sequence[str] = (),
) -> list[str]:
    """Evaluate each checkpoint on all cases with its own preprocessing and postprocessing, and set them side by side.

    Checkpoints whose runs differ in nothing but the seed are trainings of one method: tables and tests count a volume
    once, with the mean over them. Under `output`: what `evaluate` writes, of all together, and costs.csv; a folder
    NAME for each checkpoint with its masks and, of several, the same of it alone. NAME is the name of the checkpoint's
    workdir. The untrained baselines are those of the first checkpoint's preprocessing. `region` and `fuse` are as in
    `score_cases`; `postprocess` replaces settings of every checkpoint, as `changed_postprocess` takes them.

    Returns:
        One message for each case that a checkpoint failed on, and for each picture that could not be drawn.

    Raises:
        ConfigError: two checkpoints of one name.
        CheckpointError: a checkpoint that cannot be loaded or lacks its calibration.
    """
    names = checkpoint_names(checkpoints)
    opened = [open_model(path) for path in checkpoints]
    trained = [model.model.about.run for model in opened]
    runs = [dataclasses.replace(run, postprocess=changed_postprocess(run.postprocess, postprocess)) for run in trained]
    methods = method_names(names, runs)
    data = files_hash(case.image for case in cases)
    together = Results()
    shared: dict[str, Any] = {"data": data, "region": region}
    about: dict[str, Any] = dict(shared)
    costs: list[Cost] = []
    for name, method, run, path, found in zip(names, methods, runs, checkpoints, opened, strict=True):
        model = TimedModel(found.model)
        results = score_cases(
            model, cases, run.postprocess, found.calibration, output / name / "masks",
            method=method, baselines=name == names[0], region=region, fuse=fuse, reference=found.reference,
        )  # fmt: skip
        told = about_model(model, run.postprocess)
        if results.rows and len(names) > 1:
            write_evaluation(
                output / name,
                results,
                {method: run.postprocess},
                method,
                told | shared,
                pictures_of,
            )
        about |= {f"{name}: {key}": value for key, value in told.items()}
        costs.append(_cost(name, method, Path(path), model))
        if len(set(methods)) < len(methods):
            results.scored = [dataclasses.replace(of, row={**of.row, "seed": run.seed}) for of in results.scored]
        together.scored += results.scored
        together.baselines += results.baselines
        together.failures += results.failures
        together.calibration |= results.calibration
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "costs.csv", costs)
    print(_cost_table(costs))
    if together.rows:
        settings = {method: run.postprocess for method, run in zip(methods, runs, strict=True)}
        pictures = pictures_of if len(names) == 1 else _pictures
        write_evaluation(output, together, settings, methods[0], about, pictures, costs=costs)
    return together.failures


def checkpoint_names(checkpoints: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The name of each checkpoint's workdir. Raises ConfigError if two are the same."""
    names = []
    for path in map(Path, checkpoints):
        parts = [part for part in path.resolve().parts if part != "checkpoints" and not part.isdigit()]
        names.append(SHIPPED_NAME if path == SHIPPED else parts[-1].removesuffix(".zip"))
    if len(set(names)) < len(names):
        raise ConfigError(f"checkpoints of the same name ({', '.join(names)}) cannot be told apart; rename a workdir")
    return names


def method_names(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The method of each checkpoint: runs equal in all but seed and scans are one, called by what their names share."""
    same = [dataclasses.replace(run, seed=0, data=Data(rendered=run.data.rendered)) for run in runs]
    keys = [settings_hash(run) for run in same]
    members = {key: [name for name, own in zip(names, keys, strict=True) if own == key] for key in keys}
    called = {key: _shared(own) for key, own in members.items()}
    if len(set(called.values())) < len(called):
        called = {key: own[0] for key, own in members.items()}
    return [called[key] for key in keys]


def _shared(names: Sequence[str]) -> str:
    """What names of seeds share: `strega` of `strega_seed0` and `strega_seed1`."""
    bare = {re.sub(r"[_.-]?(seed)?[_.-]?\d+$", "", name) for name in names}
    return bare.pop() if len(names) > 1 and len(bare) == 1 and all(bare) else names[0]


def _pictures(scored: Sequence[Scored], failures: Failures) -> list[dict[str, str]]:
    """What every method marks (paper, fig. 8): of each cohort the best and the worst volume of the first method."""
    by_method: dict[str, dict[tuple[str, str], Scored]] = {}
    for of in scored:
        by_method.setdefault(of.row["method"], {}).setdefault((of.row["cohort"], of.row["case"]), of)
    first = next(iter(by_method.values()), {})
    of_all = [key for key in first if all(key in found for found in by_method.values())]
    pictures = []
    for cohort in dict.fromkeys(cohort for cohort, _ in of_all):
        lesions = [first[key] for key in of_all if key[0] == cohort and first[key].match.lesions]
        cases = spread(sorted(lesions, key=lambda of: -of.row["dice"]), COMPARED_CASES)
        if cases:
            caption = (
                f"What each method marks, {cohort}: volumes with the highest and the lowest Dice of "
                f"{next(iter(by_method))}, which is told on the left."
            )
            draw = functools.partial(_compared, by_method=by_method)
            pictures += draw_cases(cases, draw, file_name(f"methods_{cohort}"), caption, failures)
    return pictures


def _compared(scored: Sequence[Scored], by_method: Mapping[str, Mapping[tuple[str, str], Scored]]) -> Figure:
    rows = {}
    for of in scored:
        key = (of.row["cohort"], of.row["case"])
        rows[label(of)] = (of.shown, {name: found[key].shown.stages["mask"] for name, found in by_method.items()})
    return comparison_picture(rows)


def _cost(name: str, method: str, path: Path, model: TimedModel) -> Cost:
    """Parameters, time to train, and time to score a volume; the first volume's, which compiles, does not count."""
    run = model.about.run
    variables = getattr(model.model, "variables", None)
    cost: Cost = {"checkpoint": name, "method": method, "detector": run.detector, "seed": run.seed}
    if variables is not None:
        cost["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    cost["training_scans"] = model.about.training_scans
    minutes = training_minutes(path, run.training.batch_size)
    if minutes is not None:
        cost["training_minutes"] = minutes
    seconds = model.seconds[1:] or model.seconds
    if seconds:
        cost["seconds_a_volume"] = statistics.median(seconds)
    return cost


def training_minutes(checkpoint: PathLike, batch_size: int) -> float | None:
    """Time between the logged steps, from the throughput in the workdir's metrics.jsonl; None without one."""
    path = find_beside(checkpoint, FILE)
    if path is None:
        return None
    lines = [line for line in read_metrics(path.parent) if line.get("images_per_second")]
    steps = [0.0, *(line["step"] for line in lines)]
    spans = zip(steps[:-1], steps[1:], lines, strict=True)
    return sum((now - then) * batch_size / line["images_per_second"] for then, now, line in spans) / 60


def _cost_table(costs: Sequence[Cost]) -> str:
    header = ["checkpoint", "detector", "parameters", "training_minutes", "seconds_a_volume"]
    lines = [header]
    for cost in costs:
        times = [f"{cost[name]:.3g}" if name in cost else "--" for name in header[3:]]
        parameters = f"{cost['parameters']:,}" if "parameters" in cost else "--"
        lines.append([cost["checkpoint"], cost["detector"], parameters, *times])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
