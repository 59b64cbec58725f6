"""Cohorts of whole heads: refused, vouched for, or cut out by their masks."""

import errno
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

from strega_jax.config import Preprocess
from strega_jax.failures import LOG, DiskFullError
from strega_jax.scans.cohorts import find_cases
from strega_jax.slices import cohort
from strega_jax.slices.cohort import Outcome, prepare_cohort
from strega_jax.slices.store import SliceStore

SETTINGS = Preprocess(representation="fractions", grid="fixed", size=48, field_of_view_mm=192.0, slice_spacing_mm=6.0)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MNI152 brain alone, in a head that fills the field of view, and the mask between the two."""
    folder = tmp_path_factory.mktemp("heads")
    image = datasets.load_mni152_template(resolution=3)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=3).dataobj) > 0
    brain = np.asarray(image.dataobj, np.float32) * 1000 * mask
    head = np.where(mask, brain, np.random.default_rng(0).uniform(50, 100, mask.shape)).astype(np.float32)
    for name, volume in (("brains", brain), ("heads", head), ("masks", mask.astype(np.uint8))):
        (folder / name).mkdir()
        nib.save(nib.Nifti1Image(volume, image.affine), folder / name / "sub-01_T1w.nii.gz")
    return folder


def prepare(heads: Path, kind: str, masks: bool = False) -> Outcome:
    cases = find_cases(heads / kind)
    splits = {case.subject: "train" for case in cases}
    return prepare_cohort(
        cases, splits, heads / f"store_{kind}", SETTINGS, workers=1, brain=heads / "masks" if masks else "auto"
    )


def test_a_whole_head_is_refused_and_its_mask_makes_it_the_brain(heads: Path, monkeypatch) -> None:
    monkeypatch.setattr("strega_jax.scans.source.installed_method", lambda: "")  # as without the extra
    refused = prepare(heads, "heads")
    assert refused.prepared == 0
    assert "--brain=given" in refused.failures[0]
    assert prepare(heads, "heads", masks=True).prepared == 1
    assert prepare(heads, "heads", masks=True).skipped == 1
    assert prepare(heads, "brains").prepared == 1
    stores = [SliceStore.open(heads / f"store_{kind}") for kind in ("heads", "brains")]
    arrays = [store.array(store.entries[0]) for store in stores]
    np.testing.assert_array_equal(*arrays)
    # Once its mask is gone, what was made with it is no scan to train on.
    case = find_cases(heads / "heads")
    (heads / "nothing").mkdir()
    gone = prepare_cohort(case, {"sub-01": "train"}, heads / "store_heads", SETTINGS, brain=heads / "nothing")
    assert (gone.prepared, gone.skipped, len(gone.failures)) == (0, 0, 1)
    assert not SliceStore.open(heads / "store_heads").entries


def test_a_missing_mask_fails_its_scan_alone(heads: Path, tmp_path: Path) -> None:
    outcome = prepare_cohort(
        find_cases(heads / "heads"), {"sub-01": "train"}, tmp_path / "store", SETTINGS, workers=1, brain=tmp_path
    )
    assert outcome.prepared == 0
    assert "sub-01_T1w.nii.gz" in outcome.failures[0]


def test_an_unforeseen_error_of_one_scan_leaves_the_others_prepared(heads: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    brain = heads / "brains" / "sub-01_T1w.nii.gz"
    for name in ("sub-01", "sub-02", "sub-03"):
        (tmp_path / "in" / f"{name}_T1w.nii.gz").write_bytes(brain.read_bytes())
    prepare_one = cohort.preprocess

    def fails_for_one(scan, settings):
        if "sub-02" in scan.path.name:
            raise ValueError("as no one foresaw")
        return prepare_one(scan, settings)

    monkeypatch.setattr(cohort, "preprocess", fails_for_one)
    cases = find_cases(tmp_path / "in")
    splits = {case.subject: "train" for case in cases}
    outcome = prepare_cohort(cases, splits, tmp_path / "store", SETTINGS, workers=1)
    assert outcome.prepared == 2
    (message,) = outcome.failures
    assert "sub-02_T1w.nii.gz" in message
    assert "as no one foresaw" in (tmp_path / "store" / LOG).read_text()
    assert len(SliceStore.open(tmp_path / "store").entries) == 2
    monkeypatch.setattr(cohort, "preprocess", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskFullError):
        prepare_cohort(cases[1:2], splits, tmp_path / "store", SETTINGS, workers=1)
