"""Calibration per contrast: tables from rendered healthy brains, the one of a scan's contrast, and the fall back."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from small_workdir import RUN

from strega_jax.config import Postprocess
from strega_jax.detection import detect
from strega_jax.detection.contrast_calibration import calibrate_contrasts
from strega_jax.detection.detect import anomaly_map, detect_slices
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.models.calibration import (
    FILE,
    RATES,
    Calibration,
    HealthyScores,
    fused_name,
    load_calibration,
    save_calibration,
)  # fmt: skip
from strega_jax.models.scorer import Scores
from strega_jax.postprocess import extent, healthy_thresholds
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import open_scan
from strega_jax.slices.preprocess import preprocess
from strega_jax.slices.rendering import render_contrasts

SETTINGS = Postprocess(threshold="healthy", false_positive_rate=0.01)
OLD = {"refinement": SETTINGS.refinement, "scans": 2, "rates": [0.001, 0.1], "thresholds": [0.9, 0.5]}


class Fluid:
    """Scores a pixel by its share of fluid."""

    about: Any = type("About", (), {"preprocess": RUN.preprocess, "run": RUN})
    source = "runs/fluid"

    def prepare(self, contrast: str = "") -> None: ...

    def score(self, images: Any, position: Any, contrast: str = "") -> Scores:
        return Scores(images[..., 0], images, None)

    def fingerprint(self) -> str:
        return "fluid"


class Sure(Fluid):
    """The same; grey matter is what it is sure of."""

    def score(self, images: Any, position: Any, contrast: str = "") -> Scores:
        return Scores(images[..., 0], images, images[..., 1])


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")
    folder = tmp_path_factory.mktemp("demo")
    make_demo_cohort(folder, 3, seed=0)
    fine = open_scan(min(folder.rglob("*_T1w.nii.gz")), "T1w")
    affine = fine.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return dataclasses.replace(Scan.from_array(fine.data[::2, ::2, ::2], affine, fine.path), contrast="T1w")


@pytest.fixture(scope="module")
def maps(scan):
    images = {"T1w": scan} | render_contrasts(scan, ("T2w",), 7)
    return {
        name: anomaly_map(Fluid(), image, preprocess(image, RUN.preprocess), SETTINGS)[0]
        for name, image in images.items()
    }


def test_tables_are_the_quantiles_of_rendered_brains_and_of_their_fused_maps(scan, maps):
    own = Calibration(SETTINGS.refinement, 20, tuple(map(float, RATES)), tuple(np.linspace(1, 0, RATES.size)))
    found = calibrate_contrasts(Fluid(), own, [scan], SETTINGS, ("T2w",), seed=7)
    assert set(found.contrasts) == {"T2w", "T1w+T2w"}
    assert dataclasses.replace(found, contrasts={}) == own
    brain = scan.data > 0
    for name, table in found.contrasts.items():
        pooled = np.mean([maps[part] for part in name.split("+")], axis=0)[brain]
        np.testing.assert_array_equal(table.thresholds, healthy_thresholds([pooled], RATES))
        assert table.scans == 1
    exceeded = (maps["T2w"][brain] > found.threshold(SETTINGS, "T2w")).mean()
    assert exceeded == pytest.approx(0.01, rel=0.1)


def test_a_scan_gets_its_contrasts_threshold_and_another_contrast_that_of_training(scan):
    table = HealthyScores(3, (0.3, 0.1))
    calibration = Calibration(SETTINGS.refinement, 2, (0.001, 0.1), (0.9, 0.5), {"T2w": table})
    # The rate lies midway between the two on a log scale.
    assert calibration.threshold(SETTINGS, "T2w") == pytest.approx(0.2)
    assert calibration.threshold(SETTINGS) == calibration.threshold(SETTINGS, "T1ce") == pytest.approx(0.7)
    slices = preprocess(scan, RUN.preprocess)
    for contrast, value, source in (
        ("T1w", 0.7, "2 healthy brains of the training contrast"),
        ("T2w", 0.2, "3 healthy brains rendered in T2w"),
        ("PD", 0.7, "2 healthy brains of the training contrast"),
    ):
        found = detect_slices(Fluid(), dataclasses.replace(scan, contrast=contrast), slices, SETTINGS, calibration)
        assert found.healthy_threshold == pytest.approx(value)
        assert found.threshold_source == source
        np.testing.assert_array_equal(found.mask, found.score > np.float32(value))


def test_seeds_reach_the_least_score_where_healthy_brains_score_less(scan):
    calibration = Calibration(SETTINGS.refinement, 2, (0.001, 0.1), (0.9, 0.5), {"T2w": HealthyScores(3, (0.3, 0.1))})
    settings = dataclasses.replace(SETTINGS, threshold="hysteresis", least_seed=0.6, low_fraction=0.3)
    slices = preprocess(scan, RUN.preprocess)
    for contrast, value, source in (
        ("T1w", 0.7, "2 healthy brains of the training contrast"),
        ("T2w", 0.6, "postprocess.least_seed; 3 healthy brains rendered in T2w score less"),
    ):
        found = detect_slices(Fluid(), dataclasses.replace(scan, contrast=contrast), slices, settings, calibration)
        assert found.healthy_threshold == pytest.approx(value)
        assert found.threshold_source == source
        assert (found.score[found.mask] > value).any()
    # The other thresholds have no seeds.
    assert calibration.threshold(dataclasses.replace(settings, threshold="healthy"), "T2w") == pytest.approx(0.2)


def test_detections_take_in_what_the_judge_is_sure_of_where_tissues_have_the_training_order(scan):
    calibration = Calibration(SETTINGS.refinement, 2, (0.001, 0.1), (0.9, 0.5))
    slices = preprocess(scan, RUN.preprocess)
    seen: list[Any] = []

    def mask_of(contrast: str, grow: float, model: Any = None) -> Any:
        settings = dataclasses.replace(SETTINGS, min_volume_ml=1.0, grow_probability=grow, appearance_mm=12.0)
        of = dataclasses.replace(scan, contrast=contrast)
        return detect_slices(model or Sure(), of, slices, settings, calibration).mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "enhancing", lambda *_: None)
        patch.setattr(extent, "refine_by_appearance", lambda mask, *rest: seen.append(rest) or mask)
        bare, unnamed = mask_of("T1w", 0.0), mask_of("", 0.8)
        grown = {contrast: mask_of(contrast, 0.8) for contrast in ("T1w", "T1ce", "T2w", "FLAIR", "PD")}
        with pytest.raises(ConfigError, match="needs a detector with a judge"):
            mask_of("T1w", 0.8, Fluid())
    assert len(seen) == 7  # it is done before
    sure = (slices.back(slices.images[..., 1]) > 0.8) & slices.brain
    near = ndimage.distance_transform_edt(~bare, sampling=scan.spacing_mm) <= 12.0
    joined = ndimage.binary_propagation(bare, np.ones((3, 3, 3)), bare | (sure & near))
    assert bare.sum() < joined.sum() < (bare | sure).sum()
    for name, mask in grown.items():
        np.testing.assert_array_equal(mask, joined if name in ("T1w", "T1ce") else bare)
    np.testing.assert_array_equal(unnamed, joined)


def test_calibrations_are_kept_on_disk_and_those_without_contrasts_still_read(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(OLD))
    old = load_calibration(tmp_path)
    assert old is not None
    assert old.contrasts == {}
    new = dataclasses.replace(old, contrasts={"T2w": HealthyScores(3, (0.4, 0.2))})
    save_calibration(tmp_path, new)
    assert load_calibration(tmp_path) == new
    (tmp_path / FILE).write_text(json.dumps({**OLD, "contrasts": {"T2w": {"scans": 3}}}))
    with pytest.raises(CheckpointError, match="damaged or of another version"):
        load_calibration(tmp_path)


def test_the_order_of_fused_contrasts_does_not_matter():
    assert fused_name(["T2w", "T1ce", "T1w"]) == fused_name(["T1w", "T2w", "T1ce"]) == "T1ce+T1w+T2w"


def test_other_refinement_or_an_unknown_contrast_is_refused(scan):
    own = Calibration(SETTINGS.refinement, 2, (0.001, 0.1), (0.9, 0.5))
    with pytest.raises(CheckpointError, match="calibrated with"):
        calibrate_contrasts(Fluid(), own, [scan], dataclasses.replace(SETTINGS, smooth_mm=6.0), ("T2w",))
    with pytest.raises(ConfigError, match="cannot render DWI"):
        calibrate_contrasts(Fluid(), own, [scan], SETTINGS, ("DWI",))
