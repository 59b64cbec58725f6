"""The tables of docs/reproduction.md: from made-up result files, each figure where it belongs."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from absl.testing import flagsaver

from strega_jax.errors import ConfigError, StregaError

ROWS = [
    ("brats T1ce", "cce_vae", "a", 0.5, 9.0),
    ("brats T1ce", "cce_vae", "b", 0.7, 9.0),
    ("controls T1w", "cce_vae", "c", None, 0.0),
    ("controls T1w", "cce_vae", "d", None, 4.0),
    ("brats T2w", "cce_vae", "a", 0.25, 9.0),
    ("brats T1ce", "tissue class CSF", "a", 0.125, 9.0),
]


@pytest.fixture
def reproduction(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import reproduction

    return reproduction


def write_run(folder, settings):
    masks = folder / "evaluation" / "masks"
    masks.mkdir(parents=True)
    names = ("cohort", "method", "case", "dice", "marked_ml")
    about = {f"postprocess.{name}": value for name, value in settings.items()}
    results = {"about": about, "rows": [dict(zip(names, row, strict=True)) for row in ROWS]}
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    for case, marked in (("c", 0), ("d", 1)):
        score, mask = np.zeros((4, 5, 6), np.float32), np.zeros((4, 5, 6), np.uint8)
        score[:, 1:5] = 1  # four axial slices, for axes right, superior, anterior
        mask[0, 1] = marked
        affine = np.eye(4)[[0, 2, 1, 3]]
        nibabel.save(nibabel.Nifti1Image(score, affine), masks / f"{case}_desc-anomalymap.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), masks / f"{case}_mask.nii.gz")


@pytest.fixture
def results(tmp_path, reproduction):
    for name in ("otsu_slice", "default", "paper_t1"):
        write_run(tmp_path / "results" / name, reproduction.STEPS[name].settings or {})
    return tmp_path / "results"


@pytest.fixture
def training(tmp_path):
    run = {
        "training": {"batch_size": 10, "steps": 0, "epochs": 70},
        "training_slices": {"slices": 100},
        "preprocess": {"size": 128},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    lines = [{"step": 20, "loss": 1.0}, {"step": 20, "validation_rec": 600.0}, {"step": 35, "loss": 1.0}]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "run"


def test_a_run_stands_under_its_name_and_what_was_not_run_says_so(reproduction, results):
    runs = {name: reproduction.read(results / name) for name in reproduction.STEPS}
    steps = {line.split("`")[1]: line for line in reproduction.steps_table(runs)[2:]}
    assert list(steps) == list(reproduction.STEPS)
    assert (
        "| 0.600 ± 0.141 (2) | 0.250 (1) | 2.0, 2.0, 0.0–4.0 | 1 of 2 | 12 % |" in steps["otsu_slice"]
    )  # 1 of 8 slices
    assert steps["hysteresis"].count("not run") == 5
    paper = reproduction.paper_table(runs)
    assert "0.531 ± 0.112" in paper[10]
    assert paper[11].count("not run") == 5  # nor what the T1 model reaches on T2w
    assert "| 0.600 ± 0.141 (2) |" in paper[11]
    assert "| 0.125 (1) |" in paper[13]


def test_results_of_another_postprocessing_are_refused(reproduction, results):
    (results / "otsu_slice").rename(results / "otsu_volume")
    with pytest.raises(StregaError, match=r"postprocess\.scope=slice, its row is of volume"):
        reproduction.read(results / "otsu_volume")


def test_an_unfinished_training_says_how_far_it_is(reproduction, training):
    lines = reproduction.Training.read(training).lines()
    assert lines[0].startswith("3.5 of 70 epochs done")
    assert lines[2:5] == ["| epoch | 2 |", "|---|---|", "| held-out error | 600 |"]
    (training / "metrics.jsonl").write_text("")
    assert reproduction.Training.read(training).lines() == [
        "0.0 of 70 epochs done, slices of 128×128. No validation yet."
    ]
    with pytest.raises(ConfigError, match="--training="):
        reproduction.Training.read(training / "nowhere")


def test_tables_and_pictures_go_into_the_page(reproduction, results, training, tmp_path, capsys):
    places = ("paper", "steps", "commands", "training")
    page = tmp_path / "page.md"
    page.write_text("Before.\n" + "".join(f"<!-- {name} -->OUTDATED<!-- /{name} -->\n" for name in places) + "After.\n")
    (tmp_path / "images").mkdir()
    stored = tmp_path / "stored"
    with flagsaver.flagsaver(stored=str(stored), page=str(page)):
        with flagsaver.flagsaver(keep=str(results), training=str(training)):
            assert reproduction.main() == 0
        first = page.read_text()
        assert reproduction.main() == 0  # from what is stored alone, masks and log are not needed
    assert page.read_text() == first
    assert "| 1 of 2 | 12 % |" in first
    kept = json.loads((stored / "otsu_slice" / "results.json").read_text())
    assert kept["rows"][0]["dice"] == 0.5
    nothing = flagsaver.flagsaver(stored=str(stored), keep=str(tmp_path / "images"))
    with nothing, pytest.raises(ConfigError, match="no results of paper_t1"):
        reproduction.main()
    assert "OUTDATED" not in first
    printed = capsys.readouterr().out
    assert all(line in printed for line in first.splitlines() if line.startswith("|"))
    for name in ("healthy", "training"):
        assert (tmp_path / "images" / f"reproduction_{name}.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="0 places <!-- paper -->"):
        reproduction.put("", {"paper": ["x"]})
