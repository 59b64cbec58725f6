"""One self-contained HTML page of an evaluation, drawn from its results JSON alone.

The results hold (all but `rows` may be missing):

    title            heading of the page
    about            name → text: config hash, data hash, checkpoint, threshold, …
    rows             one dict a volume and method (see `table`)
    froc             method → {"false_positives": […], "sensitivity": […]} (`lesions.froc`)
    sizes            method → rows of `lesions.sensitivity_by_size`
    dose_response    curve plots: {"dose": …, "response": …, "curves": {name: {"dose": […], "response": […]}}} each
    healthy          method → numbers of `calibration.healthy_burden`
    sentences        comparisons in words (`statistics.sentence`)
    pictures         {"caption": …, "png": base64} each

Nothing is fetched: pictures, style and script are inside the file, and its content security policy says so.
"""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from strega_jax.evaluation.figures import dose_response_plot, froc_plot, png_bytes, violin_plot
from strega_jax.evaluation.table import columns, json_ready, summarise
from strega_jax.scans.files import replacing

RESEARCH_ONLY = (
    "For research only. This is no medical device: nothing here may be used for diagnosis or treatment, "
    "and a scan without marks is not a healthy scan."
)
SUMMARY_METRICS = ("dice", "best_dice", "auprc", "auroc", "lesion_sensitivity", "lesion_f1", "false_lesions",
                   "marked_ml", "false_positive_ml", "hd95_mm", "surface_dice", "box_iou", "box_hit_rate")  # fmt: skip

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}
.wide{overflow-x:auto}
th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
table.sortable th{cursor:pointer;background:#f3f3f3}
th[aria-sort=ascending]::after{content:" ▲"}
th[aria-sort=descending]::after{content:" ▼"}
.note{border-left:4px solid #D55E00;background:#fdf3ec;padding:.6rem 1rem}
figure{margin:1rem 0}
figcaption{color:#555;font-size:13px}
img{max-width:100%}
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


def picture(figure: Figure, caption: str) -> dict[str, str]:
    """A figure as an entry of `pictures`."""
    return {"caption": caption, "png": base64.b64encode(png_bytes(figure)).decode()}


def report_from_json(results: str | os.PathLike[str], page: str | os.PathLike[str]) -> None:
    """Draw the page again from a results JSON."""
    write_report(page, json.loads(Path(results).read_text(encoding="utf-8")))


def write_report(page: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write the page. Results read back from their JSON give the same page, byte for byte."""
    results = json_ready(results)
    title = html.escape(results.get("title", "Evaluation"))
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="note">{html.escape(RESEARCH_ONLY)}</p>',
        _definitions(results.get("about", {})),
        _summary_section(results["rows"]),
        _figures_section(results),
        _numbers_section("Lesions found by size", results.get("sizes", {})),
        _numbers_section("Healthy subjects", {k: [v] for k, v in results.get("healthy", {}).items()}),
        _sentences(results.get("sentences", [])),
        _pictures(results.get("pictures", [])),
        "<h2>Every volume</h2><p>Click a heading to sort.</p>",
        _table(columns(results["rows"]), results["rows"]),
    ]
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<link rel="icon" href="data:,">\n<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(section for section in sections if section)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary_section(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for summary in summarise(rows):
        line = {name: summary[name] for name in ("cohort", "method", "truth", "volumes")}
        for name in SUMMARY_METRICS:
            values = summary["metrics"].get(name)
            if values and values["n"]:
                std = "" if values["n"] < 2 else f" ± {values['std']:.3f}"
                line[name] = f"{values['mean']:.3f}{std}"
        lines.append(line)
    return (
        "<h2>Summary</h2><p>Mean ± standard deviation over volumes. <code>best_dice</code> is fitted on each "
        "volume's own truth: an upper bound, no result. Volumes with an empty truth have lines of their own.</p>"
        + _table(columns(lines), lines)
    )


def _figures_section(results: Mapping[str, Any]) -> str:
    rows = results["rows"]
    parts = []
    for cohort in dict.fromkeys(row.get("cohort", "") for row in rows):
        own = [row for row in rows if row.get("cohort", "") == cohort and row.get("dice") is not None]
        methods = dict.fromkeys(row.get("method", "") for row in own)
        if own:
            values = {m: [row["dice"] for row in own if row.get("method", "") == m] for m in methods}
            parts.append(picture(violin_plot(values), f"Dice of each volume: {cohort}"))
    if results.get("froc"):
        curves = {name: (c["false_positives"], c["sensitivity"]) for name, c in results["froc"].items()}
        parts.append(picture(froc_plot(curves), "Free-response ROC over marks by their peak score"))
    for plot in results.get("dose_response", []):
        curves = {name: (c["dose"], c["response"]) for name, c in plot["curves"].items()}
        figure = dose_response_plot(curves, plot["dose"], plot["response"])
        parts.append(picture(figure, f"{plot['response']} by {plot['dose']}"))
    return "".join(_figure(part) for part in parts)


def _pictures(pictures: Sequence[Mapping[str, str]]) -> str:
    return "<h2>Pictures</h2>" + "".join(_figure(entry) for entry in pictures) if pictures else ""


def _figure(entry: Mapping[str, str]) -> str:
    caption = html.escape(entry["caption"])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{entry["png"]}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _definitions(about: Mapping[str, Any]) -> str:
    return _table(["", "value"], [{"": name, "value": value} for name, value in about.items()]) if about else ""


def _numbers_section(title: str, by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = [{"method": method, **line} for method, of in by_method.items() for line in of]
    return f"<h2>{html.escape(title)}</h2>" + _table(columns(lines), lines) if lines else ""


def _sentences(sentences: Sequence[str]) -> str:
    return "<h2>Comparisons</h2>" + "".join(f"<p>{html.escape(s)}</p>" for s in sentences) if sentences else ""


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any) -> str:
    if value is None:
        return '<td data-value="">–</td>'
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f'<td data-value="{html.escape(str(value), quote=True)}">{html.escape(shown)}</td>'
