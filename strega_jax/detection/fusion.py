"""Anomaly maps of several contrasts of one session → one map and one mask.

Rule: the mean over the contrasts that saw a voxel. Evidence that two contrasts share stands; what a single one shows
is divided by their number. Maps meet in scanner space, where the
series of one session lie at one place but for small movements; they are not registered to each other.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.config import Postprocess
from strega_jax.errors import ScanError
from strega_jax.postprocess import decide_extent, mask_from_score

# A contrast that quality control warns of counts this much, beside one that it does not.
WARNED_WEIGHT = 0.5
# Brains of one session cover each other at least this much (Dice); else the headers are of different places.
LEAST_OVERLAP = 0.75
# A contrast whose image covers less of the brain has no say in the extent of detections.
WHOLE = 0.99


class NothingToFuseError(ScanError):
    """Fewer than two contrasts of a session can be fused."""


@dataclasses.dataclass(frozen=True)
class ContrastMap:
    """One contrast's part in the fusion.

    Attributes:
        contrast: its name.
        image: (x, y, z) its intensities.
        score: (x, y, z) anomaly map ≥ 0 on the canonical grid of its scan.
        mask: (x, y, z) its own detections.
        brain: (x, y, z) its brain.
        affine: (4, 4) voxel → scanner millimetres.
        warned: whether quality control warns of the scan.
    """

    contrast: str
    image: Float[np.ndarray, "x y z"]
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    brain: Bool[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    warned: bool = False

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


@dataclasses.dataclass(frozen=True)
class Fused:
    """What the contrasts of a session say together, on the grid of the best resolved one.

    Attributes:
        grid: which of the maps gave the grid.
        score: (x, y, z) float32 fused anomaly map, 0 outside that scan's brain.
        mask: (x, y, z) what is anomalous.
        threshold: the threshold that came from healthy scans, if one did.
        weights: contrast → its weight in the mean.
        left_out: a line for each contrast that was left out, with the reason.
    """

    grid: int
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    threshold: float | None
    weights: dict[str, float]
    left_out: tuple[str, ...]


def best_resolved(maps: Sequence[ContrastMap]) -> int:
    """The map with the smallest voxels; of equal ones the one with the larger brain, then the first."""
    return min(range(len(maps)), key=lambda i: (round(maps[i].voxel_mm3, 3), -int(maps[i].brain.sum()), i))


def fuse(
    maps: Sequence[ContrastMap], settings: Postprocess, threshold_of: Callable[[Sequence[str]], float | None]
) -> Fused:
    """Fuse the maps of one session.

    Args:
        maps: two or more contrasts.
        settings: anomaly map → mask, as for one contrast.
        threshold_of: the contrasts that are fused → threshold from healthy scans, where the settings need one.

    Raises:
        NothingToFuseError: fewer than two contrasts lie at one place.
    """
    target = best_resolved(maps)
    grid = maps[target]
    laid = [on_grid(one, grid) for one in maps]
    overlaps = [_overlap(one.brain, grid.brain & one.seen) for one in laid]
    used = [one for one, overlap in zip(laid, overlaps, strict=True) if overlap >= LEAST_OVERLAP]
    left_out = tuple(
        f"{one.contrast}: its brain lies elsewhere in the scanner (overlap {overlap:.2f})"
        for one, overlap in zip(maps, overlaps, strict=True)
        if overlap < LEAST_OVERLAP
    )
    if len(used) < 2:
        raise NothingToFuseError("; ".join(left_out) or "one contrast only")
    score = _mean(used, grid.brain)
    x, y, z = (float(edge) for edge in np.linalg.norm(grid.affine[:3, :3], axis=0))
    threshold = threshold_of([one.contrast for one in used])
    mask = mask_from_score(score, grid.brain, (x, y, z), settings, healthy_threshold=threshold)
    images = [one.image for one in used if one.seen[grid.brain].mean() >= WHOLE]
    mask = decide_extent(mask, images, grid.brain, (x, y, z), settings)
    return Fused(target, score, mask, threshold, {one.contrast: one.weight for one in used}, left_out)


@dataclasses.dataclass(frozen=True)
class Laid:
    """A contrast at the voxels of another's grid, and which of these its image covers."""

    contrast: str
    image: Float[np.ndarray, "x y z"]
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    brain: Bool[np.ndarray, "x y z"]
    seen: Bool[np.ndarray, "x y z"]
    weight: float


def on_grid(one: ContrastMap, grid: ContrastMap) -> Laid:
    """Lay one contrast on the grid of another, by their places in the scanner."""
    weight = WARNED_WEIGHT if one.warned else 1.0
    same = one is grid or (one.score.shape == grid.score.shape and np.allclose(one.affine, grid.affine, atol=1e-3))
    if same:
        return Laid(one.contrast, one.image, one.score, one.mask, one.brain, np.ones(one.score.shape, bool), weight)
    to_one = np.linalg.inv(one.affine) @ grid.affine
    volumes = (one.image, one.score, one.mask.astype(np.float32), one.brain.astype(np.float32))
    image, score, mask, brain = (_resampled(volume, to_one, grid.score.shape, order=1) for volume in volumes)
    seen = _resampled(np.ones_like(one.score), to_one, grid.score.shape, order=0) > 0
    return Laid(one.contrast, image, score, mask > 0.5, brain > 0.5, seen, weight)


def lay_mask(
    mask: Bool[np.ndarray, "i j k"],
    affine: Float[np.ndarray, "4 4"],
    shape: tuple[int, ...],
    to_affine: Float[np.ndarray, "4 4"],
) -> Bool[np.ndarray, "x y z"]:
    """A mask at the voxels of another grid of the same scanner space."""
    if mask.shape == shape and np.allclose(affine, to_affine, atol=1e-3):
        return mask
    return _resampled(mask.astype(np.float32), np.linalg.inv(affine) @ to_affine, shape, order=1) > 0.5


def _resampled(
    volume: Float[np.ndarray, "i j k"], to_volume: Float[np.ndarray, "4 4"], shape: tuple[int, ...], order: int
) -> Float[np.ndarray, "x y z"]:
    # SciPy takes the whole affine as its matrix.
    return np.asarray(ndimage.affine_transform(volume, to_volume, output_shape=shape, order=order), np.float32)


def _mean(laid: Sequence[Laid], brain: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """The weighted mean over the contrasts that saw a voxel; 0 outside the brain."""
    total, weight = np.zeros(brain.shape, np.float32), np.zeros(brain.shape, np.float32)
    for one in laid:
        total += np.float32(one.weight) * one.score * one.seen
        weight += np.float32(one.weight) * one.seen
    return np.where(brain, total / np.maximum(weight, np.float32(1e-6)), np.float32(0)).astype(np.float32)


def _overlap(a: Bool[np.ndarray, "x y z"], b: Bool[np.ndarray, "x y z"]) -> float:
    both = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / both if both else 0.0
