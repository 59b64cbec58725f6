"""Exported models: the same scores and masks as the checkpoint's, in a process without what training needs."""

import dataclasses
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from export_formats import FORMATS
from jax import export
from small_workdir import small_scan, small_workdir

import strega_jax
from strega_jax import predict
from strega_jax.detection.detect import detect_slices
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.models.exported import load_exported
from strega_jax.models.exporting import export_model, to_stablehlo
from strega_jax.models.opening import open_model
from strega_jax.models.weights import save_weights
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.demo import make_demo_cohort
from strega_jax.scans.lesions import plant_lesion
from strega_jax.scans.scan import read_scan
from strega_jax.slices.preprocess import preprocess

pytest.importorskip("nilearn", reason="the demo cohort is made from nilearn's template")

TIE = 2e-6  # of scores up to 1; smoothed, those of two runtimes differed by 6e-7 at most


@pytest.fixture(scope="module")
def opened():
    return open_model(small_workdir())


@pytest.mark.parametrize("kind", FORMATS)
def test_an_exported_model_detects_and_doubts_as_its_checkpoint(opened, kind, tmp_path):
    export_model(opened, tmp_path / "model.zip", kind)
    exported = open_model(tmp_path / "model.zip")
    assert exported.reference == opened.reference
    assert exported.calibration == opened.calibration
    exported.model.prepare()
    own, other = (strega_jax.detect(small_scan(), m) for m in (opened, exported))
    assert own.mask.any()
    np.testing.assert_array_equal(other.mask, own.mask)
    assert [flag.check for flag in other.warnings] == [flag.check for flag in own.warnings]


def test_a_model_that_samples_predicts_when_exported_without_being_told_to_leave_it(opened, tmp_path):
    model, few = opened.model, {"samples": 3}
    run = dataclasses.replace(model.about.run, model={**model.about.run.model, **few})
    model = dataclasses.replace(
        model, detector=dataclasses.replace(model.detector, **few), about=dataclasses.replace(model.about, run=run)
    )
    sampling, path = dataclasses.replace(opened, model=model), tmp_path / "model.zip"
    with pytest.raises(ConfigError, match="ONNX cannot repeat"):
        export_model(sampling, path, "onnx")
    export_model(sampling, path, "stablehlo")
    slices = preprocess(read_scan(small_scan()), model.about.preprocess)
    one, own, other = (m.model.score(slices.images, slices.position)[0] for m in (opened, sampling, open_model(path)))
    np.testing.assert_allclose(other, own, rtol=1e-5, atol=1e-5)
    assert np.abs(own - one).max() > 0.01  # samples were drawn
    line = ["predict", f"--checkpoint={path}", f"--input={small_scan()}", f"--output={tmp_path / 'out'}", "--nopages"]
    with flagsaver.flagsaver():
        flags.FLAGS(line)
        assert predict.main() == 0
        assert not list((tmp_path / "out").glob("*uncertainty*"))
        flags.FLAGS([*line, "--samples=3"])
        with pytest.raises(ConfigError, match=r"model\.zip has no latent distribution"):
            predict.main()


@pytest.fixture(scope="module")
def ill_brains(tmp_path_factory):
    """Five demo brains with a lesion each: scan, slices, and what the packaged weights score and find."""
    shipped, folder = open_model(), tmp_path_factory.mktemp("ill")
    make_demo_cohort(folder, 5, seed=1)
    made = []
    for number, case in enumerate(find_cases(folder)):
        healthy = read_scan(case.image)
        for attempt in range(10):
            rng = np.random.default_rng(number + 5 * attempt)
            planted, _ = plant_lesion(
                healthy.data, healthy.data > 0, healthy.spacing_mm, rng, volume_ml=25.0, contrast=-0.6
            )
            scan = dataclasses.replace(healthy, data=planted)
            slices = preprocess(scan, shipped.model.about.preprocess)
            scores, settings = shipped.model.score(slices.images, slices.position), shipped.model.about.run.postprocess
            own = found_by(shipped, scan, slices, scores)
            assert scores.probability is not None
            thresholds = (own.score, settings.low_fraction * own.score.max()), (
                slices.back(scores.probability), settings.grow_probability
            )  # fmt: skip
            if not any(tied(values, threshold) for values, threshold in thresholds):
                made.append((scan, slices, scores, own))
                break
    assert len(made) == 5
    return made


def tied(values, threshold):
    """Whether one is the threshold but for the last bits: runtimes that add in another order may then disagree."""
    return bool((np.abs(values - threshold) < TIE).any())


class Asked:
    """A model that was asked already: it need not score the same slices again."""

    def __init__(self, model, scores):
        self._model, self._scores = model, scores

    def __getattr__(self, name):
        return getattr(self._model, name)

    def score(self, images, position, contrast=""):
        assert len(images) == len(self._scores.score)
        return self._scores


def found_by(opened, scan, slices, scores):
    model = Asked(opened.model, scores)
    return detect_slices(model, scan, slices, model.about.run.postprocess, opened.calibration)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_packaged_weights_exported_score_and_mask_the_same_on_five_scans(ill_brains, kind, tmp_path):
    export_model(open_model(), tmp_path / "model.zip", kind)
    exported = open_model(tmp_path / "model.zip")
    marked = 0
    for scan, slices, wanted, own in ill_brains:
        found = exported.model.score(slices.images, slices.position)
        np.testing.assert_allclose(found.score, wanted.score, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.probability, wanted.probability, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.reconstruction, wanted.reconstruction, rtol=1e-3, atol=5e-4)
        other = found_by(exported, scan, slices, found)
        np.testing.assert_allclose(other.score, own.score, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(other.mask, own.mask)
        marked += int(own.mask.sum())
    assert marked > 0


def test_weights_alone_detect_as_their_checkpoint(opened, tmp_path):
    save_weights(opened, tmp_path)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1  # whoever may read one may read all
    alone = open_model(tmp_path)
    assert alone.reference == opened.reference
    assert alone.calibration == opened.calibration
    for case in find_cases(small_workdir() / "demo_cohort")[:1]:
        own, other = (strega_jax.detect(case.image, m) for m in (opened, alone))
        assert own.mask.any()
        np.testing.assert_array_equal(other.mask, own.mask)
        np.testing.assert_allclose(other.score, own.score, atol=1e-6)
    file = tmp_path / "variables.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="damaged weights"):
        open_model(tmp_path)


def test_any_batch_size_and_every_platform(opened):
    program = export.deserialize(bytearray(to_stablehlo(opened.model)))
    assert program.platforms == ("cpu", "cuda", "tpu")
    rng = np.random.default_rng(0)
    images, position = rng.random((5, 32, 32, 3)).astype(np.float32), np.linspace(0, 1, 5, dtype=np.float32)
    five = program.call(images, position, np.int32(0))[0]
    two = program.call(images[:2], position[:2], np.int32(0))[0]
    assert five.shape == (5, 32, 32)
    np.testing.assert_allclose(two, five[:2], rtol=1e-5, atol=1e-5)


RUNNER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('flax', 'orbax', 'optax', 'grain', 'tensorboardX', 'matplotlib', 'skimage',
                                  'ml_collections', 'safetensors', 'etils', 'pydicom', 'highdicom', 'nilearn'):
            raise ImportError(f'{name} is not installed here')
sys.meta_path.insert(0, Absent())
from strega_jax.predict import cli
sys.argv[0] = 'predict'
cli()
"""


def test_the_runner_needs_nothing_of_what_trains(opened, tmp_path):
    export_model(opened, tmp_path / "model.zip", "stablehlo")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, f"--checkpoint={tmp_path / 'model.zip'}", f"--input={small_scan()}",
         f"--output={tmp_path / 'out'}"],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 scan done, 0 failed" in done.stdout
    mask = nib.load(next((tmp_path / "out").glob("*_mask.nii.gz")))
    wanted = strega_jax.detect(small_scan(), opened)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj) > 0, wanted.mask)


def test_the_same_model_gives_the_same_file(opened, tmp_path):
    for name in ("a.zip", "b.zip"):
        export_model(opened, tmp_path / name, "stablehlo")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_is_no_exported_model_is_told(opened, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_exported(tmp_path / "nothing.zip")
    export_model(opened, tmp_path / "model.zip", "stablehlo")
    content = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.zip: not a model"):
        load_exported(tmp_path / "cut.zip")
    with pytest.raises(ConfigError, match="exported model already"):
        export_model(load_exported(tmp_path / "model.zip"), tmp_path / "again.zip", "stablehlo")
    with pytest.raises(ConfigError, match="no latent distribution"):
        strega_jax.detect(small_scan(), load_exported(tmp_path / "model.zip"), samples=4)
