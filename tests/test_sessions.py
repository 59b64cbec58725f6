"""Sessions: the contrasts of a subject and date are fused, however some of them fail, and only when need be."""

import dataclasses
import logging

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

from strega_jax import detect_session
from strega_jax.inference.batch import Settings
from strega_jax.inference.jobs import make_jobs
from strega_jax.inference.sessions import detect_sessions, group_sessions, is_fused
from strega_jax.models.opening import open_model
from strega_jax.output.group import write_group
from strega_jax.scans.cohorts import find_cases

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


def fill(folder, *names):
    for name in names:
        path = folder / name.split("_")[0] / "anat" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_scan().read_bytes())
    return folder


def settings_of(opened, **changed):
    return Settings(opened.model.about.run.postprocess, **{"pages": False} | changed)


def do(source, output, opened, **settings):
    jobs = make_jobs(find_cases(source), output)
    made = settings_of(opened, **settings)
    return {one.name: one for one in detect_sessions(jobs, group_sessions(jobs), opened, made)}


def test_two_contrasts_give_one_answer_more_on_their_grid(opened, tmp_path):
    source = fill(tmp_path / "in", "sub-1_T1w", "sub-1_T1ce", "sub-2_T1w")
    done = do(source, tmp_path / "out", opened, pages=True)
    assert set(done) == {"sub-1_T1w", "sub-1_T1ce", "sub-1", "sub-2_T1w"}
    assert all(one.error is None and one.part is None for one in done.values())
    fused = done["sub-1"]
    assert fused.fused
    assert fused.paths.mask.name == "sub-1_desc-fused_mask.nii.gz"
    written = nib.load(fused.paths.anomaly_map)
    np.testing.assert_allclose(written.affine, nib.load(small_scan()).affine)
    # Both are one image, so that their mean is each of them.
    np.testing.assert_allclose(
        written.get_fdata(), nib.load(done["sub-1_T1ce"].paths.anomaly_map).get_fdata(), rtol=1e-5
    )
    record = fused.paths.read()
    assert set(record["fused"]["contrasts"]) == {"T1w", "T1ce"}
    assert record["anomaly_ml"] == pytest.approx(fused.anomaly_ml)
    assert "sub-1_T1ce.html" in fused.paths.page.read_text()
    assert write_group(tmp_path / "out") == 4
    assert "sub-1_desc-fused.html" in (tmp_path / "out" / "group.html").read_text()


def test_the_api_finds_what_the_command_writes(opened, tmp_path):
    source = fill(tmp_path / "in", "sub-1_T1w", "sub-1_T1ce")
    done = do(source, tmp_path / "out", opened)
    paths = {c: source / "sub-1" / "anat" / f"sub-1_{c}.nii.gz" for c in ("T1w", "T1ce")}
    found = detect_session(paths, opened)
    np.testing.assert_array_equal(found.mask, nib.load(done["sub-1"].paths.mask).get_fdata() > 0)
    np.testing.assert_array_equal(found.contrasts["T1ce"].mask, nib.load(done["sub-1_T1ce"].paths.mask).get_fdata() > 0)
    assert found.weights == {"T1w": 1.0, "T1ce": 1.0}
    assert found.anomaly_ml == pytest.approx(done["sub-1"].anomaly_ml)


def test_a_second_run_skips_and_a_new_contrast_is_taken_in(opened, tmp_path):
    source, output = fill(tmp_path / "in", "sub-1_T1w", "sub-1_T1ce"), tmp_path / "out"
    first = do(source, output, opened)
    before = first["sub-1"].paths.mask.read_bytes()
    assert all(one.skipped for one in do(source, output, opened).values())
    (session,) = group_sessions(make_jobs(find_cases(source), output))
    assert is_fused(session, opened, settings_of(opened))
    assert not is_fused(session, opened, settings_of(opened, samples=2))
    session.paths.mask.unlink()
    assert not is_fused(session, opened, settings_of(opened))
    session.paths.mask.write_bytes(before)
    fill(source, "sub-1_FLAIR")
    (source / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz").write_text("no image")
    again = do(source, output, opened)
    assert again["sub-1_FLAIR"].error is not None
    assert again["sub-1"].skipped  # the failed scan changes nothing
    fill(source, "sub-1_T2w")
    (source / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz").unlink()
    third = do(source, output, opened)
    assert third["sub-1_T1w"].skipped
    if third["sub-1_T2w"].error is None:
        assert not third["sub-1"].skipped
    assert first["sub-1"].paths.mask.read_bytes() == before or not third["sub-1"].skipped


def test_a_contrast_that_fails_is_left_out_and_said(opened, tmp_path, caplog):
    source = fill(tmp_path / "in", "sub-1_T1w", "sub-1_T1ce", "sub-1_T2w", "sub-3_T1w", "sub-3_FLAIR")
    for name in ("sub-1/anat/sub-1_T2w", "sub-3/anat/sub-3_FLAIR"):
        (source / f"{name}.nii.gz").write_text("no image")
    with caplog.at_level(logging.WARNING):
        done = do(source, tmp_path / "out", opened)
    assert "sub-3" not in done
    assert "sub-3: not fused" in caplog.text
    (warning,) = done["sub-1"].warnings
    assert warning.check == "left out"
    assert "sub-1_T2w" in warning.reason
    assert done["sub-1"].paths.read()["quality_control"] == [dataclasses.asdict(warning)]


def test_scans_of_no_known_contrast_or_other_dates_are_not_fused(tmp_path):
    source = fill(tmp_path / "in", "sub-1_ses-a_T1w", "sub-1_ses-b_T1ce", "sub-1_ses-b_acq-2_T1ce")
    jobs = make_jobs(find_cases(source), tmp_path / "out")
    assert group_sessions(jobs) == []
    assert group_sessions([dataclasses.replace(job, contrast="", session="x") for job in jobs]) == []


def test_subjects_of_two_cohorts_who_share_a_label_are_two_patients(tmp_path):
    for cohort, contrast in (("a", "T1w"), ("a", "T1ce"), ("b", "T1w"), ("b", "FLAIR")):
        fill(tmp_path / cohort, f"sub-1_{contrast}")
    sessions = group_sessions(make_jobs(find_cases(tmp_path), tmp_path / "out"))
    assert {one.name: {job.contrast for job in one.jobs} for one in sessions} == {
        "a_sub-1": {"T1w", "T1ce"},
        "b_sub-1": {"T1w", "FLAIR"},
    }
