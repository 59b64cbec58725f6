"""Kinds of planted lesion: what the mask says is changed, each kind is what its name says, chance is the seed's."""

from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from test_scans_lesions import SPACING, brain_phantom

from strega_jax.config import LesionKind
from strega_jax.errors import ConfigError
from strega_jax.scans.case import Case
from strega_jax.scans.lesion_kinds import KINDS, plant_kind
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.scans.scan import read_scan

ML = float(np.prod(SPACING)) / 1000


def planted(kind: str, seed: int = 0, contrast: float = -0.6):
    volume, brain = brain_phantom()
    return volume, brain, *plant_kind(kind, volume, brain, SPACING, np.random.default_rng(seed), contrast)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_its_mask_alone_and_the_same_seed_plants_the_same(kind):
    volume, brain, changed, mask = planted(kind)
    assert changed.dtype == np.float32
    assert mask.any()
    assert not (mask & ~brain).any()
    np.testing.assert_array_equal(changed[~mask], volume[~mask])
    # Where the tissue is as dark already, a dark lesion changes nothing.
    assert (changed != volume)[mask].mean() > 0.9
    np.testing.assert_array_equal(changed, planted(kind)[2])
    assert (mask != planted(kind, 1)[3]).any()


def test_the_config_names_every_kind_and_others_are_refused():
    assert get_args(LesionKind) == tuple(KINDS)
    with pytest.raises(ConfigError, match=r"tumor.*known: lesion, tumour"):
        planted("tumor")


@pytest.mark.parametrize("contrast", [-0.6, 0.6])
def test_a_tumour_has_a_cavity_in_a_bright_rim_in_oedema(contrast):
    volume, brain, changed, mask = planted("tumour", contrast=contrast)
    high, low = np.percentile(volume[brain], (98, 2))
    depth = ndimage.distance_transform_edt(mask, sampling=SPACING)
    middle = changed[depth > 0.8 * depth.max()]
    assert abs(np.median(middle) - (low if contrast < 0 else high)) < 0.15 * (high - low)
    rim = changed[(depth > 0.45 * depth.max()) & (depth < 0.6 * depth.max())]
    assert np.median(rim) > high - 0.15 * (high - low)
    outer = mask & (depth < 0.3 * depth.max()) & (volume > 800)
    assert (np.median((changed - volume)[outer]) < 0) == (contrast < 0)


def test_plaques_are_many_small_and_apart_from_the_surface():
    _, brain, _, mask = planted("plaques")
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:] * ML
    assert count >= 5
    assert np.median(sizes) < 3.0
    assert ndimage.distance_transform_edt(brain, sampling=SPACING)[mask].min() > 0


def test_a_bilateral_tumour_lies_in_both_hemispheres():
    _, brain, _, mask = planted("bilateral")
    ends = ndimage.find_objects(brain.astype(np.uint8))[0][0]
    middle = (ends.start + ends.stop) // 2
    left, right = mask[:middle].sum() * ML, mask[middle:].sum() * ML
    assert min(left, right) > 5.0


def test_each_kind_of_a_cohort_has_files_and_a_name_of_its_own(tmp_path: Path):
    volume, _ = brain_phantom()
    image = tmp_path / "sub-1_T1w.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.diag([*SPACING, 1.0])), image)
    case = Case("cohort", "sub-1", "", "T1w", image, None, "sub-1_T1w", healthy=True)
    first, second = plant_in_cohort([case], tmp_path / "planted", 1, 0, ("lesion", "plaques"))
    assert (first.cohort, second.cohort) == ("planted", "planted-plaques")
    assert first.image != second.image
    assert first.mask != second.mask
    np.testing.assert_array_equal(
        read_scan(first.image).data, read_scan(plant_in_cohort([case], tmp_path / "again", 1, 0)[0].image).data
    )
