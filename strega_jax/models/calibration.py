"""What healthy brains score: the distribution from which a threshold at a chosen false-positive rate comes."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from strega_jax.config import Postprocess
from strega_jax.errors import CheckpointError, StoreError
from strega_jax.models.scorer import Scorer
from strega_jax.postprocess import healthy_thresholds, refine_scores
from strega_jax.scans.files import PathLike, absolute, find_beside, write_json
from strega_jax.slices.brain import brain_of
from strega_jax.slices.store import Entry, SliceStore

log = logging.getLogger(__name__)

FILE = "calibration.json"
# Shares of healthy brain voxels above a threshold, finely spaced on a log scale.
RATES = np.geomspace(1e-5, 0.5, 200)


@dataclasses.dataclass(frozen=True)
class HealthyScores:
    """Score thresholds of healthy brains rendered in another contrast, at the calibration's rates."""

    scans: int
    thresholds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Score thresholds of healthy held-out brains.

    The training contrast's come from real scans. Those of other contrasts, in `contrasts`, come from brains rendered
    from them (`detection.contrast_calibration`); a key is a contrast, or several that are fused (`fused_name`).
    """

    refinement: dict[str, float]  # of the scores, as `Postprocess.refinement` says
    scans: int
    rates: tuple[float, ...]  # share of voxels above …
    thresholds: tuple[float, ...]  # … this score
    contrasts: Mapping[str, HealthyScores] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """Inverse of `dataclasses.asdict`, from JSON. Raises ValueError, KeyError, TypeError where it is none."""
        tuples = {name: tuple(fields[name]) for name in ("rates", "thresholds")}
        contrasts = {
            name: HealthyScores(table["scans"], tuple(table["thresholds"]))
            for name, table in fields.get("contrasts", {}).items()
        }
        return cls(**{**fields, **tuples, "contrasts": contrasts})

    def threshold(self, settings: Postprocess, contrast: str = "") -> float:
        """The refined score that `settings.false_positive_rate` of healthy brain voxels exceed, or `least_seed`.

        Of `contrast`, or of the training contrast where there is no table for it; `source` says which.
        """
        if settings.refinement != self.refinement:
            raise CheckpointError(
                f"the model was calibrated with {_told(self.refinement)}, asked for {_told(settings.refinement)}; "
                "calibrate it again with `python -m strega_jax.train --evaluate`"
            )
        thresholds = self.contrasts[contrast].thresholds if contrast in self.contrasts else self.thresholds
        value = float(np.interp(np.log(settings.false_positive_rate), np.log(self.rates), thresholds))
        return max(value, settings.least_seed) if settings.threshold == "hysteresis" else value

    def source(self, settings: Postprocess, contrast: str) -> str:
        """What `threshold` comes from, in words: healthy brains, or `least_seed` where they score less."""
        source = f"{self.scans} healthy brains of the training contrast"
        if contrast in self.contrasts:
            source = f"{self.contrasts[contrast].scans} healthy brains rendered in {contrast}"
        if settings.least_seed and self.threshold(settings, contrast) == settings.least_seed:
            return f"postprocess.least_seed; {source} score less"
        return source


def fused_name(contrasts: Sequence[str]) -> str:
    """The key of `Calibration.contrasts` for the fused anomaly map of these contrasts, in any order."""
    return "+".join(sorted(contrasts))


def calibrate(model: Scorer, store: SliceStore, settings: Postprocess) -> Calibration:
    """Score every slice of the held-out healthy split (`dev`; else `train`, with a warning; never `test`).

    Raises:
        StoreError: the store has neither, or was prepared with other settings than the model's.
    """
    if store.settings != model.about.preprocess:
        raise StoreError(
            f"{store.path}: prepared with other settings than {model.source}, which cannot be calibrated with it; "
            "name its own store with --config.data.store"
        )
    entries = store.of_split("dev")
    if not entries:
        log.warning("%s has no 'dev' split: calibrating on training scans, which flatters", store.path)
        entries = store.of_split("train")
    if not entries:
        raise StoreError(f"{store.path}: no scan in the splits 'dev' and 'train' to calibrate with")
    scores = (_scores(model, store, entry, settings) for entry in tqdm(entries, "calibrating", unit="scan"))
    thresholds = healthy_thresholds(scores, RATES)
    return Calibration(settings.refinement, len(entries), tuple(map(float, RATES)), tuple(map(float, thresholds)))


def save_calibration(workdir: PathLike, calibration: Calibration) -> None:
    """Put it beside the checkpoints, where `load_calibration` finds it."""
    folder = absolute(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, dataclasses.asdict(calibration))


def load_calibration(checkpoint: PathLike) -> Calibration | None:
    """The calibration of a workdir, of its checkpoints folder or of one of its steps, if there is one."""
    path = find_beside(checkpoint, FILE)
    if path is None:
        return None
    try:
        return Calibration.from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged or of another version ({error}); delete it and calibrate again with "
            "`python -m strega_jax.train --evaluate`"
        ) from error


def _scores(model: Scorer, store: SliceStore, entry: Entry, settings: Postprocess) -> np.ndarray:
    images = np.asarray(store.array(entry), np.float32)
    scores = model.score(images, np.array(entry.positions, np.float32), entry.contrast).score
    rows = np.array(entry.indices) - entry.indices[0]
    stack = np.zeros((rows[-1] + 1, *scores.shape[1:]), np.float32)
    brain = np.zeros(stack.shape, bool)
    stack[rows], brain[rows] = scores, brain_of(images)
    h, w, k = entry.grid_spacing_mm
    return refine_scores(stack, brain, (k, h, w), settings)[brain]


def _told(refinement: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in refinement.items())


def healthy_value(settings: Postprocess, calibration: Calibration | None, contrast: str = "") -> float | None:
    """The threshold that the settings take from healthy scans of a contrast, if they do."""
    if not settings.needs_calibration:
        return None
    if calibration is None:
        raise CheckpointError(
            f"postprocess.threshold is {settings.threshold!r}, but the checkpoint has no calibration.json beside "
            "it; make it with `python -m strega_jax.train --evaluate`, or choose 'otsu'"
        )
    return calibration.threshold(settings, contrast)
