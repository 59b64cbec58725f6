"""The HTML page of a patient: the contrasts of one session side by side, each one's detections and the fused ones."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.output.html import definitions, link, section, write_document
from strega_jax.output.page import cards, component_table
from strega_jax.output.viewer import Fused, Shown, viewer


@dataclasses.dataclass(frozen=True)
class Panel(Shown):
    """One contrast; all panels of a page lie on one grid.

    Attributes:
        warnings: of quality control, dicts of check and reason.
        page: file name of the contrast's own page, relative to the patient's, or empty.
    """

    warnings: Sequence[Mapping[str, str]] = ()
    page: str = ""


def write_patient_page(
    path: Path,
    panels: Sequence[Panel],
    fused_mask: Bool[np.ndarray, "x y z"],
    fused_score: Float[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: tuple[float, float, float],
    summary: Mapping[str, Any],
) -> None:
    """Write the page of one session.

    Args:
        path: the HTML file.
        panels: the contrasts, in the order in which they are shown.
        fused_mask: (x, y, z) what they mark together.
        fused_score: (x, y, z) their anomaly score.
        affine: voxel → scanner millimetres.
        spacing_mm: edges of a voxel.
        summary: what `write.summarise` says of the fused detection, with `name`, `quality_control` (dicts of check and
            reason), `model` (name → value) and `fused`: `grid` (whose grid it is), `rule`, `contrasts` (name → weight,
            anomaly_ml, name, page), `left_out` (a line each) and, where it was measured, `enhancing_ml`.

    Raises:
        ValueError: there is no panel, or one of them lies on another grid.
    """
    if not panels or any(panel.image.shape != fused_mask.shape for panel in panels):
        raise ValueError("the panels of a patient's page must lie on the grid of the fused detection")
    fusion = summary["fused"]
    inside = np.logical_or.reduce([panel.image > 0 for panel in panels])
    captions = [_caption(panel, fusion) for panel in panels]
    seen = viewer(panels, affine, spacing_mm, inside, Fused(fused_mask, fused_score), captions)
    sections = [
        _source(summary),
        _headline(summary),
        _quality_control(panels, summary),
        section("Look at it", _LEGEND + seen),
        section("Components of the fused detections", component_table(summary["components"])),
        section("The contrasts", _contrast_table(panels, fusion)),
        section("The model", definitions(summary.get("model", {}))),
    ]
    write_document(path, str(summary.get("name", summary["scan"])), sections, ("viewer.js",))


_LEGEND = (
    "<p>All panes move together. <b class=mark>Orange outline</b>: what the contrast marks alone; "
    "<b class=box>blue outline</b>: what the fused result marks, the same in every pane; dashed in both colours where "
    "they coincide. All scores are coloured on one scale.</p>"
)


def _source(summary: Mapping[str, Any]) -> str:
    fusion = summary["fused"]
    told = f"{_listed(list(fusion['contrasts']))}, fused on the grid of {fusion['grid']} ({summary['scan']})"
    return f'<p class="file">{html.escape(told)}</p>'


def _headline(summary: Mapping[str, Any]) -> str:
    fusion, marked, brain = summary["fused"], summary["anomaly_ml"], summary["brain_ml"]
    count = len(summary["components"])
    enhancing = fusion.get("enhancing_ml")
    figures = {
        "marked, fused": f"{marked:.2f} ml",
        "of the brain": f"{marked / brain:.1%}" if brain else "–",
        "component" if count == 1 else "components": str(count),
        **({} if enhancing is None else {"enhancing": f"{enhancing:.2f} ml"}),
        "brain": f"{brain:.0f} ml",
        "contrasts used": html.escape(", ".join(fusion["contrasts"])),
        "grid": html.escape(str(fusion["grid"])),
    }
    return cards(figures)


def _quality_control(panels: Sequence[Panel], summary: Mapping[str, Any]) -> str:
    """What was left out, and the warnings: of the fused result, then of each contrast."""
    left_out = list(summary["fused"].get("left_out", ()))
    lines = [("left out", line) for line in left_out]
    together = [w for w in summary.get("quality_control", ()) if w["reason"] not in left_out]
    lines += [(warning["check"], warning["reason"]) for warning in together]
    lines += [(f"{p.name}, {warning['check']}", warning["reason"]) for p in panels for warning in p.warnings]
    if not lines:
        return f'<p class="fine">Quality control: no warnings for {html.escape(_listed([p.name for p in panels]))}.</p>'
    items = "".join(f"<li><b>{html.escape(what)}</b>: {html.escape(reason)}</li>" for what, reason in lines)
    fine = [panel.name for panel in panels if not panel.warnings]
    rest = f"<p>No warnings for {html.escape(_listed(fine))}.</p>" if fine else ""
    return f'<div class="note">Quality control, before you believe this result:<ul>{items}</ul>{rest}</div>'


def _caption(panel: Panel, fusion: Mapping[str, Any]) -> str:
    used = fusion["contrasts"].get(panel.name)
    weight = "not fused" if used is None else "" if used["weight"] == 1 else f"weight {used['weight']:g}"
    note = f" ({weight})" if weight else ""
    return f"<b>{html.escape(panel.name)}</b>{note}"


def _contrast_table(panels: Sequence[Panel], fusion: Mapping[str, Any]) -> str:
    """A line a contrast: the ones that are fused, then the ones that are only shown."""
    of = {panel.name: panel for panel in panels}
    kinds = ("", "", "", ' class="words"', ' class="text"')
    rows = []
    for contrast in dict.fromkeys([*fusion["contrasts"], *of]):
        used, panel = fusion["contrasts"].get(contrast, {}), of.get(contrast)
        page = used.get("page") or (panel.page if panel else "")
        checks = ", ".join(dict.fromkeys(w["check"] for w in panel.warnings)) if panel else ""
        cells = (
            html.escape(contrast) + (" (grid)" if contrast == fusion["grid"] else ""),
            f"{used['weight']:g}" if used else "not fused",
            f"{used['anomaly_ml']:.2f}" if used else "–",
            html.escape(checks) or "–",
            link(str(used.get("name") or page or "–"), page),
        )
        rows.append("<tr>" + "".join(map("<td{}>{}</td>".format, kinds, cells)) + "</tr>")
    heads = ("contrast", f"weight in the {fusion['rule']}", "marked alone, ml", "warnings", "own page")
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, heads, strict=True))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
