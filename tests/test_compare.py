"""Comparison: several checkpoints on the same volumes in one table, with what each costs."""

import csv
import json
from pathlib import Path

import pytest

from conftest import small_run
from strega_jax.config import Run
from strega_jax.errors import ConfigError
from strega_jax.evaluation.compare import checkpoint_names, compare_checkpoints, comparisons, training_minutes
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.training.loop import train


def test_two_checkpoints_end_up_in_one_table(disc_store, tmp_path, capsys):
    pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
    for name in ("tissue_class", "tissue_atlas"):
        run = small_run(training={"steps": 2, "checkpoint_every": 2}, postprocess={"threshold": "otsu"})
        run = Run.from_mapping({**run.to_dict(), "detector": name, "model": {}})
        train(run, disc_store, tmp_path / f"run_{name}")
    make_demo_cohort(tmp_path / "scans", 3, 0)
    cases = plant_in_cohort(find_cases(tmp_path / "scans", ["T1w"]), tmp_path / "planted", 1, 0)
    paths = [str(tmp_path / "run_tissue_class"), str(tmp_path / "run_tissue_atlas" / "checkpoints" / "2")]
    assert compare_checkpoints(paths, cases, tmp_path / "out") == []

    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    methods = [row["method"] for row in rows]
    assert sorted(methods) == sorted(
        ["run_tissue_class", "run_tissue_atlas", "tissue class CSF", "tissue class GM", "tissue class WM",
         "intensity threshold"]
    )  # fmt: skip
    for name in ("run_tissue_class", "run_tissue_atlas"):
        own = json.loads((tmp_path / "out" / name / "results.json").read_text())["rows"][0]
        assert {**own, "method": name} in rows
    with open(tmp_path / "out" / "costs.csv", newline="") as file:
        costs = list(csv.DictReader(file))
    assert [cost["detector"] for cost in costs] == ["tissue_class", "tissue_atlas"]
    assert [cost["parameters"] for cost in costs] == ["0", "0"]
    assert all(float(cost["seconds_a_volume"]) > 0 and float(cost["training_minutes"]) > 0 for cost in costs)
    shown = capsys.readouterr().out
    assert "run_tissue_class" in shown
    assert (tmp_path / "out" / "report.html").stat().st_size > 0
    assert "run\\_tissue\\_atlas" in (tmp_path / "out" / "table.tex").read_text()


def test_names_are_those_of_the_workdirs_and_must_differ():
    assert checkpoint_names(["runs/a", "runs/b/checkpoints/400", "/x/c/checkpoints"]) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="same name"):
        checkpoint_names(["x/a", "y/a/checkpoints/3"])


def test_training_time_is_the_sum_of_the_logged_spans(tmp_path: Path):
    lines = [{"step": 10, "images_per_second": 5.0}, {"step": 10, "validation_loss": 1.0},
             {"step": 30, "images_per_second": 40.0}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = tmp_path / "checkpoints" / "30"
    checkpoint.mkdir(parents=True)
    assert training_minutes(checkpoint, 8) == pytest.approx((10 * 8 / 5 + 20 * 8 / 40) / 60)
    assert training_minutes(tmp_path / "elsewhere" / "deep" / "down" / "here", 8) is None


def test_words_need_two_subjects_with_lesions():
    better = [{"method": "a", "subject": str(i), "dice": 0.5 + 0.03 * i} for i in range(6)]
    worse = [{"method": "b", "subject": str(i), "dice": 0.2 + 0.02 * i} for i in range(6)]
    empty = [{"method": m, "subject": "9", "dice": None} for m in "ab"]
    rows = [*better, *worse, *empty]
    assert len(comparisons(rows, "a")) == 1
    assert "b" in comparisons(rows, "a")[0]
    assert comparisons(rows[:1], "a") == []
