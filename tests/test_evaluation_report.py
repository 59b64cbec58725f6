"""Tables and the page: what is in them, and that the JSON alone gives the page again."""

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
from test_evaluation_figures import shown_slice

from strega_jax.errors import ConfigError
from strega_jax.evaluation.figures import stage_picture
from strega_jax.evaluation.report import picture, report_from_json, write_report
from strega_jax.evaluation.table import (
    files_hash,
    latex_table,
    mean_over_seeds,
    summarise,
    text_table,
    write_csv,
    write_results,
)
from strega_jax.output.html import DISCLAIMER


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
                    "reference_ml": float(i),
                    "marked_ml": 4.0 + i,
                    "hd95_mm": float(rng.uniform(1, 9)) if i > 1 else math.nan,
                    "false_lesions": 2.0,
                }
            )
    return rows


def results(rows: list[dict]) -> dict:
    who = {"cohort": "brats_T2", "method": "cce_vae"}
    return {
        "title": "Dev cases & more",
        "about": {"config": "abc123", "data": "def456"},
        "rows": rows,
        "froc": [{**who, "volumes": 5, "false_positives": np.array([0, 0.5, 2.0]), "sensitivity": [0, 0.4, 0.8]}],
        "sizes": [{**who, "size": "≥ 1 ml", "lesions": 0.0, "sensitivity": math.nan}],
        "detection": [{**who, "level": "slice, with controls", "auroc": 0.8, "average_precision": 0.6}],
        "dose_response": [
            {
                **who,
                "dose": "contrast",
                "response": "Dice",
                "curves": {"1 ml": {"dose": [0.1, 0.3], "response": [0.2, 0.7]}},
            }
        ],
        "healthy": [{**who, "mean_ml": 1.5, "flagged": 0.25}],
        "sentences": ["ours reached a Dice 0.100 higher than < theirs."],
        "pictures": [picture(stage_picture({"z 40": shown_slice()}), "stages brats/T2", "stages of sub-1")],
        "failures": ["a.nii.gz: no such file"],
    }


def test_summaries_equal_pandas_and_keep_empty_truths_apart(rows: list[dict]) -> None:
    frame = pd.DataFrame(rows)
    found = summarise(rows)
    assert [(s["method"], s["reference"], s["volumes"]) for s in found] == [
        ("cce_vae", "lesions", 5),
        ("cce_vae", "empty", 1),
        ("intensity <b>", "lesions", 5),
        ("intensity <b>", "empty", 1),
    ]
    own = frame[(frame.method == "cce_vae") & (frame.reference_ml > 0)]
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
    assert "Dice & marked, ml" in latex
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


def test_several_trainings_of_a_method_count_a_volume_once(rows: list[dict]) -> None:
    again = [{**row, "seed": seed, "dice": row["dice"] + seed / 10} for row in rows[:6] for seed in (0, 1)]
    merged = mean_over_seeds(again)
    assert [row["case"] for row in merged] == [row["case"] for row in rows[:6]]
    assert merged[3]["dice"] == pytest.approx(rows[3]["dice"] + 0.05)
    assert math.isnan(merged[0]["dice"])
    assert not any("seed" in row for row in merged)
    assert [(s["reference"], s["volumes"]) for s in summarise(again)] == [("lesions", 5), ("empty", 1)]
    one = [row["dice"] for row in rows[1:6]]
    assert summarise(again)[0]["metrics"]["dice"]["std"] == pytest.approx(np.std(one, ddof=1))


class Page(HTMLParser):
    """Collects what a page would fetch, its pictures and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [values[name] or "" for name in ("src", "href") if name in values]
        if tag == "table":
            self.tables.append([])
            self.headings.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "th" and "data-name" in values:
            self.headings[-1].append(values["data-name"] or "")
        elif tag == "td":
            self.tables[-1][-1].append(values.get("data-value") or "")


def test_the_page_is_self_contained_and_complete(tmp_path: Path, rows: list[dict]) -> None:
    write_report(tmp_path, results(rows))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(source.startswith("data:") for source in page.fetched)
    assert "http" not in re.sub("http-equiv", "", text)
    pictures = [source for source in page.fetched if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 4  # violin, FROC, dose–response, stages
    for source in pictures:
        assert imread(io.BytesIO(base64.b64decode(source.split(",")[1]))).std() > 0
    assert DISCLAIMER in text
    assert "<title>Dev cases &amp; more</title>" in text
    assert "intensity &lt;b&gt;" in text
    assert "intensity <b>" not in text
    every = next(i for i, names in enumerate(page.headings) if "false_lesions" in names and "case" in names)
    volumes, column = page.tables[every][1:], page.headings[every].index("dice")
    assert len(volumes) == 12
    assert volumes[0][column] == ""
    assert float(volumes[4][column]) == rows[4]["dice"]


def test_figures_lie_beside_the_page_as_files(tmp_path: Path, rows: list[dict]) -> None:
    write_report(tmp_path, results(rows))
    drawn = ["dose_Dice_cce_vae_brats_T2", "froc_cce_vae", "violin_brats_T2"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        [*(f"{name}.{kind}" for name in drawn for kind in ("pdf", "png")), "stages_brats_T2.png"]
    )
    for path in (tmp_path / "figures").glob("*.png"):
        assert imread(path).std() > 0
        assert base64.b64encode(path.read_bytes()).decode() in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "figures" / "froc_cce_vae.pdf").read_bytes()[:5] == b"%PDF-"


def test_page_and_figures_come_back_from_the_json_byte_for_byte(tmp_path: Path, rows: list[dict]) -> None:
    write_results(tmp_path / "results.json", results(rows))
    write_report(tmp_path / "first", results(rows))
    report_from_json(tmp_path / "results.json", tmp_path / "again")
    first = {path.relative_to(tmp_path / "first"): path for path in (tmp_path / "first").rglob("*.*")}
    assert len(first) == 8
    for name, path in first.items():
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": []}'])
def test_what_is_no_results_json_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"results\.json: (not the|holds no)"):
        report_from_json(tmp_path / "results.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_alone_make_a_page(tmp_path: Path, rows: list[dict]) -> None:
    write_report(tmp_path, {"rows": rows})
    assert (tmp_path / "report.html").stat().st_size > 5000


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
# Runs in the page: says on the console whether the pictures are there and what sorting by Dice does.
PROBE = """<script>addEventListener("load", () => {
  const named = (table, name) => [...table.tHead.rows[0].cells].findIndex(cell => cell.dataset.name === name);
  const table = [...document.querySelectorAll("table.sortable")].find(table => named(table, "case") >= 0);
  const column = named(table, "dice");
  const read = () => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
  const sorted = [0, 1].map(() => { table.tHead.rows[0].cells[column].click(); return read(); });
  const pictures = [...document.images].map(image => image.complete && image.naturalWidth > 100);
  console.log("PROBE" + JSON.stringify({pictures, sorted}) + "END");
});</script></body>"""


@pytest.fixture
def browser() -> str:
    found = os.environ.get("STREGA_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium here (apt-get install chromium, or name one by STREGA_TEST_BROWSER): page NOT OPENED")
    return found


def test_the_page_opens_and_sorts_in_a_browser(tmp_path: Path, rows: list[dict], browser: str) -> None:
    write_report(tmp_path, results(rows))
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
    values = sorted(str(row["dice"]) for row in rows if row["reference_ml"])
    rising, falling = found["sorted"]
    assert rising == [*sorted(values, key=float), "", ""]
    assert falling == [*sorted(values, key=float, reverse=True), "", ""]
