"""The results of one run, as docs/reproduction.md tells them."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

NOT_RUN = "not run"
CONTROLS = ("controls T1w", "controls T2w")  # of a run, those of its own contrast
ENDS = ("_mask.nii.gz", "_desc-anomalymap.nii.gz")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of one run."""

    results: Mapping[str, Any]
    masks: Path

    @functools.cached_property
    def method(self) -> str:
        """The model's; the baselines come after it."""
        return self.results["rows"][0]["method"]

    def numbers(self, cohort: str, metric: str, method: str = "") -> list[float]:
        """One a volume, where it is defined."""
        rows = [
            row for row in self.results["rows"] if row["cohort"] == cohort and row["method"] == (method or self.method)
        ]
        return [row[metric] for row in rows if row.get(metric) is not None]

    def dice(self, cohort: str, method: str = "", metric: str = "dice") -> str:
        """Mean ± SD (volumes)."""
        values = self.numbers(cohort, metric, method)
        if not values:
            return NOT_RUN
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{spread} ({len(values)})"

    def marked(self) -> list[str]:
        """Of the healthy brains: ml marked in one, brains with a mark, and their slices with one."""
        ml = self.controls_ml()
        if not ml:
            return [NOT_RUN] * 3
        spread = f"{np.mean(ml):.1f}, {np.median(ml):.1f}, {min(ml):.1f}–{max(ml):.1f}"
        return [spread, f"{sum(x > 0 for x in ml)} of {len(ml)}", self.marked_slices()]

    def controls_ml(self) -> list[float]:
        """What is marked in each healthy brain."""
        return [ml for cohort in CONTROLS for ml in self.numbers(cohort, "marked_ml")]

    def marked_slices(self) -> str:
        """Of the healthy brains' axial slices with a score, the share with a mark."""
        if "marked_slices" in self.results:
            return self.results["marked_slices"]
        marked = scored = 0
        for row in self.results["rows"]:
            if row["cohort"] not in CONTROLS or row["method"] != self.method:
                continue
            mask, score = (_slices_with(self.masks / f"{row['case']}{end}") for end in ENDS)
            marked, scored = marked + int((mask & score).sum()), scored + int(score.sum())
        return f"{100 * marked / scored:.0f} %" if scored else NOT_RUN


def _slices_with(path: Path) -> np.ndarray:
    """Whether each axial slice holds a value above 0."""
    image = nibabel.as_closest_canonical(nibabel.load(path))  # pyright: ignore[reportArgumentType]
    return np.asarray((np.asarray(image.dataobj) > 0).any(axis=(0, 1)))
