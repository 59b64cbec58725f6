"""The contrasts of one session → one detection."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from strega_jax.config import Postprocess
from strega_jax.detection.bright import bright_lesions
from strega_jax.detection.enhancing import enhancing
from strega_jax.detection.found import Detection
from strega_jax.detection.fusion import ContrastMap, best_resolved, fuse, lay_mask
from strega_jax.detection.quality import QualityWarning
from strega_jax.models.calibration import Calibration, fused_name, healthy_value
from strega_jax.scans.contrast import ENHANCED_CONTRAST

# What stands for the contrast of a fused result.
FUSED = "fused"


@dataclasses.dataclass(frozen=True)
class Part:
    """One scan of a session, detected.

    Attributes:
        name: of the scan.
        detection: what was found in it.
        warnings: of quality control.
    """

    name: str
    detection: Detection
    warnings: tuple[QualityWarning, ...] = ()

    @property
    def contrast(self) -> str:
        """The contrast of the scan, or what it is called where nothing tells it."""
        return self.detection.scan.contrast or "unknown"

    def map(self) -> ContrastMap:
        """Its part in the fusion."""
        found = self.detection
        return ContrastMap(
            self.contrast,
            found.scan.data,
            found.score,
            found.mask,
            found.slices.brain,
            found.scan.affine,
            bool(self.warnings),
        )


@dataclasses.dataclass(frozen=True)
class FusedDetection:
    """What the contrasts of a session say together.

    Attributes:
        detection: on the grid of `grid`: that scan and its slices, with the fused anomaly map and mask.
        parts: contrast → the scan that took part.
        grid: the contrast whose grid it is.
        weights: contrast → its weight in the mean.
        left_out: a line for each scan that was left out, with the reason.
    """

    detection: Detection
    parts: dict[str, Part]
    grid: str
    weights: dict[str, float]
    left_out: tuple[str, ...]


def fuse_parts(parts: Sequence[Part], settings: Postprocess, calibration: Calibration | None) -> FusedDetection:
    """Fuse the detections of one session; of several scans of one contrast the best one takes part.

    The best has no quality-control warning, then the smallest voxels, then the largest brain.

    Args:
        parts: scans of one subject at one date.
        settings: anomaly map → mask.
        calibration: healthy scores, where the settings need them.

    Raises:
        NothingToFuseError: fewer than two contrasts lie at one place.
        CheckpointError: the settings ask for a calibration that the checkpoint lacks.
    """
    chosen, left_out = _one_a_contrast(parts)

    def threshold_of(contrasts: Sequence[str]) -> float | None:
        return healthy_value(settings, calibration, fused_name(contrasts))

    fused = fuse([part.map() for part in chosen], settings, threshold_of)
    grid = chosen[fused.grid]
    source = (
        ""
        if calibration is None or fused.threshold is None
        else calibration.source(settings, fused_name(tuple(fused.weights)))
    )
    used = {part.contrast: part for part in chosen if part.contrast in fused.weights}
    mask = fused.mask | _bright(grid, list(used.values()), settings)
    detection = dataclasses.replace(
        grid.detection,
        score=fused.score,
        mask=mask,
        uncertainty=None,
        enhancing=_enhancing(mask, grid, chosen),
        healthy_threshold=fused.threshold,
        threshold_source=source,
    )
    return FusedDetection(detection, used, grid.contrast, fused.weights, (*left_out, *fused.left_out))


def _bright(grid: Part, parts: Sequence[Part], settings: Postprocess) -> Bool[np.ndarray, "x y z"]:
    """Bright lesions that one contrast shows, on the grid."""
    to = grid.detection.scan
    found = np.zeros(to.data.shape, bool)
    for scan, slices in ((part.detection.scan, part.detection.slices) for part in parts):
        found |= lay_mask(bright_lesions(scan, slices, settings), scan.affine, to.data.shape, to.affine)
    return found & grid.detection.slices.brain


def _enhancing(mask: Bool[np.ndarray, "x y z"], grid: Part, parts: Sequence[Part]) -> Bool[np.ndarray, "x y z"] | None:
    """The part of the mask that takes up contrast agent; None where no contrast shows it."""
    part = next((part for part in parts if part.contrast == ENHANCED_CONTRAST), None)
    if part is None:
        return None
    scan, to_affine = part.detection.scan, grid.detection.scan.affine
    there = lay_mask(mask, to_affine, scan.data.shape, scan.affine)
    found = enhancing(scan.data, part.detection.slices.tissue, there, scan.spacing_mm)
    return lay_mask(found, scan.affine, mask.shape, to_affine) & mask


def _one_a_contrast(parts: Sequence[Part]) -> tuple[list[Part], list[str]]:
    """The best scan of each contrast, and a line for each other one."""
    by_contrast: dict[str, list[Part]] = {}
    for part in parts:
        by_contrast.setdefault(part.contrast, []).append(part)
    chosen, left_out = [], []
    for contrast, same in by_contrast.items():
        fewest = min(bool(part.warnings) for part in same)
        candidates = [part for part in same if bool(part.warnings) == fewest]
        best = candidates[best_resolved([part.map() for part in candidates])]
        chosen.append(best)
        left_out += [f"{part.name}: {best.name} is the {contrast} that is fused" for part in same if part is not best]
    return chosen, left_out
