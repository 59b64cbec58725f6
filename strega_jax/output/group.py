"""All scans of one output folder on one page and in one table, most anomaly first."""

import html
import json
import logging
from pathlib import Path
from typing import Any

from strega_jax.output.files import GROUP_PAGE, GROUP_TABLE
from strega_jax.output.html import cell, head, sortable, write_document
from strega_jax.scans.files import write_tsv

log = logging.getLogger(__name__)

COLUMNS = ("name", "contrast", "anomaly_ml", "brain_ml", "components", "largest_ml", "quality_control")
HEADINGS = {
    "anomaly_ml": "marked, ml", "brain_ml": "brain, ml", "largest_ml": "largest, ml",
    "quality_control": "quality control",
}  # fmt: skip
KINDS = {"contrast": "text", "quality_control": "words"}


def write_group(folder: Path) -> int:
    """Read every complete result below `folder`; write `group.html` and `group.tsv`. How many there are.

    Where there are none, a page and a table of former results are removed.
    """
    rows = []
    for boxes in sorted(folder.rglob("*_boxes.json")):
        try:
            rows.append(_row(folder, boxes, json.loads(boxes.read_text(encoding="utf-8"))))
        except OSError as error:
            log.warning("%s: not in the group page: %s", boxes, error.strerror)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # another program's file of that name
    if not rows:
        for name in (GROUP_PAGE, GROUP_TABLE):
            (folder / name).unlink(missing_ok=True)
        return 0
    rows.sort(key=lambda row: (-float(row["anomaly_ml"]), row["name"]))
    write_tsv(folder / GROUP_TABLE, [{name: row[name] for name in COLUMNS} for row in rows])
    write_document(folder / GROUP_PAGE, _counted(len(rows), "scan"), _sections(rows), ("sort.js",))
    return len(rows)


def _row(folder: Path, boxes: Path, summary: dict[str, Any]) -> dict[str, str]:
    volumes = [component["volume_ml"] for component in summary["components"]]
    page = boxes.with_name(str(summary["page"])) if summary.get("page") else None
    warnings = "; ".join(f"{warning['check']}: {warning['reason']}" for warning in summary.get("quality_control", []))
    return {
        "name": str(summary.get("name", boxes.name.removesuffix("_boxes.json"))),
        "contrast": str(summary.get("contrast", "")),
        "anomaly_ml": f"{summary['anomaly_ml']:.3f}",
        "brain_ml": f"{summary['brain_ml']:.1f}",
        "components": str(len(volumes)),
        "largest_ml": f"{max(volumes, default=0.0):.3f}",
        "quality_control": warnings.replace("\t", " "),
        "page": page.relative_to(folder).as_posix() if page and page.is_file() else "",
    }


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sections(rows: list[dict[str, str]]) -> list[str]:
    most = max(float(row["anomaly_ml"]) for row in rows) or 1.0
    marked = sum(float(row["anomaly_ml"]) > 0 for row in rows)
    warned = sum(bool(row["quality_control"]) for row in rows)
    heads = [head(HEADINGS.get(name, name), KINDS.get(name, "")) for name in COLUMNS]
    return [
        f"<p>{marked} with detections, {warned} with quality-control warnings. Most anomaly first; click a heading to "
        "sort, a name to open its page.</p>",
        sortable(heads, [[_cell(row, name, most) for name in COLUMNS] for row in rows]),
    ]


def _cell(row: dict[str, str], name: str, most: float) -> str:
    value = html.escape(row[name], quote=True)
    link = html.escape(row["page"], quote=True) if name == "name" else ""
    shown = f'<a href="{link}">{value}</a>' if link else value or "–"
    if name == "anomaly_ml":
        return cell(shown, row[name], "bar", f"--share:{float(row[name]) / most:.1%}")
    return cell(shown, row[name], KINDS.get(name, ""))
