"""One store, several hands: processes, commands and cohorts that prepare into it lose nothing of one another."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets

from strega_jax.config import Preprocess
from strega_jax.errors import StoreError
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.splits import SplitRule, subject_splits
from strega_jax.slices import store as slice_store
from strega_jax.slices.cohort import Outcome, prepare_cohort
from strega_jax.slices.store import SliceStore

SETTINGS = Preprocess(
    representation="fractions", grid="fixed", size=32, field_of_view_mm=192.0, slice_spacing_mm=12.0, normalise="zscore"
)
BOTH = ["sub-01_T1w", "sub-02_T1w"]
DEFAULT, ALL_TRAIN = SplitRule(), SplitRule(train=1.0, dev=0.0, test=0.0)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` and `second`: the MNI152 brain as two subjects and as one other; `third`: another brain, same name."""
    folder = tmp_path_factory.mktemp("cohorts")
    image = datasets.load_mni152_template(resolution=4)
    brain = np.asarray(image.dataobj, np.float32) * 1000
    brain *= np.asarray(datasets.load_mni152_brain_mask(resolution=4).dataobj) > 0
    for name in ("first/sub-01", "first/sub-02", "second/sub-03", "third/sub-01"):
        path = folder / f"{name}_T1w.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(brain * (0.5 if "third" in name else 1.0), image.affine), path)
    return folder


def prepare(
    folder: Path, output: Path, settings: Preprocess = SETTINGS, rule: SplitRule = DEFAULT, **process: int
) -> Outcome:
    cases = find_cases(folder)
    splits = subject_splits(cases, rule.fractions, rule.seed)
    return prepare_cohort(cases, splits, output, settings, rule=rule, workers=1, **process)


def names(output: Path) -> list[str]:
    return [entry.name for entry in SliceStore.open(output).entries]


def before_sealing(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something between a process's last look at the store and its word on what the store holds."""
    inner = slice_store.write_json

    def slow(path: Path, content: object) -> None:
        if path.name == "manifest.json":
            monkeypatch.setattr(slice_store, "write_json", inner)
            action()
        inner(path, content)

    monkeypatch.setattr(slice_store, "write_json", slow)


def test_of_two_processes_the_slower_writer_drops_nothing(cohorts, tmp_path, monkeypatch):
    output = tmp_path / "store"
    before_sealing(monkeypatch, lambda: prepare(cohorts / "first", output, process_index=1, process_count=2))
    assert prepare(cohorts / "first", output, process_index=0, process_count=2).prepared == 1
    assert names(output) == BOTH


def test_of_two_commands_at_once_neither_drops_the_others_cohort(cohorts, tmp_path, monkeypatch):
    output = tmp_path / "store"
    before_sealing(monkeypatch, lambda: prepare(cohorts / "second", output))
    prepare(cohorts / "first", output)
    assert names(output) == [*BOTH, "sub-03_T1w"]


def test_a_second_cohort_is_added_and_its_slices_count_in_the_statistics(cohorts, tmp_path):
    output = tmp_path / "store"
    prepare(cohorts / "first", output, rule=ALL_TRAIN)
    alone = SliceStore.open(output)
    outcome = prepare(cohorts / "second", output, rule=ALL_TRAIN)
    assert "1 prepared, 0 up to date, 0 failed; 2 other scans were there and stay" in outcome.describe(output)
    both = SliceStore.open(output)
    assert [entry.name for entry in both.entries] == [*BOTH, "sub-03_T1w"]
    assert len(both.source("train")) == 1.5 * len(alone.source("train"))
    pixels = np.concatenate([np.asarray(both.array(entry), np.float64) for entry in both.entries])
    inside = pixels[pixels.max(axis=-1) > 0]
    np.testing.assert_allclose(both.normalisation.mean, inside.mean(axis=0), rtol=1e-6)
    assert both.training_digest != alone.training_digest


def test_a_cohort_prepared_or_split_otherwise_is_not_mixed_in(cohorts, tmp_path):
    output = tmp_path / "store"
    prepare(cohorts / "first", output)
    other = dataclasses.replace(SETTINGS, min_brain_fraction=0.1)
    for changes, told in (({"settings": other}, "other settings"), ({"rule": SplitRule(seed=1)}, r"seed=0\), these")):
        with pytest.raises(StoreError, match=told):
            prepare(cohorts / "second", output, **changes)
        assert names(output) == BOTH
    # The same cohort alone may be prepared and split anew.
    assert prepare(cohorts / "first", output, settings=other, rule=SplitRule(seed=1)).prepared == 2
    store = SliceStore.open(output)
    assert (store.settings, store.rule, len(store.entries)) == (other, SplitRule(seed=1), 2)


def test_two_commands_of_other_settings_at_once_are_told(cohorts, tmp_path, monkeypatch):
    output = tmp_path / "store"
    other = dataclasses.replace(SETTINGS, min_brain_fraction=0.1)
    inner = slice_store.read_manifest
    calls = []

    def read_manifest(store: Path) -> object:
        calls.append(store)
        if len(calls) == 2:  # its scans are done
            monkeypatch.setattr(slice_store, "read_manifest", inner)
            prepare(cohorts / "first", output, settings=other)
        return inner(store)

    monkeypatch.setattr(slice_store, "read_manifest", read_manifest)
    with pytest.raises(StoreError, match="other settings"):
        prepare(cohorts / "first", output)
    assert SliceStore.open(output).settings == other


def test_another_subject_of_the_same_name_is_not_written_over(cohorts, tmp_path):
    output = tmp_path / "store"
    prepare(cohorts / "first", output)
    outcome = prepare(cohorts / "third", output)
    assert "another scan called sub-01_T1w, of first" in outcome.failures[0]
    assert [entry.cohort for entry in SliceStore.open(output).entries] == ["first", "first"]
    # A folder that was renamed holds the same scans.
    shutil.copytree(cohorts / "first", tmp_path / "moved")
    assert prepare(tmp_path / "moved", output).skipped == 2


def test_what_failed_when_prepared_anew_does_not_stay_as_it_was(cohorts, tmp_path):
    folder, output = tmp_path / "first", tmp_path / "store"
    shutil.copytree(cohorts / "first", folder)
    prepare(folder, output)
    (folder / "sub-01_T1w.nii.gz").write_bytes(b"no scan")
    assert len(prepare(folder, output).failures) == 1
    assert names(output) == ["sub-02_T1w"]


def test_a_store_sealed_by_the_version_before_is_read_and_a_damaged_entry_is_named(cohorts, tmp_path):
    output = tmp_path / "store"
    prepare(cohorts / "first", output)
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["split"]
    (output / "manifest.json").write_text(json.dumps({**manifest, "normalisation": {}, "entries": []}))
    assert names(output) == BOTH
    assert SliceStore.open(output).rule is None
    (output / "scans" / "sub-01_T1w.json").write_text("{")
    with pytest.raises(StoreError, match=r"sub-01_T1w\.json: damaged"):
        SliceStore.open(output)
    assert prepare(cohorts / "first", output).prepared == 1
    assert SliceStore.open(output).rule == SplitRule()
