"""Finding scans: every known layout, labels, contrasts, splits, and what is said when nothing fits."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.case import Case, read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import read_scan
from strega_jax.scans.source import open_scan
from strega_jax.scans.splits import subject_splits


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    return root


def summary(cases: list[Case]) -> dict[str, str | None]:
    return {case.name: case.mask.name if case.mask else None for case in cases}


LAYOUT_TREES = {
    "bids": (
        [
            "sub-a/ses-1/anat/sub-a_ses-1_desc-brain_T1w.nii.gz",
            "sub-a/ses-1/anat/sub-a_ses-1_T1w.nii.gz",  # the whole head: the extracted brain is preferred
            "sub-a/ses-1/anat/sub-a_ses-1_ce-gadolinium_T1w.nii.gz",
            "sub-a/ses-1/anat/sub-a_ses-1_desc-expert_mask.nii.gz",
            "sub-a/ses-1/anat/sub-a_ses-1_desc-brain_mask.nii.gz",  # not a lesion
            "sub-b/anat/sub-b_desc-brain_FLAIR.nii",
            "sub-b/anat/sub-b_space-MNI_PDw.nii",
            "sub-b/anat/sub-b_desc-fused_dseg.nii.gz",
            "sub-b/anat/sub-b_desc-expert_dseg.nii.gz",  # experts before machines
            "sub-b/anat/.sub-b_T2w.nii",
            "sub-b/dwi/sub-b_dwi.nii.gz",
        ],
        {
            "sub-a_ses-1_T1w": "sub-a_ses-1_desc-expert_mask.nii.gz",
            "sub-a_ses-1_T1ce": "sub-a_ses-1_desc-expert_mask.nii.gz",
            "sub-b_FLAIR": "sub-b_desc-expert_dseg.nii.gz",
            "sub-b_space-MNI_PD": None,  # its label would be in that space
        },
    ),
    "ixi": (
        ["IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI-T2/IXI002-Guys-0828-T2.nii.gz", "IXI-PD/IXI013-HH-1212-PD.nii.gz"],
        {"sub-IXI002_T1w": None, "sub-IXI002_T2w": None, "sub-IXI013_PD": None},
    ),
    "brats2013": (
        [
            "Image_Data/HG/0001/VSD.Brain.XX.O.MR_T1c.684/VSD.Brain.XX.O.MR_T1c.684.mha",
            "Image_Data/HG/0001/VSD.Brain_3more.XX.XX.OT.6560/VSD.Brain_3more.XX.XX.OT.6560.mha",
            "Image_Data/LG/0001/VSD.Brain.XX.O.MR_Flair.700/VSD.Brain.XX.O.MR_Flair.700.mha",
        ],
        {"sub-HG0001_T1ce": "VSD.Brain_3more.XX.XX.OT.6560.mha", "sub-LG0001_FLAIR": None},
    ),
    "brats2015": (
        ["HGG/brats_2013_pat0001_1/VSD.Brain.XX.O.MR_T2.54515/VSD.Brain.XX.O.MR_T2.54515.mha",
         "HGG/brats_2013_pat0001_1/VSD.Brain_3more.XX.O.OT.54517/VSD.Brain_3more.XX.O.OT.54517.mha",
         # two dates of one patient, and the other patient of that number; converted to NIfTI
         "LGG/brats_2013_pat0001_1/VSD.Brain.XX.O.MR_T2.1.nii",
         "LGG/brats_tcia_pat105_0001/VSD.Brain.XX.O.MR_T1.2.nii",
         "LGG/brats_tcia_pat105_0283/VSD.Brain.XX.O.MR_T1.3.nii",
         "LGG/brats_tcia_pat105_0283/VSD.Brain_3more.XX.O.OT.4.nii"],
        {
            "sub-HGGbrats2013pat0001_ses-1_T2w": "VSD.Brain_3more.XX.O.OT.54517.mha",
            "sub-LGGbrats2013pat0001_ses-1_T2w": None,
            "sub-LGGbratstciapat105_ses-0001_T1w": None,
            "sub-LGGbratstciapat105_ses-0283_T1w": "VSD.Brain_3more.XX.O.OT.4.nii",
        },
    ),
    "brats2018": (
        ["HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_t1.nii.gz",
         "HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_seg.nii.gz"],
        {"sub-Brats18CBICAAAB1_T1w": "Brats18_CBICA_AAB_1_seg.nii.gz"},
    ),
    "brats2020": (
        ["BraTS20_Training_355/BraTS20_Training_355_t1ce.nii", "BraTS20_Training_355/W39_1998.09.19_Segm.nii"],
        {"sub-BraTS20Training355_T1ce": "W39_1998.09.19_Segm.nii"},
    ),
    "brats2021": (
        ["BraTS2021_00002/BraTS2021_00002_flair.nii.gz", "BraTS2021_00002/BraTS2021_00002_seg.nii.gz"],
        {"sub-BraTS202100002_FLAIR": "BraTS2021_00002_seg.nii.gz"},
    ),
    "brats2023": (
        [f"BraTS-GLI-00005-00{date}/BraTS-GLI-00005-00{date}-{kind}.nii.gz"
         for date in (0, 1) for kind in ("t1c", "t2f", "seg")],
        {
            f"sub-BraTSGLI00005_ses-00{date}_{contrast}": f"BraTS-GLI-00005-00{date}-seg.nii.gz"
            for date in (0, 1)
            for contrast in ("FLAIR", "T1ce")
        },
    ),
    "mslub": (
        ["patient01/patient01_FLAIR.nii.gz", "patient01/patient01_T1WKS.nii.gz",
         "patient01/patient01_consensus_gt.nii.gz",
         "patient01/patient01_brainmask.nii.gz"],
        {"sub-patient01_FLAIR": "patient01_consensus_gt.nii.gz", "sub-patient01_T1ce": "patient01_consensus_gt.nii.gz"},
    ),
    "openms": (
        ["cross_sectional/coregistered/patient02/T2W.nii.gz",
         "cross_sectional/coregistered/patient02/consensus_gt.nii.gz",
         "cross_sectional/coregistered/patient02/brainmask.nii.gz"],
        {"sub-patient02_T2w": "consensus_gt.nii.gz"},
    ),
    "openms-mni": (
        ["MNI/patient19/T1POST_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz",
         "MNI/patient19/GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"],
        {"sub-patient19_T1ce": "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"},
    ),
    "mood": (["brain_train/00000.nii.gz", "brain_train/00799.nii.gz"], {"sub-00000_T1w": None, "sub-00799_T1w": None}),
    "mood-toy": (
        ["toy/00480_uniform_shift.nii.gz", "toy_label/pixel/00480_uniform_shift.nii.gz",
         "toy_label/sample/00480_uniform_shift.nii.gz.txt"],
        {"sub-00480uniformshift_T1w": "00480_uniform_shift.nii.gz"},
    ),
    "flat": (
        ["p1_T2.nii.gz", "p1_mask.nii.gz", "p2.nii", "p2_desc-anomalymap.nii", "old/p3.nii"],
        {"p1_T2": "p1_mask.nii.gz", "p2": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUT_TREES)
def test_each_layout_gives_its_cases_with_their_labels(tmp_path: Path, layout: str):
    files, expected = LAYOUT_TREES[layout]
    cases = find_cases(tree(tmp_path, *files))
    assert summary(cases) == expected
    assert [case.name for case in cases] == sorted(expected)


def test_extracted_brain_is_preferred_over_the_whole_head(tmp_path: Path):
    files = LAYOUT_TREES["bids"][0]
    image = {case.name: case.image.name for case in find_cases(tree(tmp_path, *files))}
    assert image["sub-a_ses-1_T1w"] == "sub-a_ses-1_desc-brain_T1w.nii.gz"


def test_brain_masks_of_the_data_set_cut_heads_to_brains(tmp_path: Path):
    rng = np.random.default_rng(0)
    head, brain = rng.integers(1, 99, (6, 7, 8)), rng.random((6, 7, 8)) > 0.5
    affine = np.diag([-1.0, 1, 2, 1])
    for folder, names in (
        ("ms/patient01", ("patient01_T2W", "patient01_brainmask")),
        ("bids/sub-a/anat", ("sub-a_T2w", "sub-a_desc-brain_mask")),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for name, volume in zip(names, (head, brain), strict=True):
            write(tmp_path / folder / f"{name}.nii.gz", volume.astype(np.int16), affine)
        (case,) = find_cases(tmp_path / folder.split("/")[0])
        np.testing.assert_array_equal(open_scan(case).data, (head * brain)[::-1])
    (case,) = find_cases(tree(tmp_path / "cut", "sub-a_desc-brain_T2w.nii", "sub-a_desc-brain_mask.nii"))
    assert case.brain is None  # what is cut out already needs no mask
    write(tmp_path / "ms/patient01/patient01_brainmask.nii.gz", brain[1:].astype(np.int16), affine)
    with pytest.raises(ScanError, match=r"T2W.*brainmask.*not on one grid"):
        open_scan(find_cases(tmp_path / "ms")[0])


def test_healthy_and_lesion_subjects_are_told_apart(tmp_path: Path):
    tree(tmp_path / "ixi", *LAYOUT_TREES["ixi"][0])
    tree(tmp_path / "brats", *LAYOUT_TREES["brats2021"][0])
    bids = tree(tmp_path / "bids", *(f"sub-{s}/sub-{s}_T1w.nii" for s in "abc"), "sub-b/sub-b_label-lesion_mask.nii")
    (bids / "participants.tsv").write_text("participant_id\tgroup\nsub-a\tControl\nsub-b\tpatient\nsub-c\tpatient\n")
    assert {case.healthy for case in find_cases(tmp_path / "ixi")} == {True}
    assert {case.healthy for case in find_cases(tmp_path / "brats")} == {False}
    assert [case.healthy for case in find_cases(bids)] == [True, False, None]


def test_contrast_filter_takes_any_spelling_and_says_what_is_there(tmp_path: Path):
    tree(tmp_path, *LAYOUT_TREES["brats2023"][0])
    assert {case.contrast for case in find_cases(tmp_path, ("t1c",))} == {"T1ce"}
    with pytest.raises(ScanError, match=r"no scan of T2w; found FLAIR, T1ce"):
        find_cases(tmp_path, ("T2",))
    with pytest.raises(ConfigError, match="unknown contrast 'DWI'"):
        find_cases(tmp_path, ("DWI",))


def test_scans_that_do_not_tell_their_contrast_pass_the_filter(tmp_path: Path):
    assert [case.name for case in find_cases(tree(tmp_path, "scan.nii.gz", "other_T2w.nii.gz"), ("T1w",))] == ["scan"]


def test_a_single_file_is_found_with_the_label_beside_it(tmp_path: Path):
    tree(tmp_path, "sub-a_T1w.nii.gz", "sub-a_desc-expert_mask.nii.gz", "sub-b_T1w.nii.gz", "strange.mask.nii")
    (case,) = find_cases(tmp_path / "sub-a_T1w.nii.gz")
    assert (case.name, case.mask) == ("sub-a_T1w", tmp_path / "sub-a_desc-expert_mask.nii.gz")
    assert find_cases(tmp_path / "strange.mask.nii")[0].image == tmp_path / "strange.mask.nii"


def test_one_name_in_two_cohorts_is_made_unique_by_the_cohort(tmp_path: Path):
    tree(tmp_path, "one/sub-1/anat/sub-1_T1w.nii", "two/sub-1/anat/sub-1_T1w.nii", "two/sub-2/anat/sub-2_T1w.nii")
    assert [case.name for case in find_cases(tmp_path)] == ["one_sub-1_T1w", "two_sub-1_T1w", "sub-2_T1w"]


def test_two_files_for_one_image_are_refused(tmp_path: Path):
    with pytest.raises(ScanError, match=r"sub-1_T1w\.nii\.gz .*both claim to be sub-1_T1w"):
        find_cases(tree(tmp_path, "sub-1/sub-1_T1w.nii", "sub-1/sub-1_T1w.nii.gz"))


def test_nothing_found_says_what_was_expected_and_what_is_there(tmp_path: Path):
    with pytest.raises(ScanError, match="no such file or folder"):
        find_cases(tmp_path / "missing")
    with pytest.raises(ScanError, match=r"(?s)Expected one of.*sub-01.*Found no image but a\.dcm \(convert"):
        find_cases(tree(tmp_path / "dicom", "a.dcm"))
    with pytest.raises(ScanError, match=r"Found 1 images that fit none of these, such as deep/x\.nii"):
        find_cases(tree(tmp_path / "deep", "deep/x.nii"))
    with pytest.raises(ScanError, match=r"(?s)brain_train/00000.*Found 1 images"):
        find_cases(tree(tmp_path / "wrong", "IXI002-Guys-0828-T1.nii.gz"), layout="mood")
    with pytest.raises(ConfigError, match="unknown layout 'nope'; known: auto, bids"):
        find_cases(tmp_path, layout="nope")


def write(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def test_truth_lies_on_the_scans_grid_whatever_the_labels_axis_order(tmp_path: Path):
    rng = np.random.default_rng(0)
    label = (rng.random((7, 8, 9)) > 0.8).astype(np.uint8) * 4
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = write(tmp_path / "a_T1w.nii", rng.random((7, 8, 9), np.float32), affine)
    # The same label stored with its axes in another order and the first reversed.
    stored = nibabel.Nifti1Image(label, affine).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    nibabel.save(stored, tmp_path / "a_mask.nii")
    (case,) = find_cases(image)
    truth = read_truth(case, read_scan(image))
    assert truth.dtype == bool
    np.testing.assert_array_equal(truth, label > 0)


def test_no_label_and_an_empty_label_are_no_lesion(tmp_path: Path):
    image = write(tmp_path / "a_T1w.nii", np.random.default_rng(0).random((5, 6, 7), np.float32), np.eye(4))
    assert not read_truth(find_cases(image)[0], read_scan(image)).any()
    write(tmp_path / "a_mask.nii", np.zeros((5, 6, 7), np.uint8), np.eye(4))
    assert find_cases(image)[0].mask is not None
    assert not read_truth(find_cases(image)[0], read_scan(image)).any()


@pytest.mark.parametrize("fault", ["shape", "shifted", "swapped"])
def test_a_label_on_another_grid_is_refused_by_name(tmp_path: Path, fault: str):
    image = write(tmp_path / "a_T1w.nii", np.random.default_rng(0).random((6, 6, 6), np.float32), np.eye(4))
    affine, shape = np.eye(4), (6, 6, 6)
    if fault == "shape":
        shape = (6, 6, 7)
    elif fault == "shifted":
        affine[0, 3] = 0.5
    else:
        affine = np.diag([1.0, 1.0, 1.2, 1.0])
    write(tmp_path / "a_mask.nii", np.ones(shape, np.uint8), affine)
    with pytest.raises(ScanError, match=r"a_T1w\.nii .* and .*a_mask\.nii .* are not on one grid"):
        read_truth(find_cases(image)[0], read_scan(image))


def test_splits_come_from_the_participants_table(tmp_path: Path):
    tree(tmp_path, "sub-1/sub-1_T1w.nii", "sub-2/sub-2_T1w.nii")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\tsplit\nsub-1\t40\tdev\nsub-2\t50\ttrain\n")
    assert subject_splits(tmp_path) == {"sub-1": "dev", "sub-2": "train"}
    table.write_text("participant_id\tsplit\nsub-1\tdev\n")
    with pytest.raises(ScanError, match="gives no split for sub-2"):
        subject_splits(tmp_path)
    table.write_text("participant_id,split\nsub-1,dev\n")
    with pytest.raises(ScanError, match="no column participant_id"):
        subject_splits(tmp_path)


def test_patients_are_never_trained_on_unless_the_table_says_so(tmp_path: Path):
    files = [f"sub-{i}/sub-{i}_{name}.nii" for i in range(40) for name in ("T1w", "T2w")]
    cases = find_cases(tree(tmp_path, *files, "sub-3/ses-b/sub-3_ses-b_T1w.nii", "sub-3/sub-3_desc-lesion_mask.nii"))
    everyone = {f"sub-{i}": "train" for i in range(40)}
    everything = {"train": 1.0, "dev": 0.0, "test": 0.0}
    assert subject_splits(cases, everything) == {**everyone, "sub-3": "test"}  # at every date
    lines = "".join(f"{subject}\ttrain\n" for subject in everyone)
    (tmp_path / "participants.tsv").write_text("participant_id\tsplit\n" + lines)
    assert subject_splits(cases, everything) == everyone


def test_hashed_splits_are_by_subject_stable_and_near_their_fractions(tmp_path: Path):
    cases = [
        Case("c", f"sub-{n}", f"ses-{date}", "T1w", tmp_path / f"{n}-{date}.nii", None, f"{n}-{date}")
        for n in range(600)
        for date in (1, 2)
    ]
    fractions = {"train": 0.7, "dev": 0.1, "test": 0.2}
    splits = subject_splits(cases, fractions, 3)
    assert len(splits) == 600
    for split, fraction in fractions.items():
        share = sum(value == split for value in splits.values()) / 600
        assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / 600)
    assert subject_splits(cases[::-1], fractions, 3) == splits
    assert subject_splits(cases[:40], fractions, 3) == {case.subject: splits[case.subject] for case in cases[:40]}
    assert subject_splits(cases, fractions, 4) != splits
    with pytest.raises(ConfigError, match="sum to 1"):
        subject_splits(cases, {"train": 0.5, "dev": 0.1})


@pytest.mark.data
def test_real_folders_are_found_whole_and_every_label_fits_its_image(test_data: Path):
    assert len(find_cases(test_data / "ixi", ("T1w",))) == 160
    labelled = [case for name in ("brats", "gbm", "ms") for case in find_cases(test_data / name)]
    images = [path for case in ("brats", "gbm", "ms") for path in (test_data / case).rglob("*_desc-brain_*.nii.gz")]
    assert sorted(case.image for case in labelled) == sorted(images)
    assert all(read_truth(case, read_scan(case.image)).any() for case in labelled)
    counts = list(subject_splits(test_data / "ixi").values())
    assert (counts.count("train"), counts.count("dev")) == (140, 20)
