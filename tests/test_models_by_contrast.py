"""A model that scores contrasts in two ways: it picks by the scan's contrast, from a checkpoint and from a file."""

import dataclasses
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from export_formats import FORMATS

from conftest import disc_volume, small_run
from strega_jax.config import Preprocess, Run
from strega_jax.detection.detect import anomaly_map
from strega_jax.detectors.atlas_judge import AtlasJudge
from strega_jax.inference.warm_up import warm_up
from strega_jax.models.about import About
from strega_jax.models.calibration import calibrate
from strega_jax.models.exporting import export_model
from strega_jax.models.model import Model
from strega_jax.models.opened import Opened
from strega_jax.models.opening import open_model
from strega_jax.models.scorer import Scores
from strega_jax.programs import Program
from strega_jax.scans.contrast import NAMES
from strega_jax.scans.scan import Scan
from strega_jax.slices.store import Normalisation, SliceStore

FIELDS: dict[str, Any] = {"atlas_heights": 2, "maps": (4, 4), "blocks": 1}


def made(contrast: Any = "T1w") -> Model:
    """Two judges with their first weights."""
    preprocess = Preprocess(
        contrast=contrast, representation="fractions_intensity", grid="fixed", size=32, normalise="unit"
    )
    run = Run(detector="atlas_judge", model=FIELDS, preprocess=preprocess)
    detector, shape = AtlasJudge(**FIELDS), (32, 32, 5)
    variables = jax.jit(detector.init, static_argnums=1)(jax.random.key(0), shape)
    about = About(run, preprocess, Normalisation((0.0,) * 5, (1.0,) * 5), shape, 1, 1, 1)
    return Model(detector, variables, about, "made")


@pytest.fixture(scope="module")
def slices() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).uniform(0.1, 0.4, (3, 32, 32, 5)).astype(np.float32)
    images[:, :6] = 0
    return images, np.array([0.2, 0.5, 0.8], np.float32)


@pytest.mark.parametrize(("trained", "alike"), [("T1w", {"", "T1w", "T1ce"}), ("T2w", {"", "T2w"})])
def test_scans_in_the_training_contrasts_order_of_brightness_are_scored_by_tissue_alone(trained, alike, slices):
    model = made(trained)
    alone = dataclasses.replace(model, detector=dataclasses.replace(model.detector, intensity_share=0.0))
    tissue, both = alone.score(*slices, "FLAIR"), model.score(*slices, "FLAIR")
    assert tissue.probability is not None
    assert both.probability is not None
    assert np.abs(tissue.probability - both.probability).max() > 1e-3
    for contrast in ("", *NAMES):
        wanted = tissue if contrast in alike else both
        for found, of in zip(model.score(*slices, contrast), wanted, strict=True):
            np.testing.assert_array_equal(found, of)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_exported_model_scores_every_contrast_as_its_checkpoint(kind, slices, tmp_path):
    model = made()
    export_model(Opened(model, None, None), tmp_path / "model.zip", kind)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert archive.namelist() == ["about.json", f"network.{kind}", f"network_1.{kind}"]
    exported = open_model(tmp_path / "model.zip").model
    for contrast in ("", *NAMES):
        for found, of in zip(exported.score(*slices, contrast), model.score(*slices, contrast), strict=True):
            np.testing.assert_allclose(found, of, atol=1e-4)


@pytest.mark.parametrize("contrast", ["", "T2w"])
def test_the_contrast_of_a_scan_reaches_the_model(contrast, disc_store):
    run, asked = small_run(), []

    def score(images, position, contrast):
        asked.append(contrast)
        return Scores(images[..., 0], images, None)

    about = SimpleNamespace(preprocess=run.preprocess, run=run)
    model: Any = SimpleNamespace(about=about, source="stub", score=score, prepare=str, fingerprint=str)
    slices = disc_volume(np.random.default_rng(0), run.preprocess)
    scan = Scan.from_array(slices.brain.astype(np.float32), np.eye(4), Path("scan.nii"))
    scan = dataclasses.replace(scan, contrast=contrast)
    anomaly_map(model, scan, slices, run.postprocess)
    assert asked == [contrast]
    dev = [dataclasses.replace(entry, contrast=contrast) for entry in disc_store.of_split("dev")]
    calibrate(model, SliceStore(disc_store.path, disc_store.settings, None, tuple(dev)), run.postprocess)
    assert asked == [contrast, contrast]


def test_what_is_warmed_up_is_what_a_contrast_is_scored_with(slices, monkeypatch):
    model = made()
    warm_up(model, "T1ce")
    warm_up(model, "FLAIR")
    monkeypatch.setattr(Program, "_made", lambda *_: pytest.fail("compiled once more"))
    for contrast in ("", *NAMES):
        model.score(*slices, contrast)
