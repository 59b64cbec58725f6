"""Small bright lesions of FLAIR: made brains whose lesions are known, and a patient's plaques."""

import dataclasses

import nibabel
import numpy as np
import pytest

import strega_jax
from strega_jax.config import PRESETS, Postprocess, changed_postprocess
from strega_jax.detection.bright import bright_lesions
from strega_jax.errors import ConfigError
from strega_jax.evaluation.metrics import dice
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import Scan
from strega_jax.slices.grid import SliceGrid
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.slices.template import tissue_template
from strega_jax.tissue import TissueMap

SMALL = Postprocess(bright_lesions=0.02)
FLUID, GREY, WHITE, LESION = 200.0, 1000.0, 900.0, 1300.0


def made_brain(tmp_path, contrast: str = "FLAIR") -> tuple[Scan, SliceVolume, np.ndarray]:
    """A FLAIR brain with the template's own tissues, and lesions: in white matter, in grey, and a speck."""
    fractions, affine = tissue_template()
    brain = fractions.sum(axis=-1) > 0.5
    labels = np.where(brain, fractions.argmax(axis=-1) + 1, 0).astype(np.uint8)
    rng = np.random.default_rng(0)
    noise = np.where(brain & (fractions[..., 2] < 0.3), rng.normal(scale=30, size=brain.shape), 0)
    image = np.array([0, FLUID, GREY, WHITE])[labels] + noise
    white, grey = (np.argwhere(fractions[..., c] > 0.95) for c in (2, 1))
    lesion, false = np.zeros(brain.shape, bool), np.zeros(brain.shape, bool)
    for place in white[:: len(white) // 5][:5]:
        lesion[tuple(place)] = True
    false[tuple(grey[len(grey) // 2])] = True
    image[lesion | false] = LESION
    scan = Scan.from_array(image.astype(np.float32), affine, tmp_path / f"made_{contrast}.nii.gz")
    nothing = np.zeros((0, 4, 4, 1), np.float32), np.zeros(0, int), np.zeros(0, np.float32)
    tissue = TissueMap(
        labels, labels, np.eye(4, dtype=np.float32)[labels][..., 1:], labels, np.ones(brain.shape, np.float32),
        scan.data, np.zeros(3, np.float32), np.ones(3, np.float32),
    )  # fmt: skip
    slices = SliceVolume(*nothing, SliceGrid((4, 4, 1), np.eye(4)), brain, tissue, np.eye(4))
    return dataclasses.replace(scan, contrast=contrast), slices, lesion


def test_bright_white_matter_is_found_and_bright_grey_matter_is_not(tmp_path):
    scan, slices, lesion = made_brain(tmp_path)
    found = bright_lesions(scan, slices, SMALL)
    assert lesion.sum() == 5
    np.testing.assert_array_equal(found, lesion)


def test_the_threshold_is_the_scans_own_grey_matter_whatever_the_unit(tmp_path):
    scan, slices, lesion = made_brain(tmp_path)
    for factor in (0.01, 7.0):
        other = dataclasses.replace(scan, data=scan.data * np.float32(factor))
        np.testing.assert_array_equal(bright_lesions(other, slices, SMALL), lesion)
    # Where a tenth of grey matter is brighter than the lesions, they are nothing special.
    grey = np.argwhere(slices.tissue.pveseg == 2)
    brighter = scan.data.copy()
    brighter[tuple(np.random.default_rng(1).permutation(grey)[: len(grey) // 10].T)] = 2 * LESION
    assert not bright_lesions(dataclasses.replace(scan, data=brighter), slices, SMALL)[lesion].any()


def test_other_contrasts_and_a_setting_of_0_mark_nothing(tmp_path):
    scan, slices, _ = made_brain(tmp_path)
    assert not bright_lesions(scan, slices, Postprocess()).any()
    for contrast in ("T1w", "T2w", ""):
        assert not bright_lesions(dataclasses.replace(scan, contrast=contrast), slices, SMALL).any()


def test_slices_that_are_not_aligned_to_the_template_are_refused(tmp_path):
    scan, slices, _ = made_brain(tmp_path)
    with pytest.raises(ConfigError, match=r"preprocess\.grid='template'"):
        bright_lesions(scan, dataclasses.replace(slices, alignment=None), SMALL)


def test_settings_from_the_command_line_are_values_or_the_name_of_a_preset():
    own = Postprocess(threshold="hysteresis", min_volume_ml=2.0)
    assert changed_postprocess(own, []) == own
    assert changed_postprocess(own, ["small"]) == dataclasses.replace(own, **PRESETS["small"])
    assert changed_postprocess(own, ["small", "bright_lesions=0.05", "threshold=otsu"]) == dataclasses.replace(
        own, bright_lesions=0.05, threshold="otsu"
    )
    with pytest.raises(ConfigError, match="name=value, or the name of a preset: small"):
        changed_postprocess(own, ["tiny"])
    with pytest.raises(ConfigError, match="postprocess has no field tiny"):
        changed_postprocess(own, ["tiny=1"])


@pytest.mark.data
def test_plaques_of_a_patient_are_found_in_flair_and_in_the_fused_mask(test_data):
    cases = {case.contrast: case for case in find_cases(test_data / "ms", ("FLAIR", "T1w"))}
    truth = np.asarray(nibabel.load(cases["FLAIR"].mask).dataobj) > 0
    found = strega_jax.detect_session(
        {contrast: case.image for contrast, case in cases.items()}, postprocess=PRESETS["small"]
    )
    assert found.mask.shape == truth.shape  # all of this patient's files are of one grid
    assert dice(found.contrasts["FLAIR"].mask, truth) > 0.7
    assert dice(found.mask, truth) > 0.7
