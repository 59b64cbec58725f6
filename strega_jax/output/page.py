"""The HTML page of a scan: a scrolling three-plane viewer, slices with boxes, the numbers, quality control."""

import html
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from strega_jax.detection.found import Detection
from strega_jax.output.html import definitions, section, write_document
from strega_jax.output.pictures import STAGES, grey, jpeg, slice_picture, stages_picture
from strega_jax.output.viewer import Shown, viewer

SHARES = {"csf": "CSF, share of the brain", "gm": "grey matter, share", "wm": "white matter, share"}
MEASURES = SHARES | {"brain_ml": "brain, ml", "error": "reconstruction error"}


def write_page(path: Path, detection: Detection, summary: Mapping[str, Any]) -> None:
    """Write the page of one scan.

    Args:
        path: the HTML file.
        detection: what was found.
        summary: what `write.summarise` says, with `quality_control` (dicts of check and reason), `model` (name →
            value), `contrast`, `measured` (name of `MEASURES` → value) and `training` (name → a spread as a dict).
    """
    scan, brain = detection.scan, detection.slices.brain
    shown = Shown(scan.path.name, grey(scan.data, brain), detection.mask, detection.score)
    comparison = _comparison(summary.get("measured", {}), summary.get("training", {}))
    with ThreadPoolExecutor(1) as drawing:  # NumPy and Pillow let go of the interpreter
        slices = drawing.submit(_slices_section, detection, shown.image)
        viewed = viewer([shown], scan.affine, scan.spacing_mm, brain)
        stages = stages_picture(detection)
    sections = [
        f'<p class="file">{html.escape(summary["scan"])}</p>',
        _headline(detection, summary),
        quality_control(summary.get("quality_control", [])),
        section("Look at it", viewed),
        section("Components", component_table(summary["components"])),
        slices.result(),
        _stages_section(jpeg(stages)) if stages else "",
        section("This scan beside the training scans", comparison),
        section("The model", definitions(summary.get("model", {}))),
    ]
    write_document(path, str(summary.get("name", summary["scan"])), sections, ("viewer.js",))


def quality_control(warnings: Sequence[Mapping[str, str]]) -> str:
    """The warnings, or that there are none."""
    if not warnings:
        return '<p class="fine">Quality control: no warnings.</p>'
    items = "".join(f"<li><b>{html.escape(w['check'])}</b>: {html.escape(w['reason'])}</li>" for w in warnings)
    return f'<div class="note">Quality control, before you believe this result:<ul>{items}</ul></div>'


def _slices_section(detection: Detection, image: UInt8[np.ndarray, "x y z"]) -> str:
    enhancing = "" if detection.enhancing is None else "; <b class=enhancing>thin</b>: the part that enhances"
    return section(
        "Slices with detections" if detection.mask.any() else "Slices (nothing is detected)",
        "<p>Axial, lowest first, the patient's left on the left. <b class=mark>Outlined</b>: detections; "
        f"<b class=box>boxes</b>: one around each part of a slice{enhancing}.</p>"
        f'<img alt="axial slices with detections and boxes" src="{jpeg(slice_picture(detection, image))}">',
    )


def _headline(detection: Detection, summary: Mapping[str, Any]) -> str:
    scan, marked, brain = detection.scan, summary["anomaly_ml"], summary["brain_ml"]
    enhancing, count = summary["enhancing_ml"], len(summary["components"])
    voxels = " × ".join(str(n) for n in scan.native_shape)
    edges = " × ".join(f"{mm:.3g}" for mm in scan.spacing_mm)
    figures = {
        "marked": f"{marked:.2f} ml",
        **({} if enhancing is None else {"of it enhancing": f"{enhancing:.2f} ml"}),
        "of the brain": f"{marked / brain:.1%}" if brain else "–",
        "component" if count == 1 else "components": str(count),
        "brain": f"{brain:.0f} ml",
        "read as": html.escape(str(summary.get("contrast") or "–")),
        "voxels of the file": voxels,
        "mm, in RAS order": edges,
    }
    return cards(figures)


def cards(figures: Mapping[str, str]) -> str:
    """What a number is → the number (HTML), large and side by side."""
    shown = "".join(f"<div><b>{value}</b><span>{html.escape(name)}</span></div>" for name, value in figures.items())
    return f'<div id="figures">{shown}</div>'


def component_table(components: Sequence[Mapping[str, Any]]) -> str:
    """A line a component; a click leads the page's viewer there."""
    if not components:
        return "<p>None.</p>"
    rows = []
    for c in components:
        centre = [(a + b - 1) / 2 for a, b in zip(c["box_lo"], c["box_hi"], strict=True)]
        numbers = (f"{c['volume_ml']:.2f}", *(f"{mm:.1f}" for mm in c["centroid_mm"]), f"{c['peak_score']:.3g}")
        box = " × ".join(f"{a}–{b - 1}" for a, b in zip(c["box_lo"], c["box_hi"], strict=True))
        cells = "".join(f"<td>{value}</td>" for value in (c["label"], *numbers, box))
        rows.append(f'<tr data-voxel="{json.dumps(centre)}">{cells}</tr>')
    heads = ("component", "volume, ml", "x, mm", "y, mm", "z, mm", "peak score", "box, voxels")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        "<p>Centroids in scanner millimetres (right, front, top); boxes in voxels of the scan in RAS order. "
        f"Click a line to go there.</p><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _stages_section(picture: str) -> str:
    captions = "".join(f"<span>{name}</span>" for name in STAGES)
    return section(
        "Why it was marked",
        "<p>The slice of the network's input with most detections. Where the input is tissue fractions, CSF is dark, "
        "grey matter grey, white matter bright; the scan's intensities, which a model may see beside them, are "
        "those of the slices above. The score weighs the differences as the model was set to; what of it passes the "
        "threshold is marked. Each heat map is scaled to its own maximum.</p>"
        f'<div id="stages"><img alt="{", ".join(STAGES)}" src="{picture}"><div>{captions}</div></div>',
    )


def _comparison(measured: Mapping[str, float], training: Mapping[str, Mapping[str, float]]) -> str:
    if not training:
        return "<p>The model does not say what its training scans looked like: nothing could be compared.</p>"
    rows = []
    for name, told in MEASURES.items():
        spread = training[name]
        form = "{:.1%}" if name in SHARES else "{:.0f}" if name == "brain_ml" else "{:.3f}"
        here = form.format(measured[name]) if name in measured else "–"
        values = (here, *(form.format(spread[key]) for key in ("mean", "low", "high")))
        rows.append(f"<tr><td>{told}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "this scan", "training mean", "lowest", "highest"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
