"""The viewer of a page: volumes, panes and controls, which `web/viewer.js` brings to life.

It shows one image in three planes, or several images of one grid side by side, linked.
"""

import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from strega_jax.boxes import block_sums, bounding_box
from strega_jax.output.pictures import jpeg, png, tiled

# Of one embedded volume, and of all images of a page together; finer ones are shown with every second, third, …
# voxel. Keeps a page of one scan below 5 MB, and one of four contrasts of 1 mm below 6 MB.
MAX_VOXELS, MAX_VOXELS_TOGETHER = 5_000_000, 24_000_000
MARGIN_VOXELS = 2
PLANES = ("axial", "coronal", "sagittal")
OVERLAYS = {"outline": "outline of detections", "mask": "detections", "score": "score", "none": "none"}
LINKED_OVERLAYS = {
    "both": "both outlines",
    "fused": "outline of the fused detections",
    "outline": "outline of each contrast's own",
    "score": "each contrast's own score",
    "fused_score": "fused score",
    "none": "none",
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """One image of the viewer, and what was found in it.

    Attributes:
        name: what it is called.
        image: (x, y, z) grey values, 0 outside the brain.
        mask: (x, y, z) its detections.
        score: (x, y, z) its anomaly score ≥ 0.
    """

    name: str
    image: UInt8[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    score: Float[np.ndarray, "x y z"]


@dataclasses.dataclass(frozen=True)
class Fused:
    """What the images say together, on their grid."""

    mask: Bool[np.ndarray, "x y z"]
    score: Float[np.ndarray, "x y z"]


def viewer(
    images: Sequence[Shown],
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: tuple[float, float, float],
    inside: Bool[np.ndarray, "x y z"],
    fused: Fused | None = None,
    captions: Sequence[str] = (),
) -> str:
    """Its HTML; the page needs the script `viewer.js`.

    Args:
        images: one or more, on one grid.
        affine: voxel → scanner millimetres, of that grid.
        spacing_mm: edges of its voxels.
        inside: what must be seen: the brain.
        fused: what several images say together.
        captions: over the panes of each image (HTML), where there are several.
    """
    data = json.dumps(_volumes(images, affine, spacing_mm, inside, fused)).replace("<", "\\u003c")
    planes = "".join(
        f'<figure id="{plane}">{_panes(captions)}<input type="range" min="0" aria-label="{plane} slice">'
        f"<figcaption>{plane} <output></output></figcaption></figure>"
        for plane in PLANES
    )
    linked = ' class="linked"' if captions else ""
    return (
        "<p>Scroll or slide through the planes, click to move the cross.</p>"
        f"{_controls(linked=fused is not None)}"
        f'<div id="viewer"{linked}><div id="planes">{planes}</div><p id="readout">Loading …</p></div>'
        f'<script id="volume" type="application/json">{data}</script>'
    )


def _controls(*, linked: bool) -> str:
    planes = {plane: plane for plane in PLANES} | {"all": "all three"}
    return (
        '<p id="controls">'
        + (_choice("plane", "shown", planes) if linked else "")
        + _choice("overlay", "overlay", LINKED_OVERLAYS if linked else OVERLAYS)
        + '<label>brightness <input id="level" type="range" min="0" max="255" value="128"></label>'
        '<label>contrast <input id="width" type="range" min="1" max="255" value="255"></label>'
        '<label><input id="cross" type="checkbox" checked> cross</label>'
        '<label><input id="radiological" type="checkbox"> patient\'s left on the right</label></p>'
    )


def _choice(label: str, name: str, options: Mapping[str, str]) -> str:
    shown = "".join(f'<option value="{value}">{html.escape(text)}</option>' for value, text in options.items())
    return f'<label>{label} <select id="{name}">{shown}</select></label>'


def _panes(captions: Sequence[str]) -> str:
    sides = "".join(f'<span class="{side}"></span>' for side in ("left", "right", "top", "bottom"))
    pane = f'<div class="pane"><canvas></canvas>{sides}</div>'
    panels = "".join(
        f'<div><p class="caption"><span>{caption}</span><output></output></p>{pane}</div>' for caption in captions
    )
    return f'<div class="panes">{panels}</div>' if captions else pane


def _volumes(
    images: Sequence[Shown],
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: tuple[float, float, float],
    inside: Bool[np.ndarray, "x y z"],
    fused: Fused | None,
) -> dict[str, Any]:
    """The box of `inside`, every `step`-th voxel: axial slices tiled into pictures, and where they lie in the scan."""
    found = [*images, *([fused] if fused else [])]
    low, high = _box(np.logical_or.reduce([inside, *(one.mask for one in found)]))
    limit = min(MAX_VOXELS, MAX_VOXELS_TOGETHER // len(images))
    step = max(1, math.ceil(np.cbrt(np.prod(np.subtract(high, low)) / limit) - 1e-9))
    whole = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box = tuple(slice(a, b, step) for a, b in zip(low, high, strict=True))
    # A detection must not fall between the voxels shown.
    masks = [_any_within(one.mask[whole], step) for one in found]
    # One scale for all, or heat maps side by side could not be compared.
    score_max = max(float(one.score.max()) for one in found) or 1.0
    columns = math.ceil(math.sqrt(masks[0].shape[2]))
    pictures = [
        {
            "score": jpeg(tiled(np.clip(one.score[box] / score_max * 255, 0, 255).astype(np.uint8), columns)),
            "mask": png(tiled(mask.astype(np.uint8) * 255, columns)),
        }
        for one, mask in zip(found, masks, strict=True)
    ]
    shown = [
        {"name": one.name, "image": jpeg(tiled(one.image[box], columns))} | picture
        for one, picture in zip(images, pictures[: len(images)], strict=True)
    ]
    return {
        "shape": list(masks[0].shape),
        "origin": low,
        "step": step,
        "start": _start(masks[-1]),
        "affine": affine.tolist(),
        "spacing": [step * mm for mm in spacing_mm],
        "columns": columns,
        "score_max": score_max,
        "images": shown,
        "fused": pictures[-1] if fused else None,
    }


def _box(seen: Bool[np.ndarray, "x y z"]) -> tuple[list[int], list[int]]:
    """First voxel and end of what must be seen, and a margin."""
    inner = bounding_box(seen) or tuple(slice(0, n) for n in seen.shape)
    low = [max(0, s.start - MARGIN_VOXELS) for s in inner]
    return low, [min(n, s.stop + MARGIN_VOXELS) for s, n in zip(inner, seen.shape, strict=True)]


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
    return block_sums(mask, (step, step, step)) > 0
