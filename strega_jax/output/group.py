"""All scans and patients of one output folder on one page and in one table, most anomaly first."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strega_jax.output.files import GROUP_PAGE, GROUP_TABLE
from strega_jax.output.html import cell, head, link, section, sortable, write_document
from strega_jax.scans.files import UNFINISHED, write_tsv

log = logging.getLogger(__name__)

COLUMNS = ("name", "contrast", "anomaly_ml", "brain_ml", "components", "largest_ml", "quality_control")
# Of patients: results that were fused from the contrasts of one session.
FUSED = "fused"
PATIENT_COLUMNS = ("name", "contrasts", "anomaly_ml", "enhancing_ml", "brain_ml", "components", "left_out",
                   "warnings")  # fmt: skip
HEADINGS = {
    "anomaly_ml": "marked, ml", "brain_ml": "brain, ml", "largest_ml": "largest, ml", "enhancing_ml": "enhancing, ml",
    "quality_control": "quality control", "left_out": "left out", "warnings": "quality control",
}  # fmt: skip
KINDS = {"contrast": "text", "contrasts": "text", "left_out": "words", "quality_control": "words", "warnings": "words"}


def write_group(folder: Path) -> int:
    """Read every complete result below `folder`; write `group.html` and `group.tsv`. How many there are.

    Where there are none, a page and a table of former results are removed. Of processes that write into one folder at
    once each calls this after its last result, and the last of them lists all.
    """
    with _alone(folder):
        return _write(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process reads results and writes their page: an older list must not replace a newer one."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network's file system without such locks: the group level lists all
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _write(folder: Path) -> int:
    rows = []
    for boxes in sorted(folder.rglob("*_boxes.json")):
        if any(part.startswith(UNFINISHED) for part in boxes.relative_to(folder).parts):
            continue  # another process has not come to its end with it
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
    patients = [row for row in rows if "contrasts" in row]
    scans = [row for row in rows if "contrasts" not in row]
    counted = ((patients, "patient"), (scans, "scan"))
    title = ", ".join(_counted(len(some), noun) for some, noun in counted if some)
    write_document(folder / GROUP_PAGE, title, _sections(patients, scans), ("sort.js",))
    return len(rows)


def _row(folder: Path, boxes: Path, summary: Any) -> dict[str, str]:
    volumes = [component["volume_ml"] for component in summary["components"]]
    page = boxes.with_name(str(summary["page"])) if summary.get("page") else None
    fused, warnings = summary.get("fused"), summary.get("quality_control", [])
    row = {
        "name": str(summary.get("name", boxes.name.removesuffix("_boxes.json"))),
        "contrast": str(summary.get("contrast", "")),
        "anomaly_ml": f"{summary['anomaly_ml']:.3f}",
        "brain_ml": f"{summary['brain_ml']:.1f}",
        "components": str(len(volumes)),
        "largest_ml": f"{max(volumes, default=0.0):.3f}",
        "quality_control": _told(warnings),
        "page": page.relative_to(folder).as_posix() if page and page.is_file() else "",
    }
    return row if fused is None else row | _patient(fused, warnings)


def _patient(fused: dict[str, Any], warnings: list[dict[str, str]]) -> dict[str, str]:
    """What the row of a fused result has besides, or otherwise."""
    enhancing = fused.get("enhancing_ml")
    return {
        "contrast": FUSED,
        "contrasts": ", ".join(fused["contrasts"]),
        "enhancing_ml": "" if enhancing is None else f"{enhancing:.3f}",
        "left_out": "; ".join(fused["left_out"]),
        "warnings": _told([warning for warning in warnings if warning["reason"] not in fused["left_out"]]),
    }


def _told(warnings: list[dict[str, str]]) -> str:
    return "; ".join(f"{warning['check']}: {warning['reason']}" for warning in warnings).replace("\t", " ")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sections(patients: list[dict[str, str]], scans: list[dict[str, str]]) -> list[str]:
    """Patients, where there are any, over scans."""
    if not patients:
        return [_table(scans, COLUMNS)]
    measured = any(row["enhancing_ml"] for row in patients)
    columns = tuple(name for name in PATIENT_COLUMNS if measured or name != "enhancing_ml")
    told = "<p>A line is the contrasts of one session together.</p>"
    scan_table = _table(scans, COLUMNS) if scans else ""
    return [section("Patients", told + _table(patients, columns)), section("Scans", scan_table)]


def _table(rows: list[dict[str, str]], columns: tuple[str, ...]) -> str:
    most = max(float(row["anomaly_ml"]) for row in rows) or 1.0
    marked = sum(float(row["anomaly_ml"]) > 0 for row in rows)
    warned = sum(bool(row["quality_control"]) for row in rows)
    heads = [head(HEADINGS.get(name, name), KINDS.get(name, "")) for name in columns]
    cells = [[_cell(row, name, most) for name in columns] for row in rows]
    return (
        f"<p>{marked} with detections, {warned} with quality-control warnings. Most anomaly first; click a heading to "
        f"sort, a name to open its page.</p>{sortable(heads, cells)}"
    )


def _cell(row: dict[str, str], name: str, most: float) -> str:
    shown = link(row[name], row["page"] if name == "name" else "") or "–"
    if name == "anomaly_ml":
        return cell(shown, row[name], "bar", f"--share:{float(row[name]) / most:.1%}")
    return cell(shown, row[name], KINDS.get(name, ""))
