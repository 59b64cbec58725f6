"""What healthy brains score in contrasts of which there is no healthy cohort: on brains rendered from T1w ones.

One table a contrast, and one a set of contrasts whose anomaly maps are fused, all at the rates of the calibration.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from strega_jax.config import Postprocess
from strega_jax.detection.detect import anomaly_map
from strega_jax.models.calibration import Calibration, HealthyScores, fused_name
from strega_jax.models.scorer import Scorer
from strega_jax.postprocess import healthy_thresholds
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import preprocess
from strega_jax.slices.rendering import render_contrasts


def calibrate_contrasts(
    model: Scorer,
    calibration: Calibration,
    scans: Iterable[Scan],
    settings: Postprocess,
    contrasts: Sequence[str],
    seed: int = 0,
) -> Calibration:
    """The calibration with tables of rendered contrasts, and of every fusion of two or more of them and the scans' own.

    Args:
        model: trained on the contrast of the scans.
        calibration: of the training contrast; its table stays as it is.
        scans: healthy T1w brains that the model was not trained on; read once.
        settings: how scores are refined; as the calibration.
        contrasts: which to render.
        seed: of the rendering.

    Raises:
        ScanError: a scan cannot be segmented or aligned, or there is none.
        ConfigError: a contrast that cannot be rendered.
        CheckpointError: the settings refine scores otherwise than the calibration.
    """
    calibration.threshold(settings)  # refuses other settings
    tables: dict[str, list[np.ndarray]] = {}
    for scan in scans:
        for name, scores in _scores(model, scan, settings, contrasts, seed):
            tables.setdefault(name, []).append(scores)
    found = {
        name: HealthyScores(len(scores), tuple(map(float, healthy_thresholds(scores, calibration.rates))))
        for name, scores in tables.items()
    }
    return dataclasses.replace(calibration, contrasts=found)


def _scores(
    model: Scorer, scan: Scan, settings: Postprocess, contrasts: Sequence[str], seed: int
) -> Iterator[tuple[str, Float[np.ndarray, " n"]]]:
    """Scores in the brain of one subject: of each rendered contrast, and of the mean of each set of contrasts."""
    trained = model.about.preprocess.contrast
    maps, brain = {}, scan.data > 0
    for contrast, image in ({trained: scan} | render_contrasts(scan, tuple(contrasts), seed)).items():
        slices = preprocess(image, model.about.preprocess)
        maps[contrast] = anomaly_map(model, image, slices, settings)[0]
        brain = brain & slices.brain
    for count in range(1, len(maps) + 1):
        for names in itertools.combinations(maps, count):
            if names != (trained,):
                yield fused_name(names), np.mean([maps[name] for name in names], axis=0)[brain]
