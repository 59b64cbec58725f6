"""Training scans rendered in other contrasts: stored beside their scans, for training alone, and kept up to date."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

from strega_jax.config import Data, Preprocess, Run
from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.slices import cohort
from strega_jax.slices.cohort import Outcome, prepare_cohort
from strega_jax.slices.preprocess import preprocess
from strega_jax.slices.rendering import render_contrasts
from strega_jax.slices.store import SliceStore
from strega_jax.training.inputs import open_store

SETTINGS = Preprocess(representation="fractions", grid="fixed", size=32, field_of_view_mm=192.0, slice_spacing_mm=12.0)
CONTRASTS = ("T2w", "FLAIR")


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MNI152 brain as two subjects', one a little brighter."""
    folder = tmp_path_factory.mktemp("brains")
    image = datasets.load_mni152_template(resolution=4)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=4).dataobj) > 0
    for name, gain in (("sub-01", 1000), ("sub-02", 1100)):
        brain = (np.asarray(image.dataobj, np.float32) * gain * mask).astype(np.float32)
        nib.save(nib.Nifti1Image(brain, image.affine), folder / f"{name}_T1w.nii.gz")
    return folder


@pytest.fixture(scope="module")
def store(brains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    assert prepare(brains, path) == Outcome(2, 0, ())
    return path


def prepare(brains: Path, store: Path, held_out: str = "sub-02", rendered: tuple[str, ...] = CONTRASTS) -> Outcome:
    cases = find_cases(brains)
    splits = {case.subject: "dev" if case.subject == held_out else "train" for case in cases}
    return prepare_cohort(cases, splits, store, SETTINGS, rendered=rendered, workers=1)


def entries(store: Path) -> set[tuple[str, str, str, bool]]:
    return {(e.name, e.contrast, e.split, e.rendered) for e in SliceStore.open(store).entries}


def test_training_scans_alone_are_stored_as_a_scan_of_each_contrast_would_be(brains: Path, store: Path) -> None:
    names = {case.subject: case.name for case in find_cases(brains)}
    first, second = names["sub-01"], names["sub-02"]
    assert entries(store) == {
        (first, "T1w", "train", False),
        (f"{first}_as-T2w", "T2w", "train", True),
        (f"{first}_as-FLAIR", "FLAIR", "train", True),
        (second, "T1w", "dev", False),
    }
    opened, scan = SliceStore.open(store), read_scan(brains / "sub-01_T1w.nii.gz")
    images = {"T1w": dataclasses.replace(scan, contrast="T1w")} | render_contrasts(scan, CONTRASTS, 0)
    for entry in opened.of_split("train"):
        wanted = preprocess(images[entry.contrast], SETTINGS).images
        np.testing.assert_array_equal(opened.array(entry), wanted.astype(np.float16))
    t1w, t2w = (opened.array(e) for e in opened.of_split("train") if e.contrast != "FLAIR")
    assert np.abs(t1w.astype(np.float32) - t2w).max() > 0.5  # another segmentation, not a copy


def test_what_is_there_is_kept_and_what_is_missing_is_made(brains: Path, store: Path, monkeypatch) -> None:
    before = {entry.name: entry.sha256 for entry in SliceStore.open(store).entries}
    asked: list[tuple[str, ...]] = []

    def render(scan, contrasts, seed):
        asked.append(tuple(contrasts))
        return render_contrasts(scan, contrasts, seed)

    monkeypatch.setattr(cohort, "render_contrasts", render)
    assert prepare(brains, store) == Outcome(0, 2, ())
    assert not asked
    (gone,) = (store / "scans").glob("*_as-T2w.json")
    gone.unlink()
    assert prepare(brains, store) == Outcome(1, 1, ())
    assert asked == [("T2w",)]
    assert {entry.name: entry.sha256 for entry in SliceStore.open(store).entries} == before


def test_nothing_is_rendered_unasked(brains: Path, store: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cohort, "render_contrasts", None)
    assert prepare(brains, tmp_path, rendered=()) == Outcome(2, 0, ())
    own, asked = (SliceStore.open(path) for path in (tmp_path, store))
    assert {entry.name: entry.sha256 for entry in own.entries} == {
        entry.name: entry.sha256 for entry in asked.entries if not entry.rendered
    }
    for opened, slices in ((own, 1), (asked, 3)):
        (scan,) = opened.scans_of("train")
        assert not scan.rendered
        assert len(opened.of_split("train")) == slices


def test_a_scan_that_fails_in_one_contrast_is_not_half_in_the_store(brains: Path, tmp_path: Path, monkeypatch) -> None:
    def in_bad_light(scan: Scan, settings: Preprocess):
        if scan.contrast == "FLAIR":
            raise ScanError(f"{scan.path}: no tissue to be told apart")
        return preprocess(scan, settings)

    monkeypatch.setattr(cohort, "preprocess", in_bad_light)
    outcome = prepare(brains, tmp_path)
    assert (outcome.prepared, len(outcome.failures)) == (1, 1)
    assert "sub-01" in outcome.failures[0]
    assert [entry.subject for entry in SliceStore.open(tmp_path).entries] == ["sub-02"]


def test_who_is_held_out_now_or_rendered_no_more_leaves_no_rendering_behind(brains: Path, tmp_path: Path) -> None:
    prepare(brains, tmp_path, held_out="sub-02")
    prepare(brains, tmp_path, held_out="sub-01")
    rendered = [entry for entry in SliceStore.open(tmp_path).entries if entry.rendered]
    assert {(entry.subject, entry.contrast) for entry in rendered} == {("sub-02", "T2w"), ("sub-02", "FLAIR")}
    outcome = prepare(brains, tmp_path, held_out="sub-01", rendered=("T2w",))
    assert outcome == Outcome(0, 2, (), removed=1)
    assert "deleted: 1" in outcome.describe(tmp_path)
    assert len(list((tmp_path / "scans").glob("*.npy"))) == 3
    assert [entry.contrast for entry in SliceStore.open(tmp_path).entries if entry.rendered] == ["T2w"]


def test_a_store_and_a_config_must_agree_on_what_is_rendered(store: Path) -> None:
    run = Run(preprocess=SETTINGS, data=Data(store=str(store), rendered=CONTRASTS))
    assert open_store(run, "").path == store
    for other, said in (((), "says: none"), (("T2w", "PD"), "says: PD, T2w")):
        with pytest.raises(ConfigError, match=rf"rendered in: FLAIR, T2w; .* {said}"):
            open_store(dataclasses.replace(run, data=dataclasses.replace(run.data, rendered=other)), "")


def test_what_cannot_be_rendered_is_named_before_anything_is_done(brains: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot render T1w; known: .*T2w"):
        prepare(brains, tmp_path / "store", rendered=("T1w",))
    cases, settings = find_cases(brains), dataclasses.replace(SETTINGS, contrast="T2w")
    with pytest.raises(ConfigError, match=r"contrast is T2w; set --config\.data\.rendered='\(\)'"):
        prepare_cohort(cases, {}, tmp_path / "store", settings, rendered=CONTRASTS)
    assert not (tmp_path / "store").exists()
