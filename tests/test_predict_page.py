"""The page of a scan and of a group, as headless Chromium shows them: offline, scrolling, true to the volumes."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from strega_jax.inference.detect import Detection
from strega_jax.inference.group import write_group
from strega_jax.inference.page import slice_picture, write_page
from strega_jax.inference.write import summarise
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import Scan
from strega_jax.slices.grid import SliceGrid
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.tissue import TissueMap

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def chromium() -> str:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium): the pages were NOT looked at")
    return CHROMIUM


def ball(shape, centre, radius) -> np.ndarray:
    return np.sqrt(sum((i - c) ** 2 for i, c in zip(np.indices(shape), centre, strict=True))) < radius


@pytest.fixture
def detection() -> Detection:
    """A ball of a brain on a grid of unequal axes, with a mark off centre."""
    shape = (40, 50, 36)
    rng = np.random.default_rng(0)
    brain = ball(shape, (20, 25, 18), 15)
    data = np.where(brain, 500 + 100 * rng.random(shape), 0).astype(np.float32)
    affine = np.array([[2.0, 0, 0, -40], [0, 2.0, 0, -50], [0, 0, 3.0, -54], [0, 0, 0, 1]])
    scan = Scan.from_array(data, affine, Path("<b>scan</b>.nii.gz"))
    mask = ball(shape, (26, 30, 14), 4)
    score = np.where(brain, rng.random(shape) * 0.2, 0).astype(np.float32)
    score[mask] = 0.9
    tissue = TissueMap.__new__(TissueMap)  # the page does not look at it
    slices = SliceVolume(
        np.zeros((0, 4, 4, 1), np.float32), np.zeros(0, int), np.zeros(0, np.float32), SliceGrid((4, 4, 1), np.eye(4)),
        brain, tissue,
    )  # fmt: skip
    return Detection(scan, slices, slices.images, score, mask)


def page_of(detection: Detection, folder: Path, name: str = "scan") -> Path:
    record = {
        "flags": [{"check": "contrast", "reason": "a <script>alert(1)</script> doubt"}],
        "model": {"detector": "x"},
    }
    summary = summarise(detection, "runs/x") | record
    write_page(folder / f"{name}.html", detection, summary)
    write_json(folder / f"{name}_boxes.json", {**summary, "page": f"{name}.html"})
    return folder / f"{name}.html"


def browse(chromium: str, page: Path, *arguments: str) -> str:
    """The DOM after the page's scripts ran."""
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000",
         f"--user-data-dir={page.parent}/profile",
         *arguments, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return done.stdout


def acted(page: Path, script: str) -> Path:
    """The page with a user in it: a script that clicks and scrolls once the viewer is ready, then says what it sees."""
    user = (
        "<script>const wait = setInterval(() => { if (document.body.dataset.ready) { clearInterval(wait); "
        f"{script} }} }}, 20);</script></body>"
    )
    copy = page.with_name(f"acted_{page.name}")
    copy.write_text(page.read_text().replace("</body>", user))
    return copy


SEES = (
    "document.body.insertAdjacentHTML('beforeend', "
    "`<pre class=saw>${document.getElementById('readout').textContent}</pre>`);"
)


def saw(dom: str) -> list[tuple[list[int], list[float], float, bool]]:
    """Voxel, millimetres, score and mark of every readout."""
    found = []
    for text in re.findall(r'<pre class="saw">(.*?)</pre>', dom):
        voxel, mm, score, marked = text.split(" · ")
        place = [int(v) for v in voxel.removeprefix("voxel ").split(", ")]
        world = [float(v) for v in mm.removesuffix(" mm").split(", ")]
        found.append((place, world, float(score.removeprefix("score ")), marked == "marked"))
    return found


def test_the_viewer_shows_the_volumes_where_they_are(chromium, detection, tmp_path):
    page = page_of(detection, tmp_path)
    script = (
        SEES
        + """
        const wheel = (id, by) => document.querySelector(`#${id} canvas`).dispatchEvent(
            new WheelEvent('wheel', {deltaY: by, bubbles: true, cancelable: true}));
        wheel('axial', -1); """
        + SEES
        + """
        wheel('axial', 1); wheel('coronal', -1); wheel('sagittal', 1); """
        + SEES
        + """
        const canvas = document.querySelector('#coronal canvas'), box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new MouseEvent('click', {clientX: box.left + 0.25 * box.width,
            clientY: box.top + 0.25 * box.height, bubbles: true})); """
        + SEES
        + """
        document.querySelector('tr[data-voxel]').click(); """
        + SEES
    )
    seen = saw(browse(chromium, acted(page, script)))
    assert len(seen) == 5
    start, up, moved, clicked, component = (place for place, *_ in seen)
    assert up == [start[0], start[1], start[2] + 1]
    assert moved == [start[0] - 1, start[1] + 1, start[2]]
    low, high = np.array([4, 9, 2]), np.array([37, 42, 35])  # the brain's box and two voxels around
    np.testing.assert_allclose([clicked[0], clicked[2]], (low + [0.25, 0, 0.75] * (high - low))[[0, 2]], atol=1)
    assert clicked[1] == moved[1]
    assert component == [26, 30, 14]
    for place, world, score, marked in seen:
        at = tuple(place)
        np.testing.assert_allclose(world, detection.scan.affine[:3] @ [*place, 1], atol=0.06)
        assert marked == detection.mask[at]
        assert abs(score - detection.score[at]) < 0.15  # the score map is embedded as JPEG


def test_the_page_needs_nothing_but_itself(chromium, detection, tmp_path):
    page = page_of(detection, tmp_path)
    text = page.read_text()
    assert not re.search(r"https?://|<link[^>]+stylesheet|src=[\"'](?!data:)", text)
    assert "<script>alert(1)" not in text
    assert "<b>scan</b>" not in text
    assert f"{detection.mask.sum() * 0.012:.2f} ml marked" in text
    shot = tmp_path / "shot.png"
    browse(chromium, page, f"--screenshot={shot}", "--window-size=1250,1400")
    from PIL import Image

    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3).astype(int)
    orange = (pixels[:, 0] > 140) & (pixels[:, 0] - pixels[:, 2] > 70)
    assert orange.mean() > 0.0005  # marks are seen
    assert (pixels.max(axis=1) < 10).mean() > 0.05  # on the viewer's black


def test_the_group_page_sorts(chromium, detection, tmp_path):
    page_of(detection, tmp_path, "some")
    page_of(dataclasses.replace(detection, mask=np.zeros_like(detection.mask)), tmp_path, "none")
    assert write_group(tmp_path) == 2
    page = tmp_path / "group.html"
    user = "<script>document.querySelectorAll('th.sorts')[1].click()</script></body>"
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", user))

    def names(dom):
        return re.findall(r'<a href="([^"]+)"', dom)

    assert names(browse(chromium, page)) == ["some.html", "none.html"]
    assert names(browse(chromium, clicked)) == ["none.html", "some.html"]


def test_large_scans_are_thinned_but_no_mark_is_lost(detection, tmp_path, monkeypatch):
    monkeypatch.setattr("strega_jax.inference.page.MAX_VOXELS", 5000)
    mask = np.zeros_like(detection.mask)
    mask[21, 26, 19] = True
    page = page_of(dataclasses.replace(detection, mask=mask), tmp_path)
    data = json.loads(re.search(r'<script id="volume"[^>]*>(.*?)</script>', page.read_text())[1])
    assert data["step"] == 2
    assert np.prod(data["shape"]) < 6000
    start = np.array(data["origin"]) + data["step"] * np.array(data["start"])
    assert (np.abs(start - [21, 26, 19]) <= 1).all()


def test_a_full_size_brain_stays_below_five_megabytes(detection, tmp_path):
    shape = (240, 240, 155)
    brain = ball(shape, (120, 120, 77), 75)
    rng = np.random.default_rng(0)
    data = np.where(brain, rng.random(shape, np.float32) + 0.5, 0).astype(np.float32)
    scan = Scan.from_array(data, np.diag([1.0, 1, 1, 1]), Path("full.nii.gz"))
    slices = dataclasses.replace(detection.slices, brain=brain)
    full = Detection(scan, slices, slices.images, data * 0.1, brain & (data > 1.49))
    write_page(tmp_path / "full.html", full, summarise(full, "x", []))
    assert (tmp_path / "full.html").stat().st_size < 5_000_000
    assert slice_picture(full).size == (1200, 400)
