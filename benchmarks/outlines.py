"""What the packaged weights mark and what the expert marked, as outlines over the MNI152 template: no patient's image.

    pip install strega-jax[demo]
    python benchmarks/outlines.py --data=gbm/,ms/ --contrasts=T1w,T1ce --cases=gbm06,ms19 --picture=failures.png

One row a scan, the slices spread over the lesion; green is the expert's outline, orange the model's.
"""

from pathlib import Path

import numpy as np
from absl import app, flags
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from strega_jax.config import Preprocess
from strega_jax.detection.detect import detect_scan
from strega_jax.evaluation.figures import OURS, TRUTH, png_bytes
from strega_jax.models.opened import Opened
from strega_jax.models.opening import open_model
from strega_jax.scans.case import Case, read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.files import replacing
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import open_scan
from strega_jax.slices.grid import template_grid

_DATA = flags.DEFINE_list("data", None, "Folders of scans with expert masks.", required=True)
_CONTRASTS = flags.DEFINE_list("contrasts", [], "MR contrasts; all if left out.")
_CASES = flags.DEFINE_list("cases", [], "Show scans whose name holds one of these; all if left out.")
_PICTURE = flags.DEFINE_string("picture", None, "The PNG file to write.", required=True)

COLUMNS = 6


def template(settings: Preprocess) -> Float[np.ndarray, "k h w"]:
    """The MNI152 T1 average on the grid of the model's slices."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    scan = Scan.from_array(np.asarray(image.dataobj, np.float32), np.asarray(image.affine), Path("MNI152"))
    return template_grid(scan, np.eye(4), settings).sample(scan.data)


def outlines(opened: Opened, case: Case) -> tuple[Bool[np.ndarray, "k h w"], Bool[np.ndarray, "k h w"]]:
    """Truth and mask of one scan on the grid of the model's slices."""
    scan = open_scan(case)
    settings = opened.model.about.run.postprocess
    found = detect_scan(opened.model, scan, settings, opened.calibration)
    masks = (read_truth(case, scan), found.mask)
    truth, mask = (found.slices.grid.sample(volume.astype(np.float32)) > 0.5 for volume in masks)
    return truth, mask


def draw(rows: dict[str, tuple[np.ndarray, np.ndarray]], background: Float[np.ndarray, "k h w"]) -> Figure:
    """One row of slices a scan."""
    figure = Figure(figsize=(1.5 * COLUMNS, 1.75 * len(rows)), layout="constrained")
    for axes, (name, (truth, mask)) in zip(
        figure.subplots(len(rows), COLUMNS, squeeze=False), rows.items(), strict=True
    ):
        heights = np.flatnonzero((truth | mask).any(axis=(1, 2)))
        axes[0].set_ylabel(name, fontsize=7)
        for axis, k in zip(axes, np.linspace(heights[0], heights[-1], COLUMNS + 2)[1:-1].astype(int), strict=True):
            axis.imshow(background[k].T, cmap="gray", origin="lower")
            for volume, colour in ((truth, TRUTH), (mask, OURS)):
                if volume[k].any():
                    axis.contour(volume[k].T, [0.5], colors=colour, linewidths=1.2)
            axis.set(xticks=[], yticks=[])
    return figure


def main(_: list[str]) -> None:
    """Detect, draw, write."""
    opened = open_model()
    cases = [case for folder in _DATA.value for case in find_cases(folder, _CONTRASTS.value)]
    chosen = [case for case in cases if not _CASES.value or any(part in case.name for part in _CASES.value)]
    rows = {case.name: outlines(opened, case) for case in chosen}
    with replacing(Path(_PICTURE.value)) as temporary:
        temporary.write_bytes(png_bytes(draw(rows, template(opened.model.about.preprocess)), dpi=90))


if __name__ == "__main__":
    app.run(main)
