"""One self-contained HTML page a scan: slices with boxes, a scrolling three-plane viewer, the numbers, the doubts.

Nothing is fetched: pictures, style and script are inside the file, and its content security policy says so.
"""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from strega_jax.inference.detect import Detection
from strega_jax.postprocess import bounding_box, slice_boxes
from strega_jax.scans.files import replacing

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NOTE = (
    "For research only. This is no medical device: nothing here may be used for diagnosis or treatment, "
    "and a scan without marks is not a healthy scan."
)
# Of the embedded volume; finer scans are shown with every second, third, … voxel. Keeps a page below 5 MB.
MAX_VOXELS = 5_000_000
MARGIN_VOXELS = 2
JPEG_QUALITY = 80
SHOWN_SLICES, COLUMNS = 12, 6
TILE_PIXELS = 200
MARK = (213, 94, 0)  # told apart by colour-blind readers


def write_page(path: Path, detection: Detection, summary: Mapping[str, Any]) -> None:
    """Write the page of one scan.

    Args:
        path: the HTML file.
        detection: what was found.
        summary: what `write.summarise` says, with `flags` (dicts of check and reason), and `model` (name → value).
    """
    sections = [
        f"<h1>{html.escape(summary['scan'])}</h1>",
        f'<p class="note">{html.escape(NOTE)}</p>',
        f"<p><strong>{summary['anomaly_ml']:.2f} ml marked</strong> of a brain of {summary['brain_ml']:.0f} ml, in "
        f"{len(summary['components'])} components.</p>",
        flags_section(summary.get("flags", [])),
        "<h2>Look at it</h2>",
        _viewer(detection),
        "<h2>Components</h2>",
        _component_table(summary["components"]),
        "<h2>Marked slices</h2>" if detection.mask.any() else "<h2>Slices (nothing is marked)</h2>",
        f'<img alt="axial slices with marks and boxes" src="{_jpeg(slice_picture(detection))}">',
        "<h2>The model</h2>",
        definitions(summary.get("model", {})),
    ]
    write_html(path, str(summary["scan"]), sections, ("viewer.js",))


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
    return resources.files("strega_jax.inference.web").joinpath(name).read_text(encoding="utf-8")


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


def slice_picture(detection: Detection) -> Image.Image:
    """Axial slices (most marked first, shown bottom to top) with marks tinted and boxed; front up, left on the left."""
    x, y, z = bounding_box(detection.slices.brain) or (slice(None),) * 3
    image = _grey(detection.scan.data, detection.slices.brain)
    marked = detection.mask.sum(axis=(0, 1))
    held = np.flatnonzero(marked)
    if held.size:
        chosen = np.sort(held[np.argsort(-marked[held], kind="stable")[:SHOWN_SLICES]])
    else:
        chosen = np.unique(np.linspace(z.start, z.stop - 1, SHOWN_SLICES + 2).round().astype(int)[1:-1])
    spacing = detection.scan.spacing_mm
    width_mm, height_mm = (x.stop - x.start) * spacing[0], (y.stop - y.start) * spacing[1]
    scale = TILE_PIXELS / max(width_mm, height_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    sheet = Image.new("RGB", (COLUMNS * TILE_PIXELS, math.ceil(len(chosen) / COLUMNS) * TILE_PIXELS))
    for place, k in enumerate(chosen):
        tile = np.repeat(image[x, y, k].T[::-1, :, None], 3, axis=2)
        on = detection.mask[x, y, k].T[::-1]
        tile[on] = (0.5 * tile[on] + 0.5 * np.array(MARK)).astype(np.uint8)
        picture = Image.fromarray(tile).resize(size, Image.Resampling.NEAREST)
        pen = ImageDraw.Draw(picture)
        for box in slice_boxes(detection.mask[:, :, k : k + 1]):
            left, right = ((edge - x.start) * spacing[0] * scale for edge in (box.lo[0], box.hi[0]))
            top, bottom = ((y.stop - edge) * spacing[1] * scale for edge in (box.hi[1], box.lo[1]))
            pen.rectangle((left, top, right - 1, bottom - 1), outline=MARK, width=2)
        pen.text((3, 3), f"z = {k}", fill=(255, 255, 255))
        sheet.paste(picture, (place % COLUMNS * TILE_PIXELS, place // COLUMNS * TILE_PIXELS))
    return sheet


def _viewer(detection: Detection) -> str:
    panes = "".join(
        f'<figure id="{name}"><canvas></canvas><input type="range" min="0" aria-label="{name} slice">'
        f"<figcaption>{name}</figcaption></figure>"
        for name in ("axial", "coronal", "sagittal")
    )
    data = json.dumps(_volume(detection)).replace("<", "\\u003c")
    return (
        '<p>Scroll or slide through the planes, click to move the cross. Overlay: <select id="overlay">'
        '<option value="mask">marks</option><option value="score">score</option><option value="none">none</option>'
        f'</select> <span id="readout"></span></p><div id="viewer"><div id="planes">{panes}</div></div>'
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
    marked = np.argwhere(mask)
    start = marked[len(marked) // 2] if len(marked) else np.array(mask.shape) // 2
    return {
        "shape": list(mask.shape),
        "origin": low,
        "step": step,
        "start": [int(v) for v in start],
        "affine": scan.affine.tolist(),
        "spacing": [step * mm for mm in scan.spacing_mm],
        "columns": columns,
        "score_max": score_max,
        "image": _jpeg(_tiled(_grey(scan.data, brain)[box], columns)),
        "score": _jpeg(_tiled(score, columns)),
        "mask": _url(_tiled(mask.astype(np.uint8) * 255, columns).convert("1"), "png"),
    }


def _any_within(mask: Bool[np.ndarray, "x y z"], step: int) -> Bool[np.ndarray, "i j k"]:
    """Whether any voxel of each block of step³ is marked."""
    for axis in range(3):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask


def _grey(image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> UInt8[np.ndarray, "x y z"]:
    """Intensities as grey values: the brain's darkest half percent black, its brightest white."""
    inside = image[brain]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (image.min(), image.max())
    low = min(float(low), float(high) * 0.2)
    grey = np.clip((image - low) * (255 / max(float(high) - low, 1e-6)), 0, 255)
    return np.where(brain, grey, 0).astype(np.uint8)


def _tiled(volume: UInt8[np.ndarray, "x y z"], columns: int) -> Image.Image:
    """Axial slices in rows of `columns`, each with the front up."""
    x, y, z = volume.shape
    rows = math.ceil(z / columns)
    tiles = np.zeros((rows * columns, y, x), np.uint8)
    tiles[:z] = volume.transpose(2, 1, 0)[:, ::-1]
    return Image.fromarray(tiles.reshape(rows, columns, y, x).transpose(0, 2, 1, 3).reshape(rows * y, columns * x))


def _jpeg(picture: Image.Image) -> str:
    return _url(picture, "jpeg")


def _url(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind == "jpeg" else {"optimize": False}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
