"""The HTML page of a scan: a scrolling three-plane viewer, slices with boxes, the numbers, quality control."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from strega_jax.detection.found import Detection
from strega_jax.output.html import definitions, section, write_document
from strega_jax.output.pictures import STAGES, grey, jpeg, png, slice_picture, stages_picture, tiled
from strega_jax.postprocess import bounding_box

# Of the embedded volume; finer scans are shown with every second, third, … voxel. Keeps a page below 5 MB.
MAX_VOXELS = 5_000_000
MARGIN_VOXELS = 2
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
    stages = stages_picture(detection)
    comparison = _comparison(summary.get("measured", {}), summary.get("training", {}))
    sections = [
        f'<p class="file">{html.escape(summary["scan"])}</p>',
        _headline(detection, summary),
        _quality_control(summary.get("quality_control", [])),
        section("Look at it", _viewer(detection)),
        section("Components", _component_table(summary["components"])),
        _slices_section(detection),
        _stages_section(jpeg(stages)) if stages else "",
        section("This scan beside the training scans", comparison),
        section("The model", definitions(summary.get("model", {}))),
    ]
    write_document(path, str(summary.get("name", summary["scan"])), sections, ("viewer.js",))


def _quality_control(warnings: Sequence[Mapping[str, str]]) -> str:
    """The warnings, or that there are none."""
    if not warnings:
        return '<p class="fine">Quality control: no warnings.</p>'
    items = "".join(f"<li><b>{html.escape(w['check'])}</b>: {html.escape(w['reason'])}</li>" for w in warnings)
    return f'<div class="note">Quality control, before you believe this result:<ul>{items}</ul></div>'


def _slices_section(detection: Detection) -> str:
    enhancing = "" if detection.enhancing is None else "; <b class=enhancing>thin</b>: the part that enhances"
    return section(
        "Slices with detections" if detection.mask.any() else "Slices (nothing is detected)",
        "<p>Axial, lowest first, the patient's left on the left. <b class=mark>Outlined</b>: detections; "
        f"<b class=box>boxes</b>: one around each part of a slice{enhancing}.</p>"
        f'<img alt="axial slices with detections and boxes" src="{jpeg(slice_picture(detection))}">',
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
    cards = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())
    return f'<div id="figures">{cards}</div>'


def _viewer(detection: Detection) -> str:
    panes = "".join(
        f'<figure id="{name}"><div class="pane"><canvas></canvas>'
        + "".join(f'<span class="{side}"></span>' for side in ("left", "right", "top", "bottom"))
        + f'</div><input type="range" min="0" aria-label="{name} slice"><figcaption>{name} '
        "<output></output></figcaption></figure>"
        for name in ("axial", "coronal", "sagittal")
    )
    data = json.dumps(_volume(detection)).replace("<", "\\u003c")
    overlays = {"outline": "outline of detections", "mask": "detections", "score": "score", "none": "none"}
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in overlays.items())
    return (
        "<p>Scroll or slide through the planes, click to move the cross.</p>"
        f'<p id="controls"><label>overlay <select id="overlay">{options}</select></label>'
        '<label>brightness <input id="level" type="range" min="0" max="255" value="128"></label>'
        '<label>contrast <input id="width" type="range" min="1" max="255" value="255"></label>'
        '<label><input id="cross" type="checkbox" checked> cross</label>'
        '<label><input id="radiological" type="checkbox"> patient\'s left on the right</label></p>'
        f'<div id="viewer"><div id="planes">{panes}</div><p id="readout"></p></div>'
        f'<script id="volume" type="application/json">{data}</script>'
    )


def _volume(detection: Detection) -> dict[str, Any]:
    """The brain's box, every `step`-th voxel: axial slices tiled into pictures, and where they lie in the scan."""
    scan, brain = detection.scan, detection.slices.brain
    inner = bounding_box(brain | detection.mask) or tuple(slice(0, n) for n in brain.shape)
    low = [max(0, s.start - MARGIN_VOXELS) for s in inner]
    high = [min(n, s.stop + MARGIN_VOXELS) for s, n in zip(inner, brain.shape, strict=True)]
    step = max(1, math.ceil(np.cbrt(np.prod(np.subtract(high, low)) / MAX_VOXELS) - 1e-9))
    box = tuple(slice(a, b, step) for a, b in zip(low, high, strict=True))
    score_max = float(detection.score.max()) or 1.0
    score = np.clip(detection.score[box] / score_max * 255, 0, 255).astype(np.uint8)
    # A detection must not fall between the voxels shown.
    mask = _any_within(detection.mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], step)
    count = mask.shape[2]
    columns = math.ceil(math.sqrt(count))
    return {
        "shape": list(mask.shape),
        "origin": low,
        "step": step,
        "start": _start(mask),
        "affine": scan.affine.tolist(),
        "spacing": [step * mm for mm in scan.spacing_mm],
        "columns": columns,
        "score_max": score_max,
        "image": jpeg(tiled(grey(scan.data, brain)[box], columns)),
        "score": jpeg(tiled(score, columns)),
        "mask": png(tiled(mask.astype(np.uint8) * 255, columns)),
    }


def _start(mask: Bool[np.ndarray, "i j k"]) -> list[int]:
    """Where the viewer opens: within the detections of the slice that has most of them, else in the middle."""
    if not mask.any():
        return [n // 2 for n in mask.shape]
    k = int(mask.sum(axis=(0, 1)).argmax())
    marked = np.argwhere(mask[:, :, k])
    i, j = marked[((marked - marked.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return [int(i), int(j), k]


def _any_within(mask: Bool[np.ndarray, "x y z"], step: int) -> Bool[np.ndarray, "i j k"]:
    """Whether any voxel of each block of step³ is marked."""
    for axis in range(3):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask


def _component_table(components: Sequence[Mapping[str, Any]]) -> str:
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
        "grey matter grey, white matter bright. The score weighs the differences as the model was set to; what of it "
        "passes the threshold is marked. Each heat map is scaled to its own maximum.</p>"
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
