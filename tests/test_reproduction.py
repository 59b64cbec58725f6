"""The tables of docs/reproduction.md: from made-up result files, each figure where it belongs."""

import json
import math
import shlex
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import config_flags

from strega_jax.detectors import build
from strega_jax.errors import ConfigError, StregaError
from strega_jax.run_config import as_config, as_run, run_of

ROWS = [
    ("brats T1ce", "cce_vae", "a", 0.5, 9.0, 0.75),
    ("brats T1ce", "cce_vae", "b", 0.7, 9.0, 0.85),
    ("controls T1w", "cce_vae", "c", None, 0.0, None),
    ("controls T1w", "cce_vae", "d", None, 4.0, None),
    ("brats T2w", "cce_vae", "a", 0.25, 9.0, 0.5),
    ("eq15 T1w", "cce_vae", "a", 0.375, 9.0, 0.5),
    ("brats T1ce", "tissue class CSF", "a", 0.125, 9.0, None),
    ("brats T1ce", "tissue class GM", "a", 0.625, 9.0, None),
    ("brats FLAIR", "cce_vae", "a", 0.625, 9.0, 0.75),
]
FALLING = [80.0] * 5 + [80.0, 70.0, 60.0, 50.0, 40.0]


@pytest.fixture
def reproduction(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import reproduction

    return reproduction


def write_run(folder, settings, contrast="T1w"):
    masks = folder / "evaluation" / "masks"
    masks.mkdir(parents=True)
    names = ("cohort", "method", "case", "dice", "marked_ml", "best_dice")
    about = {f"postprocess.{name}": value for name, value in settings.items()}
    rows = [(cohort.replace("T1w", contrast), *others) for cohort, *others in ROWS]
    results = {"about": about, "rows": [dict(zip(names, row, strict=True)) for row in rows]}
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
    for name in ("otsu_slice", "default", "paper_t1_full", "skip_ae"):
        step = reproduction.STEPS.get(name)
        write_run(tmp_path / "results" / name, (step and step.settings) or {})
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
    assert paper[11].count("not run") == 4  # nor what the T1 model reaches on T2w
    assert "| not run | 0.375 (1) | 0.600 ± 0.141 (2) |" in paper[11]
    assert paper[13] == f"| | here, 600 steps |{' not run |' * 6}"
    assert paper[16] == f"| | here |{' not run |' * 6}"  # nor does the default's tissue map stand for the paper's
    paper = reproduction.paper_table(runs | {"ce_vae_strega": reproduction.read(results / "skip_ae")})
    assert paper[16] == f"| | here | not run | not run | 0.125 (1) |{' not run |' * 3}"  # T2w: of another run


def test_a_trained_model_is_told_with_three_thresholds(reproduction, results):
    lines = reproduction.trained_table({"skip_ae": reproduction.read(results / "skip_ae")})
    otsu, healthy, best, *others, csf, csf_t2 = lines[2:]
    assert otsu.startswith("| `skip_ae` | Otsu | not run | 0.375 (1) | 0.600 ± 0.141 (2) | 0.250 (1) | 2.0, 2.0, ")
    assert otsu.endswith("| 1 of 2 |")
    assert healthy == f"| `skip_ae` | healthy |{' not run |' * 6}"
    assert best == "| `skip_ae` | each volume's best | not run | 0.500 (1) | 0.800 ± 0.071 (2) | 0.500 (1) | – | – |"
    t2 = [line for line in others if "_t2" in line]
    assert len(t2) == 3 * len(reproduction.TRAINED_T2)
    assert all(line.endswith("| not run | not run | – | not run | not run | not run |") for line in t2)
    assert all(line.count("not run") == 6 for line in set(others) - set(t2))
    assert csf == f"| CSF class, T1w | – |{' not run |' * 4} – | – |"
    assert csf_t2 == "| CSF class, T2w | – | not run | not run | – | not run | – | – |"
    runs = {"ce_vae_strega": reproduction.read(results / "skip_ae")}
    csf = reproduction.trained_table(runs)[-2]
    assert csf == "| CSF class, T1w | – | not run | not run | 0.125 (1) | not run | – | – |"


def test_three_trainings_are_told_by_the_mean_and_sd_of_their_means(reproduction, tmp_path):
    for seed, shift in (("skip_ae", 0.0), ("skip_ae_seed1", 0.1), ("skip_ae_seed2", 0.2)):
        write_run(tmp_path / seed, {})
        path = tmp_path / seed / "evaluation" / "results.json"
        results = json.loads(path.read_text())
        for row in results["rows"]:
            row["dice"] = row["dice"] and row["dice"] + shift
            row["marked_ml"] += 10 * shift
        path.write_text(json.dumps(results))
    runs = {name: reproduction.read(tmp_path / name) for name in reproduction.names()}
    lines = {tuple(line.split(" | ")[:2]): line for line in reproduction.seeds_table(runs)[2:]}
    otsu = lines["| `skip_ae`", "Otsu"]
    assert otsu.endswith("| not run | 0.475 ± 0.100 | 0.700 ± 0.100 | 0.350 ± 0.100 | 3.0 ± 1.0 |")
    best = lines["| `skip_ae`", "each volume's best"]
    assert best.endswith("| not run | 0.500 ± 0.000 | 0.800 ± 0.000 | 0.500 ± 0.000 | – |")
    assert lines["| `skip_ae`", "healthy"].count("not run") == 5
    assert lines["| `ce_vae`", "Otsu"].count("not run") == 5


def test_a_t2_model_is_told_by_its_own_contrast(reproduction, tmp_path):
    write_run(tmp_path / "ce_vae_t2", {}, contrast="T2w")
    lines = reproduction.trained_table({"ce_vae_t2": reproduction.read(tmp_path / "ce_vae_t2")})
    (otsu,) = (line for line in lines if line.startswith("| `ce_vae_t2` | Otsu"))
    assert otsu == "| `ce_vae_t2` | Otsu | not run | 0.375 (1) | – | 0.250 (1) | 2.0, 2.0, 0.0–4.0 | 1 of 2 |"


def test_every_step_that_is_not_the_configs_own_has_its_command(reproduction):
    blocks = "\n".join(reproduction.commands()).split("python -m strega_jax.train ")
    for name, step in reproduction.STEPS.items():
        told = [block for block in blocks if f"# {name}: " in block]
        assert len(told) == (step.settings is not None)
        if told and step.workdir:
            assert f"--config=configs/{step.config}.py" in told[0]


def test_the_flags_of_every_trained_step_make_a_network_that_takes_its_slices(reproduction, monkeypatch):
    trained = {name: step for name, step in reproduction.STEPS.items() if step.network}
    assert set(trained) >= {"fractions", "mild", "excess", "judged"}
    for step in trained.values():
        values = flags.FlagValues()
        own = run_of(Path(__file__).parents[1] / "configs" / f"{step.config}.py")
        line = ["train", *shlex.split(step.network)]
        monkeypatch.setattr("sys.argv", line)  # by which it knows what is overridden
        config = config_flags.DEFINE_config_dict("config", as_config(own), flag_values=values)
        values(line)
        run = as_run(config.value)
        detector = build(run.detector, run.model)
        shape = (run.preprocess.size, run.preprocess.size, run.preprocess.channels)
        jax.eval_shape(lambda detector=detector, shape=shape: detector.init(jax.random.key(0), shape))


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


@pytest.mark.parametrize(
    ("name", "error"), [("rec", 600.0), ("l1", 600.0), ("nll", 600.0 + 5.5 * math.log(2 * math.pi))]
)
def test_errors_are_the_detectors_own_without_constants(reproduction, training, name, error):
    config = json.loads((training / "config.json").read_text())
    config["preprocess"]["size"] = math.sqrt(11)  # 11 pixels
    (training / "config.json").write_text(json.dumps(config))
    (training / "metrics.jsonl").write_text(json.dumps({"step": 20, f"validation_{name}": error}) + "\n")
    assert reproduction.Training.read(training).errors == [(2.0, pytest.approx(600.0))]


def test_a_curve_tells_whether_it_rests(reproduction):
    falling, resting = ([(float(i + 1), error) for i, error in enumerate(errors)] for errors in (FALLING, [50.0] * 10))
    trainings = {"falling": reproduction.Training(10, 10, 64, falling, 1000)}
    trainings["resting"] = reproduction.Training(10, 10, 64, resting, 1000)
    trainings["short"] = reproduction.Training(9, 10, 64, resting[:9], 900)
    lines = reproduction.curves_table(trainings, most=2)
    assert lines[0].split("|")[3:5] == [" 50 % ", " 100 % "]
    assert lines[2:] == [
        "| `falling` | 1,000 (10.0) | 80 | 40 | −25.0 % |",
        "| `resting` | 1,000 (10.0) | 50 | 50 | +0.0 % |",
        "| `short` | 900 (9.0) | 50 | 50 | – |",
    ]


def test_tables_and_pictures_go_into_the_page(reproduction, results, training, tmp_path, capsys):
    places = ("paper", "trained", "seeds", "steps", "commands", "training", "curves")
    (training.parent / "paper_t1").symlink_to(training)
    page = tmp_path / "page.md"
    page.write_text("Before.\n" + "".join(f"<!-- {name} -->OUTDATED<!-- /{name} -->\n" for name in places) + "After.\n")
    (tmp_path / "images").mkdir()
    stored = tmp_path / "stored"
    with flagsaver.flagsaver(stored=str(stored), page=str(page)):
        with flagsaver.flagsaver(keep=str(results), training=[str(training), str(tmp_path / "paper_t1")]):
            assert reproduction.main() == 0
        first = page.read_text()
        assert reproduction.main() == 0  # from what is stored alone, masks and log are not needed
    assert page.read_text() == first
    assert "| 1 of 2 | 12 % |" in first
    assert "3.5 of 70 epochs done" in first
    assert "| `run` | 35 (3.5) | 600 |" in first
    kept = json.loads((stored / "otsu_slice" / "results.json").read_text())
    assert [row["dice"] for row in kept["rows"]] == [0.5, 0.7, None, None, 0.25, 0.375, 0.125]
    nothing = flagsaver.flagsaver(stored=str(stored), keep=str(tmp_path / "images"))
    with nothing, pytest.raises(ConfigError, match="no results of paper_t1"):
        reproduction.main()
    assert "OUTDATED" not in first
    printed = capsys.readouterr().out
    assert all(line in printed for line in first.splitlines() if line.startswith("|"))
    for name in ("healthy", "training", "curves"):
        assert (tmp_path / "images" / f"reproduction_{name}.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="0 places <!-- paper -->"):
        reproduction.put("", {"paper": ["x"]})
