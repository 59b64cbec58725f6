"""One self-contained HTML page of an evaluation, and its figures as files, drawn from the results JSON alone.

The results hold (all but `rows` may be missing):

    title            heading of the page
    about            name → text: config hash, data hash, checkpoint, threshold, …
    rows             one dict a volume and method (see `table`)
    sentences        results and comparisons in words (`statistics`)
    detection        {"cohort", "method", "level", "auroc", "average_precision", …} each (`content.detection_rows`)
    froc             {"cohort", "method", "volumes", "false_positives": […], "sensitivity": […]} each
    sizes            rows of `lesions.sensitivity_by_size` with cohort and method
    dose_response    {"cohort", "method", "dose", "response", "curves": {name: {"dose": […], "response": […]}}} each
    healthy          numbers of `calibration.healthy_burden` with cohort and method
    rates            target and realised false-positive rates with method
    comparisons      fields of `statistics.Comparison` each
    costs            one dict a method
    pictures         {"name", "caption", "png": base64} each
    failures         one text a case that could not be scored, or a picture that could not be drawn
"""

import base64
import functools
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from strega_jax.errors import ConfigError
from strega_jax.evaluation.columns import COLUMNS, SUMMARY_METRICS, called, shown
from strega_jax.evaluation.figures import (
    VIOLIN_FROM,
    dose_response_plot,
    froc_plot,
    pdf_bytes,
    png_bytes,
    violin_plot,
)
from strega_jax.evaluation.table import columns, json_ready, mean_over_seeds, summarise
from strega_jax.failures import Failures
from strega_jax.output.html import cell, definitions, document, head, section, sortable
from strega_jax.scans.files import replacing

COMPLETE = "the numbers are complete without it; report it"


def picture(figure: Figure, name: str, caption: str) -> dict[str, str]:
    """A figure as an entry of `pictures`; `name` is that of its file."""
    return {"name": file_name(name), "caption": caption, "png": base64.b64encode(png_bytes(figure)).decode()}


def file_name(text: str) -> str:
    """Letters, digits, `-` and `_` of a text."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")


def report_from_json(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[str]:
    """Draw page and figures again from a results JSON.

    Returns:
        One message for each plot that could not be drawn.

    Raises:
        ConfigError: the file cannot be read, or holds no results.
    """
    try:
        content = json.loads(Path(results).read_text(encoding="utf-8"))
        rows = content["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{results}: not the results.json of an evaluation ({error})") from error
    if not rows:
        raise ConfigError(f"{results}: holds no scored volume")
    return write_report(folder, content)


def write_report(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> list[str]:
    """Write `report.html` and `figures/` (PNG; the plots as PDF as well).

    Results read back from their JSON give the same files, byte for byte.

    Returns:
        One message for each plot that could not be drawn; the page tells it too.
    """
    content: dict[str, Any] = json_ready(results)
    failures = Failures(Path(folder))
    figures = Path(folder) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, caption, make in _plots(content):
        files = figures / f"{name}.png", figures / f"{name}.pdf"
        try:
            figure = make()
            png, pdf = png_bytes(figure), pdf_bytes(figure)
        except Exception as error:
            failures.add(files[0], error, COMPLETE)
            for file in files:
                file.unlink(missing_ok=True)  # an earlier report's
            continue
        _write(files[0], png)
        _write(files[1], pdf)
        drawn.append({"caption": caption, "png": base64.b64encode(png).decode()})
    for entry in content.get("pictures", []):
        _write(figures / f"{entry['name']}.png", base64.b64decode(entry["png"]))
    content["failures"] = [*content.get("failures", []), *failures.messages]
    _write(Path(folder) / "report.html", _page(content, drawn).encode())
    return failures.messages


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _page(results: Mapping[str, Any], plots: Sequence[Mapping[str, str]]) -> str:
    rows = results["rows"]
    sections = [
        _sentences("In words", results.get("sentences", [])),
        _summary_section(rows),
        section("Plots", '<div class="side">' + "".join(map(_figure, plots)) + "</div>" if plots else ""),
        section("Pictures", "".join(map(_figure, results.get("pictures", [])))),
        *(_numbers_section(heading, results.get(key, []), note) for key, (heading, note) in TABLES.items()),
        section("Every volume", "<p>Click a heading to sort.</p>" + _table(columns(rows), rows)),
        _glossary(),
        _sentences("What failed", results.get("failures", [])),
        section("How it was made", definitions(results.get("about", {}))),
    ]
    return document(results.get("title", "Evaluation"), sections, ("sort.js",))


TABLES = {
    "sizes": ("Lesions found by size", "Pooled over the lesions of a cohort; found: at least a tenth is marked."),
    "detection": (
        "Slices and subjects told apart",
        "Ranked by the 99th percentile of the brain's scores. Controls may come from another scanner than the "
        "patients: what tells these apart raises the lines with controls.",
    ),
    "healthy": ("Healthy subjects", "What is marked in brains without a lesion; all of it is false."),
    "rates": (
        "False-positive rates, target and realised",
        "Share of the controls' brain voxels above a threshold that was to let the target through.",
    ),
    "comparisons": (
        "Comparisons",
        "Paired by subject within a cohort of five subjects or more: percentile bootstrap interval of the mean "
        "difference, two-sided Wilcoxon signed-rank test, Holm over all lines.",
    ),
    "costs": ("Costs", "Seconds a volume: scoring of its slices by the network, without reading and segmentation."),
}
"""Key of the results → heading, and what a reader must know."""


def _plots(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """File name, caption and what makes the figure, of all that is drawn from numbers."""
    rows = [row for row in mean_over_seeds(results["rows"]) if row.get("dice") is not None]
    for cohort in dict.fromkeys(row.get("cohort", "") for row in rows):
        own = [row for row in rows if row.get("cohort", "") == cohort]
        methods = dict.fromkeys(row.get("method", "") for row in own)
        values = {m: [row["dice"] for row in own if row.get("method", "") == m] for m in methods}
        if max(map(len, values.values())) < VIOLIN_FROM:
            continue
        yield file_name(f"violin_{cohort}"), f"Dice of each volume, {cohort}.", functools.partial(violin_plot, values)
    curves = results.get("froc", [])
    for where, of in _by_what_varies(curves):
        drawn = {name: (c["false_positives"], c["sensitivity"]) for name, c in of.items()}
        caption = f"Free-response ROC, {where}: detections in order of their peak score; the dot is the mask as it is."
        yield file_name(f"froc_{where}"), caption, functools.partial(froc_plot, drawn)
    for plot in results.get("dose_response", []):
        where = f"{plot['method']}, {plot['cohort']}"
        drawn = {name: (c["dose"], c["response"]) for name, c in plot["curves"].items()}
        caption = f"{plot['response']} by {plot['dose']}, {where}."
        figure = functools.partial(dose_response_plot, drawn, plot["dose"], plot["response"])
        yield file_name(f"dose_{plot['response']}_{where}"), caption, figure


def _by_what_varies(curves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Of one method, its cohorts in one plot; of several, a plot a cohort with a curve a method."""
    methods = dict.fromkeys(curve["method"] for curve in curves)
    if len(methods) == 1:
        yield next(iter(methods)), {curve["cohort"]: curve for curve in curves}
        return
    for cohort in dict.fromkeys(curve["cohort"] for curve in curves):
        yield cohort, {curve["method"]: curve for curve in curves if curve["cohort"] == cohort}


GROUP = ("cohort", "method", "reference", "volumes")


def _summary_section(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for summary in summarise(rows):
        line = {name: summary[name] for name in GROUP}
        for name in SUMMARY_METRICS:
            values = summary["metrics"].get(name)
            if values and values["n"]:
                std = "" if values["n"] < 2 else f" ± {shown(name, values['std'])}"
                line[name] = f"{shown(name, values['mean'])}{std}"
        lines.append(line)
    return section(
        "Summary",
        "<p>Mean ± standard deviation over volumes. Best Dice is fitted on each volume's own reference segmentation: "
        "an upper bound, no result. Volumes with an empty reference segmentation have lines of their own.</p>"
        + _table([*GROUP, *(name for name in SUMMARY_METRICS if any(name in line for line in lines))], lines),
    )


def _figure(entry: Mapping[str, str]) -> str:
    caption = html.escape(entry["caption"])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{entry["png"]}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _glossary() -> str:
    terms = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, (_, text) in COLUMNS.items())
    return f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>"


def _numbers_section(heading: str, lines: Sequence[Mapping[str, Any]], note: str) -> str:
    return section(heading, f"<p>{html.escape(note)}</p>" + _table(columns(lines), lines) if lines else "")


def _sentences(heading: str, sentences: Sequence[str]) -> str:
    return section(heading, "".join(f"<p>{html.escape(s)}</p>" for s in sentences))


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    heads = [_heading(name, any(isinstance(row.get(name), str) for row in rows)) for name in names]
    return sortable(heads, [[_cell(row.get(name)) for name in names] for row in rows])


def _heading(name: str, text: bool) -> str:
    kind = "text" if text and name not in SUMMARY_METRICS else ""
    return head(called(name), kind, name, COLUMNS[name][1] if name in COLUMNS else "")


def _cell(value: Any) -> str:
    if value is None:
        return cell("–", value)
    if isinstance(value, list):
        value = " to ".join(f"{number:.4g}" for number in value if number is not None)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return cell(html.escape(text), value, "text" if isinstance(value, str) and not text[:1].isdigit() else "")
