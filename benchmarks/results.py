"""The tables of RESULTS.md, from stored results alone.

    python -m benchmarks.results --keep=results                # take over what an evaluation wrote
    python -m benchmarks.results --page=RESULTS.md             # put the tables in their places

--keep names a folder with a folder NAME for each run (`RUNS` of result_runs.py), as `strega_jax.compare`,
`strega_jax.train --evaluate` or `strega_jax.predict` wrote it. Of each the numbers are kept, without pictures, in
benchmarks/results/NAME, with the SHA-256 of the file they were taken from. All tables are made from these and printed
with their own SHA-256.
"""

import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import KEEP, RESULTS, STORED, evaluation_file, keep_evaluation
from benchmarks.marked import PAGE, put
from benchmarks.result_runs import MADE, RUNS, TRAINED
from strega_jax import command
from strega_jax.errors import ConfigError
from strega_jax.evaluation.statistics import MIN_SUBJECTS, bootstrap_interval, by_subject

KEPT = Path(__file__).parent / "results"

TRAININGS = {
    ("seeds", "weights"): "the default",
    ("seeds", "tissue"): "tissue judged alone",
    ("trainings", "weights"): "nor grown by probability",
    ("trainings", "plain"): "nor trained on rendered contrasts",
}
"""Run and method → its column; each is what the one before is not."""
TRAINED_ON = (*(f"brats {contrast}" for contrast in ("FLAIR", "T2w", "T1ce", "T1w")), "stroke T2w", "eq15 T1w")
BASELINES = ("tissue class CSF", "tissue class GM", "tissue class WM", "intensity threshold")
COHORTS = (
    *(("patients", f"brats {contrast}") for contrast in ("fused", "FLAIR", "T2w", "T1ce", "T1w")),
    ("enhancing", "gbm T1ce enhancing"),
    *(("patients", cohort) for cohort in ("gbm T1ce", "stroke T2w")),
    *(("patients", f"ms {contrast}") for contrast in ("fused", "T2w", "T1w", "FLAIR")),
    ("planted", "eq15 T1w"),
    *(("planted", f"planted{kind} T1w") for kind in ("", "-tumour", "-bilateral", "-plaques")),
    ("spots", "spots T1w"),
)
"""Run and cohort of each line; a cohort is of one contrast."""
SIZED = ("brats fused", "brats T1ce", "gbm T1ce", "stroke T2w", "ms fused", "ms T2w")
SIZES = ("0–0.1 ml", "0.1–1 ml", "1–10 ml", "≥ 10 ml")
HEALTHY = (
    ("20 of IXI, held out; the threshold comes from them", "patients", "T1w"),
    ("other sites", "othersite", "T1w"),
    ("OASIS, large ventricles", "oasis", "T1w"),
    ("other site", "othersite", "T2w"),
    ("other site, thick slices", "othersite", "FLAIR"),
    ("10 of IXI, held out, rendered", "rendered", "T1ce"),
    ("10 of IXI, held out, rendered", "rendered", "T2w"),
    ("10 of IXI, held out, rendered", "rendered", "FLAIR"),
    ("10 of IXI, held out, rendered", "rendered", "fused"),
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """The stored results of all runs."""

    folder: Path

    def file(self, run: str) -> Path:
        """What is kept of a run. Raises ConfigError where nothing is."""
        found = next((p for p in (self.folder / run / name for name in FILES) if p.exists()), None)
        if found is None:
            raise ConfigError(f"--stored={self.folder}: nothing of {run!r}; make it with: {RUNS[run]}")
        return found

    @functools.cached_property
    def evaluations(self) -> dict[str, Any]:
        """Run → content of its results.json."""
        files = {run: self.file(run) for run in RUNS}
        return {run: json.loads(path.read_text("utf-8")) for run, path in files.items() if path.suffix == ".json"}

    def rows(self, run: str, cohort: str, method: str = "") -> list[Mapping[str, Any]]:
        """The volumes of a cohort; `method`: a baseline, else the model."""
        rows = self.evaluations[run]["rows"]
        wanted = method or rows[0]["method"]
        return [row for row in rows if (row["cohort"], row["method"]) == (cohort, wanted)]

    def healthy_ml(self, run: str, contrast: str) -> list[float]:
        """What is marked in healthy brains, ml."""
        path = self.file(run)
        if path.suffix == ".json":
            return [row["marked_ml"] for row in self.rows(run, f"controls {contrast}")]
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        return [float(line["anomaly_ml"]) for line in lines if line["contrast"] == contrast]


FILES = (RESULTS, "group.tsv")


def keep(source: Path, run: str, stored: Path) -> None:
    """Take over the numbers of a run. Raises ConfigError where it has none."""
    table = source / run / FILES[1]
    found = evaluation_file(source / run) or (table if table.exists() else None)
    if found is None:
        raise ConfigError(f"--keep={source}: no results of {run!r}; make them with: {RUNS[run]}")
    target = stored / run / found.name
    if found.suffix == ".tsv":
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
    else:
        keep_evaluation(found, target)


def mean(rows: Sequence[Mapping[str, Any]], metric: str, spread: bool = False) -> str:
    """Mean over volumes, ± SD if asked for; – where it is not defined."""
    values = [row[metric] for row in rows if row.get(metric) is not None]
    if not values:
        return "–"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if spread and len(values) > 1 else "")


def interval(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """95 % bootstrap interval of the mean over subjects; – with too few."""
    rows = [row for row in rows if row.get(metric) is not None]
    values = by_subject([row["subject"] for row in rows], [row[metric] for row in rows])
    if len(values) < MIN_SUBJECTS:
        return "–"
    low, high = bootstrap_interval(np.array(list(values.values())))
    return f"{low:.3f} to {high:.3f}"


def patients_table(stored: Stored) -> list[str]:
    """Each cohort and contrast: Dice of voxels and of lesions, best threshold, AUPRC."""
    lines = [
        "| | volumes | **Dice** | 95 % interval | lesion-wise Dice | 95 % interval | best | AUPRC |",
        "|---" * 8 + "|",
    ]
    for run, cohort in COHORTS:
        rows = stored.rows(run, cohort)
        dice, lesions = (f"{mean(rows, m, True)} | {interval(rows, m)}" for m in ("dice", "lesion_wise_dice"))
        # Best threshold and AUPRC are of the anomaly map, which is the whole lesion's.
        ranks = ["–", "–"] if run == "enhancing" else [mean(rows, "best_dice"), mean(rows, "auprc")]
        lines.append(
            f"| {cohort} | {len(rows)} | **{dice.replace(' | ', '** | ', 1)} | {lesions} | {' | '.join(ranks)} |"
        )
    return lines


def baselines_table(stored: Stored) -> list[str]:
    """Dice of what needs no training, and how much higher the model's is than the best of these."""
    names = ("CSF class", "GM class", "WM class", "brightest tenth")
    lines = [f"| | {' | '.join(names)} | the model's is higher than the best of these by |", "|---" * 6 + "|"]
    for run, cohort in COHORTS:
        if cohort.endswith("fused") or run == "enhancing":
            continue
        others = [stored.rows(run, cohort, name) for name in BASELINES]
        best = max(others, key=lambda rows: np.mean([row["dice"] for row in rows]))
        cells = [mean(rows, "dice") for rows in others]
        lines.append(f"| {cohort} | {' | '.join(cells)} | {difference(stored.rows(run, cohort), best)} |")
    return lines


def difference(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """Mean over subjects by which the Dice of the rows is higher than that of the others, with its 95 % interval."""
    mine, theirs = (by_subject([row["subject"] for row in of], [row["dice"] for row in of]) for of in (rows, others))
    values = np.array([mine[subject] - theirs[subject] for subject in mine if subject in theirs])
    low, high = bootstrap_interval(values)
    return f"{values.mean():.3f}" + (f" ({low:.3f} to {high:.3f})" if len(values) >= MIN_SUBJECTS else "")


def trainings_table(stored: Stored) -> list[str]:
    """Dice of each cohort, mean of the trainings with three seeds ± SD between them; and what is marked in health.

    After a column, by how much the one before is higher.
    """
    first, *others = TRAININGS.values()
    told = " | ".join(f"{name} | by which lower" for name in others)
    lines = [f"| | {first} | {told} |", "|---" * (2 + 2 * len(others)) + "|"]
    for cohort in TRAINED_ON:
        rows = [stored.rows(run, cohort, method) for run, method in TRAININGS]
        cells = [over_seeds(rows[0], "dice", 3)]
        for before, after in itertools.pairwise(rows):
            cells += [over_seeds(after, "dice", 3), difference(before, after)]
        lines.append(f"| {cohort}, Dice | {' | '.join(cells)} |")
    first, *others = (over_seeds(stored.rows(run, "controls T1w", of), "marked_ml", 1) for run, of in TRAININGS)
    return [*lines, f"| 20 of IXI, held out, ml | {first} | {' | – | '.join(others)} | – |"]


def calibrated_table(stored: Stored) -> list[str]:
    """What trainings with three seeds reach as they would be shipped, each with thresholds of its own."""
    lines = ["| | Dice | lesion-wise Dice |", "|---|---|---|"]
    for cohort in TRAINED_ON:
        rows = stored.rows("calibrated", cohort)
        lines.append(f"| {cohort} | {over_seeds(rows, 'dice', 3)} | {over_seeds(rows, 'lesion_wise_dice', 3)} |")
    return lines


def over_seeds(rows: Sequence[Mapping[str, Any]], metric: str, digits: int) -> str:
    """Mean over volumes of each training: their mean ± SD."""
    means = [np.mean([row[metric] for row in rows if row["seed"] == seed]) for seed in {row["seed"] for row in rows}]
    return f"{np.mean(means):.{digits}f} ± {np.std(means, ddof=1):.{digits}f}"


def fused_table(stored: Stored) -> list[str]:
    """How much higher the Dice of the fused mask is than that of one contrast of the same patients."""
    lines = ["| contrast alone | subjects | the fused mask's Dice is higher by |", "|---|---|---|"]
    fused = stored.rows("patients", "brats fused")
    for contrast in ("FLAIR", "T2w", "T1ce", "T1w"):
        alone = stored.rows("patients", f"brats {contrast}")
        lines.append(f"| {contrast} | {len(alone)} | {difference(fused, alone)} |")
    return lines


def healthy_table(stored: Stored) -> list[str]:
    """What is marked in brains without a lesion."""
    lines = ["| brains | contrast | number | mean ml | median | most | with nothing marked |", "|---" * 7 + "|"]
    for brains, run, contrast in HEALTHY:
        ml = stored.healthy_ml(run, contrast)
        numbers = f"{np.mean(ml):.1f} | {np.median(ml):.1f} | {max(ml):.1f} | {sum(x == 0 for x in ml)}"
        lines.append(f"| {brains} | {contrast} | {len(ml)} | {numbers} |")
    return lines


def sizes_table(stored: Stored) -> list[str]:
    """Lesions found, by their size, pooled over the lesions of a cohort."""
    sizes = stored.evaluations["patients"]["sizes"]
    lines = [f"| | {' | '.join(SIZES)} |", "|---" * 5 + "|"]
    for cohort in SIZED:
        found = {row["size"]: row for row in sizes if row["cohort"] == cohort}
        cells = [
            f"{found[size]['lesions'] * found[size]['sensitivity']:.0f} of {found[size]['lesions']:.0f}"
            if size in found
            else "–"
            for size in SIZES
        ]
        lines.append(f"| {cohort} | {' | '.join(cells)} |")
    return lines


def small_table(stored: Stored) -> list[str]:
    """What `--postprocess=small` changes, in patients and in healthy brains."""
    lines = [
        "| | Dice | with `small` | lesion-wise Dice | with `small` | false ml | with `small` |",
        "|---" * 7 + "|",
    ]
    for cohort in ("ms FLAIR", "ms fused", "brats FLAIR", "brats fused"):
        before, after = stored.rows("patients", cohort), stored.rows("small", cohort)
        cells = [mean(rows, metric) for metric in ("dice", "lesion_wise_dice") for rows in (before, after)]
        cells += [f"{np.mean([row['false_positive_ml'] for row in rows]):.1f}" for rows in (before, after)]
        lines.append(f"| {cohort} | {' | '.join(cells)} |")
    for brains, run in (
        ("healthy FLAIR, other site", "othersite"),
        ("10 of IXI, held out, rendered as FLAIR", "rendered"),
    ):
        ml = [np.mean(stored.healthy_ml(name, "FLAIR")) for name in (run, f"{run}_small")]
        lines.append(f"| {brains} | – | – | – | – | {ml[0]:.1f} | {ml[1]:.1f} |")
    return lines


def commands(stored: Stored) -> list[str]:
    """What made the results; `stored` is not needed."""
    del stored
    return ["```bash", *MADE.values(), *TRAINED, *RUNS.values(), "```"]


def sources_table(stored: Stored) -> list[str]:
    """The files that the tables are made from."""
    lines = ["| run | file | SHA-256 | weights and settings | postprocessing |", "|---" * 5 + "|"]
    for run in RUNS:
        path = stored.file(run)
        about = stored.evaluations.get(run, {}).get("about", {})
        ends = [
            next((of for name, of in about.items() if name.endswith(end)), "–") for end in ("weights", "processing")
        ]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        lines.append(f"| {run} | `{run}/{path.name}` | `{digest}` | {' | '.join(ends)} |")
    return lines


TABLES = {
    "patients": patients_table,
    "fused": fused_table,
    "baselines": baselines_table,
    "calibrated": calibrated_table,
    "trainings": trainings_table,
    "healthy": healthy_table,
    "sizes": sizes_table,
    "small": small_table,
    "commands": commands,
    "sources": sources_table,
}


def main() -> int:
    """Take over fresh results if asked to, print all tables, put them into the page."""
    folder = Path(STORED.value or KEPT)
    for run in RUNS if KEEP.value else ():
        keep(Path(KEEP.value), run, folder)
    tables = {name: make(Stored(folder)) for name, make in TABLES.items()}
    for name, lines in tables.items():
        print(f"## {name}\n\n" + "\n".join(lines) + "\n")
    if PAGE.value:
        page = Path(PAGE.value)
        page.write_text(put(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    command.run(main)
