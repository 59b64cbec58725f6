"""The command line, as a user meets it: prepare, train, evaluate, predict, and what they say of bad input."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_lines import run_lines

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")

CONFIG = Path(__file__).parent / "tiny_config.py"


def strega(module: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"strega_jax.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    done = strega("train", f"--config={CONFIG}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-3000:]
    (workdir / "stdout.txt").write_text(done.stdout)
    return workdir


def scan_of(workdir: Path) -> Path:
    return next((workdir / "planted").rglob("*_T1w.nii.gz"))


def test_one_command_prepares_trains_and_evaluates(trained):
    rows = json.loads((trained / "evaluation" / "results.json").read_text())["rows"]
    methods = {row["method"] for row in rows}
    assert {"cce_vae", "tissue class CSF", "intensity threshold"} <= methods
    own = [row for row in rows if row["method"] == "cce_vae"]
    assert sorted(row["reference_ml"] > 0 for row in own) == [False, True]
    shown = (trained / "stdout.txt").read_text()
    for name in ("results.csv", "report.html", "table.tex", "figures/stages_planted_T1w.png"):
        assert (trained / "evaluation" / name).stat().st_size > 0
    assert "dice" in shown
    assert str(trained / "evaluation" / "masks") in shown
    mask = nib.load(next((trained / "evaluation" / "masks").glob("*_mask.nii.gz")))
    scan = nib.load(scan_of(trained))
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)


def test_evaluate_alone_trains_nothing(trained):
    before = (trained / "metrics.jsonl").read_text()
    done = strega("train", f"--config={CONFIG}", f"--workdir={trained}", "--evaluate")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (trained / "metrics.jsonl").read_text() == before


def test_any_orientation_gives_the_same_mask_in_world_space(trained, tmp_path):
    image = nib.load(scan_of(trained))
    scans = tmp_path / "scans"
    scans.mkdir()
    nib.save(image, scans / "a_T1w.nii.gz")
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "L")))
    nib.save(nib.Nifti1Image(np.asanyarray(turned.dataobj).astype(np.float32), turned.affine), scans / "b_T1w.nii.gz")
    done = strega("predict", f"--checkpoint={trained}", f"--input={scans}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr[-3000:]
    one = nib.load(tmp_path / "out" / "a_T1w_mask.nii.gz")
    two = nib.load(tmp_path / "out" / "b_T1w_mask.nii.gz")
    assert two.shape == turned.shape
    np.testing.assert_allclose(two.affine, turned.affine)
    back = nib.as_closest_canonical(two)
    np.testing.assert_array_equal(np.asanyarray(nib.as_closest_canonical(one).dataobj), np.asanyarray(back.dataobj))
    boxes = json.loads((tmp_path / "out" / "a_T1w_boxes.json").read_text())
    marked_ml = np.count_nonzero(one.dataobj) * 0.008
    assert boxes["anomaly_ml"] == pytest.approx(marked_ml)
    assert sum(component["volume_ml"] for component in boxes["components"]) == pytest.approx(marked_ml)


def test_bad_scans_are_named_and_the_good_one_is_done(trained, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    good = scan_of(trained).read_bytes()
    image = nib.load(scan_of(trained))
    data = np.asanyarray(image.dataobj).astype(np.float32)
    (scans / "good_T1w.nii.gz").write_bytes(good)
    (scans / "truncated_T1w.nii.gz").write_bytes(good[: len(good) // 2])
    (scans / "text_T1w.nii.gz").write_bytes(gzip.compress(b"not an image"))
    broken = {
        "zeros": np.zeros_like(data),
        "nan": np.where(data > 500, np.nan, data),
        "series": np.stack([data] * 2, -1),
    }
    for name, content in broken.items():
        nib.save(nib.Nifti1Image(content, image.affine), scans / f"{name}_T1w.nii.gz")
    done = strega("predict", f"--checkpoint={trained}", f"--input={scans}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 scan done, 5 failed" in done.stdout
    for name in ("truncated", "text", *broken):
        assert f"{name}_T1w.nii.gz: " in done.stdout
    written = [path.name for path in (tmp_path / "out").rglob("*")]
    assert {"good_T1w_boxes.json", "good_T1w_desc-anomalymap.nii.gz", "good_T1w_mask.nii.gz"} <= set(written)
    assert not [name for name in written if name.startswith(("truncated", "text", *broken))]


def test_prepare_skips_what_is_done_and_prepares_what_changed(trained, tmp_path):
    cohort, store = trained / "demo_cohort", tmp_path / "store"
    arguments = (f"--input={cohort}", f"--output={store}", f"--config={CONFIG}")
    first = strega("prepare", *arguments)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "6 prepared, 0 up to date, 0 failed" in first.stdout
    manifest = (store / "manifest.json").read_bytes()
    again = strega("prepare", *arguments)
    assert "0 prepared, 6 up to date, 0 failed" in again.stdout
    assert (store / "manifest.json").read_bytes() == manifest
    coarser = strega("prepare", *arguments, "--config.preprocess.size=16")
    assert "6 prepared, 0 up to date, 0 failed" in coarser.stdout


MISTAKES = {
    "train": [
        ((f"--config={CONFIG}", "--config.training.batchsize=3"), "batchsize"),
        ((f"--config={CONFIG}", "--config.training.batch_size=0"), "training.batch_size"),
        ((f"--config={CONFIG}", "--evaluate", "--workdir=nowhere"), "nowhere: no such checkpoint"),
        ((f"--config={CONFIG}", "--workdir=a", "--checkpoint=b"), "add --evaluate"),
        ((f"--config={CONFIG}", "--workdir=gs://bucket/run"), "slices and the demo's scans must lie on a disk"),
        ((f"--config={CONFIG}", "--evaluate", "--workdir=gs://bucket/run"), "evaluation writes into a folder"),
    ],
    "predict": [
        (("--checkpoint=nowhere", "--input=.", "--output=out"), "nowhere: no such checkpoint"),
        (("--input=x", "--output=y", "--checkpoint=nowhere"), "nowhere: no such checkpoint"),
        (("--checkpoint=x", "--input=y"), "--input and --output"),
        (("in", "out", "nobody", "--checkpoint=x"), "unexpected argument"),
        (("in", "out_that_is_not_there", "group"), "no results in it"),
    ],
    "prepare": [(("--input=nowhere", "--output=out"), "nowhere: no such file or folder")],
}


@pytest.mark.parametrize("module", MISTAKES)
def test_mistakes_are_told_in_a_line(module, tmp_path):
    lines, messages = zip(*MISTAKES[module], strict=True)
    for done, message in zip(run_lines(module, lines, tmp_path), messages, strict=True):
        assert done.returncode == 1, done
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
