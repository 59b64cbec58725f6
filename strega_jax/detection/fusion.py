"""Anomaly maps of several contrasts of one session → one map and one mask.

Rule: the mean over the contrasts that saw a voxel. Evidence that two contrasts share stands, what a single one shows
is divided by their number, so that one contrast's artefact alone does not pass. Maps meet in scanner space, where the
series of one session lie at one place but for small movements; they are not registered to each other.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.config import Postprocess
from strega_jax.errors import ScanError
from strega_jax.postprocess import mask_from_score

# A contrast that quality control warns of counts this much, beside one that it does not.
WARNED_WEIGHT = 0.5
# Brains of one session cover each other at least this much (Dice); else the headers are of different places.
LEAST_OVERLAP = 0.75


@dataclasses.dataclass(frozen=True)
class ContrastMap:
    """One contrast's part in the fusion.

    Attributes:
        contrast: its name.
        score: (x, y, z) anomaly map ≥ 0 on the canonical grid of its scan.
        brain: (x, y, z) its brain.
        affine: (4, 4) voxel → scanner millimetres.
        warned: whether quality control warns of the scan.
    """

    contrast: str
    score: Float[np.ndarray, "x y z"]
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
        weights: contrast → its weight in the mean.
        left_out: a line for each contrast that was left out, with the reason.
    """

    grid: int
    score: Float[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    weights: dict[str, float]
    left_out: tuple[str, ...]


def best_resolved(maps: Sequence[ContrastMap]) -> int:
    """The map with the smallest voxels; of equal ones the one with the larger brain, then the first."""
    return min(range(len(maps)), key=lambda i: (round(maps[i].voxel_mm3, 3), -int(maps[i].brain.sum()), i))


def fuse(maps: Sequence[ContrastMap], settings: Postprocess, healthy_threshold: float | None) -> Fused:
    """Fuse the maps of one session.

    Args:
        maps: two or more contrasts.
        settings: anomaly map → mask, as for one contrast.
        healthy_threshold: of the model's calibration, where the settings need one.

    Raises:
        ScanError: fewer than two contrasts lie at one place.
    """
    target = best_resolved(maps)
    grid = maps[target]
    total = np.zeros(grid.score.shape, np.float32)
    weight = np.zeros(grid.score.shape, np.float32)
    weights: dict[str, float] = {}
    left_out: list[str] = []
    for one in maps:
        score, brain, seen = _on_grid(one, grid)
        overlap = _overlap(brain, grid.brain & seen)
        if overlap < LEAST_OVERLAP:
            left_out.append(f"{one.contrast}: its brain lies elsewhere in the scanner (overlap {overlap:.2f})")
            continue
        weights[one.contrast] = WARNED_WEIGHT if one.warned else 1.0
        total += weights[one.contrast] * score * seen
        weight += weights[one.contrast] * seen
    if len(weights) < 2:
        raise ScanError(f"nothing to fuse: {'; '.join(left_out) or 'one contrast only'}")
    fused = np.where(grid.brain, total / np.maximum(weight, np.float32(1e-6)), np.float32(0)).astype(np.float32)
    x, y, z = (float(edge) for edge in np.linalg.norm(grid.affine[:3, :3], axis=0))
    mask = mask_from_score(fused, grid.brain, (x, y, z), settings, healthy_threshold=healthy_threshold)
    return Fused(target, fused, mask, weights, tuple(left_out))


def _on_grid(
    one: ContrastMap, grid: ContrastMap
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Anomaly map and brain of one contrast at the voxels of another's grid, and which of these its image covers."""
    same = one is grid or (one.score.shape == grid.score.shape and np.allclose(one.affine, grid.affine, atol=1e-3))
    if same:
        return one.score, one.brain, np.ones(one.score.shape, bool)
    to_one = np.linalg.inv(one.affine) @ grid.affine
    shape = grid.score.shape
    score, inside, seen = (
        # SciPy takes the whole affine as its matrix.
        np.asarray(ndimage.affine_transform(volume, to_one, output_shape=shape, order=order), np.float32)
        for volume, order in ((one.score, 1), (one.brain.astype(np.float32), 1), (np.ones_like(one.score), 0))
    )
    return score, inside > 0.5, seen > 0


def _overlap(a: Bool[np.ndarray, "x y z"], b: Bool[np.ndarray, "x y z"]) -> float:
    both = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / both if both else 0.0
