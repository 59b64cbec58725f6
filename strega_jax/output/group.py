"""All scans of one output folder on one page and in one table, most anomaly first."""

import html
import json
from pathlib import Path
from typing import Any

from strega_jax.output.page import NOTE, write_html
from strega_jax.scans.files import write_tsv

PAGE, TABLE = "group.html", "group.tsv"
COLUMNS = ("name", "contrast", "anomaly_ml", "brain_ml", "components", "largest_ml", "flags")
HEADINGS = {"anomaly_ml": "marked, ml", "brain_ml": "brain, ml", "largest_ml": "largest, ml", "flags": "doubts"}
KINDS = {"contrast": "text", "flags": "words"}


def write_group(folder: Path) -> int:
    """Read every complete result below `folder`; write `group.html` and `group.tsv`. How many there are."""
    rows = []
    for boxes in sorted(folder.rglob("*_boxes.json")):
        try:
            rows.append(_row(folder, boxes, json.loads(boxes.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError):
            continue  # another program's file of that name
    rows.sort(key=lambda row: (-float(row["anomaly_ml"]), row["name"]))
    if rows:
        write_tsv(folder / TABLE, [{name: row[name] for name in COLUMNS} for row in rows])
        write_html(folder / PAGE, _counted(len(rows), "scan"), _sections(rows), ("sort.js",))
    return len(rows)


def _row(folder: Path, boxes: Path, summary: dict[str, Any]) -> dict[str, str]:
    volumes = [component["volume_ml"] for component in summary["components"]]
    page = boxes.with_name(str(summary["page"])) if summary.get("page") else None
    return {
        "name": str(summary.get("name", boxes.name.removesuffix("_boxes.json"))),
        "contrast": str(summary.get("contrast", "")),
        "anomaly_ml": f"{summary['anomaly_ml']:.3f}",
        "brain_ml": f"{summary['brain_ml']:.1f}",
        "components": str(len(volumes)),
        "largest_ml": f"{max(volumes, default=0.0):.3f}",
        "flags": "; ".join(f"{flag['check']}: {flag['reason']}" for flag in summary.get("flags", [])).replace(
            "\t", " "
        ),
        "page": page.relative_to(folder).as_posix() if page and page.is_file() else "",
    }


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sections(rows: list[dict[str, str]]) -> list[str]:
    most = max(float(row["anomaly_ml"]) for row in rows) or 1.0
    head = "".join(f'<th class="sorts {KINDS.get(name, "")}">{HEADINGS.get(name, name)}</th>' for name in COLUMNS)
    body = "".join(f"<tr>{''.join(_cell(row, name, most) for name in COLUMNS)}</tr>" for row in rows)
    marked, doubted = sum(float(row["anomaly_ml"]) > 0 for row in rows), sum(bool(row["flags"]) for row in rows)
    return [
        f"<h1>{_counted(len(rows), 'scan')}</h1>",
        f'<p class="note">{html.escape(NOTE)}</p>',
        f"<p>{marked} with marks, {doubted} with doubts of the input checks. Most anomaly first; click a heading to "
        "sort, a name to open its page.</p>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    ]


def _cell(row: dict[str, str], name: str, most: float) -> str:
    value = html.escape(row[name], quote=True)
    link = html.escape(row["page"], quote=True) if name == "name" else ""
    shown = f'<a href="{link}">{value}</a>' if link else value or "–"
    if name == "anomaly_ml":
        share = float(row[name]) / most
        return f'<td class="bar" style="--share:{share:.1%}" data-value="{value}">{shown}</td>'
    return f'<td class="{KINDS.get(name, "")}" data-value="{value}">{shown}</td>'
