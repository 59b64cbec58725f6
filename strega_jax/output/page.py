"""One self-contained HTML page a scan: a scrolling three-plane viewer, slices with boxes, the numbers, the doubts.

Nothing is fetched: pictures, style and script are inside the file, and its content security policy says so.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from strega_jax.detection.found import Detection
from strega_jax.output.pictures import STAGES, grey, jpeg, png, slice_picture, stages_picture, tiled
from strega_jax.postprocess import bounding_box
from strega_jax.scans.files import replacing

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NOTE = (
    "For research only. This is no medical device: nothing here may be used for diagnosis or treatment, "
    "and a scan without marks is not a healthy scan."
)
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
        summary: what `write.summarise` says, with `flags` (dicts of check and reason), `model` (name → value),
            `contrast`, `measured` (name of `MEASURES` → value) and `training` (name → a spread as a dict).
    """
    stages = stages_picture(detection)
    sections = [
        f"<h1>{html.escape(summary.get('name', summary['scan']))}</h1>",
        f'<p class="file">{html.escape(summary["scan"])}</p>',
        f'<p class="note">{html.escape(NOTE)}</p>',
        _headline(detection, summary),
        flags_section(summary.get("flags", [])),
        "<h2>Look at it</h2>",
        _viewer(detection),
        "<h2>Components</h2>",
        _component_table(summary["components"]),
        "<h2>Marked slices</h2>" if detection.mask.any() else "<h2>Slices (nothing is marked)</h2>",
        "<p>Axial, lowest first, the patient's left on the left. <b class=mark>Outlined</b>: marked; "
        "<b class=box>boxes</b>: one around each part of a slice.</p>",
        f'<img alt="axial slices with marks and boxes" src="{jpeg(slice_picture(detection))}">',
        _stages_section(jpeg(stages)) if stages else "",
        "<h2>This scan beside the training scans</h2>",
        _comparison(summary.get("measured", {}), summary.get("training", {})),
        "<h2>The model</h2>",
        definitions(summary.get("model", {})),
    ]
    write_html(path, str(summary.get("name", summary["scan"])), sections, ("viewer.js",))


def write_html(path: Path, title: str, sections: Sequence[str], scripts: Sequence[str]) -> None:
    """Put sections into a page with the packaged style and scripts."""
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="icon" href="data:,">\n'
        f"<style>{packaged('page.css')}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "".join(f"\n<script>{packaged(script)}</script>" for script in scripts)
        + "\n</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def packaged(name: str) -> str:
    """A style or script of this package."""
    return resources.files("strega_jax.output.web").joinpath(name).read_text(encoding="utf-8")


def flags_section(flags: Sequence[Mapping[str, str]]) -> str:
    """The doubts, or that there are none."""
    if not flags:
        return '<p class="fine">Input checks: no doubts.</p>'
    items = "".join(f"<li><b>{html.escape(f['check'])}</b>: {html.escape(f['reason'])}</li>" for f in flags)
    return f'<div class="note">Input checks, before you believe this result:<ul>{items}</ul></div>'


def definitions(about: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = (
        f'<tr><td>{html.escape(name)}</td><td class="words">{html.escape(str(value))}</td></tr>'
        for name, value in about.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _headline(detection: Detection, summary: Mapping[str, Any]) -> str:
    scan, marked, brain = detection.scan, summary["anomaly_ml"], summary["brain_ml"]
    count = len(summary["components"])
    voxels = " × ".join(str(n) for n in scan.native_shape)
    edges = " × ".join(f"{mm:.3g}" for mm in scan.spacing_mm)
    figures = {
        "marked": f"{marked:.2f} ml",
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
    overlays = {"outline": "outline of the marks", "mask": "marks", "score": "score", "none": "none"}
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
    # A mark must not fall between the voxels shown.
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
    """Where the viewer opens: within the marks of the slice that has most of them, else in the middle."""
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
    return (
        "<h2>Why it was marked</h2><p>The slice of the network's input with the most marks. Where the input is tissue "
        "fractions, CSF is dark, grey matter grey, white matter bright. The score weighs the differences as the model "
        "was set to; what of it passes the threshold is marked. Each heat map is scaled to its own maximum.</p>"
        f'<div id="stages"><img alt="{", ".join(STAGES)}" src="{picture}"><div>{captions}</div></div>'
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
