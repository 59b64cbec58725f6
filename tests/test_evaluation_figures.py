"""Figures: what is drawn where, under which name, to which scale."""

import io
import math

import numpy as np
import pytest
from matplotlib.image import imread

from strega_jax.evaluation.figures import (
    STAGES,
    boxes_picture,
    comparison_picture,
    dose_response_plot,
    froc_plot,
    png_bytes,
    stage_picture,
    violin_plot,
)
from strega_jax.evaluation.slices import ShownSlice


def shown_slice(shape: tuple[int, int] = (20, 24), spacing_mm: tuple[float, float] = (1.0, 1.0)) -> ShownSlice:
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    mask = image > 250
    greys = ("input", "tissue map", "reconstruction", "residual")
    return ShownSlice({name: image if name in greys else mask for name in STAGES}, spacing_mm, 12.0)


def test_slices_are_shown_front_up_left_on_the_left_and_in_their_proportions() -> None:
    image = np.zeros((10, 20), np.uint8)  # h from left to right, w from back to front
    image[:3, 15:] = 255
    stages = {**shown_slice().stages, **dict.fromkeys(STAGES[:4], image), "mask": image > 0, "reference": image > 0}
    shown = ShownSlice(stages, (3.0, 1.0), 0.0)
    figure = stage_picture({"z": shown})
    drawn = imread(io.BytesIO(png_bytes(figure, dpi=400)))[:, :, 0]
    place = figure.axes[0].get_position()
    top, bottom = round(drawn.shape[0] * (1 - place.y1)), round(drawn.shape[0] * (1 - place.y0))
    left, right = round(drawn.shape[1] * place.x0), round(drawn.shape[1] * place.x1)
    inner = drawn[top + 3 : bottom - 3, left + 3 : right - 3]
    bright = np.argwhere(inner > 0.9)
    top, left = bright.mean(axis=0) / inner.shape
    assert top < 0.3
    assert left < 0.3
    height, width = np.ptp(bright, axis=0) + 1
    assert width / height == pytest.approx(9 / 5, rel=0.1)  # 3 pixels of 3 mm by 5 of 1 mm


def test_every_stage_and_slice_is_named() -> None:
    figure = stage_picture({"z 40": shown_slice(), "z 50": shown_slice((12, 30), (2.0, 1.0))})
    titles = [f"({letter}) {stage}" for letter, stage in zip("abcdefg", STAGES, strict=True)]
    assert [axis.get_title() for axis in figure.axes] == [*titles, *[""] * 7]
    assert [axis.get_ylabel() for axis in figure.axes[::7]] == ["z 40", "z 50"]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 1, 2, 2] * 2  # masks lie over the input
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in figure.axes}
    assert limits == {((-12.0, 12.0), (-15.0, 15.0))}  # one scale in mm for all


def test_methods_stand_side_by_side_between_input_and_truth() -> None:
    shown = shown_slice()
    masks = {"ours": shown.stages["mask"], "theirs": ~shown.stages["mask"]}
    figure = comparison_picture({"sub-1": (shown, masks), "sub-2": (shown, masks)})
    assert [axis.get_title() for axis in figure.axes[:4]] == ["input", "ours", "theirs", "reference"]
    for axis, mask in zip(figure.axes[1:3], masks.values(), strict=True):
        opacity = np.asarray(axis.images[1].get_array())[..., 3]
        np.testing.assert_array_equal(opacity > 0, mask.T)


def test_the_violin_shows_median_quartiles_and_drops_what_is_undefined() -> None:
    values = [0.1, 0.2, 0.4, 0.5, 0.9, math.nan]
    figure = violin_plot({"a": values, "constant": [0.5, 0.5], "none": [math.nan]})
    axis = figure.axes[0]
    assert [line.get_ydata()[0] for line in axis.lines] == [0.4]  # two volumes make no violin
    points = [c.get_offsets()[:, 1].tolist() for c in axis.collections if type(c).__name__ == "PathCollection"]
    assert points == [values[:5], [0.5, 0.5]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a\n(n = 5)", "constant\n(n = 2)"]
    segments = [c.get_segments()[0][:, 1].tolist() for c in axis.collections if type(c).__name__ == "LineCollection"]
    assert [0.2, 0.5] in segments  # quartiles
    assert [0.1, 0.9] in segments  # no outlier within 1.5 interquartile ranges
    assert png_bytes(figure)[:4] == b"\x89PNG"


def test_boxes_are_drawn_around_both_masks() -> None:
    mask, truth = np.zeros((20, 24), bool), np.zeros((20, 24), bool)
    mask[2:5, 3:9] = mask[10:12, 10:12] = truth[2:6, 3:9] = True
    stages = {**shown_slice().stages, "mask": mask, "reference": truth}
    figure = boxes_picture({"sub-1": ShownSlice(stages, (1.0, 2.0), 0.0)})
    # In mm from the middle of the slice, which is 20 × 48 mm large.
    drawn = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in figure.axes[0].patches]
    assert drawn == [(-8, -18, 4, 12), (-8, -18, 3, 12), (0, -4, 2, 4)]
    assert len(boxes_picture(dict.fromkeys("abcdef", shown_slice()), columns=4).axes) == 8


def test_curves_hold_their_points() -> None:
    froc_axis = froc_plot({"a": ([0, 1, 2], [0, 0.5, None])}).axes[0]
    np.testing.assert_array_equal(froc_axis.lines[0].get_xdata(), [0, 1, 2])
    dose_axis = dose_response_plot({"1 ml": ([0.1, 0.2], [0.3, 0.4])}, "contrast", "Dice").axes[0]
    assert (dose_axis.get_xlabel(), dose_axis.get_ylabel()) == ("contrast", "Dice")
