"""Scan in, mask out: the whole pipeline for one scan."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from strega_jax.config import Contrast, Postprocess, Preprocess
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.postprocess import mask_from_score, refine_scores
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume, preprocess

if TYPE_CHECKING:  # an exported model runs where flax and orbax are not installed
    from strega_jax.inference.calibration import Calibration


class Scorer(Protocol):
    """What scores slices: a `Model` from a checkpoint, or an `ExportedModel`."""

    @property
    def about(self) -> Any:
        """`preprocess`, `normalisation` and `run` as the model was trained; see `training.checkpoints.About`."""
        ...

    @property
    def source(self) -> str:
        """The file or folder it was loaded from."""
        ...

    def score(
        self, images: Float[np.ndarray, "k h w c"], position: Float[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, "k h w"], Float[np.ndarray, "k h w c"]]:
        """Anomaly scores and healthy reconstructions of unnormalised slices; the latter unnormalised too."""
        ...

    def fingerprint(self) -> str:
        """A text that changes with the weights and with the settings they were trained with."""
        ...


@dataclasses.dataclass(frozen=True)
class Detection:
    """What was found in one scan.

    Attributes:
        scan: the scan.
        slices: what the network saw.
        reconstruction: (k, h, w, c) float32, what it expected to see, as `slices.images`.
        score: (x, y, z) float32 anomaly score on the scan's canonical grid, refined as the threshold sees it; 0
            outside the brain.
        mask: (x, y, z) what is marked as anomalous.
        uncertainty: (x, y, z) float32 standard deviation of the score over latent samples, if it was asked for.
        healthy_threshold: the threshold that came from healthy scans, if one did.
    """

    scan: Scan
    slices: SliceVolume
    reconstruction: Float[np.ndarray, "k h w c"]
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    uncertainty: Float[np.ndarray, "x y z"] | None = None
    healthy_threshold: float | None = None


def detect_scan(
    model: Scorer,
    scan: Scan,
    settings: Postprocess,
    calibration: "Calibration | None" = None,
    *,
    contrast: Contrast | None = None,
    fast_output: Path | None = None,
    samples: int = 0,
) -> Detection:
    """Find what does not fit in one brain-extracted scan.

    Args:
        model: the trained model; the scan is preprocessed as its training scans were.
        scan: the scan.
        settings: score → mask.
        calibration: healthy scores, for `settings.threshold == "healthy"`.
        contrast: MR contrast of this scan, where it is not the training contrast.
        fast_output: folder of an existing FAST result, for models trained on such.
        samples: latent samples for `Detection.uncertainty`; 0: none is made.

    Raises:
        ScanError: the scan is not what the method needs.
        CheckpointError: the settings ask for a calibration that the checkpoint lacks.
        ConfigError: the model has no latent distribution to sample.
    """
    slices = preprocess(scan, model.about.preprocess, contrast, fast_output)
    return detect_slices(model, scan, slices, settings, calibration, samples=samples)


def detect_slices(
    model: Scorer,
    scan: Scan,
    slices: SliceVolume,
    settings: Postprocess,
    calibration: "Calibration | None" = None,
    *,
    samples: int = 0,
) -> Detection:
    """`detect_scan` for a scan that is preprocessed already."""
    scores, reconstruction = model.score(slices.images, slices.position)
    score = slices.back(_refined(scores, scan, slices, model, settings))
    threshold = healthy_value(settings, calibration)
    mask = mask_from_score(score, slices.brain, scan.spacing_mm, settings, healthy_threshold=threshold)
    uncertainty = None
    if samples:
        from strega_jax.inference.uncertainty import score_deviation

        uncertainty = slices.back(score_deviation(model, slices.images, slices.position, samples))
    return Detection(scan, slices, reconstruction, score, mask, uncertainty, threshold)


def _refined(
    scores: Float[np.ndarray, "k h w"], scan: Scan, slices: SliceVolume, model: Scorer, settings: Postprocess
) -> Float[np.ndarray, "k h w"]:
    """Scores of the network's slices → refined scores of the same slices."""
    check_mirror(settings, model.about.preprocess)
    h, w, k = slices.grid.shape
    stack, brain = np.zeros((k, h, w), np.float32), np.zeros((k, h, w), bool)
    stack[slices.indices], brain[slices.indices] = scores, slices.images.max(axis=-1) > 0
    h_mm, w_mm, k_mm = slices.grid.spacing_mm(scan)
    return refine_scores(stack, brain, (k_mm, h_mm, w_mm), settings)[slices.indices]


def check_mirror(settings: Postprocess, preprocess: Preprocess) -> None:
    """Raise ConfigError where `mirror` is asked of slices whose midline is not known."""
    if settings.mirror and preprocess.grid != "template":
        raise ConfigError(
            f"config field postprocess.mirror needs slices aligned to the template; preprocess.grid is "
            f"{preprocess.grid!r}. Prepare with grid='template', or leave mirror out"
        )


def healthy_value(settings: Postprocess, calibration: "Calibration | None") -> float | None:
    """The threshold that the settings take from healthy scans, if they do."""
    if not settings.needs_calibration:
        return None
    if calibration is None:
        raise CheckpointError(
            f"postprocess.threshold is {settings.threshold!r}, but the checkpoint has no calibration.json beside "
            "it; make it with `python -m strega_jax.train --evaluate`, or choose 'otsu'"
        )
    return calibration.threshold(settings)
