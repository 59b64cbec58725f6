"""Prediction over many scans: outputs, doubts, stages, resuming, uncertainty, BIDS."""

import csv
import dataclasses
import json
import threading

import nibabel as nib
import numpy as np
import pytest
from small_workdir import small_scan, small_workdir

from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.inference.batch import AbstainedError, Settings, detect_all, is_complete
from strega_jax.inference.jobs import make_jobs
from strega_jax.models.opening import open_model
from strega_jax.models.reference import Reference, load_reference
from strega_jax.models.uncertainty import score_deviation
from strega_jax.output.bids import app_arguments
from strega_jax.output.group import write_group
from strega_jax.pipeline import staged
from strega_jax.scans.cohorts import find_cases

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


def settings_of(opened, **changes) -> Settings:
    return Settings(opened.model.about.run.postprocess, **changes)


def test_stages_overlap_keep_order_and_pass_failures_on():
    both_busy = threading.Barrier(2, timeout=20)

    def first(n):
        if n in (1, 2):  # waits until the other stage is at work too
            both_busy.wait()
        return n * 10

    def second(n):
        if n == 20:
            raise ValueError("two")
        if n in (0, 10):
            both_busy.wait()
        return n + 1

    found = [(item, value, str(error or "")) for item, value, error in staged(range(4), (first, second))]
    assert found == [(0, 1, ""), (1, 11, ""), (2, None, "two"), (3, 31, "")]


def test_stages_end_when_the_consumer_stops():
    before = threading.active_count()
    for _ in staged(range(1000), (lambda n: n, lambda n: n)):
        break
    assert threading.active_count() == before


def test_outputs_agree_and_are_resumed(opened, tmp_path):
    cases = find_cases(small_workdir() / "demo_cohort")[:2]
    jobs = make_jobs(cases, tmp_path)
    settings = settings_of(opened, samples=3)
    done = list(detect_all(jobs, opened, settings))
    assert [d.error for d in done] == [None, None]
    for job, case in zip(jobs, cases, strict=True):
        source, mask = nib.load(case.image), nib.load(job.paths.mask)
        assert mask.shape == source.shape
        np.testing.assert_array_equal(mask.affine, source.affine)
        marked = np.asanyarray(mask.dataobj) > 0
        summary = json.loads(job.paths.boxes.read_text())
        with job.paths.components.open() as file:
            table = list(csv.DictReader(file))
        assert marked.any()
        assert sum(int(row["voxels"]) for row in table) == marked.sum()
        assert sum(float(row["volume_ml"]) for row in table) == pytest.approx(marked.sum() * 0.008, abs=1e-3)
        assert summary["anomaly_ml"] == pytest.approx(marked.sum() * 0.008)
        assert summary["compared_with_training"]
        residual = np.asanyarray(nib.load(job.paths.anomaly_map).dataobj)
        assert residual[marked].min() > residual[~marked].mean()
        uncertainty = np.asanyarray(nib.load(job.paths.uncertainty).dataobj)
        assert uncertainty.max() > 0
        assert (uncertainty[np.asanyarray(source.dataobj) == 0] == 0).all()
    # done once more: nothing is touched; what is incomplete or made otherwise is done again
    stamp = jobs[0].paths.mask.stat().st_mtime_ns
    assert [d.skipped for d in detect_all(jobs, opened, settings)] == [True, True]
    assert jobs[0].paths.mask.stat().st_mtime_ns == stamp
    jobs[1].paths.anomaly_map.unlink()
    assert is_complete(jobs[0], opened, settings)
    assert not is_complete(jobs[1], opened, settings)
    other = dataclasses.replace(settings.postprocess, false_positive_rate=0.2)
    assert not is_complete(jobs[0], opened, dataclasses.replace(settings, postprocess=other))
    assert not is_complete(dataclasses.replace(jobs[0], digest=lambda: "another file"), opened, settings)
    assert [d.skipped for d in detect_all(jobs, opened, settings)] == [True, False]
    assert not next(detect_all(jobs[:1], opened, dataclasses.replace(settings, overwrite=True))).skipped


def test_group_lists_most_anomaly_first(tmp_path):
    for name, ml in (("a", 1.5), ("b", 20.0), ("c", 0.0)):
        content = {"anomaly_ml": ml, "brain_ml": 1000.0, "components": [{"volume_ml": ml}], "quality_control": []}
        (tmp_path / f"{name}_boxes.json").write_text(json.dumps(content))
    (tmp_path / "foreign_boxes.json").write_text("[1, 2]")
    assert write_group(tmp_path) == 3
    lines = (tmp_path / "group.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["name", "b", "a", "c"]
    page = (tmp_path / "group.html").read_text()
    assert page.index(">b<") < page.index(">a<") < page.index(">c<")


def test_deviation_over_samples_is_that_of_single_samples(opened):
    import functools

    import jax

    from strega_jax.models.model import score_and_reconstruct

    model = opened.model
    rng = np.random.default_rng(0)
    images = rng.random((16, 32, 32, 3)).astype(np.float32)
    position = np.linspace(0, 1, 16, dtype=np.float32)
    found = score_deviation(model, images, position, 5)
    detector = dataclasses.replace(model.detector, samples=1)
    one = jax.jit(functools.partial(score_and_reconstruct, detector, model.about.normalisation))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(model.about.run.seed), 0), 5)
    raw = {"images": images, "position": position}
    scores = np.stack([np.asarray(one(model.variables, raw, key)[0]) for key in keys])
    np.testing.assert_allclose(found, scores.std(axis=0, ddof=1), atol=1e-5)
    assert found.max() > 1e-4
    with pytest.raises(ConfigError, match="at least 2"):
        score_deviation(model, images, position, 1)


def test_scans_unlike_training_are_doubted_and_strict_abstains(opened, tmp_path):
    jobs = make_jobs(find_cases(small_scan()), tmp_path)
    numbers = dict(opened.reference.numbers)
    for name in ("wm", "error", "brain_ml"):
        spread = numbers[name]
        numbers[name] = dataclasses.replace(spread, mean=spread.mean / 3, std=0.0)
    odd = dataclasses.replace(opened, reference=Reference(3, 3, numbers))
    done = next(detect_all(jobs, odd, settings_of(opened, pages=False)))
    assert done.error is None
    assert [flag.check for flag in done.warnings] == ["tissue", "tissue", "reconstruction"]
    strict = settings_of(opened, strict=True, overwrite=True)
    other = make_jobs(find_cases(small_scan()), tmp_path / "strict")
    done = next(detect_all(other, odd, strict))
    assert isinstance(done.error, AbstainedError)
    assert "WM makes" in str(done.error)
    assert not (tmp_path / "strict").exists()
    assert next(detect_all(other, opened, strict)).error is None


def test_a_damaged_reference_is_told(tmp_path):
    assert load_reference(tmp_path) is None
    (tmp_path / "reference.json").write_text('{"scans": 3}')
    with pytest.raises(CheckpointError, match="not the reference"):
        load_reference(tmp_path)


@pytest.mark.parametrize(
    ("plain", "labels", "values", "left"),
    [
        ("in out participant", "", {"analysis_level": "participant"}, ""),
        ("in out group", "", {"analysis_level": "group"}, ""),
        (
            "in out participant sub-02",
            "01",
            {"analysis_level": "participant", "participant_label": ["01", "sub-02"]},
            "",
        ),
        ("in out participant 02", "", {"analysis_level": "participant"}, "02"),
        ("extra", "", None, "extra"),
        ("in out nobody", "", None, "in out nobody"),
        ("", "01", None, ""),
    ],
)
def test_the_command_line_of_a_bids_app_becomes_flags(plain, labels, values, left):
    wanted = {} if values is None else {"input": "in", "output": "out", **values}
    assert app_arguments(plain.split(), labels.split()) == (wanted, left.split())
