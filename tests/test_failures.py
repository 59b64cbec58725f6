"""A batch never dies for one scan: what fails is told, leaves nothing, and everything else is done."""

import errno
import json
import os
import signal
import time
import warnings
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
from absl import flags
from small_workdir import small_scan, small_workdir

from strega_jax import failures, predict
from strega_jax.errors import CheckpointError, ConfigError, ScanError
from strega_jax.inference import batch
from strega_jax.inference.batch import Settings, detect_all
from strega_jax.inference.jobs import make_jobs
from strega_jax.models import model
from strega_jax.models.opening import open_model
from strega_jax.output import write
from strega_jax.output.files import KINDS, require_apart, result_files
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.files import appearing_in
from strega_jax.tissue import segment

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


def write_brain(path: Path, brighter: int = 0) -> None:
    """A demo brain on a 4 mm grid."""
    path.parent.mkdir(exist_ok=True)
    image = nib.load(small_scan())
    data = np.asanyarray(image.dataobj)[::2, ::2, ::2]
    affine = image.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.where(data > 0, data + brighter, 0).astype(np.int16), affine), path)


def run_predict(folder: Path, *arguments: str) -> int:
    flags.FLAGS(
        ["predict", f"--checkpoint={small_workdir()}", f"--input={folder / 'in'}", f"--output={folder / 'out'}",
         "--nopages", "--nooverwrite", *arguments]
    )  # fmt: skip
    return predict.main()


def result_of(folder: Path, name: str) -> set[str]:
    return {path.name for path in (folder / "out").iterdir() if path.name.startswith(f"{name}_T1w")}


WHOLE = {kind.ending for name, kind in KINDS.items() if kind.always or name == "page"}


def test_bad_scans_are_told_in_a_line_each_and_every_good_one_is_done(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in ("blocked", "drawn", "good1", "good2", "greedy"):
        write_brain(tmp_path / "in" / f"{name}_T1w.nii.gz")
    scan = (tmp_path / "in" / "good1_T1w.nii.gz").read_bytes()
    (tmp_path / "in" / "cut_T1w.nii.gz").write_bytes(scan[: len(scan) // 2])
    (tmp_path / "in" / "text_T1w.nii.gz").write_text("patient 7, see the other folder\n")
    # This one has a result, of the scan as it was before.
    assert run_predict(tmp_path, f"--input={tmp_path / 'in' / 'drawn_T1w.nii.gz'}", "--pages") == 0
    assert result_of(tmp_path, "drawn") == {f"drawn_T1w{ending}" for ending in WHOLE}
    write_brain(tmp_path / "in" / "drawn_T1w.nii.gz", brighter=1)
    (tmp_path / "out" / "blocked_T1w_mask.nii.gz").mkdir()
    draw, measure = batch.write_page, batch.measure

    def write_page(path, detection, summary):
        if path.name.startswith("drawn"):
            raise ZeroDivisionError("a scale\nof nothing")
        draw(path, detection, summary)

    def hungry(detection):
        if detection.scan.path.name.startswith("greedy"):
            raise MemoryError
        return measure(detection)

    monkeypatch.setattr(batch, "write_page", write_page)
    monkeypatch.setattr(batch, "measure", hungry)
    capsys.readouterr()
    assert run_predict(tmp_path, "--pages") == 1
    shown = capsys.readouterr().out.splitlines()
    assert any("2 scans done, 5 failed" in line for line in shown)
    told = dict(line.removeprefix("  failed: ").split(": ", 1) for line in shown if line.startswith("  failed: "))
    told = {Path(file).name.removesuffix("_T1w.nii.gz"): text for file, text in told.items()}
    assert set(told) == {"blocked", "cut", "drawn", "greedy", "text"}
    assert "Is a directory" in told["blocked"]
    assert "move it" in told["blocked"]
    assert "copy it again" in told["cut"]
    assert "not a readable NIfTI file" in told["text"]
    assert "not enough memory" in told["greedy"]
    assert "an unforeseen ZeroDivisionError (a scale of nothing)" in told["drawn"]
    assert told["drawn"].endswith(f"its traceback is in {tmp_path / 'out' / failures.LOG}")
    for name in ("good1", "good2"):
        assert result_of(tmp_path, name) == {f"{name}_T1w{ending}" for ending in WHOLE}
    assert {path.name for path in (tmp_path / "out").iterdir()} == (
        result_of(tmp_path, "good1")
        | result_of(tmp_path, "good2")
        | {"blocked_T1w_mask.nii.gz", "group.html", "group.tsv", failures.LOG}
    )
    log = (tmp_path / "out" / failures.LOG).read_text()
    assert log.count("Traceback") == 2  # the page and the memory; what is foreseen has a text that says enough
    assert "in write_page" in log
    assert "in hungry" in log
    assert "drawn" not in (tmp_path / "out" / "group.tsv").read_text()


def test_a_scan_that_the_device_fails_on_is_named_and_the_others_are_done(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_brain(tmp_path / "in" / f"{name}_T1w.nii.gz")
    real, scans = model.score_and_reconstruct, iter("abc")

    def raised(total):
        if total and next(scans) == "b":  # there is nothing in what only gets the program ready
            raise ValueError("nothing that the host foresaw")
        return np.float32(0)

    def on_device(detector, normalisation, variables, raw, key):
        none = jax.pure_callback(raised, jax.ShapeDtypeStruct((), np.float32), raw["images"].sum())
        score, *others = real(detector, normalisation, variables, raw, key)
        return score + none, *others

    monkeypatch.setattr(model, "score_and_reconstruct", on_device)
    monkeypatch.setattr(model, "SCORING_BATCH", 64)  # all slices of a scan in one call
    capsys.readouterr()
    assert run_predict(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "2 scans done, 1 failed" in shown
    assert f"failed: {tmp_path / 'in' / 'b_T1w.nii.gz'}: an unforeseen " in shown
    assert result_of(tmp_path, "b") == set()
    for name in "ac":
        assert result_of(tmp_path, name) == {f"{name}_T1w{ending}" for ending in WHOLE - {".html"}}
    assert "nothing that the host foresaw" in (tmp_path / "out" / failures.LOG).read_text()


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_brain(tmp_path / "in" / f"{name}_T1w.nii.gz")
    real = write.write_volume

    def full(path, volume, like):
        if like.path.name.startswith("b") and "anomalymap" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, volume, like)

    monkeypatch.setattr(write, "write_volume", full)
    with pytest.raises(failures.DiskFullError, match=r"out: No space left on device: make room"):
        run_predict(tmp_path)
    assert "1 scan done, 0 failed, 2 not done" in capsys.readouterr().out
    assert result_of(tmp_path, "b") == set()
    assert not list((tmp_path / "out").glob(".writing-*"))
    monkeypatch.undo()
    assert run_predict(tmp_path) == 0
    assert "3 scans done (" in capsys.readouterr().out


def test_a_setting_that_no_scan_can_be_blamed_for_ends_the_run(opened, tmp_path):
    write_brain(tmp_path / "a_T1w.nii.gz")
    jobs = make_jobs(find_cases(tmp_path), tmp_path / "out")
    mirrored = Settings(opened.model.about.run.postprocess.__class__(threshold="fixed", value=0.5, mirror=1.0))
    with pytest.raises(ConfigError, match="mirror"):
        list(detect_all(jobs, opened, mirrored))
    assert not (tmp_path / "out").exists()


def test_a_result_asked_for_with_another_file_is_made_again_and_keeps_none_of_the_old(opened, tmp_path):
    write_brain(tmp_path / "a_T1w.nii.gz")
    jobs = make_jobs(find_cases(tmp_path), tmp_path / "out")
    postprocess = opened.model.about.run.postprocess

    def names_after(**settings) -> set[str]:
        (done,) = detect_all(jobs, opened, Settings(postprocess, **settings))
        assert done.error is None
        return {path.name.removeprefix("a_T1w") for path in (tmp_path / "out").iterdir()} | {f"skip {done.skipped}"}

    plain = {kind.ending for kind in KINDS.values() if kind.always}
    assert names_after(pages=False) == plain | {"skip False"}
    assert names_after(pages=False) == plain | {"skip True"}
    assert names_after(samples=2) == plain | {".html", "_desc-uncertainty.nii.gz", "skip False"}
    assert names_after(pages=False) == plain | {"skip False"}


def test_regions_of_a_t1ce_scan_belong_to_its_result_and_hold_its_mask(opened, tmp_path):
    write_brain(tmp_path / "in" / "a_T1ce.nii.gz")
    (job,) = make_jobs(find_cases(tmp_path / "in"), tmp_path / "out")
    settings = Settings(opened.model.about.run.postprocess, pages=False, sidecars=True)
    for missing in (False, True):
        (done,) = detect_all([job], opened, settings)
        assert (done.error, done.skipped) == (None, False)
        mask, regions = (np.asarray(nib.load(path).dataobj) for path in (job.paths.mask, job.paths.regions))
        assert regions.dtype == np.uint8
        assert mask.any()
        np.testing.assert_array_equal(regions > 0, mask > 0)
        said = json.loads(job.paths.boxes.read_text())
        assert said["enhancing_ml"] == pytest.approx((regions == 2).sum() * 4**3 / 1000)
        assert (
            "2 the part of it that takes up" in json.loads(job.paths.sidecars()["regions"].read_text())["Description"]
        )
        (again,) = detect_all([job], opened, settings)
        assert again.skipped
        if not missing:
            job.paths.regions.unlink()


def test_a_dicom_segmentation_asked_for_later_is_written(opened, tmp_path):
    pytest.importorskip("pydicom", reason="no pydicom: DICOM was NOT checked")
    pytest.importorskip("highdicom", reason="no highdicom: DICOM SEG was NOT checked")
    from test_dicom import write_dicom

    write_brain(tmp_path / "brain.nii.gz")
    image = nib.load(tmp_path / "brain.nii.gz")
    volume = np.asanyarray(image.dataobj).astype(int)
    write_dicom(tmp_path / "in" / "T1", volume, image.affine, RescaleSlope=1.0, RescaleIntercept=0.0,
                PatientName="Nobody^N")  # fmt: skip
    cases = find_cases(tmp_path / "in")
    settings = Settings(opened.model.about.run.postprocess, pages=False)
    for segmentation, wanted in ((False, False), (True, False), (True, True)):
        (job,) = make_jobs(cases, tmp_path / "out", segmentation=segmentation)
        (done,) = detect_all([job], opened, settings)
        assert (done.error, done.skipped) == (None, wanted)
        assert job.paths.segmentation.is_file() == segmentation


def test_a_brain_cut_out_by_a_mask_is_kept_beside_the_result(opened, tmp_path):
    write_brain(tmp_path / "a_T1w.nii.gz")
    image = nib.load(tmp_path / "a_T1w.nii.gz")
    inside = np.asanyarray(image.dataobj) > 0
    inside[:, :, : inside.shape[2] // 8] = False
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), image.affine), tmp_path / "masks" / "a_T1w.nii.gz")
    (job,) = make_jobs(find_cases(tmp_path / "a_T1w.nii.gz"), tmp_path / "out", brain=tmp_path / "masks")
    (done,) = detect_all([job], opened, Settings(opened.model.about.run.postprocess, pages=False))
    assert done.error is None
    np.testing.assert_array_equal(np.asanyarray(nib.load(job.paths.brain_mask).dataobj) > 0, inside)
    assert job.paths.brain_mask.name in json.loads(job.paths.boxes.read_text())["files"]


def test_results_never_replace_files_of_the_input(tmp_path):
    files = result_files(tmp_path, "a_T1w")
    files.mask.write_bytes(b"an expert's")
    with pytest.raises(ConfigError, match=r"would replace a_T1w_mask\.nii\.gz"):
        require_apart([files], [tmp_path / "a_T1w.nii.gz", files.mask])
    files.remove()
    assert files.mask.exists()
    # A result of an earlier run says that the mask is its own.
    files.boxes.write_text(json.dumps({"slice_boxes": [], "files": [files.mask.name, "../elsewhere"]}))
    require_apart([files], [files.mask])
    (tmp_path.parent / "elsewhere").touch()
    files.remove()
    assert list(tmp_path.iterdir()) == []
    assert (tmp_path.parent / "elsewhere").exists()


def test_files_that_appear_together_appear_whole_or_not_at_all(tmp_path):
    with appearing_in(tmp_path / "out", last="b") as folder:
        for name in "cba":
            (folder / name).write_text("new")
    times = {path.name: path.stat().st_ctime_ns for path in (tmp_path / "out").iterdir()}
    assert max(times, key=lambda name: times[name]) == "b"
    (tmp_path / "other" / "b").mkdir(parents=True)

    def write_other():
        with appearing_in(tmp_path / "other", last="b") as folder:
            for name in "cba":
                (folder / name).write_text("new")

    with pytest.raises(OSError, match="directory"):
        write_other()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (ScanError("x"), False),
        (ValueError("x"), False),
        (OSError(errno.EIO, "x"), False),
        (OSError("cannot write mode F as JPEG"), False),
        (MemoryError(), False),
        (ConfigError("x"), True),
        (CheckpointError("x"), True),
        (KeyboardInterrupt(), True),
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
    ],
)
def test_only_what_no_scan_can_be_blamed_for_ends_a_run(error, ends, tmp_path):
    assert (failures.run_error(error) is not None) == ends
    wrapped = ScanError("no SEG can be made of it")
    wrapped.__cause__ = error
    assert (failures.run_error(wrapped) is not None) == (isinstance(error, OSError) and ends)
    if not ends:
        message = failures.Failures(tmp_path).add("scans/a.nii.gz", error)
        assert message.startswith("scans/a.nii.gz: ")
        assert "\n" not in message
        assert (tmp_path / failures.LOG).exists() == ("traceback" in message)


@pytest.mark.parametrize("use", ["model", "segmentation", "opening"])
def test_a_process_forked_after_jax_had_computed_says_so_and_does_not_hang(opened, use):
    model = opened.model
    image = np.zeros((1, *model.about.image_shape), np.float32)
    model.score(image, np.zeros(1, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of the fork
        child = os.fork()
    if child == 0:
        code = 1
        try:
            if use == "model":
                model.score(image, np.zeros(1, np.float32))
            elif use == "segmentation":
                segment(np.ones((9, 9, 9), np.float32), (1.0, 1.0, 1.0))
            else:
                open_model(small_workdir())
        except ConfigError as error:
            code = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the forked process hangs")
    assert os.waitstatus_to_exitcode(ended[1]) == 0
