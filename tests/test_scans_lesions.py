"""Planted lesions: exact size, inside the brain, one piece, the asked change, nothing else touched."""

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.errors import ConfigError
from strega_jax.scans.lesions import RIND_MM, plant_lesion

SPACING = (1.5, 2.0, 2.5)


def brain_phantom() -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of white matter (900) with a grey rim (600) and a ventricle (250), with noise."""
    shape = (96, 80, 60)
    place = (np.indices(shape).T - np.array(shape) / 2).T / (np.array(shape) / 2).reshape(3, 1, 1, 1)
    radius = np.sqrt((place**2).sum(0))
    brain = radius < 0.9
    volume = np.where(radius < 0.7, 900.0, 600.0)
    volume[np.abs(place).max(0) < 0.25] = 250.0
    volume += np.random.default_rng(9).normal(0, 15, shape)
    return np.where(brain, volume, 0.0).astype(np.float32), brain


@pytest.mark.parametrize("volume_ml", [0.1, 2.0, 30.0, 100.0])
@pytest.mark.parametrize("contrast", [-0.6, 0.5])
def test_lesion_has_its_size_is_one_piece_inside_and_changes_only_itself(volume_ml: float, contrast: float):
    volume, brain = brain_phantom()
    changed, mask = plant_lesion(
        volume, brain, SPACING, np.random.default_rng(3), volume_ml=volume_ml, contrast=contrast, texture=0.2
    )
    voxel_ml = np.prod(SPACING) / 1000
    assert mask.sum() == round(volume_ml / voxel_ml)
    assert ndimage.label(mask)[1] == 1
    depth = ndimage.distance_transform_edt(brain, sampling=SPACING)
    assert depth[mask].min() > RIND_MM
    np.testing.assert_array_equal(changed[~mask], volume[~mask])
    difference = (changed - volume)[mask] * np.sign(contrast)
    assert difference.min() >= 0
    assert changed.dtype == np.float32
    low, high = np.percentile(volume[brain], (2, 98))
    assert changed[mask].min() >= min(low, volume[mask].min()) - 1e-3
    assert changed[mask].max() <= max(high, volume[mask].max()) + 1e-3


def test_without_texture_the_core_changes_by_the_contrast_and_the_border_by_less():
    volume, brain = brain_phantom()
    changed, mask = plant_lesion(
        volume, brain, SPACING, np.random.default_rng(0), volume_ml=40, contrast=-0.3, texture=0.0
    )
    low, high = np.percentile(volume[brain], (2, 98))
    inner = ndimage.binary_erosion(mask, iterations=2) & (volume > 800)
    np.testing.assert_allclose((changed - volume)[inner], -0.3 * (high - low), rtol=1e-4)
    border = mask & ~ndimage.binary_erosion(mask) & (volume > 800)
    assert (changed - volume)[border].mean() > -0.28 * (high - low)


def test_a_dark_lesion_in_white_matter_becomes_as_dark_as_fluid():
    volume, brain = brain_phantom()
    changed, mask = plant_lesion(
        volume, brain, SPACING, np.random.default_rng(1), volume_ml=30, contrast=-1.0, texture=0.1
    )
    core = ndimage.binary_erosion(mask)
    assert np.median(changed[core]) < (250 + 600) / 2 + 100
    assert np.median(volume[core]) > 600


def test_texture_adds_the_asked_share_of_spread():
    volume, brain = brain_phantom()
    volume = np.where(brain, 600.0, 0.0).astype(np.float32)
    volume[brain] += np.linspace(-300, 300, brain.sum(), dtype=np.float32)
    spreads = []
    for texture in (0.0, 0.1, 0.3):
        changed, mask = plant_lesion(
            volume, brain, SPACING, np.random.default_rng(5), volume_ml=30, contrast=0.2, texture=texture
        )
        core = ndimage.binary_erosion(mask, iterations=2)
        change = (changed - volume)[core]
        spreads.append(change.std() / abs(change.mean()))
    assert spreads[0] < 0.02
    assert spreads[1] == pytest.approx(0.1, rel=0.4)
    assert spreads[2] == pytest.approx(0.3, rel=0.4)


def test_same_generator_same_lesion_other_generator_another():
    volume, brain = brain_phantom()
    masks = [
        plant_lesion(volume, brain, SPACING, np.random.default_rng(seed), volume_ml=5, contrast=-0.5, texture=0.2)[1]
        for seed in (7, 7, 8)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.parametrize("volume_ml", [0.0, 5000.0])
def test_a_lesion_that_cannot_be_is_refused(volume_ml: float):
    volume, brain = brain_phantom()
    with pytest.raises(ConfigError, match="room for up to"):
        plant_lesion(volume, brain, SPACING, np.random.default_rng(0), volume_ml=volume_ml, contrast=-0.5, texture=0)
    with pytest.raises(ConfigError, match="up to 0 ml"):
        plant_lesion(volume, np.zeros_like(brain), SPACING, np.random.default_rng(0), contrast=-0.5, texture=0)
