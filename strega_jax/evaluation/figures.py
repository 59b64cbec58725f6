"""Figures of an evaluation. Each function returns a Matplotlib `Figure`; no global state is touched.

Slices are images[h, w] with h from left to right and w from posterior to anterior; they are shown with the front up
and the patient's left on the left (neurological convention).
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from strega_jax.postprocess import slice_boxes

STAGES = ("input", "tissue map", "reconstruction", "residual", "mask", "truth")
# Okabe and Ito's palette, told apart by colour-blind readers.
OURS, TRUTH = "#D55E00", "#009E73"


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def stage_picture(
    rows: Mapping[str, Mapping[str, Shaped[np.ndarray, "h w"]]], spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> Figure:
    """The pipeline's stages side by side (paper, figs. 8–11): one row a slice, one column a stage.

    Args:
        rows: name of the slice → stage (usually those of `STAGES`) → image; bool images are drawn as masks,
            a stage named `residual` in a colour map from 0 up.
        spacing_mm: pixel edge lengths along h and w.
    """
    stages = list(dict.fromkeys(stage for row in rows.values() for stage in row))
    figure, axes = _grid(len(rows), len(stages))
    for axis, stage in zip(axes[0], stages, strict=True):
        axis.set_title(stage, fontsize=9)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, stage in zip(line, stages, strict=True):
            if stage in row:
                show_slice(axis, row[stage], spacing_mm, colour="inferno" if stage == "residual" else "gray")
        line[0].set_ylabel(name, fontsize=8)
    return figure


def boxes_picture(
    image: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    spacing_mm: tuple[float, float] = (1.0, 1.0),
) -> Figure:
    """Boxes around what is marked and around the truth, on the input (paper, figs. 6–7)."""
    figure, axes = _grid(1, 2)
    for axis, title, marked, colour in zip(axes[0], ("detected", "truth"), (mask, truth), (OURS, TRUTH), strict=True):
        show_slice(axis, image, spacing_mm)
        axis.set_title(title, fontsize=9)
        for box in slice_boxes(marked[:, :, None]):
            corner = (box.lo[0] - 0.5, box.lo[1] - 0.5)
            sides = (box.hi[0] - box.lo[0], box.hi[1] - box.lo[1])
            axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=1.5))
    return figure


def show_slice(
    axis: Axes, image: Shaped[np.ndarray, "h w"], spacing_mm: tuple[float, float], colour: str = "gray"
) -> None:
    """One slice in its true proportions, front up."""
    low = 0.0 if image.dtype == bool or colour != "gray" else float(image.min())
    high = 1.0 if image.dtype == bool else max(float(image.max()), low + 1e-6)
    aspect = spacing_mm[1] / spacing_mm[0]
    axis.imshow(image.T, cmap=colour, vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="nearest")


def violin_plot(values: Mapping[str, Sequence[float]], label: str = "Dice") -> Figure:
    """The spread over volumes (paper, fig. 5): white dot the median, thick bar the quartiles, thin line the rest
    but outliers (beyond 1.5 interquartile ranges). Methods without a finite value are left out."""
    finite = {name: np.array([v for v in of if v is not None and np.isfinite(v)], float) for name, of in values.items()}
    finite = {name: of for name, of in finite.items() if of.size}
    figure = Figure(figsize=(1.6 + 1.3 * max(len(finite), 1), 3.6), layout="constrained")
    axis = figure.add_subplot()
    for place, of in enumerate(finite.values(), start=1):
        axis.violinplot(of, positions=[place], widths=0.8, showextrema=False)
        q25, median, q75 = np.percentile(of, [25, 50, 75])
        near = of[(of >= q25 - 1.5 * (q75 - q25)) & (of <= q75 + 1.5 * (q75 - q25))]
        axis.vlines(place, near.min(), near.max(), color="black", linewidth=1)
        axis.vlines(place, q25, q75, color="black", linewidth=5)
        axis.plot(place, median, "o", color="white", markersize=4, zorder=3)
    axis.set_xticks(range(1, len(finite) + 1), [f"{name}\n(n = {of.size})" for name, of in finite.items()], fontsize=8)
    axis.set_ylabel(label)
    return figure


def froc_plot(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Lesion sensitivity against false-positive marks a volume, one curve a method (`lesions.froc`)."""
    return _lines(curves, "false-positive marks a volume", "lesion sensitivity", steps=True)


def dose_response_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], dose: str, response: str
) -> Figure:
    """Response (Dice, detection rate) against a dose (size in ml, contrast), one curve a class."""
    return _lines(curves, dose, response, steps=False)


def _lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, *, steps: bool
) -> Figure:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axis = figure.add_subplot()
    for name, (x, y) in curves.items():
        x, y = (np.array([np.nan if v is None else v for v in of], float) for of in (x, y))
        axis.plot(x, y, label=name, drawstyle="steps-post" if steps else "default", marker=None if steps else "o")
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    if curves:
        axis.legend(fontsize=8)
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes
