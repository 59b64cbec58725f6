"""The one slice of a volume that pictures show, small enough to be kept of every volume."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from strega_jax.boxes import bounding_box
from strega_jax.config import Postprocess
from strega_jax.detection.found import Detection
from strega_jax.postprocess import mask_from_score

MARGIN_MM = 6.0  # shown around the brain
# Percentiles of the brain's intensities that become black and white.
WINDOW = (0.5, 99.5)


@dataclasses.dataclass(frozen=True)
class ShownSlice:
    """An axial slice, cut to its brain.

    Attributes:
        stages: `input`, `tissue map`, `reconstruction`, `residual` (uint8, 0 to 255), `threshold`, `mask` and `truth`
            (bool), each (h, w) with h from left to right and w from posterior to anterior.
        spacing_mm: pixel edge lengths along h and w.
        level_mm: scanner z of the slice's middle.
    """

    stages: Mapping[str, Shaped[np.ndarray, "h w"]]
    spacing_mm: tuple[float, float]
    level_mm: float


def shown_slice(detection: Detection, truth: Bool[np.ndarray, "x y z"], settings: Postprocess) -> ShownSlice:
    """The pipeline's stages on the slice with most lesion, else with most marked, else through the middle."""
    scan, slices, brain = detection.scan, detection.slices, detection.slices.brain
    shown = next(mask for mask in (truth, detection.mask, brain) if mask.any())
    z = int(shown.sum(axis=(0, 1)).argmax())
    expected = slices.back(_as_one_channel(detection.reconstruction))[:, :, z]
    low, high = np.percentile(scan.data[brain], WINDOW)
    stages = {
        "input": _grey(scan.data[:, :, z], float(low), float(high)),
        "tissue map": _grey(slices.tissue.pveseg[:, :, z], 0.0, 3.0),
        "reconstruction": _grey(expected, 0.0, float(max(expected.max(), 1e-6))),
        "residual": _grey(detection.score[:, :, z], 0.0, float(max(detection.score.max(), 1e-6))),
        "threshold": _uncleaned(detection, settings)[:, :, z],
        "mask": detection.mask[:, :, z],
        "reference": truth[:, :, z],
    }
    box = _box(brain, scan.spacing_mm)
    middle = scan.affine @ [*(n / 2 for n in scan.data.shape[:2]), z, 1]
    stages = {name: np.ascontiguousarray(image[box]) for name, image in stages.items()}
    return ShownSlice(stages, (scan.spacing_mm[0], scan.spacing_mm[1]), float(middle[2]))


def _uncleaned(detection: Detection, settings: Postprocess) -> Bool[np.ndarray, "x y z"]:
    """What lies above the threshold, before anything small is dropped."""
    bare = dataclasses.replace(settings, min_area_px=0, min_area_mm2=0.0, min_volume_ml=0.0)
    if bare == settings:
        return detection.mask
    return mask_from_score(
        detection.score,
        detection.slices.brain,
        detection.scan.spacing_mm,
        bare,
        healthy_threshold=detection.healthy_threshold,
    )


def _as_one_channel(images: Float[np.ndarray, "k h w c"]) -> Float[np.ndarray, "k h w"]:
    """Fractions CSF, GM, WM as one grey image, like the label map they stand for; a channel after them is left out."""
    if images.shape[-1] == 1:
        return images[..., 0]
    return images[..., :3] @ (np.arange(1, 4, dtype=np.float32) / 3)


def _grey(image: Shaped[np.ndarray, "h w"], low: float, high: float) -> UInt8[np.ndarray, "h w"]:
    share = (image.astype(np.float32) - low) / max(high - low, 1e-6)
    return (255 * share.clip(0, 1)).astype(np.uint8)


def _box(brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> tuple[slice, ...]:
    box = bounding_box(np.asarray(brain.any(axis=2))) or (slice(None), slice(None))
    margins = [round(MARGIN_MM / edge) for edge in spacing_mm[:2]]
    return tuple(slice(max(0, side.start - m), side.stop + m) for side, m in zip(box, margins, strict=True))
