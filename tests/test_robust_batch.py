"""A batch survives whatever one of its scans does; output that nobody reads stops nothing."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

import strega_jax
from strega_jax.errors import CheckpointError, ConfigError, ScanError
from strega_jax.failures import LOG, DiskFullError, Failures, run_error, told
from strega_jax.inference import batch
from strega_jax.inference.batch import Settings, detect_all, is_complete
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.opening import open_model
from strega_jax.output import write
from strega_jax.pipeline import staged
from strega_jax.scans.cohorts import find_cases

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
ROOT = Path(strega_jax.__file__).parents[1]


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(small_scan().read_bytes())


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "strega_jax.predict", f"--checkpoint={small_workdir()}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, **options)


def test_one_scan_never_ends_a_batch(opened, tmp_path, monkeypatch):
    source, output = tmp_path / "in", tmp_path / "out"
    fill(source, "a_T1w.nii.gz", "b_T1w.nii.gz", "c_T1w.nii.gz", "page_T1w.nii.gz")
    (source / "alien_T1w.nii.gz").write_text("no image at all")
    (source / "damaged_T1w.nii.gz").write_bytes(small_scan().read_bytes()[:5000])
    (output / "b_T1w_mask.nii.gz" / "in the way").mkdir(parents=True)
    draw = batch.write_page

    def fails_for_one(path, detection, summary):
        if "page" in path.name:
            raise ValueError("a page that cannot be drawn")
        draw(path, detection, summary)

    monkeypatch.setattr(batch, "write_page", fails_for_one)
    settings = Settings(opened.model.about.run.postprocess)
    failures = Failures(output)
    jobs = make_jobs(find_cases(source), output)
    done = {one.name: one for one in detect_all(jobs, opened, settings)}
    assert {name for name, one in done.items() if one.error is None} == {"a_T1w", "c_T1w"}
    for name in ("alien_T1w", "damaged_T1w", "b_T1w", "page_T1w"):
        message = failures.add(done[name].source, done[name].error)
        assert name in message
        assert "\n" not in message
    for job in jobs:
        files = [path for path in output.glob(f"{job.name}*") if path.is_file()]
        assert bool(files) == is_complete(job, opened, settings) == (job.name in ("a_T1w", "c_T1w"))
    assert "unforeseen ValueError" in failures.messages[-1]
    log = (output / LOG).read_text()
    assert "a page that cannot be drawn" in log
    assert log.count("Traceback") == 1


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(opened, tmp_path, monkeypatch):
    fill(tmp_path / "in", "a_T1w.nii.gz", "b_T1w.nii.gz")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    jobs = make_jobs(find_cases(tmp_path / "in"), tmp_path / "out")
    settings = Settings(opened.model.about.run.postprocess, pages=False)
    monkeypatch.setattr(write, "write_volume", full)
    with pytest.raises(DiskFullError, match="No space left"):
        list(detect_all(jobs, opened, settings))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_ends_a_run_is_no_scans_fault():
    for error in (ConfigError("x"), CheckpointError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        assert run_error(error) is not None
    for error in (ScanError("x"), ValueError("x"), PermissionError(errno.EACCES, "no")):
        assert run_error(error) is None


def test_a_told_error_names_its_scan_once():
    assert told("/a/b.nii", ScanError("/a/b.nii: cut")) == "/a/b.nii: cut"
    assert told("/a/b.nii", ScanError("cut")) == "/a/b.nii: cut"


def test_stages_raise_what_their_source_raises_and_end_when_left():
    def items():
        yield 1
        raise RuntimeError("no more")

    results = staged(items(), (lambda value: value,))
    assert next(results)[0] == 1
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    stages = staged(range(100), (lambda value: value, lambda value: value))
    next(stages)
    stages.close()


def test_thick_slices_with_flat_marks_are_drawn(opened, tmp_path):
    image = nib.load(small_scan())
    data = np.asanyarray(image.dataobj)[:, :, ::3]
    nib.save(nib.Nifti1Image(data, image.affine @ np.diag([1, 1, 3, 1])), tmp_path / "thick_T1w.nii.gz")
    settings = Settings(opened.model.about.run.postprocess)
    (done,) = detect_all(make_jobs(find_cases(tmp_path), tmp_path / "out"), opened, settings)
    assert done.error is None
    from strega_jax.output.pictures import grey, slice_picture

    detection = _detection(opened, tmp_path / "thick_T1w.nii.gz")
    detection.mask[:] = False
    x, y, z = (n // 2 for n in detection.mask.shape)
    detection.mask[x : x + 9, y, z] = True
    detection.mask[x, y : y + 9, z + 1] = True
    assert slice_picture(detection, grey(detection.scan.data, detection.slices.brain)).size[0] > 0


def _detection(opened, path):
    from strega_jax.detection.detect import detect_scan
    from strega_jax.scans.source import open_scan

    return detect_scan(opened.model, open_scan(path), opened.model.about.run.postprocess, opened.calibration)


def test_a_reader_that_leaves_and_a_closed_stderr_stop_nothing(tmp_path):
    fill(tmp_path / "in", "a_T1w.nii.gz", "b_T1w.nii.gz")
    command = (
        f"{sys.executable} -m strega_jax.predict --checkpoint={small_workdir()} --input={tmp_path / 'in'} "
        f"--output={tmp_path / 'out'} --no-pages"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} 2>&1 | head -1"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in piped.stdout + piped.stderr
    assert piped.returncode == 0
    assert len(list((tmp_path / "out").glob("*_boxes.json"))) == 2
    closed = subprocess.run(
        ["bash", "-c", f"{command} --overwrite 2>&-"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert closed.returncode == 0
    assert "2 scans done" in closed.stdout


def test_an_interrupt_is_one_line_and_leaves_nothing_partial(tmp_path):
    fill(tmp_path / "in", *(f"{name}_T1w.nii.gz" for name in "abcdefgh"))
    line = [sys.executable, "-m", "strega_jax.predict", f"--checkpoint={small_workdir()}", f"--input={tmp_path / 'in'}",
            f"--output={tmp_path / 'out'}"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*_boxes.json")) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    assert not list((tmp_path / "out").rglob(".writing-*"))


def test_a_process_that_was_forked_is_told_to_be_spawned(opened, tmp_path):
    script = tmp_path / "fork.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "import strega_jax\n"
        "from strega_jax.models.opening import open_model\n"
        f"opened = open_model({str(small_workdir())!r})\n"
        "def one(path):\n"
        "    try:\n"
        "        return strega_jax.detect(path, opened).anomaly_ml\n"
        "    except Exception as error:\n"
        "        return str(error)\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        f"        print(pool.map(one, [{str(small_scan())!r}] * 2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.count("spawn") == 2, done.stdout + done.stderr


def test_every_command_tells_its_version(capsys):
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("strega-jax ")
    logging.getLogger("strega_jax")
