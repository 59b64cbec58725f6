"""The tool `python -m strega_jax.segment`: its files, BIDS derivatives, and a batch with a bad scan."""

import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from nilearn import datasets


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two small brains in BIDS folders, stored in two orientations, and one that is not brain-extracted."""
    folder = tmp_path_factory.mktemp("study")
    image = datasets.load_mni152_template(resolution=4)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=4).dataobj) > 0
    data = np.where(brain, 1000 * np.asarray(image.dataobj), 0).astype(np.float32)
    brain_image = nib.Nifti1Image(np.pad(data, 2), image.affine)
    lps = brain_image.as_reoriented(nib.orientations.axcodes2ornt(("L", "P", "S")))
    head = nib.Nifti1Image((data + np.random.default_rng(0).random(data.shape) * 50).astype(np.float32), image.affine)
    for name, scan in (("sub-01", brain_image), ("sub-02", lps), ("sub-03", head)):
        (folder / name / "anat").mkdir(parents=True)
        nib.save(scan, folder / name / "anat" / f"{name}_T1w.nii.gz")
    return folder


def _run(*arguments):
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    return subprocess.run(
        [sys.executable, "-m", "strega_jax.segment", *arguments], capture_output=True, text=True, env=environment
    )


def test_batch_goes_on_past_a_bad_scan(study, tmp_path):
    shutil.copytree(study, tmp_path / "in", ignore=shutil.ignore_patterns("sub-03"))
    damaged = tmp_path / "in" / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes((study / "sub-01" / "anat" / "sub-01_T1w.nii.gz").read_bytes()[:2000])
    tmp_path = tmp_path / "out"
    done = _run(f"--input={tmp_path.parent / 'in'}", f"--output={tmp_path}")
    assert done.returncode == 1, done.stderr
    assert "2 segmented, 1 failed" in done.stdout
    assert "sub-03_T1w.nii.gz: " in done.stdout
    assert "Traceback" not in done.stderr
    names = ["seg", "pveseg", "mixeltype", "pve_0", "pve_1", "pve_2", "bias", "restore"]
    volumes = []
    for subject in ("sub-01", "sub-02"):
        source = study / subject / "anat" / f"{subject}_T1w.nii.gz"
        out = tmp_path / subject / "anat"
        assert sorted(p.name for p in out.iterdir()) == sorted(
            [f"{subject}_T1w_{name}.nii.gz" for name in names] + [f"{subject}_T1w_check.png"]
        )
        assert (out / f"{subject}_T1w_check.png").read_bytes().startswith(b"\x89PNG")
        seg = nib.load(out / f"{subject}_T1w_seg.nii.gz")
        np.testing.assert_allclose(seg.affine, nib.load(source).affine)
        assert ((np.asarray(seg.dataobj) > 0) == (np.asarray(nib.load(source).dataobj) > 0)).all()
        volumes.append(np.asarray(nib.as_closest_canonical(seg).dataobj))
    np.testing.assert_array_equal(*volumes)
    earlier = tmp_path / "sub-02" / "anat"
    (earlier / "sub-02_T1w_note.nii.gz").write_text("none of ours")
    scan = tmp_path.parent / "in" / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    scan.write_bytes(scan.read_bytes()[:2000])
    again = _run(f"--input={tmp_path.parent / 'in'}", f"--output={tmp_path}", "--shard=2/3")
    assert "0 segmented, 1 failed" in again.stdout
    assert [path.name for path in earlier.iterdir()] == ["sub-02_T1w_note.nii.gz"]
    assert len(list((tmp_path / "sub-01" / "anat").iterdir())) == len(names) + 1


def test_two_contrasts_of_one_session_are_no_one_derivative(study, tmp_path):
    anat = tmp_path / "in" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for contrast in ("T1w", "T2w"):
        shutil.copy(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz", anat / f"sub-01_{contrast}.nii.gz")
    done = _run(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--bids")
    assert done.returncode == 1
    assert "sub-01_T1w.nii.gz and sub-01_T2w.nii.gz would both be written as sub-01_dseg" in done.stderr


def test_bids_derivatives(study, tmp_path):
    done = _run(f"--input={study / 'sub-01'}", f"--output={tmp_path}", "--bids", "--preset=robust")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    (dseg_path,) = tmp_path.rglob("sub-01_dseg.nii.gz")
    dseg = np.asarray(nib.load(dseg_path).dataobj)
    sidecar = json.loads(dseg_path.with_name("sub-01_dseg.json").read_text())
    assert sidecar["LabelMap"] == {"GM": 1, "WM": 2, "CSF": 3}
    image = np.asarray(nib.load(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz").dataobj)
    csf, gm, wm = (image[dseg == label].mean() for label in (3, 1, 2))
    assert csf < gm < wm
    fractions = [
        np.asarray(nib.load(dseg_path.with_name(f"sub-01_label-{t}_probseg.nii.gz")).dataobj)
        for t in ("CSF", "GM", "WM")
    ]
    np.testing.assert_allclose(np.sum(fractions, axis=0), dseg > 0, atol=1e-5)


def test_bids_does_not_name_tissues_where_classes_are_brightness(study, tmp_path):
    scan = study / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    done = _run(f"--input={scan}", f"--output={tmp_path}", "--bids", "--contrast=FLAIR")
    assert done.returncode == 1
    assert "the classes of FLAIR are of brightness; leave --bids out" in done.stdout
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_shares_and_masks(study, tmp_path):
    mask = nib.load(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    inner = (np.asarray(mask.dataobj) > 0)[2:-2, 2:-2, 2:-2].astype(np.uint8)
    head = nib.load(study / "sub-03" / "anat" / "sub-03_T1w.nii.gz")
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(inner, head.affine), tmp_path / "masks" / "sub-03_T1w.nii.gz")
    out = tmp_path / "out"
    done = _run(f"--input={study}", f"--output={out}", f"--brain={tmp_path / 'masks'}", "--shard=3/3", "--n_classes=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [p.name for p in out.iterdir()] == ["sub-03"]
    seg = np.asarray(nib.load(out / "sub-03" / "anat" / "sub-03_T1w_seg.nii.gz").dataobj)
    assert seg.max() == 2
    np.testing.assert_array_equal(seg > 0, inner > 0)
    bad = _run(f"--input={study}", f"--output={out}", "--shard=4/3")
    assert bad.returncode == 1
    assert bad.stderr.strip().endswith("--shard=4/3: i/n is wanted, two numbers with i from 1 to n, e.g. 1/4")
