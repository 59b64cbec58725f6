"""What healthy brains score: the distribution from which a threshold at a chosen false-positive rate comes."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from strega_jax.errors import CheckpointError
from strega_jax.inference.model import Model
from strega_jax.postprocess import healthy_thresholds
from strega_jax.postprocess.smoothing import smooth_score
from strega_jax.scans.files import write_json
from strega_jax.slices.store import Entry, SliceStore

log = logging.getLogger(__name__)

FILE = "calibration.json"
# Shares of healthy brain voxels above a threshold, finely spaced on a log scale.
RATES = np.geomspace(1e-5, 0.5, 200)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Score thresholds of healthy held-out brains."""

    smooth_mm: float  # of the score map, as in postprocessing
    scans: int
    rates: tuple[float, ...]  # share of voxels above …
    thresholds: tuple[float, ...]  # … this score

    def threshold(self, rate: float, smooth_mm: float) -> float:
        """The score that `rate` of healthy brain voxels exceed."""
        if abs(smooth_mm - self.smooth_mm) > 1e-6:
            raise CheckpointError(
                f"the model was calibrated with smooth_mm={self.smooth_mm:g}, asked for {smooth_mm:g}; "
                "calibrate it again with `python -m strega_jax.train --evaluate`"
            )
        return float(np.interp(np.log(rate), np.log(self.rates), self.thresholds))


def calibrate(model: Model, store: SliceStore, smooth_mm: float) -> Calibration:
    """Score every slice of the held-out healthy split (`dev`; else `train`, with a warning)."""
    entries = [entry for entry in store.entries if entry.split == "dev"]
    if not entries:
        log.warning("%s has no 'dev' split: calibrating on training scans, which flatters", store.path)
        entries = list(store.entries)
    scores = (_scores(model, store, entry, smooth_mm) for entry in tqdm(entries, "calibrating", unit="scan"))
    thresholds = healthy_thresholds(scores, RATES)
    return Calibration(smooth_mm, len(entries), tuple(map(float, RATES)), tuple(map(float, thresholds)))


def save_calibration(workdir: Path, calibration: Calibration) -> None:
    """Put it beside the checkpoints, where `load_calibration` finds it."""
    write_json(workdir / FILE, dataclasses.asdict(calibration))


def load_calibration(checkpoint: str | Path) -> Calibration | None:
    """The calibration of a workdir, of its checkpoints folder or of one of its steps, if there is one."""
    for folder in (Path(checkpoint), *Path(checkpoint).resolve().parents[:2]):
        if (folder / FILE).exists():
            fields = json.loads((folder / FILE).read_text())
            fields |= {name: tuple(fields[name]) for name in ("rates", "thresholds")}
            return Calibration(**fields)
    return None


def _scores(model: Model, store: SliceStore, entry: Entry, smooth_mm: float) -> np.ndarray:
    images = np.asarray(store.array(entry), np.float32)
    scores, _ = model.score(images, np.array(entry.positions, np.float32))
    brain = images.max(axis=-1) > 0
    indices = np.array(entry.indices)
    stack = np.zeros((indices[-1] - indices[0] + 1, *scores.shape[1:]), np.float32)
    stack[indices - indices[0]] = scores
    if smooth_mm > 0:
        h, w, k = entry.grid_spacing_mm
        stack = smooth_score(stack, smooth_mm, (k, h, w))
    return stack[indices - indices[0]][brain]
