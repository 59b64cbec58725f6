"""The tables of RESULTS.md: made from the stored results, and from made-up ones each figure where it belongs."""

import json
import re
from pathlib import Path

import pytest
from absl.testing import flagsaver

from strega_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import results

    return results


def row(case, dice, cohort="brats T1ce", method="own", **more):
    subject = case.split("_")[0]
    return {"cohort": cohort, "method": method, "case": case, "subject": subject, "dice": dice, **more}


def test_the_page_is_what_the_stored_results_make(results):
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    stored = results.Stored(results.KEPT)
    tables = {name: make(stored) for name, make in results.TABLES.items()}
    assert results.put(page, tables) == page, "python -m benchmarks.results --page=RESULTS.md puts it right"


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md", "configs/strega.py"])
def test_every_dice_in_prose_stands_in_a_table(results, name):
    stored = results.Stored(results.KEPT)
    tables = "\n".join(line for make in results.TABLES.values() for line in make(stored))
    known = {float(number) for number in re.findall(r"\b\d\.\d{3}\b", tables)}
    text = (ROOT / name).read_text(encoding="utf-8").split("## Earlier versions")[0]
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    claimed = re.findall(r"\b0\.\d{2,3}\b", prose.split("import ConfigDict")[0])
    for figure in claimed:
        half = 0.51 * 10 ** -len(figure.split(".")[1])
        assert any(abs(float(figure) - number) <= half for number in known), figure
    assert claimed or name == "RESULTS.md"


def test_a_mean_is_over_volumes_and_an_interval_over_subjects(results):
    rows = [row("a_1", 0.2), row("a_2", 0.4), *(row(f"{s}_1", 0.6) for s in "bcde"), row("f_1", None)]
    assert results.mean(rows, "dice", spread=True) == "0.500 ± 0.167"
    low, high = map(float, results.interval(rows, "dice").split(" to "))
    assert 0.3 < low < 0.54 < high <= 0.6
    assert results.interval(rows[:5], "dice") == "–"
    assert results.mean([], "dice") == "–"


def test_a_difference_is_paired_over_the_subjects_that_both_have(results):
    own = [row(f"{s}_1", 0.5) for s in "abcdef"]
    others = [row(f"{s}_1", 0.3, method="CSF") for s in "abcde"] + [row("z_1", 0.9, method="CSF")]
    assert results.difference(own, others) == "0.200 (0.200 to 0.200)"
    assert results.difference(own[:1], others) == "0.200"


def test_trainings_are_spread_by_their_means_over_volumes(results):
    dice = {("a", 0): 0.2, ("b", 0): 0.4, ("a", 1): 0.6, ("b", 1): 0.8}
    rows = [row(f"{case}_1", value, seed=seed) for (case, seed), value in dice.items()]
    assert results.over_seeds(rows, "dice", 3) == "0.500 ± 0.283"


def test_each_column_of_the_trainings_is_set_against_the_one_before(results):
    dice = dict(zip(results.TRAININGS, (0.9, 0.8, 0.6, 0.5), strict=True))

    class Stored:
        def rows(self, run, cohort, method):
            one = {"dice": dice[run, method], "marked_ml": 10 * dice[run, method]}
            return [row("a_1", one["dice"], cohort, marked_ml=one["marked_ml"], seed=seed) for seed in (0, 1)]

    head, _, first, *_, healthy = results.trainings_table(Stored())
    assert head.count("|") == first.count("|") == healthy.count("|") == 9
    spread = " ± 0.000"
    others = f"0.800{spread} | 0.100 | 0.600{spread} | 0.200 | 0.500{spread} | 0.100"
    assert first == f"| brats FLAIR, Dice | 0.900{spread} | {others} |"
    assert healthy == "| 20 of IXI, held out, ml | 9.0 ± 0.0 | 8.0 ± 0.0 | – | 6.0 ± 0.0 | – | 5.0 ± 0.0 | – |"


def test_trainings_with_their_own_thresholds_are_told_by_voxels_and_by_lesions(results):
    class Stored:
        def rows(self, run, cohort):
            assert run == "calibrated"
            pairs = ((0.8, 0.5), (0.6, 0.7))
            rows = [row("a_1", dice, cohort, lesion_wise_dice=of, seed=i) for i, (dice, of) in enumerate(pairs)]
            return rows if cohort == "brats T1ce" else [*rows[:1], rows[0] | {"seed": 1}]

    lines = results.calibrated_table(Stored())[2:]
    assert [line.split(" | ")[0] for line in lines] == [f"| {cohort}" for cohort in results.TRAINED_ON]
    assert lines[2] == "| brats T1ce | 0.700 ± 0.141 | 0.600 ± 0.141 |"
    assert lines[0] == "| brats FLAIR | 0.800 ± 0.000 | 0.500 ± 0.000 |"


def test_numbers_are_kept_without_pictures_and_without_paths(results, tmp_path):
    fresh, stored = tmp_path / "fresh", tmp_path / "stored"
    (fresh / "planted" / "evaluation").mkdir(parents=True)
    (fresh / "oasis").mkdir()
    content = {
        "about": {"own: checkpoint": "/somewhere/weights", "own: weights": "abc"},
        "rows": [row("a_1", 1 / 3)],
        "pictures": [{"png": "x" * 9999}],
    }
    (fresh / "planted" / "evaluation" / "results.json").write_text(json.dumps(content))
    (fresh / "oasis" / "group.tsv").write_text("name\tcontrast\tanomaly_ml\na\tT1w\t2.5\nb\tT2w\t7\n")
    for run in ("planted", "oasis"):
        results.keep(fresh, run, stored)
    kept = json.loads((stored / "planted" / "results.json").read_text())
    assert kept["about"] == {"own: weights": "abc"}
    assert kept["rows"][0]["dice"] == 0.333333
    assert len(kept["taken from"]) == 64
    assert "pictures" not in kept
    assert results.Stored(stored).healthy_ml("oasis", "T1w") == [2.5]
    with pytest.raises(ConfigError, match="no results of 'patients'; make them with: python"):
        results.keep(fresh, "patients", stored)
    with flagsaver.flagsaver(stored=str(stored)), pytest.raises(ConfigError, match="nothing of 'patients'"):
        results.main()
