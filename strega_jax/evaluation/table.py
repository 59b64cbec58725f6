"""Per-volume rows and their summaries: CSV, JSON, plain text and LaTeX.

A row is one volume and one method: `case`, `subject`, `cohort`, `method` (text) and the numbers of `score_volume`.
Summaries are over volumes, one value a volume; volumes whose truth is empty are summarised apart, by what was
marked in them.
"""

import csv
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strega_jax.evaluation.columns import called
from strega_jax.scans.files import replacing, write_json

Row = Mapping[str, Any]
Summary = dict[str, Any]

# What is left to say about a volume in which there is nothing to find.
EMPTY_TRUTH_METRICS = ("marked_ml", "false_lesions")


def columns(rows: Iterable[Row]) -> list[str]:
    """All column names, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def mean_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row for each volume and method: numbers are means over the trainings (column `seed`) where defined."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name, "") for name in ("cohort", "method", "case")), []).append(row)
    merged: list[Row] = []
    for own in groups.values():
        names = [name for name in columns(own) if name != "seed"]
        merged.append(
            {
                name: _spread([row[name] for row in own if name in row])["mean"]
                if any(_is_number(row.get(name)) for row in own)
                else own[0].get(name)
                for name in names
            }
            if len(own) > 1
            else {name: own[0][name] for name in names}
        )
    return merged


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each cohort and method, and one more for its volumes with an empty reference segmentation.

    A volume counts once: of several trainings (column `seed`) the mean over them.

    Returns:
        dicts with `cohort`, `method`, `truth` (`lesions` or `empty`), `volumes` and `metrics`: name → `n` (volumes
        where it is defined), `mean`, `std` (n − 1; NaN for one volume), `median`, `q25`, `q75`.
    """
    summaries = []
    rows = mean_over_seeds(rows)
    groups = list(dict.fromkeys((row.get("cohort", ""), row.get("method", "")) for row in rows))
    cohorts = list(dict.fromkeys(cohort for cohort, _ in groups))
    for cohort, method in sorted(groups, key=lambda group: cohorts.index(group[0])):
        own = [row for row in rows if (row.get("cohort", ""), row.get("method", "")) == (cohort, method)]
        lesions, empty = [r for r in own if not _truth_is_empty(r)], [r for r in own if _truth_is_empty(r)]
        names = [name for name in columns(own) if any(_is_number(row.get(name)) for row in own)]
        kept = [name for name in names if name in EMPTY_TRUTH_METRICS]
        for truth, part, metrics in (("lesions", lesions, names), ("empty", empty, kept)):
            if part:
                values = {name: _spread([row[name] for row in part if name in row]) for name in metrics}
                group = {"cohort": cohort, "method": method, "reference": truth, "volumes": len(part)}
                summaries.append({**group, "metrics": values})
    return summaries


def _truth_is_empty(row: Row) -> bool:
    if "reference_ml" in row:
        return row["reference_ml"] == 0
    return row.get("dice") is None or not math.isfinite(row["dice"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _spread(values: Sequence[Any]) -> dict[str, float]:
    numbers = np.array([v for v in values if v is not None and math.isfinite(v)], float)
    if numbers.size == 0:
        return {"n": 0, **dict.fromkeys(("mean", "std", "median", "q25", "q75"), math.nan)}
    q25, median, q75 = (float(q) for q in np.percentile(numbers, [25, 50, 75]))
    return {
        "n": numbers.size,
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        "median": median,
        "q25": q25,
        "q75": q75,
    }


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """One line a row, full precision; what is not defined is left empty."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns(rows), restval="")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return "" if value is None or (_is_number(value) and not math.isfinite(value)) else value


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write results as standard JSON: NaN and infinity, which it does not have, become null."""
    write_json(path, json_ready(results))


def json_ready(value: Any) -> Any:
    """The value in lists, dicts and plain numbers; NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def files_hash(paths: Iterable[str | os.PathLike[str]]) -> str:
    """Twelve hex digits over the contents of files, in any order: says which data a result is of."""
    digests = sorted(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def text_table(summaries: Sequence[Summary], metrics: Sequence[str]) -> str:
    """`mean ± std` in aligned columns, for the terminal."""
    header = ["cohort", "method", "reference", "volumes", *metrics]
    lines = [header, *([*_group(s), *(_mean_std(s, name, "±") for name in metrics)] for s in summaries)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def latex_table(summaries: Sequence[Summary], metrics: Sequence[str]) -> str:
    """A booktabs table, `mean ± std` over volumes."""
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{llll{'r' * len(metrics)}}}",
        "\\toprule",
        " & ".join(_latex(called(name)) for name in ("cohort", "method", "reference", "volumes", *metrics)) + " \\\\",
        "\\midrule",
    ]
    for summary in summaries:
        cells = [_latex(cell) for cell in _group(summary)]
        cells += [_mean_std(summary, name, "$\\pm$") for name in metrics]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _group(summary: Summary) -> list[str]:
    return [str(summary[name]) for name in ("cohort", "method", "reference", "volumes")]


def _mean_std(summary: Summary, name: str, sign: str) -> str:
    values = summary["metrics"].get(name)
    if not values or not values["n"]:
        return "--"
    std = values["std"]
    spread = "" if std is None or math.isnan(std) else f" {sign} {std:.3f}"
    return f"{values['mean']:.3f}{spread}"


def _latex(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
