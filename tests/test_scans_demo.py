"""The demo cohort: what a prepared, healthy, varied cohort must be."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from strega_jax.errors import ScanError
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import demo_subject, make_demo_cohort, smooth_noise
from strega_jax.scans.scan import read_scan
from strega_jax.scans.splits import subject_splits


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo_cohort(folder, 4, seed=1)
    return folder


def test_cohort_is_found_split_and_healthy(cohort: Path):
    cases = find_cases(cohort, ("T1w",))
    assert [case.name for case in cases] == [f"sub-demo00{n}_T1w" for n in (1, 2, 3, 4)]
    assert all(case.healthy and case.mask is None for case in cases)
    assert list(subject_splits(cohort).values()) == ["train", "train", "dev", "test"]


def test_subjects_are_brain_sized_and_differ_in_size_shape_and_contrast(cohort: Path):
    scans = [read_scan(case.image) for case in find_cases(cohort)]
    litres = [np.count_nonzero(scan.data) * scan.voxel_ml / 1000 for scan in scans]
    assert all(1.2 < size < 2.7 for size in litres)
    assert np.ptp(litres) > 0.03
    brains = np.stack([scan.data > 0 for scan in scans])
    common, union = brains.all(0).sum(), brains.any(0).sum()
    assert 0.5 < common / union < 0.95
    medians = [np.median(scan.data[scan.data > 0]) for scan in scans]
    assert np.ptp(medians) > 20
    assert all(scan.data.min() == 0 and scan.spacing_mm == (2, 2, 2) for scan in scans)


def test_made_again_with_the_same_seed_every_voxel_is_the_same(cohort: Path, tmp_path: Path):
    make_demo_cohort(tmp_path, 3, seed=1)
    for case in find_cases(tmp_path):
        again = nibabel.load(case.image).get_fdata()
        np.testing.assert_array_equal(again, nibabel.load(cohort / case.image.relative_to(tmp_path)).get_fdata())


def test_what_is_there_is_kept_and_another_seed_is_refused(cohort: Path):
    paths = make_demo_cohort(cohort, 4, seed=1)
    before = [os.stat(path).st_mtime_ns for path in paths]
    paths[2].unlink()
    make_demo_cohort(cohort, 4, seed=1)
    after = [os.stat(path).st_mtime_ns for path in paths]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True]
    with pytest.raises(ScanError, match="another seed"):
        make_demo_cohort(cohort, 4, seed=2)
    with pytest.raises(ScanError, match="at least 3 subjects"):
        make_demo_cohort(cohort, 2, seed=1)


def test_without_nilearn_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "nilearn.datasets", None)
    with pytest.raises(ScanError, match=r"strega-jax\[demo\]"):
        make_demo_cohort(tmp_path, 3, seed=0)


def test_contrast_stays_monotone_tissue_classes_keep_their_order():
    shape = (50, 60, 50)
    radius = np.sqrt((((np.indices(shape).T - np.array(shape) / 2) / np.array(shape) * 2) ** 2).sum(-1)).T
    template = np.select([radius < 0.4, radius < 0.7, radius < 0.9], [0.85, 0.6, 0.3], 0.0).astype(np.float32)
    for seed in range(5):
        subject = demo_subject(template, radius < 0.9, np.random.default_rng(seed))
        shells = [(radius > inner) & (radius < outer) for inner, outer in ((0, 0.25), (0.5, 0.6), (0.76, 0.8))]
        white, grey, fluid = (np.median(subject[shell]) for shell in shells)
        assert white > 1.15 * grey > 1.15 * 1.15 * fluid > 0


def test_smooth_noise_has_unit_spread_and_the_asked_scale():
    field = smooth_noise(np.random.default_rng(0), (80, 90, 70), 10.0)
    assert field.shape == (80, 90, 70)
    assert field.std() == pytest.approx(1, abs=1e-3)
    near = np.corrcoef(field[:-2].ravel(), field[2:].ravel())[0, 1]
    far = np.corrcoef(field[:-40].ravel(), field[40:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.4
