"""Whole heads: told from brains, extracted by what is installed, and judged."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from heads import BRAIN, MM, SHAPE, ellipsoid, head_image, install_methods
from scipy import ndimage

from strega_jax.detection.brain_quality import mask_warnings
from strega_jax.errors import ConfigError, ScanError
from strega_jax.evaluation.metrics import dice
from strega_jax.scans import extraction
from strega_jax.scans.extraction import Method, extract_brain, looks_extracted
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.scans.source import open_scan


def save(path: Path, data: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([-MM, MM, MM, 1])), path)
    return path


@pytest.fixture
def head(tmp_path) -> Path:
    return save(tmp_path / "sub-01_T1w.nii.gz", head_image()[::-1])


@pytest.fixture
def methods(monkeypatch) -> dict[str, Method]:
    return install_methods(monkeypatch)


def test_a_head_is_told_from_a_brain():
    image = head_image()
    assert not looks_extracted(image, (MM,) * 3)
    assert looks_extracted(image * BRAIN, (MM,) * 3)
    assert not looks_extracted(image * ellipsoid(1.3), (MM,) * 3)  # air set to 0: too large for a brain


@pytest.mark.parametrize("asked", ["auto", "known"])
def test_a_whole_head_is_cut_to_the_largest_part_found_without_holes(head, methods, asked):
    scan = open_scan(head, brain=asked)
    np.testing.assert_array_equal(scan.data, np.where(BRAIN, read_scan(head).data, 0))
    assert scan.brain == "known"


def test_a_brain_is_taken_as_it_is_and_asked_for_methods_run_all_the_same(tmp_path, methods):
    path = save(tmp_path / "brain_T1w.nii.gz", (head_image() * ellipsoid(1.05))[::-1])
    scan = open_scan(path)
    assert scan.brain == ""
    np.testing.assert_array_equal(scan.data > 0, ellipsoid(1.05))
    np.testing.assert_array_equal(open_scan(path, brain="known").data > 0, BRAIN)


def test_a_brain_that_the_field_of_view_cuts_off_at_two_faces_keeps_its_edge(tmp_path, methods):
    cut = np.where(ellipsoid(1.05), head_image(), 0)[:, 15:, 15:]
    methods["known"] = Method(lambda: True, lambda scan: BRAIN[:, 15:, 15:])
    scan = open_scan(save(tmp_path / "cut_T1w.nii.gz", cut[::-1]))
    assert not looks_extracted(cut, (MM,) * 3)
    np.testing.assert_array_equal(scan.data, cut)
    assert scan.brain == "given"


def test_without_an_extractor_one_line_says_what_to_install(head, methods):
    with pytest.raises(ConfigError, match=r'absent is not installed: pip install "strega-jax\[heads\]"'):
        open_scan(head, brain="absent")
    del methods["known"], methods["blind"]
    with pytest.raises(ScanError, match=r'does not look brain-extracted.*pip install "strega-jax\[heads\]".*--brain='):
        open_scan(head)


def test_no_brain_found_and_methods_that_do_not_exist_are_told(head, methods):
    with pytest.raises(ScanError, match=r"sub-01_T1w.nii.gz: blind finds no brain"):
        open_scan(head, brain="blind")
    with pytest.raises(ConfigError, match="known: absent, known, blind"):
        extract_brain(read_scan(head), "other")


def test_the_cpu_takes_over_where_the_gpu_is_full(monkeypatch, caplog):
    torch = pytest.importorskip("torch")
    asked = []

    def find(device, scan):
        asked.append(device)
        if device == "cuda":
            raise torch.OutOfMemoryError
        return BRAIN

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(extraction, "_deepbet_on", find)
    monkeypatch.setattr(extraction, "_deepbet_installed", lambda: True)
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    np.testing.assert_array_equal(extract_brain(scan, "deepbet"), BRAIN)
    assert asked == ["cuda", "cpu"]
    assert "too little GPU memory" in caplog.text


def test_deepbet_runs_once_at_a_time(monkeypatch):
    pytest.importorskip("torch")
    running = threading.Semaphore(1)

    def find(device, scan):
        assert running.acquire(blocking=False)
        time.sleep(0.05)
        running.release()
        return BRAIN

    monkeypatch.setattr(extraction, "_deepbet_on", find)
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(extraction._deepbet, [scan] * 3))) == 3


@pytest.mark.skipif(not extraction._deepbet_installed(), reason="deepbet is not installed: extraction DID NOT RUN")
def test_deepbet_finds_the_brain_of_a_head_made_around_the_template():
    datasets = pytest.importorskip("nilearn.datasets", reason="the head is made around nilearn's template")
    image = np.asarray(datasets.load_mni152_template(resolution=2).dataobj, np.float32)
    brain = np.pad(np.asarray(datasets.load_mni152_brain_mask(resolution=2).dataobj) > 0, 10)
    head = np.where(brain, np.pad(image / image.max(), 10), 0)
    distance = np.asarray(ndimage.distance_transform_edt(~brain, sampling=2.0))
    for low, high, level in ((0, 3, 0.2), (3, 8, 0.05), (8, 14, 1.2)):  # fluid, bone, skin
        head[(distance > low) & (distance <= high)] = level
    head = np.abs(head + np.random.default_rng(0).normal(0, 0.02, head.shape)).astype(np.float32)
    found = extract_brain(Scan.from_array(head, np.diag([2.0, 2.0, 2.0, 1.0]), Path("head")), "deepbet")
    assert dice(found, brain) > 0.95


FAKE_HD_BET = """#!{python}
import sys
import nibabel as nib, numpy as np
arguments = sys.argv[1:]
version = {version}
if "-h" in arguments:
    print("--save_bet_mask" if version == 2 else "-mode -tta -s")
    sys.exit()
known = {{1: {{"-i": 1, "-o": 1, "-mode": 1, "-tta": 1, "-s": 1, "-device": 1}},
         2: {{"-i": 1, "-o": 1, "-device": 1, "--save_bet_mask": 0, "--no_bet_image": 0, "--disable_tta": 0}}}}[version]
given = {{}}
while arguments:
    name = arguments.pop(0)
    given[name] = arguments.pop(0) if known[name] else True
if {fails}:
    sys.exit("CUDA out of memory")
image = nib.load(given["-i"])
mask = np.load({mask!r}).astype(np.uint8)
kept = given.get("-s") == "1" if version == 1 else given.get("--save_bet_mask")
if kept:
    stem = given["-o"][: -len(".nii.gz")] + ("_mask" if version == 1 else "_bet")
    nib.save(nib.Nifti1Image(mask, image.affine), stem + ".nii.gz")
"""


def fake_hd_bet(folder: Path, monkeypatch, version: int, fails: bool = False) -> None:
    np.save(folder / "mask.npy", BRAIN)
    script = folder / "hd-bet"
    mask = str(folder / "mask.npy")
    script.write_text(FAKE_HD_BET.format(python=sys.executable, version=version, fails=fails, mask=mask))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_hd_bet_are_called_with_their_own_options(head, tmp_path, monkeypatch, version):
    fake_hd_bet(tmp_path, monkeypatch, version)
    scan = open_scan(head, brain="hd-bet")
    np.testing.assert_array_equal(scan.data > 0, BRAIN)
    assert scan.brain == "hd-bet"


def test_a_failure_of_hd_bet_is_told_with_its_last_words(head, tmp_path, monkeypatch):
    fake_hd_bet(tmp_path, monkeypatch, 2, fails=True)
    with pytest.raises(ScanError, match="hd-bet failed and said: CUDA out of memory"):
        open_scan(head, brain="hd-bet")


def test_faults_of_a_brain_mask_are_named_and_nothing_else():
    affine = np.diag([MM, MM, MM, 1.0])
    assert mask_warnings(BRAIN, affine) == []
    hollow, loose = BRAIN.copy(), BRAIN.copy()
    hollow[20:24, 24:28, 20:24] = False
    loose[1:4, 1:4, 1:4] = True
    assert [check for check, _ in mask_warnings(hollow, affine)] == ["brain hole"]
    assert [check for check, _ in mask_warnings(loose, affine)] == ["brain parts"]
    assert [check for check, _ in mask_warnings(ellipsoid(0.7), affine)] == ["brain volume"]
    assert [check for check, _ in mask_warnings(ellipsoid(1.2), affine)] == ["brain volume"]
    assert "0 ml" in mask_warnings(np.zeros(SHAPE, bool), affine)[0][1]


@pytest.mark.data
def test_no_healthy_brain_at_hand_is_warned_of(test_data):
    paths = sorted(test_data.glob("ixi/*/anat/*_desc-brain_T1w.nii.gz"))[::8]
    paths += sorted(test_data.glob("othersite/*/anat/*.nii.gz")) + sorted(test_data.glob("oasis/*/anat/*.nii.gz"))[::2]
    assert len(paths) > 20
    for path in paths:
        scan = read_scan(path)
        assert mask_warnings(scan.data > 0, scan.affine) == [], path


@pytest.mark.data
def test_deepbet_finds_the_brain_of_a_real_head_without_a_display_or_the_network(test_data):
    if importlib.util.find_spec("deepbet") is None:
        pytest.skip("deepbet is not installed: brain extraction of a real head DID NOT RUN")
    path = test_data / "heads/sub-headext2/anat/sub-headext2_T1w.nii.gz"
    program = (
        "import sys, socket, numpy as np\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from strega_jax.scans.source import open_scan\n"
        f"scan = open_scan({str(path)!r})\n"
        "assert not {'tkinter', 'customtkinter', 'fill_voids'} & set(sys.modules)\n"
        "print(scan.brain, np.count_nonzero(scan.data) * scan.voxel_ml)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    method, volume = done.stdout.split()[-2:]
    assert method == "deepbet"
    assert 1450 < float(volume) < 1510  # deepbet's own program gives 1480
