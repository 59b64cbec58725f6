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
    failures         one text a case that could not be scored

Nothing is fetched: pictures, style and script are inside the file, and its content security policy says so.
"""

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
from strega_jax.scans.files import replacing

RESEARCH_ONLY = (
    "For research only. This is no medical device: nothing here may be used for diagnosis or treatment, "
    "and a scan without marks is not a healthy scan."
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin:2.2rem 0 .4rem;border-bottom:1px solid #ccc;padding-bottom:.2rem}
table{border-collapse:collapse;margin:.6rem 0;font-size:13px;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
td.text,th.text,th:first-child,td:first-child{text-align:left}
table.sortable th{cursor:pointer;background:#f3f3f3;vertical-align:bottom}
th[aria-sort=ascending]::after{content:" ▲"}
th[aria-sort=descending]::after{content:" ▼"}
.note{border-left:4px solid #D55E00;background:#fdf3ec;padding:.6rem 1rem}
.side{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-end}
figure{margin:.6rem 0}
figcaption{color:#555;font-size:13px;max-width:60rem}
img{max-width:100%}
dt{font-weight:600}
dd{margin:0 0 .3rem 1.2rem}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.value;
    const sorted = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numeric = !isNaN(x) && !isNaN(y);
      const order = numeric ? x - y : x.localeCompare(y);
      return falling ? -order : order;
    });
    table.tBodies[0].append(...sorted);
  }));
}
"""


def picture(figure: Figure, name: str, caption: str) -> dict[str, str]:
    """A figure as an entry of `pictures`; `name` is that of its file."""
    return {"name": file_name(name), "caption": caption, "png": base64.b64encode(png_bytes(figure)).decode()}


def file_name(text: str) -> str:
    """Letters, digits, `-` and `_` of a text."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")


def report_from_json(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Draw page and figures again from a results JSON.

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
    write_report(folder, content)


def write_report(folder: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write `report.html` and `figures/` (PNG; the plots as PDF as well).

    Results read back from their JSON give the same files, byte for byte.
    """
    results = json_ready(results)
    plots = [(name, caption, figure, png_bytes(figure)) for name, caption, figure in _plots(results)]
    figures = Path(folder) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name, _, figure, png in plots:
        _write(figures / f"{name}.png", png)
        _write(figures / f"{name}.pdf", pdf_bytes(figure))
    for entry in results.get("pictures", []):
        _write(figures / f"{entry['name']}.png", base64.b64decode(entry["png"]))
    drawn = [{"caption": caption, "png": base64.b64encode(png).decode()} for _, caption, _, png in plots]
    _write(Path(folder) / "report.html", _page(results, drawn).encode())


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _page(results: Mapping[str, Any], plots: Sequence[Mapping[str, str]]) -> str:
    title = html.escape(results.get("title", "Evaluation"))
    rows = results["rows"]
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="note">{html.escape(RESEARCH_ONLY)}</p>',
        _sentences("In words", results.get("sentences", [])),
        _summary_section(rows),
        _section("Plots", '<div class="side">' + "".join(map(_figure, plots)) + "</div>") if plots else "",
        _section("Pictures", "".join(map(_figure, results.get("pictures", [])))) if results.get("pictures") else "",
        *(_numbers_section(heading, results.get(key, []), note) for key, (heading, note) in TABLES.items()),
        _section("Every volume", "<p>Click a heading to sort.</p>" + _table(columns(rows), rows)),
        _glossary(),
        _sentences("Not scored", results.get("failures", [])),
        _about(results.get("about", {})),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(section for section in sections if section)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


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


def _plots(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """File name, caption and figure of all that is drawn from numbers."""
    rows = [row for row in mean_over_seeds(results["rows"]) if row.get("dice") is not None]
    for cohort in dict.fromkeys(row.get("cohort", "") for row in rows):
        own = [row for row in rows if row.get("cohort", "") == cohort]
        methods = dict.fromkeys(row.get("method", "") for row in own)
        values = {m: [row["dice"] for row in own if row.get("method", "") == m] for m in methods}
        if max(map(len, values.values())) < VIOLIN_FROM:
            continue
        yield file_name(f"violin_{cohort}"), f"Dice of each volume, {cohort}.", violin_plot(values)
    curves = results.get("froc", [])
    for where, of in _by_what_varies(curves):
        drawn = {name: (c["false_positives"], c["sensitivity"]) for name, c in of.items()}
        caption = f"Free-response ROC, {where}: marks taken in order of their peak score; the dot is the mask as it is."
        yield file_name(f"froc_{where}"), caption, froc_plot(drawn)
    for plot in results.get("dose_response", []):
        where = f"{plot['method']}, {plot['cohort']}"
        drawn = {name: (c["dose"], c["response"]) for name, c in plot["curves"].items()}
        caption = f"{plot['response']} by {plot['dose']}, {where}."
        figure = dose_response_plot(drawn, plot["dose"], plot["response"])
        yield file_name(f"dose_{plot['response']}_{where}"), caption, figure


def _by_what_varies(curves: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Of one method, its cohorts in one plot; of several, a plot a cohort with a curve a method."""
    methods = dict.fromkeys(curve["method"] for curve in curves)
    if len(methods) == 1:
        yield next(iter(methods)), {curve["cohort"]: curve for curve in curves}
        return
    for cohort in dict.fromkeys(curve["cohort"] for curve in curves):
        yield cohort, {curve["method"]: curve for curve in curves if curve["cohort"] == cohort}


GROUP = ("cohort", "method", "truth", "volumes")


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
    return _section(
        "Summary",
        "<p>Mean ± standard deviation over volumes. Best Dice is fitted on each volume's own truth: an upper bound, "
        "no result. Volumes with an empty truth have lines of their own.</p>"
        + _table([*GROUP, *(name for name in SUMMARY_METRICS if any(name in line for line in lines))], lines),
    )


def _section(heading: str, content: str) -> str:
    return f"<h2>{html.escape(heading)}</h2>{content}"


def _figure(entry: Mapping[str, str]) -> str:
    caption = html.escape(entry["caption"])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{entry["png"]}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _glossary() -> str:
    terms = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, (_, text) in COLUMNS.items())
    return f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>"


def _about(about: Mapping[str, Any]) -> str:
    lines = [{"what": name, "value": str(value)} for name, value in about.items()]
    return _section("How it was made", _table(["what", "value"], lines)) if about else ""


def _numbers_section(heading: str, lines: Sequence[Mapping[str, Any]], note: str) -> str:
    return _section(heading, f"<p>{html.escape(note)}</p>" + _table(columns(lines), lines)) if lines else ""


def _sentences(heading: str, sentences: Sequence[str]) -> str:
    return _section(heading, "".join(f"<p>{html.escape(s)}</p>" for s in sentences)) if sentences else ""


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(_heading(name, any(isinstance(row.get(name), str) for row in rows)) for name in names)
    body = "".join("<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _heading(name: str, text: bool) -> str:
    kind = ' class="text"' if text and name not in SUMMARY_METRICS else ""
    meaning = html.escape(COLUMNS[name][1], quote=True) if name in COLUMNS else ""
    return f'<th{kind} data-name="{html.escape(name, quote=True)}" title="{meaning}">{html.escape(called(name))}</th>'


def _cell(value: Any) -> str:
    if value is None:
        return '<td data-value="">–</td>'
    if isinstance(value, list):
        value = " to ".join(f"{number:.4g}" for number in value if number is not None)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    kind = ' class="text"' if isinstance(value, str) and not text[:1].isdigit() else ""
    return f'<td{kind} data-value="{html.escape(str(value), quote=True)}">{html.escape(text)}</td>'
