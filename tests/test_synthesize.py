"""`python -m strega_jax.synthesize` as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_lines import run_lines
from scipy import ndimage

from strega_jax.scans.case import read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import read_scan


def synthesize(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "strega_jax.synthesize", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    radius = np.sqrt((((np.indices((40, 44, 36)).T - (20, 22, 18)) / (17, 19, 15)) ** 2).sum(-1)).T
    folder = tmp_path / "healthy"
    rng = np.random.default_rng(0)
    for n in range(3):
        (folder / f"sub-{n}").mkdir(parents=True)
        data = np.where(radius < 1, 600 + 60 * rng.normal(size=radius.shape), 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2, 2, 1])), folder / f"sub-{n}" / f"sub-{n}_T1w.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tsplit\nsub-0\ttrain\nsub-1\tdev\nsub-2\tdev\n")
    return folder


def test_lesions_are_made_for_the_held_out_subjects_only_and_again_for_nothing(healthy: Path, tmp_path: Path):
    arguments = (f"--healthy={healthy}", "--kind=lesion", "--split=dev", "--sizes_ml=1,3", "--contrasts=-0.5",
                 "--controls=1", f"--output={tmp_path / 'set'}")  # fmt: skip
    done = synthesize(*arguments)
    assert done.returncode == 0, done.stderr
    assert "4 images with an anomaly, 1 controls" in done.stdout
    cases = find_cases(tmp_path / "set")
    assert {case.subject for case in cases} == {"sub-1", "sub-2"}
    sizes = sorted(read_truth(case, read_scan(case.image)).sum() for case in cases)
    assert sizes == [0, 125, 125, 375, 375]
    times = [case.image.stat().st_mtime_ns for case in cases]
    assert synthesize(*arguments).returncode == 0
    assert [case.image.stat().st_mtime_ns for case in cases] == times


def test_spots_are_small_lesions_in_every_scan(healthy: Path, tmp_path: Path):
    done = synthesize(f"--healthy={healthy}", "--kind=spots", "--split=dev", f"--output={tmp_path / 'set'}")
    assert "2 images with an anomaly, 0 controls" in done.stdout, done.stderr
    for case in find_cases(tmp_path / "set"):
        spots, before = read_truth(case, read_scan(case.image)), healthy / case.subject / f"{case.subject}_T1w.nii.gz"
        _, count = ndimage.label(spots, np.ones((3, 3, 3)))
        assert 6 <= count <= 12  # some of the twelve may touch
        assert 12 * 0.05 < spots.sum() * 0.008 < 12
        changed = read_scan(case.image).data - read_scan(before).data
        assert not changed[~spots].any()
        assert changed[spots].mean() < -50  # dark in T1w


MISTAKES = [
    (["--kind=tumour"], "error: --kind=tumour needs --donors"),
    (["--kind=lesion", "--sizes_ml=big"], "error: --sizes_ml must be numbers"),
    (["--kind=lesion", "--split=test"], "no healthy scan in the split test"),
    (["--kind=local", "--count=9"], "error: 9 healthy scans are asked for, but only 3"),
]


def test_what_cannot_be_done_is_told_in_one_line_and_help_teaches(healthy: Path, tmp_path: Path):
    lines = [[f"--healthy={healthy}", f"--output={tmp_path / 'set'}", *arguments] for arguments, _ in MISTAKES]
    *failed, done = run_lines("synthesize", [*lines, ["--help"]], tmp_path)
    for one, (_, message) in zip(failed, MISTAKES, strict=True):
        assert one.returncode == 1
        assert message in one.stderr
        assert "Traceback" not in one.stderr
    assert not (tmp_path / "set").exists()
    assert "tumours cut from labelled cases" in done.stdout
    assert "--donors" in done.stdout
