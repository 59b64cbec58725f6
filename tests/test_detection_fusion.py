"""Fusion of a session's anomaly maps: against plain arithmetic on one grid, and across grids."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.config import Postprocess
from strega_jax.detection.fusion import ContrastMap, best_resolved, fuse
from strega_jax.errors import ScanError

SHAPE = (40, 44, 36)
FIXED = Postprocess(threshold="fixed", value=0.4)


def brain() -> np.ndarray:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((x - 20) / 17) ** 2 + ((y - 22) / 19) ** 2 + ((z - 18) / 15) ** 2 < 1


def blob(centre, radius=5.0) -> np.ndarray:
    place = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return (place**2).sum(0) < radius**2


def contrast_map(name: str, *spots, warned: bool = False, affine=None) -> ContrastMap:
    score = np.full(SHAPE, 0.05, np.float32) * brain()
    for spot in spots:
        score[spot & brain()] = 0.9
    return ContrastMap(
        name,
        score + brain(),
        score,
        score > 0.4,
        brain(),
        np.diag([2.0, 2, 2, 1]) if affine is None else affine,
        warned,
    )


LESION, ARTEFACT = blob((14, 20, 18)), blob((28, 24, 16), 3.0)


def test_on_one_grid_it_is_the_mean_and_one_contrasts_artefact_does_not_pass():
    maps = [contrast_map("T1ce", LESION), contrast_map("T2w", LESION, ARTEFACT), contrast_map("FLAIR", LESION)]
    fused = fuse(maps, FIXED, lambda _: None)
    np.testing.assert_allclose(fused.score, np.mean([one.score for one in maps], axis=0), rtol=1e-6)
    np.testing.assert_array_equal(fused.mask, LESION & brain())
    assert fused.weights == {"T1ce": 1.0, "T2w": 1.0, "FLAIR": 1.0}


def test_a_warned_contrast_weighs_half():
    maps = [contrast_map("T1ce", LESION), contrast_map("FLAIR", warned=True)]
    fused = fuse(maps, FIXED, lambda _: None)
    np.testing.assert_allclose(fused.score, (maps[0].score + 0.5 * maps[1].score) / 1.5, rtol=1e-6)


def test_the_best_resolved_contrast_gives_the_grid_and_others_are_laid_on_it():
    fine, coarse = contrast_map("T1ce", LESION), contrast_map("FLAIR", LESION)
    # The coarse map as a scanner would have it: every second voxel, whose centres lie half a voxel off.
    pooled = coarse.score.reshape(20, 2, 22, 2, 18, 2).mean((1, 3, 5))
    inside = coarse.brain.reshape(20, 2, 22, 2, 18, 2).mean((1, 3, 5)) > 0.5
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = 1.0
    thick = ContrastMap("FLAIR", pooled.astype(np.float32), pooled.astype(np.float32), pooled > 0.4, inside, affine)
    assert best_resolved([thick, fine]) == 1
    fused = fuse([thick, fine], FIXED, lambda _: None)
    assert fused.grid == 1
    assert fused.score.shape == SHAPE
    wanted = LESION & brain()
    dice = 2 * (fused.mask & wanted).sum() / (fused.mask.sum() + wanted.sum())
    assert dice > 0.9
    assert abs(np.array(ndimage.center_of_mass(fused.mask)) - ndimage.center_of_mass(wanted)).max() < 0.3


def test_what_a_contrast_did_not_see_is_the_others_alone():
    whole = contrast_map("T1ce", LESION)
    cut = contrast_map("FLAIR", LESION)
    low = 12
    affine = cut.affine.copy()
    affine[2, 3] = 2.0 * low
    upper = {name: getattr(cut, name)[:, :, low:] for name in ("image", "score", "mask", "brain")}
    half = dataclasses.replace(cut, **upper, affine=affine)
    fused = fuse([whole, half], FIXED, lambda _: None)
    np.testing.assert_allclose(fused.score[:, :, : low - 1], whole.score[:, :, : low - 1], rtol=1e-6)


def test_contrasts_of_another_place_are_left_out_and_said():
    away = np.diag([2.0, 2, 2, 1])
    away[0, 3] = 60.0
    maps = [contrast_map("T1ce", LESION), contrast_map("T2w", LESION), contrast_map("FLAIR", affine=away)]
    fused = fuse(maps, FIXED, lambda _: None)
    assert set(fused.weights) == {"T1ce", "T2w"}
    assert "FLAIR" in fused.left_out[0]
    with pytest.raises(ScanError, match="elsewhere in the scanner"):
        fuse([maps[0], maps[2]], FIXED, lambda _: None)
