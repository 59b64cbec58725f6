"""Evaluation from scans to report: controls, planted lesions, and masks that must not be scored."""

import copy
import dataclasses
import html
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")

from small_workdir import RUN, small_workdir

from strega_jax.detection.detect import detect_scan
from strega_jax.evaluation.content import report_content
from strega_jax.evaluation.evaluate import evaluate, label
from strega_jax.evaluation.metrics import dice
from strega_jax.evaluation.report import file_name, report_from_json
from strega_jax.evaluation.scoring import Results, score_cases
from strega_jax.models.opening import open_model
from strega_jax.scans.case import Case, read_truth
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.planted import plant_in_cohort
from strega_jax.scans.scan import read_scan


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Two planted lesions and three controls of the demo cohort."""
    healthy = find_cases(small_workdir() / "demo_cohort")
    planted = plant_in_cohort(healthy, tmp_path_factory.mktemp("planted"), 2, 0)
    return planted + [dataclasses.replace(case, cohort="controls", healthy=True) for case in healthy]


@pytest.fixture(scope="module")
def scored(cases: list[Case], tmp_path_factory: pytest.TempPathFactory):
    opened = open_model(small_workdir())
    masks = tmp_path_factory.mktemp("masks")
    return score_cases(opened.model, cases, RUN.postprocess, opened.calibration, masks, method="m"), opened


def test_every_case_is_scored_in_its_place_by_the_model_and_the_baselines(cases, scored):
    results, opened = scored
    # The same subjects are in both cohorts.
    names = [f"{case.cohort}_{case.name}" for case in cases[:4]] + [cases[4].name]
    assert [of.row["case"] for of in results.scored] == names
    assert [row["case"] for row in results.baselines] == [name for name in names for _ in range(4)]
    scan = read_scan(cases[0].image)
    detection = detect_scan(opened.model, scan, RUN.postprocess, opened.calibration)
    truth = read_truth(cases[0], scan)
    assert results.scored[0].row["dice"] == dice(detection.mask, truth)
    for name in ("mask", "reference"):
        assert results.scored[0].shown.stages[name].sum() > 0


def test_the_enhancing_part_of_t1ce_scans_is_scored_as_a_cohort_of_its_own(cases, scored, tmp_path):
    _, opened = scored
    judged = [dataclasses.replace(cases[0], contrast="T1ce", name="a"), dataclasses.replace(cases[1], name="b")]
    scores = {
        region: score_cases(
            opened.model, judged, RUN.postprocess, opened.calibration, tmp_path / region, method="m", region=region
        )
        for region in ("whole", "enhancing")
    }
    whole, part = (scores[region].scored for region in ("whole", "enhancing"))
    assert [of.row["cohort"] for of in whole] == ["planted0 T1ce", "planted0 T1w"]
    assert [of.row["cohort"] for of in part] == ["planted0 T1ce enhancing", "planted0 T1w"]
    labels = np.asarray(nib.load(tmp_path / "enhancing" / "a_dseg.nii.gz").dataobj)
    voxel_ml = read_scan(cases[0].image).voxel_ml
    for of, marked in ((whole[0], labels > 0), (part[0], labels == 2)):
        assert of.row["marked_ml"] == pytest.approx(marked.sum() * voxel_ml)
    assert part[0].row["auprc"] == whole[0].row["auprc"]
    assert part[1].row["dice"] == whole[1].row["dice"]


def test_dice_at_a_matched_burden_uses_the_threshold_that_marks_controls_so_much(cases, scored):
    results, opened = scored
    healthy, voxel_ml = [], 0.0
    for case in cases[2:]:
        scan = read_scan(case.image)
        found = detect_scan(opened.model, scan, RUN.postprocess, opened.calibration)
        healthy.append(found.score[found.slices.brain])
        voxel_ml = scan.voxel_ml
    scan = read_scan(cases[0].image)
    score = detect_scan(opened.model, scan, RUN.postprocess, opened.calibration).score
    for burden in (1.0, 5.0, 10.0):
        share = burden / np.mean([of.size * voxel_ml for of in healthy])
        threshold = np.quantile(np.concatenate(healthy), 1 - share)
        wanted = dice(score > threshold, read_truth(cases[0], scan))
        assert results.scored[0].row[f"dice_at_{burden:g}_ml"] == pytest.approx(wanted, abs=0.01)


def test_slices_and_subjects_are_ranked_with_the_controls_in(scored):
    results, _ = scored
    content = report_content(results, {"m": RUN.postprocess}, "m")
    rows = {row["level"]: row for row in content["detection"]}
    patients, controls = results.scored[:2], results.scored[2:]
    for level, used in (("slice, patients alone", patients), ("slice, with controls", [*patients, *controls])):
        scores = np.concatenate([of.slice_scores for of in used]).astype(np.float32)
        anomalous = np.concatenate([of.slice_anomalous for of in used])
        assert rows[level]["auroc"] == pytest.approx(roc_auc_score(anomalous, scores))
        assert rows[level]["average_precision"] == pytest.approx(average_precision_score(anomalous, scores))
        assert rows[level]["prevalence"] == pytest.approx(anomalous.mean())
    scores = np.array([of.subject_score for of in results.scored], np.float32)
    anomalous = np.array([True, True, False, False, False])
    assert rows["subject, with controls"]["auroc"] == pytest.approx(roc_auc_score(anomalous, scores))
    assert (rows["subject, with controls"]["anomalous"], rows["subject, with controls"]["healthy"]) == (2, 3)


def test_target_rates_are_set_against_those_realised_on_controls(scored):
    results, opened = scored
    rates = report_content(results, {"m": RUN.postprocess}, "m")["rates"]
    halves = [row for row in rates if row["threshold from"] == "the other half of the controls"]
    assert [row["target"] for row in halves] == [0.01, 0.05, 0.10]
    own = [row for row in rates if row["threshold from"] == "the checkpoint's calibration"]
    assert [row["target"] for row in own] == [RUN.postprocess.false_positive_rate, 0.01, 0.05, 0.10]
    scores = np.concatenate([of.healthy_scores for of in results.scored if of.healthy_scores is not None])
    for row in own:
        settings = dataclasses.replace(RUN.postprocess, false_positive_rate=row["target"])
        assert opened.calibration is not None
        assert row["threshold"] == opened.calibration.threshold(settings)
        assert row["realised"] == pytest.approx((scores > row["threshold"]).mean())
    one, other = ([of.healthy_scores for of in results.scored[2:]][i::2] for i in range(2))
    thresholds = [np.quantile(np.concatenate(half), 0.95) for half in (one, other)]
    realised = np.mean([(np.concatenate(half) > t).mean() for half, t in zip((other, one), thresholds, strict=True)])
    assert halves[1]["realised"] == pytest.approx(realised, rel=0.02)


def test_labels_leave_out_the_contrast_and_break_before_they_overlap(scored):
    results, _ = scored
    first, control = results.scored[0], results.scored[-1]
    name = "sub-demo001_ses-preoperative_acq-lesion001_T1w"
    long = dataclasses.replace(first, row={**first.row, "case": name, "dice": 0.5})
    assert label(long) == "sub-demo001\nses-preoperative\nacq-lesion001\nDice 0.50"
    assert label(control) == f"{control.row['subject']}\n{control.row['marked_ml']:.1f} ml marked"


def test_a_picture_that_cannot_be_drawn_costs_no_number_and_no_other_picture(scored, tmp_path, monkeypatch):
    results, opened = scored
    own = [dataclasses.replace(of, row={**of.row, "method": RUN.detector}) for of in results.scored]
    first, *others = own
    shown = copy.copy(first.shown)
    # Past the check of types: no picture can be drawn of it.
    object.__setattr__(shown, "stages", {**shown.stages, "input": np.zeros((2, 2, 2), np.uint8)})
    broken = Results([dataclasses.replace(first, shown=shown), *others], calibration={RUN.detector: None})
    monkeypatch.setattr("strega_jax.evaluation.evaluate.score_cases", lambda *_, **__: broken)
    monkeypatch.setattr("strega_jax.evaluation.report.froc_plot", lambda curves: [][0])
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("froc_cce_vae.png", "froc_cce_vae.pdf"):
        (figures / name).write_text("of an earlier evaluation")
    failures = evaluate(opened.model, [], RUN.postprocess, opened.calibration, tmp_path)
    cohort = file_name(first.row["cohort"])
    case = first.row["case"]
    told = [f"{figures / f'{kind}_{cohort}.png'}, {case}: " for kind in ("stages", "boxes")]
    assert len(failures) == 3
    for message, start in zip(
        failures, [*told, f"{figures / 'froc_cce_vae.png'}: an unforeseen IndexError"], strict=True
    ):
        assert message.startswith(start)
        assert message.endswith(f"report it; its traceback is in {tmp_path / 'errors.log'}")
    content = json.loads((tmp_path / "results.json").read_text())
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert len(content["rows"]) == len(rows) - 1 == len(results.scored)
    assert {path.name for path in figures.glob("*.*")} == {f"{entry['name']}.png" for entry in content["pictures"]}
    assert [entry["name"] for entry in content["pictures"]] == [
        f"stages_{cohort}", f"boxes_{cohort}", "stages_controls_T1w",
    ]  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert all(html.escape(message, quote=False) in html.unescape(page) for message in failures)


def faulty(case: Case, folder: Path, fault: str) -> Case:
    image = nib.load(case.mask)
    label = np.asarray(image.dataobj)
    affine = np.array(image.affine)
    if fault == "swapped axis":
        label = np.ascontiguousarray(label.swapaxes(0, 1))
    elif fault == "shifted affine":
        affine[:3, 3] += 4
    else:
        label = np.roll(label, label.shape[2] // 2, axis=2)
    path = folder / f"{fault.replace(' ', '_')}.nii.gz"
    nib.save(nib.Nifti1Image(label, affine), path)
    return dataclasses.replace(case, mask=path, name=fault)


def test_masks_of_another_scan_and_a_device_that_fails_lose_one_case_each(cases, tmp_path, capsys):
    faults = {
        "swapped axis": "not on one grid: shapes",
        "shifted affine": "voxels lie up to",
        "another scan": "lies inside the brain; the mask is of another scan",
    }
    wrong = [faulty(cases[0], tmp_path, fault) for fault in faults]
    unlabelled = dataclasses.replace(cases[0], mask=None, healthy=None, name="unlabelled")
    opened = open_model(small_workdir())
    scored = []

    def score(images, position, contrast):
        scored.append(len(images))
        if len(scored) == 1:
            raise jax.errors.JaxRuntimeError("INTERNAL: the device failed")
        return opened.model.score(images, position, contrast)

    about = opened.model.about
    model: Any = SimpleNamespace(about=about, source="m", score=score, prepare=str, fingerprint=lambda: "m")
    failures = evaluate(
        model, [*wrong, unlabelled, cases[1], cases[0]], RUN.postprocess, opened.calibration, tmp_path / "out"
    )
    assert len(failures) == 5
    assert any(str(cases[1].image) in told and "INTERNAL: the device failed" in told for told in failures)
    for fault, words in faults.items():
        own = [message for message in failures if f"{fault.replace(' ', '_')}.nii.gz" in message]
        assert len(own) == 1, (fault, failures)
        assert words in own[0]
    assert any("no lesion mask beside it" in message for message in failures)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["case"] for row in found["rows"]} == {cases[0].name}
    assert found["failures"] == failures
    assert f"On planted0 T1w, cce_vae reached a mean Dice of {found['rows'][0]['dice']:.3f}" in capsys.readouterr().out


def test_the_report_comes_back_from_the_json_that_evaluation_wrote(cases, tmp_path):
    opened = open_model(small_workdir())
    assert evaluate(opened.model, cases, RUN.postprocess, opened.calibration, tmp_path / "out") == []
    report_from_json(tmp_path / "out" / "results.json", tmp_path / "again")
    written = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*")]
    names = {path.name for path in written}
    assert {"report.html", "stages_planted0_T1w.png", "boxes_planted0_T1w.png", "stages_controls_T1w.png"} <= names
    for path in written:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"config", "data", "postprocessing", "checkpoint"} <= set(content["about"])
    assert [row["cohort"] for row in content["healthy"]] == ["controls T1w"]
    found = np.mean([row["lesion_sensitivity"] for row in content["rows"][:2]])  # one lesion each
    assert content["froc"][0]["sensitivity"][-1] == pytest.approx(found)
