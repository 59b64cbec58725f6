"""Whole heads: told from brains, extracted by what is installed, and judged."""

import dataclasses
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
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strega_jax.detection.brain_quality import mask_warnings
from strega_jax.errors import ConfigError, ScanError
from strega_jax.inference.batch import Job
from strega_jax.inference.jobs import make_jobs
from strega_jax.scans import extraction
from strega_jax.scans.cohorts import case_of_file, find_cases
from strega_jax.scans.extraction import Method, extract_brain, looks_extracted
from strega_jax.scans.mask_transfer import move_mask
from strega_jax.scans.scan import Scan, read_scan
from strega_jax.scans.source import choose_lender, open_scan

SHAPE, MM = (44, 52, 46), 4.0


def ellipsoid(radius: float) -> np.ndarray:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((x - 22) / 17) ** 2 + ((y - 26) / 21) ** 2 + ((z - 23) / 16) ** 2 < radius**2


BRAIN = ellipsoid(1.0)


def head_image() -> np.ndarray:
    """A brain of 1530 ml with smooth texture, fluid, dark bone and bright skin around it, in noisy air."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    image = np.where(BRAIN, 500 + 200 * texture / texture.std(), 50 * ellipsoid(1.05))
    image += 700 * (ellipsoid(1.3) & ~ellipsoid(1.15))
    return (np.abs(image) + rng.uniform(1, 20, SHAPE)).astype(np.float32)


def save(path: Path, data: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([-MM, MM, MM, 1])), path)
    return path


@pytest.fixture
def head(tmp_path) -> Path:
    return save(tmp_path / "sub-01_T1w.nii.gz", head_image()[::-1])


@pytest.fixture
def methods(monkeypatch) -> dict[str, Method]:
    """The table of methods, with one that knows where the brain is and leaves a hole and a crumb."""
    spoiled = BRAIN.copy()
    spoiled[22, 26, 23] = False
    spoiled[1, 1, 1] = True
    table = {
        "absent": Method(lambda: False, lambda scan: pytest.fail("not installed, yet called")),
        "known": Method(lambda: True, lambda scan: spoiled.copy()),
        "blind": Method(lambda: True, lambda scan: np.zeros(SHAPE, bool)),
    }
    monkeypatch.setattr(extraction, "METHODS", table)
    monkeypatch.setattr("strega_jax.scans.source.METHODS", table)
    return table


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


def moved(scan: Scan, volume: np.ndarray, motion: np.ndarray) -> np.ndarray:
    index = np.linalg.inv(motion @ scan.affine) @ scan.affine
    return ndimage.affine_transform(volume.astype(np.float32), index[:3, :3], index[:3, 3], order=1)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (a.sum() + b.sum())


def test_a_mask_moves_by_the_affines_to_another_grid():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    affine = np.diag([MM, MM, 2 * MM, 1])
    affine[2, 3] = MM
    thick = Scan.from_array(head_image()[:, :, 1::2], affine, Path("b"))
    np.testing.assert_array_equal(move_mask(BRAIN, scan, thick), BRAIN[:, :, 1::2])


def turned(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The head of `head_image`, moved and of another contrast; its brain."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [8, -5, 6], degrees=True).as_matrix()
    centre = MM * np.array([22, 26, 23])
    motion[:3, 3] = centre - motion[:3, :3] @ centre + (5, 6, -4)
    inverted = np.where(scan.data > 30, scan.data.max() - scan.data, 0)
    return moved(scan, inverted, motion), moved(scan, BRAIN, motion) > 0.5


def test_a_mask_follows_a_turned_head_of_another_contrast():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    data, truth = turned(scan)
    assert dice(BRAIN, truth) < 0.93
    assert dice(move_mask(BRAIN, scan, dataclasses.replace(scan, data=data)), truth) > 0.98


def session_of(folder: Path, *contrasts: str) -> list[Job]:
    """Jobs of one session: the head as T1w, and moved as other contrasts."""
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    for contrast in contrasts:
        data = scan.data if contrast == "T1w" else turned(scan)[0]
        nib.save(nib.Nifti1Image(data, scan.affine), folder / f"sub-01_{contrast}.nii.gz")
    return make_jobs(find_cases(folder), folder / "out")


def test_the_brain_of_the_t1w_scan_serves_the_whole_session(tmp_path, methods, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "strega_jax.scans.source.extract_brain", lambda scan, method: asked.append(scan.path.name) or BRAIN
    )
    flair, t1w = session_of(tmp_path, "FLAIR", "T1w")
    truth = turned(read_scan(t1w.source))[1]
    assert dice(flair.read().data > 0, truth) > 0.98
    np.testing.assert_array_equal(t1w.read().data > 0, BRAIN)
    assert asked == ["sub-01_T1w.nii.gz"]
    # One file alone has its own.
    assert dice(open_scan(flair.source).data > 0, BRAIN) > 0.99
    assert asked[1:] == ["sub-01_FLAIR.nii.gz"]


def test_a_session_whose_t1w_scan_is_damaged_goes_on_with_the_brains_of_each(tmp_path, methods, caplog):
    flair, t1w = session_of(tmp_path, "FLAIR", "T1w")
    before, alone = flair.digest(), t1w.digest()
    t1w.source.write_bytes(b"no scan")
    assert flair.digest() != before
    assert dice(flair.read().data > 0, BRAIN) > 0.99
    assert "sub-01_FLAIR.nii.gz: the brain of sub-01_T1w is of no use for it" in caplog.text
    with pytest.raises(ScanError, match="sub-01_T1w"):
        t1w.read()
    assert t1w.digest() != alone


def test_without_t1w_the_brain_of_t1ce_serves_and_without_both_each_has_its_own(tmp_path):
    cases = {name: case_of_file(Path(f"sub-01_{name}.nii.gz")) for name in ("FLAIR", "T2w", "T1ce", "T1w")}
    assert choose_lender(cases) == cases.pop("T1w")
    assert choose_lender(cases) == cases.pop("T1ce")
    assert choose_lender(cases) is None


@pytest.mark.data
@pytest.mark.parametrize("contrast", ["T1ce", "T2w", "FLAIR"])
def test_a_mask_stays_in_place_where_contrasts_are_registered(test_data, contrast):
    anat = test_data / "brats/sub-tcgaA/anat"
    scan, other = (read_scan(anat / f"sub-tcgaA_desc-brain_{name}.nii.gz") for name in ("T1w", contrast))
    brain = scan.data > 0
    np.testing.assert_array_equal(move_mask(brain, scan, other), brain)


def test_a_mask_is_not_moved_out_of_a_scan_unnoticed():
    scan = Scan.from_array(head_image(), np.diag([MM, MM, MM, 1]), Path("a"))
    away = Scan.from_array(scan.data, scan.affine + 500 * np.eye(4, k=3), Path("b"))
    with pytest.raises(ScanError, match="b: by the headers it shows nothing of the brain of a"):
        move_mask(BRAIN, scan, away)


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
