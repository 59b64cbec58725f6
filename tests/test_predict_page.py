"""The page of a scan and of a group, as headless Chromium shows them: offline, scrolling, true to the volumes."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from strega_jax.detection.found import Detection
from strega_jax.output.group import write_group
from strega_jax.output.page import MEASURES, write_page
from strega_jax.output.pictures import BOX, ENHANCED, MARK, grey, slice_picture
from strega_jax.output.write import summarise
from strega_jax.scans.files import write_json
from strega_jax.scans.scan import Scan
from strega_jax.slices.grid import SliceGrid
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.tissue import TissueMap


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


def slices_of(detection):
    return slice_picture(detection, grey(detection.scan.data, detection.slices.brain))


def page_of(detection: Detection, folder: Path, name: str = "scan") -> Path:
    record = {
        "quality_control": [{"check": "contrast", "reason": "a <script>alert(1)</script> warning"}],
        "model": {"detector": "x"},
        "measured": {name: 0.25 for name in MEASURES},
        "training": {name: {"mean": 0.2, "std": 0.01, "low": 0.1, "high": 0.3} for name in MEASURES},
    }
    summary = summarise(detection, "runs/x") | record | {"name": name}
    write_page(folder / f"{name}.html", detection, summary)
    write_json(folder / f"{name}_boxes.json", {**summary, "page": f"{name}.html"})
    return folder / f"{name}.html"


READY = "document.body && document.body.dataset.ready === 'yes'"


def saw(browser: Browser) -> tuple[list[int], list[float], float, bool]:
    """Voxel, millimetres, score and mark of the viewer's readout."""
    voxel, mm, score, marked = browser.evaluate("document.getElementById('readout').textContent").split(" · ")
    place = [int(v) for v in voxel.removeprefix("voxel ").split(", ")]
    world = [float(v) for v in mm.removesuffix(" mm").split(", ")]
    return place, world, float(score.removeprefix("score ")), marked == "marked"


def test_the_viewer_shows_the_volumes_where_they_are(browser, detection, tmp_path):
    browser.open(page_of(detection, tmp_path), READY)
    seen = [saw(browser)]
    browser.wheel("#axial canvas", -100)
    seen.append(saw(browser))
    for plane, by in (("axial", 100), ("coronal", -100), ("sagittal", 100)):
        browser.wheel(f"#{plane} canvas", by)
    seen.append(saw(browser))
    browser.click("#coronal canvas", 0.25, 0.25)
    seen.append(saw(browser))
    browser.click("#radiological")
    browser.click("#coronal canvas", 0.25, 0.25)
    seen.append(saw(browser))
    browser.click("tr[data-voxel]")
    seen.append(saw(browser))
    start, up, moved, clicked, mirrored, component = (place for place, *_ in seen)
    assert up == [start[0], start[1], start[2] + 1]
    assert moved == [start[0] - 1, start[1] + 1, start[2]]
    low, high = np.array([4, 9, 2]), np.array([37, 42, 35])  # the brain's box and two voxels around
    np.testing.assert_allclose([clicked[0], clicked[2]], (low + [0.25, 0, 0.75] * (high - low))[[0, 2]], atol=1)
    assert clicked[1] == moved[1]
    np.testing.assert_allclose(mirrored[0], low[0] + 0.75 * (high[0] - low[0]), atol=1)
    assert mirrored[1:] == clicked[1:]
    assert component == [26, 30, 14]
    for place, world, score, marked in seen:
        at = tuple(place)
        np.testing.assert_allclose(world, detection.scan.affine[:3] @ [*place, 1], atol=0.06)
        assert marked == detection.mask[at]
        assert abs(score - detection.score[at]) < 0.15  # the score map is embedded as JPEG
    assert browser.problems == []


SIDES = "['left', 'right', 'top', 'bottom'].map(s => document.querySelector(`#axial .${s}`).textContent).join('')"


def orange(png: bytes) -> float:
    """Share of a picture's pixels in the colours of marks."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).astype(int)
    return float(((pixels[:, 0] > 140) & (pixels[:, 0] - pixels[:, 2] > 70)).mean())


def test_marks_are_seen_and_sides_are_named(browser, detection, tmp_path):
    browser.open(page_of(detection, tmp_path), READY)
    assert browser.evaluate(SIDES) == "LRAP"
    browser.click("tr[data-voxel]")
    browser.click("#cross")
    shares = {}
    for overlay in ("none", "outline", "mask", "score"):
        change = f"(e => {{ e.value = '{overlay}'; e.dispatchEvent(new Event('input')); }})"
        browser.evaluate(f"{change}(document.getElementById('overlay'))")
        shares[overlay] = orange(browser.screenshot("#axial canvas"))
    assert shares["none"] == 0
    disc = detection.mask[:, :, 14].sum() / (33 * 33)
    assert shares["mask"] == pytest.approx(disc, rel=0.3)
    assert 0.2 * disc < shares["outline"] < 0.8 * disc
    assert shares["score"] > 0.5 * disc
    browser.click("#radiological")
    assert browser.evaluate(SIDES) == "RLAP"


def test_the_page_needs_nothing_but_itself(browser, detection, tmp_path):
    page = page_of(detection, tmp_path)
    text = page.read_text()
    assert not re.search(r"https?://|<link[^>]+stylesheet|src=[\"'](?!data:)", text)
    assert "<script>alert(1)" not in text
    assert "<b>scan</b>" not in text
    browser.open(page, READY)
    shown = browser.evaluate("document.body.innerText")
    assert f"{detection.mask.sum() * 0.012:.2f} ml" in shown
    assert "a <script>alert(1)</script> warning" in shown
    assert "25.0%" in shown
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert orange(browser.screenshot()) > 0.0005
    assert browser.problems == []


def test_the_group_page_sorts(browser, detection, tmp_path):
    page_of(detection, tmp_path, "some")
    page_of(dataclasses.replace(detection, mask=np.zeros_like(detection.mask)), tmp_path, "none")
    assert write_group(tmp_path) == 2
    browser.open(tmp_path / "group.html")
    names = "[...document.querySelectorAll('tbody a')].map(a => a.textContent)"
    assert browser.evaluate(names) == ["some", "none"]
    browser.click("table.sortable th:nth-of-type(3)")
    assert browser.evaluate(names) == ["none", "some"]
    browser.click("tbody a")
    browser.wait("location.pathname.endsWith('/none.html') && document.readyState === 'complete'")
    assert browser.problems == []


def test_large_scans_are_thinned_but_no_mark_is_lost(detection, tmp_path, monkeypatch):
    monkeypatch.setattr("strega_jax.output.viewer.MAX_VOXELS", 5000)
    mask = np.zeros_like(detection.mask)
    mask[21, 26, 19] = True
    page = page_of(dataclasses.replace(detection, mask=mask), tmp_path)
    data = json.loads(re.search(r'<script id="volume"[^>]*>(.*?)</script>', page.read_text())[1])
    assert data["step"] == 2
    assert np.prod(data["shape"]) < 6000
    start = np.array(data["origin"]) + data["step"] * np.array(data["start"])
    assert (np.abs(start - [21, 26, 19]) <= 1).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_detection_thinner_than_a_pixel_of_the_picture_is_drawn(detection, axis):
    """Sagittal and coronal stacks of thick slices: one in-plane voxel is less than a pixel of the axial picture."""
    spacing = np.full(3, 6.5)
    spacing[axis] = 0.2
    affine = np.diag([*spacing, 1.0])
    scan = Scan.from_array(detection.scan.data, affine, Path("thick.nii.gz"))
    mask = np.zeros_like(detection.mask)
    mask[20, 25, 18] = True
    picture = np.asarray(slices_of(dataclasses.replace(detection, scan=scan, mask=mask)))
    assert any((picture == colour).all(axis=-1).any() for colour in (BOX, MARK))


def test_what_enhances_is_told_and_outlined(detection, tmp_path):
    part = ball(detection.mask.shape, (26, 30, 14), 2)
    page = page_of(dataclasses.replace(detection, enhancing=part), tmp_path).read_text()
    assert f"<b>{part.sum() * 0.012:.2f} ml</b><span>of it enhancing</span>" in page
    assert "the part that enhances" in page
    assert "enhanc" not in page_of(detection, tmp_path, "plain").read_text().partition("<body")[2]
    colours = [np.asarray(slices_of(one)) for one in (detection, dataclasses.replace(detection, enhancing=part))]
    assert [bool((picture == ENHANCED).all(axis=-1).any()) for picture in colours] == [False, True]


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
    assert slices_of(full).size == (1200, 400)
