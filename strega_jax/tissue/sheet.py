"""A check sheet: one picture that shows whether a segmentation went well, and knows which files it is of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from strega_jax.scans.files import replacing
from strega_jax.scans.scan import Scan
from strega_jax.tissue.segmentation import TissueMap

SLICES = (0.3, 0.42, 0.54, 0.66, 0.78)
# Of background and classes: red, green, blue, opacity.
COLOURS = ((0, 0, 0, 0), (0.1, 0.4, 1, 0.45), (0.1, 0.8, 0.2, 0.45), (1, 0.85, 0.1, 0.45), (1, 0, 0.6, 0.45))
FILES = "Files"  # the PNG's text with the names, a line each
VIEWS = ((2, "axial"), (1, "coronal"), (0, "sagittal"))


def write_sheet(path: Path, tissue: TissueMap, scan: Scan, files: Sequence[str] = ()) -> None:
    """Write a PNG: axial, coronal and sagittal slices without and with the labels, a histogram, the volumes.

    Needs no display and no global state of matplotlib, so that threads may call it.

    Args:
        path: of the PNG.
        tissue: what was found.
        scan: in which.
        files: names of the result's files beside the sheet, for `listed_files`.
    """
    figure = Figure(figsize=(11, 13), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(7, len(SLICES), gridspec_kw={"hspace": 0.05, "wspace": 0.02})
    brain = tissue.seg > 0
    top = float(np.percentile(tissue.restored[brain], 99.5))
    for row, (axis, name) in enumerate(VIEWS):
        hits = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        aspect = np.delete(np.array(scan.spacing_mm), axis)
        for column, share in enumerate(SLICES):
            index = int(hits[0] + share * (hits[-1] - hits[0]))
            plain, labelled = axes[2 * row, column], axes[2 * row + 1, column]
            for ax in (plain, labelled):
                image = np.take(tissue.restored, index, axis).T
                ax.imshow(image, cmap="gray", vmin=0, vmax=top, origin="lower", aspect=aspect[1] / aspect[0])
                ax.axis("off")
            _overlay(labelled, np.take(tissue.pveseg, index, axis).T, aspect[1] / aspect[0])
            if column == 0:
                plain.text(
                    -0.03, 0.5, name, rotation=90, ha="right", va="center", transform=plain.transAxes, fontsize=10
                )
    for ax in axes[-1]:
        ax.remove()
    _histogram(figure.add_axes((0.12, 0.05, 0.5, 0.1)), tissue)
    figure.text(0.66, 0.05, _volumes(tissue, scan), fontsize=9, family="monospace")
    figure.suptitle(f"{scan.path.name}   pveseg on the bias-corrected image", y=0.91, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, bbox_inches="tight", format="png", metadata={FILES: "\n".join(files)})


def listed_files(sheet: Path) -> list[Path]:
    """The files that a check sheet names, itself the first; none where there is no sheet, or another program's."""
    try:
        with Image.open(sheet) as image:
            names = str(image.info.get(FILES, ""))
    except (OSError, UnidentifiedImageError):
        return []
    return [sheet, *(sheet.with_name(Path(name).name) for name in names.splitlines())] if names else []


def _overlay(ax: Axes, labels: UInt8[np.ndarray, "h w"], aspect: float) -> None:
    colours = np.array(COLOURS)
    ax.imshow(colours[labels], origin="lower", aspect=aspect)


def _histogram(ax: Axes, tissue: TissueMap) -> None:
    brain = tissue.seg > 0
    top, names = float(np.percentile(tissue.restored[brain], 99.8)), _names(tissue)
    for c in range(tissue.means.size):
        values = tissue.restored[tissue.seg == c + 1]
        ax.hist(values, bins=120, range=(0, top), label=names[c], color=COLOURS[c + 1][:3], alpha=0.6)
    ax.set_xlabel("restored intensity", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7)


def _volumes(tissue: TissueMap, scan: Scan) -> str:
    ml = tissue.pve.sum((0, 1, 2), dtype=np.float64) * scan.voxel_ml
    lines = [f"{name:>8} {v:8.1f} ml {100 * v / ml.sum():5.1f} %" for name, v in zip(_names(tissue), ml, strict=True)]
    low, high = np.percentile(tissue.bias[tissue.seg > 0], [1, 99])
    return "\n".join([*lines, f"     sum {ml.sum():8.1f} ml", f"bias {low:.2f} to {high:.2f}"])


def _names(tissue: TissueMap) -> tuple[str, ...]:
    count = tissue.means.size
    return ("CSF", "GM", "WM") if count == 3 else tuple(f"class {c + 1}" for c in range(count))
