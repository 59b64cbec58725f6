"""The page of a patient: contrasts side by side as headless Chromium shows them, linked and true to the volumes."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from nilearn import datasets
from scipy import ndimage

from strega_jax.output.group import COLUMNS, write_group
from strega_jax.output.html import POLICY
from strega_jax.output.patient_page import Panel, write_patient_page
from strega_jax.output.pictures import grey
from strega_jax.postprocess import find_components
from strega_jax.scans.files import write_json

SHAPE = (40, 50, 36)
SPACING = (2.0, 2.0, 3.0)
AFFINE = np.array([[2.0, 0, 0, -40], [0, 2.0, 0, -50], [0, 0, 3.0, -54], [0, 0, 0, 1]])
LOW, HIGH = np.array([4, 9, 2]), np.array([37, 42, 35])  # the brain's box and two voxels around
OWN, FUSED = (235, 104, 0), (86, 180, 233)
READY = "document.body && document.body.dataset.ready === 'yes'"
NAMES = ("T1ce", "T2w <i>", "FLAIR")


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    return sum((i - c) ** 2 for i, c in zip(np.indices(SHAPE), centre, strict=True)) < radius**2


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    """Three contrasts of a ball of a brain; the marks of the first two overlap, the third has none."""
    brain = ball((20, 25, 18), 15)
    found = []
    for name, centre in zip(NAMES, ((26, 30, 14), (23, 30, 14), None), strict=True):
        rng = np.random.default_rng(len(found))
        image = np.where(brain, 60 + 100 * rng.random(SHAPE), 0).astype(np.uint8)
        mask = ball(centre, 4) if centre else np.zeros(SHAPE, bool)
        # Smooth: JPEG keeps it.
        score = np.where(brain, 0.1 + 0.05 * len(found), 0).astype(np.float32)
        score[mask] = 0.5 + 0.2 * len(found)
        found.append(Panel(name, image, mask, score, page=f"sub 01#{len(found)}.html"))
    warning = {"check": "ghosting", "reason": "a <script>alert(1)</script> copy"}
    found[1] = Panel(
        name=NAMES[1], **{k: getattr(found[1], k) for k in ("image", "mask", "score", "page")}, warnings=[warning]
    )
    return found


@pytest.fixture(scope="module")
def fused() -> tuple[np.ndarray, np.ndarray]:
    mask = ball((25, 30, 14), 5)
    return mask, np.where(mask, np.float32(0.6), np.float32(0.05))


def summary_of(panels: list[Panel], mask: np.ndarray, score: np.ndarray) -> dict:
    voxel_ml = 0.012
    used = {
        panel.name: {
            "weight": 0.5 if panel.warnings else 1.0,
            "anomaly_ml": float(panel.mask.sum()) * voxel_ml,
            "name": f"sub-01 {panel.name}",
            "page": panel.page,
        }
        for panel in panels[:2]
    }
    components = find_components(mask, score, AFFINE, SPACING)
    left_out = ["FLAIR: its brain lies elsewhere in the scanner (overlap 0.31)"]
    return {
        "name": "sub-01",
        "scan": "sub-01_T1ce.nii.gz",
        "anomaly_ml": float(mask.sum()) * voxel_ml,
        "brain_ml": 170.0,
        "components": [vars(c) for c in components],
        "slice_boxes": [],
        "quality_control": [
            {"check": "left out", "reason": left_out[0]},
            {"check": "weighed down", "reason": "T2w counts 0.5"},
        ],
        "model": {"detector": "x"},
        "fused": {"grid": "T1ce", "rule": "mean", "contrasts": used, "left_out": left_out, "enhancing_ml": 3.21},
    }


@pytest.fixture(scope="module")
def page(panels, fused, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "sub-01.html"
    write_patient_page(path, panels, *fused, AFFINE, SPACING, summary_of(panels, *fused))
    return path


def choose(browser: Browser, control: str, value: str) -> None:
    change = f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('input')); }})"
    browser.evaluate(f"{change}(document.getElementById('{control}'))")


def place(browser: Browser) -> list[int]:
    return [
        int(v)
        for v in re.findall(r"\d+", browser.evaluate("document.getElementById('readout').textContent.split('mm')[0]"))[
            :3
        ]
    ]


def pixels(browser: Browser, plane: str, panel: int) -> np.ndarray:
    """(height, width, 3) what the canvas of a pane holds, before it is scaled."""
    canvas = f"document.querySelectorAll('#{plane} canvas')[{panel}]"
    width, height = browser.evaluate(f"[{canvas}.width, {canvas}.height]")
    data = browser.evaluate(f"Array.from({canvas}.getContext('2d').getImageData(0, 0, {width}, {height}).data)")
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def in_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a pane shows a colour, as (x, y) of the volume's box."""
    return (picture == colour).all(-1)[::-1].T


def outline(mask: np.ndarray, k: int) -> np.ndarray:
    """The edge voxels of a mask in an axial slice, within the box that the page shows."""
    plane = mask[LOW[0] : HIGH[0], LOW[1] : HIGH[1], k]
    return plane & ~np.asarray(ndimage.binary_erosion(plane), bool)


def told(browser: Browser) -> list[tuple[float, bool]]:
    """Score and mark at the cross: of each contrast, then fused."""
    captions = browser.evaluate("[...document.querySelectorAll('#axial .caption output')].map(o => o.textContent)")
    texts = [*captions, browser.evaluate("document.getElementById('readout').textContent.split('fused ')[1]")]
    parts = [text.removeprefix("score ").split(" · ") for text in texts]
    return [(float(score), mark == "marked") for score, mark in parts]


def test_all_panes_move_together_and_tell_the_scores_of_their_volumes(browser, page, panels, fused):
    browser.open(page, READY)
    volumes = [*((p.mask, p.score) for p in panels), fused]
    start = place(browser)
    before = [pixels(browser, "axial", n) for n in range(3)]
    browser.wheel("#axial .panes > div:nth-child(2) canvas", -100)
    assert place(browser) == [start[0], start[1], start[2] + 1]
    assert all((pixels(browser, "axial", n) != before[n]).any() for n in range(3))
    browser.click("#axial .panes > div:nth-child(3) canvas", 0.25, 0.25)
    np.testing.assert_allclose(place(browser)[:2], (LOW + [0.25, 0.75, 0] * (HIGH - LOW))[:2], atol=1)
    assert place(browser)[2] == start[2] + 1
    crosses = [(pixels(browser, "axial", n)[0, :, 1] > 100).argmax() for n in range(3)]
    assert crosses == [place(browser)[0] - LOW[0]] * 3
    browser.click("tr[data-voxel]")
    assert place(browser) == [25, 30, 14]
    at = tuple(place(browser))
    assert [mark for _, mark in told(browser)] == [bool(mask[at]) for mask, _ in volumes]
    np.testing.assert_allclose([score for score, _ in told(browser)], [score[at] for _, score in volumes], atol=0.03)
    assert browser.problems == []


def test_each_overlay_draws_its_outlines_and_no_other(browser, page, panels, fused):
    browser.open(page, READY)
    browser.click("tr[data-voxel]")
    browser.click("#cross")
    for overlay, own, together in (
        ("none", False, False), ("outline", True, False), ("fused", False, True), ("both", True, True),
        ("score", False, False),
    ):  # fmt: skip
        choose(browser, "overlay", overlay)
        for n, panel in enumerate(panels):
            picture = pixels(browser, "axial", n)
            edges = outline(panel.mask, 14), outline(fused[0], 14)
            shown = in_colour(picture, OWN), in_colour(picture, FUSED)
            for wanted, edge, other, here in zip((own, together), edges, edges[::-1], shown, strict=True):
                alone = edge & ~other if overlay == "both" else edge
                assert (here[alone] == wanted).all(), (overlay, panel.name)
                assert not here[~edge].any(), (overlay, panel.name)
            if overlay == "both":
                shared = edges[0] & edges[1]
                assert (shown[0] | shown[1])[shared].all()
                if shared.sum() > 3:
                    assert shown[0][shared].any()
                    assert shown[1][shared].any()


def test_scores_of_all_contrasts_are_coloured_on_one_scale(browser, page, panels, fused):
    browser.open(page, READY)
    browser.click("tr[data-voxel]")
    browser.click("#cross")

    def redness(n: int) -> float:
        x, y, _ = np.array(place(browser)) - LOW
        red, _, blue = (int(v) for v in pixels(browser, "axial", n)[HIGH[1] - LOW[1] - 1 - y, x])
        return (red - blue) / 255

    choose(browser, "overlay", "score")
    highest = max(float(p.score.max()) for p in panels)
    np.testing.assert_allclose(
        [redness(n) for n in range(3)], [p.score[25, 30, 14] / highest for p in panels], atol=0.04
    )
    choose(browser, "overlay", "fused_score")
    np.testing.assert_allclose([redness(n) for n in range(3)], 0.6 / highest, atol=0.04)


def test_planes_are_chosen_and_sides_exchanged_in_all_panes(browser, page):
    browser.open(page, READY)
    visible = "[...document.querySelectorAll('#planes figure')].filter(f => f.offsetHeight).map(f => f.id)"
    sides = "[...document.querySelectorAll('#coronal .left')].map(s => s.textContent)"
    assert browser.evaluate(visible) == ["axial"]
    choose(browser, "shown", "coronal")
    assert browser.evaluate(visible) == ["coronal"]
    assert browser.evaluate(sides) == ["L"] * 3
    browser.click("#radiological")
    assert browser.evaluate(sides) == ["R"] * 3
    start = place(browser)
    browser.wheel("#coronal .panes > div:nth-child(3) canvas", 100)
    assert place(browser) == [start[0], start[1] - 1, start[2]]
    choose(browser, "shown", "all")
    assert browser.evaluate(visible) == ["axial", "coronal", "sagittal"]
    widths = "[...document.querySelectorAll('#planes .pane')].map(p => p.clientWidth - p.firstChild.offsetWidth)"
    assert browser.evaluate(widths) == [0] * 9  # captions do not widen their panes
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.problems == []


def test_the_page_says_what_was_fused_how_and_what_was_left_out(browser, page, fused):
    text = page.read_text()
    assert POLICY in text
    assert not re.search(r"https?://|<link[^>]+stylesheet|src=[\"'](?!data:)", text)
    assert "<script>alert(1)" not in text
    assert "T2w <i>" not in text
    browser.open(page, READY)
    cards = browser.evaluate("document.getElementById('figures').innerText")
    for card in (f"{fused[0].sum() * 0.012:.2f} ml", "3.21 ml", "T1ce, T2w <i>", "1\ncomponent"):
        assert card in cards
    lines = browser.evaluate("[...document.querySelectorAll('.note li')].map(l => l.innerText)")
    assert lines == [
        "left out: FLAIR: its brain lies elsewhere in the scanner (overlap 0.31)",
        "weighed down: T2w counts 0.5",
        "T2w <i>, ghosting: a <script>alert(1)</script> copy",
    ]
    rows = browser.evaluate(
        "[...document.querySelectorAll('.wide tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert [row[:2] for row in rows] == [["T1ce (grid)", "1"], ["T2w <i>", "0.5"], ["FLAIR", "not fused"]]
    links = browser.evaluate("[...document.querySelectorAll('.wide a')].map(a => [a.pathname, a.hash])")
    assert [Path(path).name for path, _ in links] == [f"sub%2001%23{n}.html" for n in range(3)]
    assert {hash for _, hash in links} == {""}


def test_many_voxels_are_thinned_but_no_mark_is_lost(panels, tmp_path, monkeypatch):
    monkeypatch.setattr("strega_jax.output.viewer.MAX_VOXELS_TOGETHER", 3 * 6000)
    mask = np.zeros(SHAPE, bool)
    mask[21, 26, 19] = True
    write_patient_page(
        tmp_path / "p.html",
        panels,
        mask,
        mask.astype(np.float32),
        AFFINE,
        SPACING,
        summary_of(panels, mask, mask.astype(np.float32)),
    )
    data = json.loads(re.search(r'<script id="volume"[^>]*>(.*?)</script>', (tmp_path / "p.html").read_text())[1])
    assert data["step"] == 2
    start = np.array(data["origin"]) + data["step"] * np.array(data["start"])
    assert (np.abs(start - [21, 26, 19]) <= 1).all()


def test_four_contrasts_of_one_millimetre_stay_below_six_megabytes_at_full_resolution(tmp_path):
    template = np.asarray(datasets.load_mni152_template(resolution=1).dataobj, np.float32)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    noise = np.random.default_rng(0).normal(scale=0.03, size=brain.shape).astype(np.float32)
    image = grey(template + noise, brain)
    smooth = ndimage.gaussian_filter(noise, 6)
    score = np.where(brain, np.maximum(smooth, 0), 0).astype(np.float32)
    mask = brain & (score > np.percentile(score[brain], 99))
    page = tmp_path / "full.html"
    panels = [Panel(f"contrast {n}", image, mask, score) for n in range(4)]
    summary = summary_of(panels, mask[:40, :50, :36], score[:40, :50, :36])
    write_patient_page(page, panels, mask, score, np.eye(4), (1.0, 1.0, 1.0), summary)
    assert page.stat().st_size < 6_000_000
    assert '"step": 1,' in page.read_text()


def test_panels_of_another_grid_are_refused(panels, fused, tmp_path):
    mask, score = (volume[:-1] for volume in fused)
    with pytest.raises(ValueError, match="grid"):
        write_patient_page(tmp_path / "p.html", panels, mask, score, AFFINE, SPACING, summary_of(panels, *fused))


def test_patients_stand_over_their_scans_on_the_group_page(browser, panels, fused, page, tmp_path):
    summary = summary_of(panels, *fused) | {"page": "sub-01_fused.html"}
    (tmp_path / "sub-01_fused.html").write_text(page.read_text())
    write_json(tmp_path / "sub-01_fused_boxes.json", summary)
    scan = {"name": "sub-01_T1ce", "contrast": "T1ce", "anomaly_ml": 99.0, "brain_ml": 170.0, "components": []}
    write_json(tmp_path / "sub-01_T1ce_boxes.json", scan)
    assert write_group(tmp_path) == 2
    with (tmp_path / "group.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["name"], row["contrast"]) for row in rows] == [("sub-01_T1ce", "T1ce"), ("sub-01", "fused")]
    assert "left out: FLAIR" in rows[1]["quality_control"]
    browser.open(tmp_path / "group.html")
    assert browser.evaluate("[...document.querySelectorAll('h1, h2')].map(h => h.innerText)") == [
        "1 patient, 1 scan",
        "Patients",
        "Scans",
    ]
    tables = browser.evaluate(
        "[...document.querySelectorAll('table')].map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
    )
    (heads, patient), (_, shown) = tables
    assert dict(zip(heads, patient, strict=True)) == {
        "name": "sub-01",
        "contrasts": "T1ce, T2w <i>",
        "marked, ml": f"{fused[0].sum() * 0.012:.3f}",
        "enhancing, ml": "3.210",
        "brain, ml": "170.0",
        "components": "1",
        "left out": "FLAIR: its brain lies elsewhere in the scanner (overlap 0.31)",
        "quality control": "weighed down: T2w counts 0.5",
    }
    assert shown[0] == "sub-01_T1ce"
    browser.click("tbody a")
    browser.wait(f"location.pathname.endsWith('/sub-01_fused.html') && {READY}")
    assert browser.problems == []
