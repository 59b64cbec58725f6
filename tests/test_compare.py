"""Comparison: several checkpoints on the same volumes in one table, with what each costs."""

import csv
import json
from pathlib import Path

import pytest

from conftest import small_run
from strega_jax.config import Run
from strega_jax.errors import ConfigError
from strega_jax.evaluation.compare import checkpoint_names, compare_checkpoints, method_names, training_minutes
from strega_jax.scans.case import Case
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.training.loop import train


def trained(disc_store, workdir: Path, detector: str, seed: int = 0) -> str:
    run = small_run(training={"steps": 2, "checkpoint_every": 2}, postprocess={"threshold": "otsu"}, seed=seed)
    train(Run.from_mapping({**run.to_dict(), "detector": detector, "model": {}}), disc_store, workdir)
    return str(workdir)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
    folder = tmp_path_factory.mktemp("demo")
    make_demo_cohort(folder / "scans", 3, 0)
    return plant_in_cohort(find_cases(folder / "scans", ["T1w"]), folder / "planted", 1, 0)


def test_checkpoints_end_up_in_one_table_and_seeds_count_a_volume_once(disc_store, tmp_path, cases, capsys):
    paths = [trained(disc_store, tmp_path / "run_tissue_class", "tissue_class")]
    paths += [trained(disc_store, tmp_path / f"atlas_seed{seed}", "tissue_atlas", seed) for seed in (0, 1)]
    assert compare_checkpoints([*paths[:2], paths[2] + "/checkpoints/2"], cases, tmp_path / "out") == []

    found = json.loads((tmp_path / "out" / "results.json").read_text())
    methods = [(row["method"], row.get("seed")) for row in found["rows"]]
    baselines = ["tissue class CSF", "tissue class GM", "tissue class WM", "intensity threshold"]
    assert methods == [("run_tissue_class", 0), ("atlas", 0), ("atlas", 1), *((name, None) for name in baselines)]
    for row, name in zip(found["rows"], ("run_tissue_class", "atlas_seed0", "atlas_seed1"), strict=False):
        own = json.loads((tmp_path / "out" / name / "results.json").read_text())["rows"][0]
        assert own == {key: value for key, value in row.items() if key != "seed"}
    summary = {line["method"]: line for line in found["summary"]}
    assert summary["atlas"]["volumes"] == 1
    dice = [row["dice"] for row in found["rows"][1:3]]
    assert summary["atlas"]["metrics"]["dice"]["mean"] == pytest.approx(sum(dice) / 2)
    assert "mean of 2 trainings" in next(text for text in found["sentences"] if "atlas" in text)
    with open(tmp_path / "out" / "costs.csv", newline="") as file:
        costs = list(csv.DictReader(file))
    assert [cost["detector"] for cost in costs] == ["tissue_class", "tissue_atlas", "tissue_atlas"]
    assert [cost["parameters"] for cost in costs] == ["0", "0", "0"]
    assert all(float(cost["seconds_a_volume"]) > 0 and float(cost["training_minutes"]) > 0 for cost in costs)
    assert "run_tissue_class" in capsys.readouterr().out
    for name in ("report.html", "figures/methods_planted_T1w.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert "run\\_tissue\\_class" in (tmp_path / "out" / "table.tex").read_text()


def test_trainings_that_differ_in_the_seed_alone_are_one_method():
    one, other = small_run(), small_run(detector="dae", model={})
    again = small_run(seed=1, data={"store": "elsewhere"})
    assert method_names(["a_seed0", "b", "a_seed1"], [one, other, again]) == ["a", "b", "a"]
    assert method_names(["runs-1", "runs-2"], [one, other]) == ["runs-1", "runs-2"]
    assert method_names(["first", "second"], [one, again]) == ["first", "first"]
    rendered = small_run(seed=1, data={"rendered": ("T2w",)})
    assert method_names(["a_0", "b_1"], [one, rendered]) == ["a_0", "b_1"]
    assert method_names(["a_0", "a_1", "a"], [one, again, other]) == ["a_0", "a_0", "a"]  # never one name for two


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
