"""The one door for scans: what enters, however it is called, is the same scan."""

import dataclasses
import os

import nibabel as nib
import numpy as np
import pytest

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.contrast import CONTRASTS, NAMES, contrast_named
from strega_jax.scans.files import walk_files
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.scans.scan import read_scan, stem
from strega_jax.scans.source import open_scan, scan_digest
from strega_jax.scans.splits import subject_splits

SHAPE = (20, 24, 22)


def brain_image(seed: int = 0) -> np.ndarray:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    brain = ((x - 10) / 8) ** 2 + ((y - 12) / 9) ** 2 + ((z - 11) / 8) ** 2 < 1
    return (np.random.default_rng(seed).uniform(100, 900, SHAPE) * brain).astype(np.float32)


def save(path, data=None, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(brain_image() if data is None else data, np.eye(4) if affine is None else affine), path)
    return path


def test_every_spelling_names_one_contrast():
    assert contrast_named("PDw") == contrast_named("PD") == "PD"
    assert contrast_named("t2F") == "FLAIR"
    assert contrast_named("bold") == ""
    spellings = [spelling for row in CONTRASTS.values() for spelling in row.spellings]
    assert len(spellings) == len(set(spellings))
    assert set(CONTRASTS) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "asked", "contrast"),
    [
        ("sub-01_T2w.nii.gz", "", "T2w"),
        ("sub-01_ce-gd_T1w.nii.gz", "", "T1ce"),
        ("IXI002-Guys-0828-PD.nii.gz", "", "PD"),
        ("BraTS20_Training_001_flair.nii", "", "FLAIR"),
        ("patient.nii.gz", "", ""),
        ("patient.nii.gz", "T2w", "T2w"),
        ("sub-01_T2w.nii.gz", "T1w", "T1w"),
    ],
)
def test_the_contrast_is_what_is_asked_for_else_what_the_name_tells(tmp_path, name, asked, contrast):
    assert open_scan(save(tmp_path / name), asked).contrast == contrast


def test_a_contrast_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="T9w"):
        open_scan(save(tmp_path / "a_T1w.nii"), "T9w")


@pytest.fixture
def masked(tmp_path):
    """A whole head in a BIDS tree with the brain mask beside it; the image cut by hand."""
    head = np.random.default_rng(1).uniform(50, 900, SHAPE).astype(np.float32)
    inside = brain_image() > 0
    anat = tmp_path / "bids" / "sub-01" / "anat"
    image = save(anat / "sub-01_T1w.nii.gz", head)
    mask = save(anat / "sub-01_desc-brain_mask.nii.gz", inside.astype(np.uint8))
    return image, mask, head * inside


def test_the_brain_mask_of_a_bids_tree_cuts_wherever_the_scan_enters(masked, tmp_path):
    image, mask, cut = masked
    (case,) = find_cases(tmp_path / "bids")
    for scan in (open_scan(image), open_scan(case), open_scan(image, brain=mask)):
        np.testing.assert_array_equal(scan.data, cut)
        assert scan.brain == mask.name
    elsewhere = save(tmp_path / "masks" / image.name, (cut > 0).astype(np.uint8))
    np.testing.assert_array_equal(open_scan(image, brain=elsewhere.parent).data, cut)


def test_a_given_brain_is_taken_as_it_is(masked):
    image, _, _ = masked
    scan = open_scan(image, brain="given")
    np.testing.assert_array_equal(scan.data, read_scan(image).data)
    assert scan.brain == "given"


def test_a_masked_scan_with_negative_intensities_keeps_all_of_its_brain(tmp_path):
    inside = brain_image() > 0
    scored = (np.random.default_rng(0).normal(size=SHAPE) * inside).astype(np.float32)
    scan = open_scan(save(tmp_path / "z_T1w.nii", scored), brain=save(tmp_path / "m.nii", inside.astype(np.uint8)))
    np.testing.assert_array_equal(scan.data > 0, inside)
    order = np.argsort(scored[inside], kind="stable")
    assert (np.diff(scan.data[inside][order]) >= 0).all()


def test_a_mask_that_is_missing_empty_or_of_another_grid_is_told(masked, tmp_path):
    image, _, _ = masked
    with pytest.raises(ConfigError, match="--brain"):
        open_scan(image, brain=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="no brain mask sub-01_T1w"):
        open_scan(image, brain=tmp_path / "empty")
    with pytest.raises(ScanError, match="an empty brain mask"):
        open_scan(image, brain=save(tmp_path / "zeros.nii", np.zeros(SHAPE, np.uint8)))
    with pytest.raises(ScanError, match="not on one grid"):
        open_scan(image, brain=save(tmp_path / "far.nii", np.ones(SHAPE, np.uint8), np.diag([2.0, 2, 2, 1])))


def test_the_scan_keeps_which_forms_its_header_sets(tmp_path):
    image = nib.Nifti1Image(brain_image(), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(np.eye(4), code=0)
    nib.save(image, tmp_path / "none.nii")
    assert open_scan(tmp_path / "none.nii").forms == ()
    assert open_scan(save(tmp_path / "both.nii")).forms == ("sform",)


def test_linked_folders_are_entered_and_loops_end(tmp_path):
    save(tmp_path / "elsewhere" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    save(tmp_path / "bids" / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    (tmp_path / "bids" / "sub-01").symlink_to(tmp_path / "elsewhere" / "sub-01", target_is_directory=True)
    (tmp_path / "bids" / "sub-02" / "loop").symlink_to(tmp_path / "bids", target_is_directory=True)
    assert [case.subject for case in find_cases(tmp_path / "bids")] == ["sub-01", "sub-02"]
    assert len(walk_files(tmp_path / "bids")) == 2


def test_upper_case_suffixes_are_suffixes(tmp_path):
    os.rename(save(tmp_path / "SCAN1.nii.gz"), tmp_path / "SCAN1.NII.GZ")
    save(tmp_path / "scan2.nii")
    assert [case.name for case in find_cases(tmp_path)] == ["SCAN1", "scan2"]
    assert find_cases(tmp_path / "SCAN1.NII.GZ")[0].name == stem(tmp_path / "SCAN1.NII.GZ") == "SCAN1"
    np.testing.assert_array_equal(open_scan(tmp_path / "SCAN1.NII.GZ").data, brain_image())


def test_a_folder_of_several_layouts_loses_no_scan(tmp_path, caplog):
    for name in ("IXI002-Guys-0828-T1", "IXI012-HH-1211-T1", "IXI013-HH-1212-T1", "sub-01_T1w"):
        save(tmp_path / f"{name}.nii.gz")
    assert len(find_cases(tmp_path)) == 4
    save(tmp_path / "deep" / "below" / "something.nii.gz")
    assert len(find_cases(tmp_path)) == 4
    assert "something.nii.gz" in caplog.text


def test_the_lesion_masks_of_atlas_are_found(tmp_path):
    anat = tmp_path / "sub-r001s001" / "ses-1" / "anat"
    stem_ = "sub-r001s001_ses-1_space-MNI152NLin2009aSym"
    save(anat / f"{stem_}_T1w.nii.gz")
    mask = save(anat / f"{stem_}_label-L_desc-T1lesion_mask.nii.gz", (brain_image() > 500).astype(np.uint8))
    (case,) = find_cases(tmp_path)
    assert case.mask == mask


def test_subjects_whose_labels_would_be_equal_stay_two(tmp_path, caplog):
    save(tmp_path / "1-12_T1w.nii.gz")
    save(tmp_path / "11-2_T1w.nii.gz")
    cases = find_cases(tmp_path)
    assert len({case.subject for case in cases}) == 2
    assert len(subject_splits(cases)) == 2
    assert "1-12" in caplog.text


def test_planting_gives_what_is_asked_for(tmp_path):
    for number in range(3):
        save(tmp_path / "scans" / f"sub-0{number}_T1w.nii.gz", brain_image(number), np.diag([6.0, 6, 6, 1]))
    cases = find_cases(tmp_path / "scans")
    assert len(plant_in_cohort(cases, tmp_path / "planted", 3, 0)) == 3
    (one,) = plant_in_cohort(cases, tmp_path / "planted", 1, 0)
    before = read_scan(one.image).data
    made = one.image.stat().st_mtime_ns
    plant_in_cohort(cases, tmp_path / "planted", 1, 0)
    assert one.image.stat().st_mtime_ns == made
    plant_in_cohort(cases, tmp_path / "planted", 1, 7)
    assert (read_scan(one.image).data != before).any()


def test_a_lesion_is_planted_inside_the_brain_mask(masked, tmp_path):
    (case,) = find_cases(tmp_path / "bids")
    case = dataclasses.replace(case, image=case.image)
    big = np.diag([6.0, 6.0, 6.0, 1.0])
    for path in (case.image, case.brain):
        save(path, np.asarray(nib.load(path).dataobj), big)
    (planted,) = plant_in_cohort([case], tmp_path / "planted", 1, 0)
    lesion = read_scan(planted.mask).data > 0
    assert lesion.any()
    assert not (lesion & ~(masked[2] > 0)).any()


def test_two_runs_of_a_session_get_a_lesion_each(tmp_path):
    for run in (1, 2):
        save(tmp_path / "scans" / f"sub-01_run-{run}_T1w.nii.gz", brain_image(run), np.diag([6.0, 6, 6, 1]))
    planted = plant_in_cohort(find_cases(tmp_path / "scans"), tmp_path / "planted", 2, 0)
    assert len({case.image for case in planted}) == len({case.mask for case in planted}) == 2
    assert (read_scan(planted[0].image).data != read_scan(planted[1].image).data).any()


def test_a_digest_changes_with_the_scan_its_mask_and_how_its_brain_is_found(masked, tmp_path):
    image, mask, _ = masked
    (case,) = find_cases(tmp_path / "bids")
    digests = [scan_digest(case), scan_digest(case, "given"), scan_digest(case, "deepbet")]
    save(mask, np.ones(SHAPE, np.uint8))
    digests.append(scan_digest(case))
    save(image, brain_image(5))
    digests.append(scan_digest(case))
    assert len(set(digests)) == 5
    assert scan_digest(case) == digests[-1]


def test_dicom_that_is_no_head_does_not_hide_the_images_beside_it(tmp_path, caplog):
    pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")
    save(tmp_path / "a_T1w.nii.gz")
    (tmp_path / "damaged.dcm").write_bytes(bytes(128) + b"DICM" + b"\x00" * 40)
    assert [case.name for case in find_cases(tmp_path)] == ["a_T1w"]
    assert "damaged.dcm" in caplog.text
    (tmp_path / "a_T1w.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"damaged\.dcm"):
        find_cases(tmp_path)
