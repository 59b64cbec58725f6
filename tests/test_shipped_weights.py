"""The package's own weights: there, small, described, and finding a lesion in a brain of another source."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

import strega_jax
from strega_jax.errors import CheckpointError
from strega_jax.evaluation.metrics import dice
from strega_jax.models.opened import SHIPPED
from strega_jax.models.opening import open_model
from strega_jax.scans.lesions import plant_lesion


@pytest.fixture(scope="module")
def opened():
    return open_model()


def test_they_are_small_and_say_what_they_are(opened):
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 30e6
    card = (SHIPPED / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("Research use only", "IXI", "CC BY-SA 3.0", "Limits"):
        assert word in card, word
    assert opened.calibration is not None
    assert opened.reference is not None
    assert opened.model.about.training_scans == 140


def test_they_score_without_the_libraries_that_only_training_needs():
    code = """if True:
        import sys, numpy as np
        import strega_jax.inference.batch, strega_jax.models.opening as opening
        model = opening.open_model().model
        for contrast in ("T1w", "FLAIR"):
            model.score(np.zeros((1, *model.about.image_shape)), np.zeros(1), contrast)
        print(*sys.modules)
    """
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "strega_jax.detectors.atlas_judge" in loaded
    assert not {"flax", "optax", "orbax", "matplotlib"}.intersection(loaded)


def save(path: Path, volume: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), path)
    return path


@pytest.fixture(scope="module")
def brains():
    """A brain of another source, the same with a lesion, where that is, and their affine."""
    template = datasets.load_mni152_template(resolution=2)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=2).dataobj) > 0
    # Sharper and noisier than the average of 152 brains that the template is.
    noise = np.random.default_rng(0).normal(scale=0.02, size=mask.shape)
    brain = np.where(mask, np.maximum(np.asarray(template.dataobj) + noise, 0.02), 0).astype(np.float32) * 1000
    planted, truth = plant_lesion(
        brain, mask, (2.0, 2.0, 2.0), np.random.default_rng(3), volume_ml=25.0, contrast=-0.6
    )  # fmt: skip
    return brain, planted, truth, template.affine


def test_a_lesion_planted_in_the_mni_brain_is_found_and_the_brain_without_it_left_alone(opened, brains, tmp_path):
    brain, planted, truth, affine = brains
    ill = strega_jax.detect(save(tmp_path / "ill.nii.gz", planted, affine), opened)
    assert dice(ill.mask, truth) > 0.5
    well = strega_jax.detect(save(tmp_path / "well.nii.gz", brain, affine), opened)
    assert well.anomaly_ml < 0.3 * ill.anomaly_ml


def test_the_order_of_the_axes_padding_and_an_oblique_header_change_nothing(opened, brains, tmp_path):
    _, planted, _, affine = brains
    wanted = strega_jax.detect(save(tmp_path / "as_it_is.nii.gz", planted, affine), opened).mask
    assert wanted.any()
    order = nib.orientations.axcodes2ornt(("P", "S", "R"))
    turned = nib.Nifti1Image(planted, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), order)
    )
    result = strega_jax.detect(save(tmp_path / "turned.nii", np.asarray(turned.dataobj), turned.affine), opened)
    back = nib.Nifti1Image(result.mask.astype(np.uint8), result.affine).as_reoriented(
        nib.orientations.ornt_transform(order, nib.io_orientation(affine))
    )
    np.testing.assert_array_equal(np.asarray(back.dataobj) > 0, wanted)
    moved = affine @ nib.affines.from_matvec(np.eye(3), [-4, -2, -3])
    result = strega_jax.detect(save(tmp_path / "padded.nii", np.pad(planted, [(4, 1), (2, 6), (3, 3)]), moved), opened)
    assert dice(result.mask[4:-1, 2:-6, 3:-3], wanted) >= 0.99
    tilted = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.15, 0.2), [3.0, -8.0, 5.0]) @ affine
    result = strega_jax.detect(save(tmp_path / "oblique.nii", planted, tilted), opened)
    assert dice(result.mask, wanted) >= 0.99


def test_weights_of_another_network_are_told_when_the_model_is_first_used(tmp_path):
    for file in SHIPPED.iterdir():
        shutil.copy(file, tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    about["run"]["model"]["maps"] = [32, 128, 128]
    (tmp_path / "about.json").write_text(json.dumps(about))
    other = open_model(tmp_path)
    with pytest.raises(CheckpointError, match="weights are not those of atlas_judge with these settings"):
        other.model.score(np.zeros((1, 96, 96, 5), np.float32), np.zeros(1, np.float32))
