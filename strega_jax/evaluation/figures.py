"""Figures of an evaluation. Each function returns a Matplotlib `Figure`; no global state is touched.

Slices are images[h, w] with h from left to right and w from posterior to anterior; they are shown with the front up
and the patient's left on the left (neurological convention), all panels of a figure at one scale in millimetres.
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from strega_jax.evaluation.slices import ShownSlice
from strega_jax.postprocess import slice_boxes

Curve = tuple[Sequence[float], Sequence[float | None]]  # x and y of its points; y is None where it is undefined

STAGES = ("input", "tissue map", "reconstruction", "residual", "threshold", "mask", "reference")
# Okabe and Ito's palette, told apart by colour-blind readers.
OURS, TRUTH = "#D55E00", "#009E73"
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
PANEL_IN = 1.25  # width of a slice's panel in a figure
OVERLAY = 0.65  # opacity of a mask over its slice
VIOLIN_FROM = 5  # with fewer volumes the points alone are drawn
POINTS_UP_TO = 60  # with more volumes the points are left out


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def pdf_bytes(figure: Figure) -> bytes:
    """The figure as PDF; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasPdf(figure).print_figure(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def stage_picture(rows: Mapping[str, ShownSlice]) -> Figure:
    """The pipeline's stages side by side (paper, figs. 9–11): one row a slice, one column a stage.

    Mask and truth are laid over the input; what lies above the threshold is white.
    """
    figure, axes = _panels(list(rows.values()), len(rows), len(STAGES))
    for axis, letter, stage in zip(axes[0], "abcdefg", STAGES, strict=True):
        axis.set_title(f"({letter}) {stage}", fontsize=8)
    for line, (name, shown) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=7)
        for axis, stage in zip(line, STAGES, strict=True):
            if stage in ("mask", "reference"):
                show_slice(axis, shown, "input")
                show_overlay(axis, shown, shown.stages[stage], OURS if stage == "mask" else TRUTH)
            else:
                show_slice(axis, shown, stage)
    return figure


def comparison_picture(rows: Mapping[str, tuple[ShownSlice, Mapping[str, Bool[np.ndarray, "_ _"]]]]) -> Figure:
    """What several methods mark on the same slices (paper, fig. 8): the input, a column a method, the truth.

    Args:
        rows: name of the slice → the slice, and each method's mask on it; all rows of the same methods.
    """
    methods = list(next(iter(rows.values()))[1])
    figure, axes = _panels([shown for shown, _ in rows.values()], len(rows), len(methods) + 2)
    for axis, title in zip(axes[0], ("input", *methods, "reference"), strict=True):
        axis.set_title(title, fontsize=8)
    for line, (name, (shown, masks)) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=7)
        for axis in line:
            show_slice(axis, shown, "input")
        for axis, method in zip(line[1:-1], methods, strict=True):
            show_overlay(axis, shown, masks[method], OURS)
        show_overlay(line[-1], shown, shown.stages["reference"], TRUTH)
    return figure


def boxes_picture(panels: Mapping[str, ShownSlice], columns: int = 4) -> Figure:
    """Boxes around detections and reference segmentation, on the input (paper, figs. 6–7); one panel a slice."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = 1 + max(name.count("\n") for name in panels)
    figure, axes = _panels(
        list(panels.values()), rows, columns, width_in=1.25 * PANEL_IN, label_in=0.0,
        title_in=(0.1 + 0.13 * lines) * rows + 0.3,
        pad_in=0.05,
    )  # fmt: skip
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, shown) in zip(axes.flat, panels.items(), strict=False):
        show_slice(axis, shown, "input")
        axis.set_title(name, fontsize=7)
        for stage, colour, style in (("reference", TRUTH, "solid"), ("mask", OURS, (0, (3, 1.5)))):
            show_boxes(axis, shown, shown.stages[stage], colour, style)
    handles = [
        Line2D([], [], color=TRUTH, label="reference"),
        Line2D([], [], color=OURS, ls=(0, (3, 1.5)), label="found"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def show_slice(axis: Axes, shown: ShownSlice, stage: str) -> None:
    """One stage of a slice in its true proportions, front up."""
    image = shown.stages[stage]
    high = 1 if image.dtype == bool else 255
    colours = "inferno" if stage == "residual" else "gray"
    axis.imshow(
        image.T, cmap=colours, vmin=0, vmax=high, origin="lower", extent=_extent(shown), interpolation="nearest"
    )


def show_overlay(axis: Axes, shown: ShownSlice, mask: Bool[np.ndarray, "h w"], colour: str) -> None:
    """A mask in one colour over a slice."""
    layer = np.zeros((*mask.T.shape, 4))
    layer[mask.T] = (*to_rgb(colour), OVERLAY)
    axis.imshow(layer, origin="lower", extent=_extent(shown), interpolation="nearest")


def show_boxes(axis: Axes, shown: ShownSlice, mask: Bool[np.ndarray, "h w"], colour: str, style: object) -> None:
    """A box around every component of a mask, along the outer edges of its pixels."""
    left, _, bottom, _ = _extent(shown)
    for box in slice_boxes(mask[:, :, None]):
        corner = [start + n * edge for start, n, edge in zip((left, bottom), box.lo, shown.spacing_mm, strict=True)]
        sides = [(hi - lo) * edge for lo, hi, edge in zip(box.lo, box.hi, shown.spacing_mm, strict=True)]
        x, y = corner
        width, height = sides
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.2, linestyle=style))


def violin_plot(values: Mapping[str, Sequence[float]], label: str = "Dice") -> Figure:
    """The spread over volumes (paper, fig. 5): white dot the median, thick bar the quartiles, thin line the rest
    but outliers (beyond 1.5 interquartile ranges); single volumes as points beside it while they are few. Methods
    without a finite value are left out."""
    finite = {name: np.array([v for v in of if v is not None and np.isfinite(v)], float) for name, of in values.items()}
    finite = {name: of for name, of in finite.items() if of.size}
    figure = Figure(figsize=(1.1 + 0.95 * max(len(finite), 2), 3.2), layout="constrained")
    axis = figure.add_subplot()
    for place, of in enumerate(finite.values(), start=1):
        colour = PALETTE[(place - 1) % len(PALETTE)]
        if of.size <= POINTS_UP_TO:
            axis.scatter(np.full(of.size, place + 0.3), of, s=7, color=colour, alpha=0.7, linewidths=0)
        if of.size < VIOLIN_FROM:
            axis.hlines(np.median(of), place - 0.2, place + 0.2, color=colour, linewidth=2)
            continue
        for body in axis.violinplot(of, positions=[place], widths=0.7, showextrema=False)["bodies"]:  # pyright: ignore
            body.set(facecolor=colour, alpha=0.45, edgecolor=colour)
        q25, median, q75 = np.percentile(of, [25, 50, 75])
        near = of[(of >= q25 - 1.5 * (q75 - q25)) & (of <= q75 + 1.5 * (q75 - q25))]
        axis.vlines(place, near.min(), near.max(), color="black", linewidth=1)
        axis.vlines(place, q25, q75, color="black", linewidth=5)
        axis.plot(place, median, "o", color="white", markersize=3.5, zorder=3)
    names = [f"{_broken(name)}\n(n = {of.size})" for name, of in finite.items()]
    axis.set_xticks(range(1, len(finite) + 1), names, fontsize=7)
    axis.set_xlim(0.4, len(finite) + 0.6)
    axis.set_ylabel(label, fontsize=9)
    if label == "Dice":
        axis.set_ylim(-0.02, 1.0)
    _plain(axis)
    return figure


def froc_plot(curves: Mapping[str, Curve]) -> Figure:
    """Lesion sensitivity against false-positive detections a volume, one curve a method or cohort (`lesions.froc`)."""
    return _lines(curves, "false-positive detections a volume", "lesion sensitivity", steps=True)


def dose_response_plot(curves: Mapping[str, Curve], dose: str, response: str) -> Figure:
    """Response (Dice, detection rate) against a dose (size in ml, contrast), one curve a class."""
    figure = _lines(curves, dose, response, steps=False)
    axis = figure.axes[0]
    doses = sorted({float(x) for xs, _ in curves.values() for x in xs})
    if doses and doses[0] > 0 and doses[-1] >= 10 * doses[0]:
        axis.set_xscale("log")
        axis.set_xticks(doses, minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    return figure


def _lines(curves: Mapping[str, Curve], x_label: str, y_label: str, *, steps: bool) -> Figure:
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axis = figure.add_subplot()
    for number, (name, (x, y)) in enumerate(curves.items()):
        x, y = (np.array([np.nan if v is None else v for v in of], float) for of in (x, y))
        colour = PALETTE[number % len(PALETTE)]
        (line,) = axis.plot(x, y, label=name, color=colour, linewidth=1.5, marker=None if steps else "o", markersize=4)
        line.set_drawstyle("steps-post" if steps else "default")
        if steps and x.size:  # the mask as it is
            axis.plot(x[-1], y[-1], "o", color=colour, markersize=4)
    axis.set_xlabel(x_label, fontsize=9)
    axis.set_ylabel(y_label, fontsize=9)
    axis.set_ylim(0, 1.02)
    _plain(axis)
    if curves:
        axis.legend(fontsize=7, frameon=False)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(axis="y", alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _broken(name: str) -> str:
    """A long name over two lines."""
    words = name.split(" ")
    if len(name) <= 12 or len(words) < 2:
        return name
    half = min(range(1, len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(name) / 2))
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _extent(shown: ShownSlice) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of a slice in millimetres, its middle at 0."""
    image: Shaped[np.ndarray, "h w"] = shown.stages["input"]
    half = [n * edge / 2 for n, edge in zip(image.shape, shown.spacing_mm, strict=True)]
    return -half[0], half[0], -half[1], half[1]


def _panels(
    slices: Sequence[ShownSlice],
    rows: int,
    columns: int,
    *,
    width_in: float = PANEL_IN,
    label_in: float = 0.3,
    title_in: float = 0.22,
    pad_in: float = 0.015,
) -> tuple[Figure, np.ndarray]:
    """Black panels, all of the size in millimetres that the largest slice needs; room for labels and titles, inches."""
    _, right, _, top = np.max([_extent(shown) for shown in slices], axis=0)
    height_in = width_in * top / right
    height = height_in * rows + title_in
    figure = Figure(figsize=(width_in * columns + label_in, height), layout="constrained")
    # Titles are cut at the figure's edge by a hair if nothing is left free above them.
    free = (0, 0, 1, 1 - 0.06 / height)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=pad_in, wspace=0, hspace=0, rect=free)  # pyright: ignore
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor="black", aspect="equal")
        axis.set(xlim=(-right, right), ylim=(-top, top))
        axis.set_autoscale_on(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, axes
