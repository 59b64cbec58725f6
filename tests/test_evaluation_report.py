"""Tables, figures and the page: what is in them, and that the JSON alone gives the page again."""

import base64
import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from strega_jax.evaluation.figures import (
    STAGES,
    boxes_picture,
    dose_response_plot,
    froc_plot,
    png_bytes,
    stage_picture,
    violin_plot,
)
from strega_jax.evaluation.report import RESEARCH_ONLY, picture, report_from_json, write_report
from strega_jax.evaluation.table import files_hash, latex_table, summarise, text_table, write_csv, write_results


@pytest.fixture
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for method in ("cce_vae", "intensity <b>"):
        for i in range(6):
            rows.append(
                {
                    "case": f"sub-{i}",
                    "cohort": "brats_T2",
                    "method": method,
                    "dice": float(rng.uniform()) if i else math.nan,
                    "truth_ml": float(i),
                    "marked_ml": 4.0 + i,
                    "hd95_mm": float(rng.uniform(1, 9)) if i > 1 else math.nan,
                    "false_lesions": 2.0,
                }
            )
    return rows


def results(rows: list[dict]) -> dict:
    image = np.random.default_rng(1).uniform(size=(20, 24)).astype(np.float32)
    return {
        "title": "Dev cases & more",
        "about": {"config": "abc123", "data": "def456"},
        "rows": rows,
        "froc": {"cce_vae": {"false_positives": np.array([0, 0.5, 2.0]), "sensitivity": np.array([0, 0.4, 0.8])}},
        "sizes": {"cce_vae": [{"size": "≥ 1 ml", "lesions": 0.0, "sensitivity": math.nan}]},
        "dose_response": [
            {"dose": "contrast", "response": "Dice", "curves": {"1 ml": {"dose": [0.1, 0.3], "response": [0.2, 0.7]}}}
        ],
        "healthy": {"cce_vae": {"mean_ml": 1.5, "flagged": 0.25}},
        "sentences": ["ours reached a Dice 0.100 higher than < theirs."],
        "pictures": [picture(stage_picture({"z 40": dict.fromkeys(STAGES, image)}), "stages of sub-1")],
    }


def test_summaries_equal_pandas_and_keep_empty_truths_apart(rows: list[dict]) -> None:
    frame = pd.DataFrame(rows)
    found = summarise(rows)
    assert [(s["method"], s["truth"], s["volumes"]) for s in found] == [
        ("cce_vae", "lesions", 5),
        ("cce_vae", "empty", 1),
        ("intensity <b>", "lesions", 5),
        ("intensity <b>", "empty", 1),
    ]
    own = frame[(frame.method == "cce_vae") & (frame.truth_ml > 0)]
    for name in ("dice", "hd95_mm", "marked_ml"):
        values, expected = found[0]["metrics"][name], own[name].describe()
        assert values["n"] == expected["count"]
        got = [values[k] for k in ("mean", "std", "median", "q25", "q75")]
        assert got == pytest.approx([expected[k] for k in ("mean", "std", "50%", "25%", "75%")])
    assert set(found[1]["metrics"]) == {"marked_ml", "false_lesions"}
    assert found[1]["metrics"]["marked_ml"]["mean"] == 4.0


def test_csv_holds_every_row_and_leaves_undefined_cells_empty(tmp_path: Path, rows: list[dict]) -> None:
    write_csv(tmp_path / "volumes.csv", rows)
    with (tmp_path / "volumes.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 12
    assert read[0]["dice"] == ""
    assert float(read[3]["dice"]) == rows[3]["dice"]
    assert [path.name for path in tmp_path.iterdir()] == ["volumes.csv"]


def test_json_is_standard_json(tmp_path: Path, rows: list[dict]) -> None:
    write_results(tmp_path / "results.json", {"rows": rows, "n": np.int64(3), "curve": np.array([0.5, np.nan])})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert read["rows"][0]["dice"] is None
    assert read["rows"][1]["dice"] == rows[1]["dice"]
    assert (read["n"], read["curve"]) == (3, [0.5, None])


def test_tables_say_mean_and_deviation(rows: list[dict]) -> None:
    summaries = summarise(rows)
    values = summaries[0]["metrics"]["dice"]
    shown = f"{values['mean']:.3f} ± {values['std']:.3f}"
    plain, latex = text_table(summaries, ["dice", "marked_ml"]), latex_table(summaries, ["dice", "marked_ml"])
    assert shown in plain.splitlines()[1]
    assert "4.000" in plain.splitlines()[2]
    assert shown.replace("±", "$\\pm$") in latex
    assert "brats\\_T2" in latex
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert [line.count("&") for line in body] == [5] * 4
    assert all(line.endswith("\\\\") for line in body)


def test_the_hash_of_data_depends_on_contents_not_order(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert files_hash([a, b]) == files_hash([b, c])
    assert files_hash([a, b]) != files_hash([a, c])
    assert re.fullmatch(r"[0-9a-f]{12}", files_hash([a]))


def test_slices_are_shown_front_up_and_left_on_the_left() -> None:
    image = np.zeros((10, 20), np.float32)  # h from left to right, w from back to front
    image[:3, 15:] = 1
    figure = stage_picture({"z": {"input": image}})
    drawn = imread(io.BytesIO(png_bytes(figure)))[:, :, 0]
    axis = figure.axes[0].get_window_extent()
    rows, columns = drawn.shape
    inner = drawn[int(rows - axis.y1) + 4 : int(rows - axis.y0) - 4, int(axis.x0) + 4 : int(axis.x1) - 4]
    top, left = np.argwhere(inner > 0.9).mean(axis=0) / inner.shape
    assert top < 0.3
    assert left < 0.3
    assert columns > 0


def test_every_stage_and_slice_is_named() -> None:
    image = np.ones((4, 4), np.float32)
    figure = stage_picture({"z 40": dict.fromkeys(STAGES, image), "z 50": {"input": image, "mask": image > 2}})
    assert [axis.get_title() for axis in figure.axes] == [*STAGES, *[""] * 6]
    assert [axis.get_ylabel() for axis in figure.axes[::6]] == ["z 40", "z 50"]
    assert [len(axis.images) for axis in figure.axes] == [1] * 6 + [1, 0, 0, 0, 1, 0]


def test_the_violin_shows_median_quartiles_and_drops_what_is_undefined() -> None:
    values = [0.1, 0.2, 0.4, 0.5, 0.9, math.nan]
    figure = violin_plot({"a": values, "constant": [0.5, 0.5], "none": [math.nan]})
    axis = figure.axes[0]
    assert [line.get_ydata()[0] for line in axis.lines] == [0.4, 0.5]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a\n(n = 5)", "constant\n(n = 2)"]
    segments = [c.get_segments()[0][:, 1].tolist() for c in axis.collections if hasattr(c, "get_segments")]
    assert [0.2, 0.5] in segments  # quartiles
    assert [0.1, 0.9] in segments  # no outlier within 1.5 interquartile ranges
    assert png_bytes(figure)[:4] == b"\x89PNG"


def test_boxes_are_drawn_around_both_masks() -> None:
    mask, truth = np.zeros((20, 24), bool), np.zeros((20, 24), bool)
    mask[2:5, 3:9] = mask[10:12, 10:12] = truth[2:6, 3:9] = True
    figure = boxes_picture(mask.astype(np.float32), mask, truth)
    drawn = [[(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in axis.patches] for axis in figure.axes]
    assert drawn == [[(1.5, 2.5, 3, 6), (9.5, 9.5, 2, 2)], [(1.5, 2.5, 4, 6)]]


def test_curves_hold_their_points() -> None:
    froc_axis = froc_plot({"a": ([0, 1, 2], [0, 0.5, None])}).axes[0]
    np.testing.assert_array_equal(froc_axis.lines[0].get_xdata(), [0, 1, 2])
    dose_axis = dose_response_plot({"1 ml": ([0.1, 0.2], [0.3, 0.4])}, "contrast", "Dice").axes[0]
    assert (dose_axis.get_xlabel(), dose_axis.get_ylabel()) == ("contrast", "Dice")


class Page(HTMLParser):
    """Collects what a page would fetch, its pictures and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [values[name] or "" for name in ("src", "href") if name in values]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "td":
            self.tables[-1][-1].append(values["data-value"] or "")


def test_the_page_is_self_contained_and_complete(tmp_path: Path, rows: list[dict]) -> None:
    write_report(tmp_path / "report.html", results(rows))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(source.startswith("data:") for source in page.fetched)
    assert "http" not in re.sub("http-equiv", "", text)
    pictures = [source for source in page.fetched if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 4  # violin, FROC, dose–response, stages
    for source in pictures:
        assert imread(io.BytesIO(base64.b64decode(source.split(",")[1]))).std() > 0
    assert RESEARCH_ONLY in text
    assert "<title>Dev cases &amp; more</title>" in text
    assert "intensity &lt;b&gt;" in text
    assert "intensity <b>" not in text
    volumes = page.tables[-1][1:]
    assert len(volumes) == 12
    assert volumes[0][3] == ""
    assert float(volumes[4][3]) == rows[4]["dice"]


def test_the_page_comes_back_from_its_json_byte_for_byte(tmp_path: Path, rows: list[dict]) -> None:
    write_results(tmp_path / "results.json", results(rows))
    write_report(tmp_path / "first.html", results(rows))
    report_from_json(tmp_path / "results.json", tmp_path / "again.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "again.html").read_bytes()


def test_rows_alone_make_a_page(tmp_path: Path, rows: list[dict]) -> None:
    write_report(tmp_path / "report.html", {"rows": rows})
    assert (tmp_path / "report.html").stat().st_size > 5000


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
# Runs in the page: says on the console whether the pictures are there and what sorting by Dice does.
PROBE = """<script>addEventListener("load", () => {
  const table = [...document.querySelectorAll("table.sortable")].at(-1);
  const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === "dice");
  const read = () => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
  const sorted = [0, 1].map(() => { table.tHead.rows[0].cells[column].click(); return read(); });
  const pictures = [...document.images].map(image => image.complete && image.naturalWidth > 100);
  console.log("PROBE" + JSON.stringify({pictures, sorted}) + "END");
});</script></body>"""


@pytest.fixture
def browser() -> str:
    found = os.environ.get("STREGA_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium on the path and none named by STREGA_TEST_BROWSER: the page was NOT OPENED")
    return found


def test_the_page_opens_and_sorts_in_a_browser(tmp_path: Path, rows: list[dict], browser: str) -> None:
    write_report(tmp_path / "report.html", results(rows))
    page = tmp_path / "probed.html"
    page.write_text((tmp_path / "report.html").read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0", page.as_uri()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        console = []
        deadline = threading.Timer(60, process.kill)
        deadline.start()
        try:
            for line in process.stderr:
                if "CONSOLE" in line:
                    console.append(line)
                if "PROBE" in line:
                    break
        finally:
            deadline.cancel()
            process.kill()
    assert len(console) == 1, console  # the probe's own line: no error, no refused source
    found = json.loads(re.search(r"PROBE(.*)END", console[0])[1])  # pyright: ignore[reportOptionalSubscript]
    assert found["pictures"] == [True] * 4
    values = sorted(str(row["dice"]) for row in rows if row["truth_ml"])
    rising, falling = found["sorted"]
    assert rising == [*sorted(values, key=float), "", ""]
    assert falling == [*sorted(values, key=float, reverse=True), "", ""]
