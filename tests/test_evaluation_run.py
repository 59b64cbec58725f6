"""What a run's config evaluates: the model it describes, on scans that training held out, into a folder of its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import small_run
from strega_jax.config import Data, Postprocess, Preprocess, Run
from strega_jax.errors import ConfigError, StoreError
from strega_jax.evaluation.run import check_described, evaluate_run, lesion_cases
from strega_jax.models.about import About
from strega_jax.models.calibration import calibrate
from strega_jax.models.opened import Opened
from strega_jax.models.reference import make_reference
from strega_jax.models.scorer import Scores
from strega_jax.postprocess import healthy_thresholds
from strega_jax.scans.files import write_json
from strega_jax.scans.splits import SplitRule, common_rule, subject_splits
from strega_jax.slices.brain import brain_of
from strega_jax.slices.store import Normalisation, SliceStore, write_entry, write_manifest
from strega_jax.training.inputs import held_out, split_rule

RUN = small_run()


@dataclasses.dataclass(frozen=True)
class Model:
    """Scores a pixel by its white matter."""

    run: Run = RUN
    source: str = "runs/model"

    @property
    def about(self) -> About:
        return About(self.run, self.run.preprocess, Normalisation((0.0,) * 3, (1.0,) * 3), (32, 32, 3), 8, 4, 40)

    def prepare(self, contrast: str = "") -> None: ...

    def score(self, images: Any, position: Any, contrast: str = "") -> Scores:
        return Scores(images[..., 2], images * 0.5, None)

    def fingerprint(self) -> str:
        return "model"


def with_splits(store: SliceStore, *splits: str) -> SliceStore:
    for entry, split in zip(store.entries, splits, strict=True):
        write_entry(store.path, dataclasses.replace(entry, split=split, tissue_ml=(1.0, 2.0, float(split != "test"))))
    return SliceStore.open(store.path)


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (("train", "train", "test", "test", "test"), (0, 1)),
        (("train", "train", "test", "dev", "dev"), (3, 4)),
    ],
)
def test_patients_of_the_test_split_calibrate_nothing(disc_store, splits, used):
    store = with_splits(disc_store, *splits)
    found = calibrate(Model(), store, Postprocess(threshold="healthy"))
    arrays = [np.asarray(store.array(store.entries[i]), np.float32) for i in used]
    expected = healthy_thresholds((images[..., 2][brain_of(images)] for images in arrays), np.array(found.rates))
    assert found.scans == len(used)
    np.testing.assert_array_equal(found.thresholds, expected)


@pytest.mark.parametrize(("held_out", "reconstructed"), [("test", 2), ("dev", 5)])
def test_a_reference_describes_the_scans_trained_on(disc_store, held_out, reconstructed):
    store = with_splits(disc_store, "train", "train", held_out, held_out, held_out)
    model: Any = Model()
    found = make_reference(model, store)
    assert (found.scans, found.reconstructed) == (2, reconstructed)
    assert found.numbers["wm"].high == found.numbers["wm"].low == 0.25
    assert found.numbers["brain_ml"].mean == 4.0


def test_a_store_without_healthy_scans_or_of_other_settings_calibrates_nothing(disc_store):
    other = dataclasses.replace(RUN, preprocess=Preprocess())
    with pytest.raises(StoreError, match="other settings than runs/model"):
        calibrate(Model(other), disc_store, Postprocess())
    store, model = with_splits(disc_store, *["test"] * 5), Model()
    with pytest.raises(StoreError, match="no scan in the splits 'dev' and 'train'"):
        calibrate(model, store, Postprocess())
    with pytest.raises(StoreError, match="no scan in split 'train'"):
        make_reference(model, store)  # pyright: ignore[reportArgumentType]
    assert store.normalisation == Normalisation((0.0,) * 3, (1.0,) * 3)


def test_a_config_of_another_model_is_refused_and_other_postprocessing_is_told(capsys):
    opened = Opened(Model(), None, None)
    spelt_out = dataclasses.replace(RUN, model={**RUN.model, "kl_weight": 1.0}, seed=3)
    check_described(spelt_out, opened)
    assert not capsys.readouterr().out
    check_described(dataclasses.replace(RUN, postprocess=Postprocess(smooth_mm=2.0)), opened)
    told = "postprocess.smooth_mm=2.0, as the config says; runs/model was trained with 0.0\n"
    assert capsys.readouterr().out == told
    for field, value in (("model", {**RUN.model, "latent": 4}), ("preprocess", Preprocess())):
        with pytest.raises(ConfigError, match=rf"another model than runs/model \(differs in: {field}\)"):
            check_described(dataclasses.replace(RUN, **{field: value}), opened)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/2"])
def test_the_results_of_one_run_do_not_go_into_the_workdir_of_another(tmp_path, name):
    (tmp_path / "a" / name).parent.mkdir(parents=True)
    (tmp_path / "a" / name).touch()
    with pytest.raises(ConfigError, match="holds a run of its own"):
        evaluate_run(RUN, str(tmp_path / "a"), str(tmp_path / "b"))
    assert not (tmp_path / "a" / "evaluation").exists()


def healthy_cohort(folder: Path, subjects: int = 40) -> list[str]:
    """Names of scans that nobody reads, without a table of splits; one subject has a lesion."""
    names = [f"sub-{i:02d}" for i in range(subjects)]
    for name in names:
        (folder / name / "anat").mkdir(parents=True)
        (folder / name / "anat" / f"{name}_desc-brain_T1w.nii.gz").touch()
    (folder / names[0] / "anat" / f"{names[0]}_desc-lesion_mask.nii.gz").touch()
    return names


def test_without_a_table_the_split_does_not_depend_on_the_trainings_seed(tmp_path):
    names = healthy_cohort(tmp_path / "scans")
    runs = [dataclasses.replace(RUN, seed=seed, data=Data(scans=str(tmp_path / "scans"))) for seed in (0, 1)]
    first, second = ({case.subject for case in held_out(run, str(tmp_path / "run"))} for run in runs)
    assert first == second
    assert 0 < len(first) < 10
    assert names[0] not in first  # a patient is no healthy scan


def test_whom_the_store_holds_out_is_held_out(tmp_path):
    healthy_cohort(tmp_path / "scans")
    run, workdir = dataclasses.replace(RUN, seed=1, data=Data(scans=str(tmp_path / "scans"))), tmp_path / "run"
    (workdir / "store").mkdir(parents=True)
    rule = SplitRule(train=0.5, dev=0.0, test=0.5, seed=7)
    write_manifest(workdir / "store", run.preprocess, rule)
    assert split_rule(run, str(workdir)) == rule
    expected = subject_splits(tmp_path / "scans", rule.fractions, rule.seed)
    found = {case.subject for case in held_out(run, str(workdir))}
    assert found == {subject for subject, split in expected.items() if split == "test"} - {"sub-00"}
    # A store of a version that did not say how it split: by the run's seed.
    manifest = json.loads((workdir / "store" / "manifest.json").read_text())
    del manifest["split"]
    write_json(workdir / "store" / "manifest.json", manifest)
    assert split_rule(run, str(workdir)) == SplitRule(seed=1)


def test_controls_and_planted_lesions_are_asked_of_healthy_scans(tmp_path):
    healthy_cohort(tmp_path / "scans")
    data = Data(scans=str(tmp_path / "scans"), controls=2)
    cases = lesion_cases(dataclasses.replace(RUN, data=data), str(tmp_path / "run"))
    assert [(case.healthy, case.cohort) for case in cases] == [(True, "controls")] * 2
    with pytest.raises(ConfigError, match=r"need data\.scans"):
        lesion_cases(dataclasses.replace(RUN, data=Data(planted=1)), str(tmp_path / "run"))


def test_controls_are_those_that_no_compared_model_was_trained_on(caplog):
    one, other = SplitRule(seed=1), SplitRule(train=0.5, dev=0.25, test=0.25)
    abouts = {rule: dataclasses.replace(Model().about, split=rule) for rule in (one, other, None)}
    told = {rule: About.from_dict(json.loads(json.dumps(about.to_dict()))).split for rule, about in abouts.items()}
    assert told == {one: one, other: other, None: None}
    assert common_rule({"a": one, "b": one}) == one
    assert not caplog.messages
    assert common_rule({"a": one, "b": None}) == one
    assert common_rule({"b": None}) == SplitRule()
    assert "b: nothing says how its subjects were split" in caplog.text
    with pytest.raises(ConfigError, match=r"a: SplitRule.*seed=1.*b: SplitRule"):
        common_rule({"a": one, "b": other})
