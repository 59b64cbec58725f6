"""Synthetic anomalous sets: eq. 15 to the voxel, exact masks, the same set from the same seed."""

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from strega_jax.errors import ConfigError, ScanError
from strega_jax.scans.anomalies import ANOMALIES, local_anomaly
from strega_jax.scans.case import read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.scans.synthetic import make_set, plan_doses, plan_local, plan_tumours, superimpose

MM = (2.0, 2.0, 2.0)


def brain(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A noisy ellipsoid touching a margin of 2 voxels."""
    place = (np.indices(shape).T - (np.array(shape) - 1) / 2).T / (np.array(shape) / 2 - 2).reshape(3, 1, 1, 1)
    radius = np.sqrt((place**2).sum(0))
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    values = np.where(radius < 0.6, 800, 500) + 200 * texture / texture.std() * 0.3
    return np.where(radius < 1, values.clip(50), 0).astype(np.float32)


def scan(data: np.ndarray, spacing: tuple[float, float, float] = MM) -> Scan:
    return Scan.from_array(data, np.diag([*spacing, 1.0]), Path("memory.nii"))


def test_equation_15_on_equal_grids_is_addition_of_the_normalised_tumour():
    healthy, donor = scan(brain((40, 44, 36), 0)), scan(brain((40, 44, 36), 1))
    tumour = np.zeros((40, 44, 36), bool)
    tumour[12:20, 18:27, 14:22] = True
    image, mask = superimpose(healthy, donor, tumour)
    inside = donor.data[tumour]
    m = np.where(tumour, (donor.data - inside.min()) / (inside.max() - inside.min()), 0)
    np.testing.assert_array_equal(mask, tumour)
    np.testing.assert_allclose(image / healthy.data.max(), healthy.data / healthy.data.max() + m, atol=1e-5)


def test_tumour_of_another_grid_is_resized_with_its_brain():
    healthy = scan(brain((40, 44, 36), 0))
    donor = scan(brain((76, 84, 68), 1), (1.0, 1.0, 1.0))  # the brain boxes are exactly twice those of `healthy`
    tumour = np.zeros(donor.data.shape, bool)
    tumour[22:38, 34:52, 26:42] = True
    _, mask = superimpose(healthy, donor, tumour)
    expected = np.zeros(healthy.data.shape, bool)
    expected[12:20, 18:27, 14:22] = True
    np.testing.assert_array_equal(mask, expected)


def test_replacing_carries_the_tumours_place_among_the_tissues_over():
    healthy = scan(3 * brain((40, 44, 36), 0))
    data = brain((40, 44, 36), 1)
    tumour = np.zeros(data.shape, bool)
    tumour[12:20, 18:27, 14:22] = True
    low = np.percentile(data[(data > 0) & ~tumour], 3)
    image, mask = superimpose(healthy, scan(np.where(tumour, low, data)), tumour, "replace")
    own = healthy.data[healthy.data > 0]
    assert np.percentile(own, 0.1) < np.median(image[mask]) < np.percentile(own, 12)
    np.testing.assert_array_equal(image[~mask], healthy.data[~mask])


def test_mask_ends_at_the_healthy_brains_border_and_empty_tumours_are_refused():
    healthy, donor = scan(brain((40, 44, 36), 0)), scan(brain((40, 44, 36), 1))
    tumour = np.zeros(donor.data.shape, bool)
    tumour[2:20, 2:30, 14:22] = True
    _, mask = superimpose(healthy, donor, tumour)
    np.testing.assert_array_equal(mask, tumour & (healthy.data > 0))
    with pytest.raises(ScanError, match="there is no tumour"):
        superimpose(healthy, donor, np.zeros_like(tumour))
    with pytest.raises(ConfigError, match="known: add, replace"):
        superimpose(healthy, donor, tumour, "paint")


@pytest.mark.parametrize("kind", ANOMALIES)
def test_local_anomaly_mask_is_what_changed_in_one_ball_of_the_brain(kind: str):
    data = brain((60, 64, 56), 2)
    image, mask = local_anomaly(data, data > 0, MM, np.random.default_rng(1), kind=kind)
    again, _ = local_anomaly(data, data > 0, MM, np.random.default_rng(1), kind=kind)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, image != data)
    assert not mask[data == 0].any()
    assert image[data > 0].min() >= data[data > 0].min()
    extent = np.ptp(np.argwhere(mask), axis=0) * 2
    assert mask.sum() * 8 > 0.5 * 4 / 3 * np.pi * 8**3
    assert (extent <= 50).all()
    assert np.abs(image - data)[mask].mean() > 10


def test_an_unknown_local_anomaly_is_refused():
    data = brain((30, 30, 30), 2)
    with pytest.raises(ConfigError, match="known: bulge"):
        local_anomaly(data, data > 0, MM, np.random.default_rng(1), kind="melt")


@pytest.fixture
def cohorts(tmp_path: Path) -> tuple[Path, Path]:
    """Four healthy subjects, stored in LPS order, and two labelled donors."""
    healthy, donors = tmp_path / "healthy", tmp_path / "donors"
    lps = np.diag([-2.0, -2.0, 2.0, 1.0])
    for n in range(4):
        folder = healthy / f"sub-h{n}" / "anat"
        folder.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(brain((40, 44, 36), n), lps), folder / f"sub-h{n}_desc-brain_T1w.nii.gz")
    for n in range(2):
        folder = donors / f"sub-d{n}" / "anat"
        folder.mkdir(parents=True)
        label = np.zeros((44, 40, 38), np.uint8)
        label[12 + n : 20, 18:27, 14:22] = 4
        nibabel.save(nibabel.Nifti1Image(brain(label.shape, 9 + n), lps), folder / f"sub-d{n}_T1w.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, lps), folder / f"sub-d{n}_desc-expert_dseg.nii.gz")
    return healthy, donors


def test_the_tumour_set_reads_back_as_a_cohort_with_exact_masks(cohorts: tuple[Path, Path], tmp_path: Path):
    healthy = {case.subject: case for case in find_cases(cohorts[0])}
    recipes = plan_tumours(list(healthy.values()), find_cases(cohorts[1]), 3, 1, "add", seed=5)
    assert {recipe.donor.subject for recipe in recipes if recipe.donor} == {"sub-d0", "sub-d1"}
    assert len({recipe.healthy.subject for recipe in recipes}) == 4  # the control is the one without a tumour
    list(make_set(tmp_path / "set", recipes, 5))
    cases = find_cases(tmp_path / "set")
    assert sorted(case.healthy is True for case in cases) == [False, False, False, True]
    for case in cases:
        made, source = read_scan(case.image), read_scan(healthy[case.subject].image)
        np.testing.assert_array_equal(made.native_affine, source.native_affine)
        truth = read_truth(case, made)
        assert truth.any() == (case.mask is not None)
        np.testing.assert_array_equal(made.data[~truth], source.data[~truth])
        changed = made.data > source.data
        assert changed[truth].sum() >= 0.9 * truth.sum()


def test_dose_set_has_every_size_and_contrast_with_its_own_mask(cohorts: tuple[Path, Path], tmp_path: Path):
    recipes = plan_doses(find_cases(cohorts[0]), [0.5, 2.0], [-0.3, -0.6], 0.1, count=2, controls=1, seed=0)
    list(make_set(tmp_path / "set", recipes, 0))
    cases = find_cases(tmp_path / "set")
    assert len(cases) == 2 * 4 + 1
    assert len({case.name for case in cases}) == 9
    assert len({case.mask for case in cases if case.mask}) == 8
    doses = []
    for case in cases:
        if case.mask:
            made = read_scan(case.image)
            sidecar = json.loads(case.image.with_name(case.image.name.replace(".nii.gz", ".json")).read_text())
            size = sidecar["Synthesis"]["volume_ml"]
            assert read_truth(case, made).sum() * made.voxel_ml == pytest.approx(size, abs=0.0041)
            doses.append((size, sidecar["Synthesis"]["contrast"]))
    assert sorted(doses) == sorted(2 * list(itertools.product([0.5, 2.0], [-0.3, -0.6])))


def test_a_set_goes_on_where_it_stopped_and_ends_the_same(cohorts: tuple[Path, Path], tmp_path: Path):
    recipes = plan_local(find_cases(cohorts[0]), ["bulge", "recolour"], count=2, controls=0, seed=0)
    whole = list(make_set(tmp_path / "whole", recipes, 0))
    started = make_set(tmp_path / "stopped", recipes, 0)
    first = next(started)
    started.close()
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "stopped" / "provenance.json").exists()
    rest = list(make_set(tmp_path / "stopped", recipes, 0))
    assert first.stat().st_mtime_ns == before
    for one, other in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(read_scan(one).data, read_scan(other).data)
    provenance = json.loads((tmp_path / "stopped" / "provenance.json").read_text())
    assert len(provenance["images"]) == 4
    assert len(provenance["images"][0]["sources"][0]["sha256"]) == 64
    with pytest.raises(ScanError, match="other scans or settings"):
        list(make_set(tmp_path / "stopped", recipes[:1], 0))


def test_two_runs_of_one_session_become_two_images(cohorts: tuple[Path, Path], tmp_path: Path):
    anat = cohorts[0] / "sub-h0" / "anat"
    one, other = (anat / f"sub-h0_{run}desc-brain_T1w.nii.gz" for run in ("", "run-2_"))
    nibabel.save(nibabel.Nifti1Image(brain((40, 44, 36), 7), nibabel.load(one).affine), other)
    healthy = [case for case in find_cases(cohorts[0]) if case.subject in ("sub-h0", "sub-h1")]
    assert len(healthy) == 3
    recipes = plan_doses(healthy, [1.0], [-0.5], 0.1, count=3, controls=3, seed=0)
    made = list(make_set(tmp_path / "set", recipes, 0))
    assert len(set(made)) == 6
    sources = {case.image: case for case in healthy}
    for path, recipe in zip(made, recipes, strict=True):
        image, source = read_scan(path), read_scan(sources[recipe.healthy.image].image)
        truth = read_truth(next(case for case in find_cases(tmp_path / "set") if case.image == path), image)
        np.testing.assert_array_equal(image.data[~truth], source.data[~truth])
    # What is named apart by its session is called as before.
    assert [path.name for path in made if "h1" in path.name] == [
        f"sub-h1_acq-{label}_desc-brain_T1w.nii.gz" for label in ("lesion001", "control")
    ]
    with pytest.raises(ScanError, match="two images would both be called sub-h1_acq-bulge"):
        list(make_set(tmp_path / "twice", plan_local(find_cases(cohorts[0] / "sub-h1"), ["bulge"] * 2, 1, 0, 0), 0))


def test_the_seed_decides_the_set(cohorts: tuple[Path, Path]):
    healthy, donors = find_cases(cohorts[0]), find_cases(cohorts[1])
    plans = [plan_tumours(healthy, donors, 4, 0, "add", seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_the_seed_decides_the_lesions(cohorts: tuple[Path, Path], tmp_path: Path):
    recipes = plan_doses(find_cases(cohorts[0])[:1], [1.0], [-0.5], 0.1, count=1, controls=0, seed=0)
    images = [read_scan(next(make_set(tmp_path / str(n), recipes, seed))).data for n, seed in enumerate((0, 0, 1))]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def test_too_few_scans_and_unlabelled_donors_are_refused(cohorts: tuple[Path, Path]):
    healthy = find_cases(cohorts[0])
    with pytest.raises(ScanError, match="5 healthy scans are asked for, but only 4"):
        plan_doses(healthy, [1.0], [-0.5], 0.0, count=5, controls=0, seed=0)
    with pytest.raises(ScanError, match="has a label map"):
        plan_tumours(healthy, healthy, 1, 0, "add", 0)
    with pytest.raises(ConfigError, match="unknown local anomalies melt"):
        plan_local(healthy, ["melt"], 1, 0, 0)
