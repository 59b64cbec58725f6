"""Every detector: its config builds and fits its slices, and it goes through training, restart and prediction."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import discs, fresh
from small_workdir import RUN as DEMO_RUN
from small_workdir import small_workdir

from strega_jax.config import Augment, Run
from strega_jax.detectors import build, names
from strega_jax.detectors.base import Batch, Detector, Judging, Restoring
from strega_jax.models.model import load_model, score_and_reconstruct
from strega_jax.models.uncertainty import score_deviation
from strega_jax.run_config import run_of
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.splits import subject_splits
from strega_jax.slices.cohort import prepare_cohort
from strega_jax.slices.store import Normalisation, SliceStore
from strega_jax.training.loop import train
from strega_jax.training.metrics import read_metrics

CONFIGS = Path(__file__).parent.parent / "configs"
OURS = [
    name for name in names() if name not in ("atlas_judge", "cce_vae", "cce_vae_judge")
]  # whose configs are the paper's and the default


def config_of(name: str, *arguments: str) -> Run:
    return run_of(CONFIGS / f"{name}.py", *arguments)


@pytest.mark.parametrize("name", names())
def test_the_comparison_gives_every_detector_the_defaults_tissue_and_postprocessing(name):
    run, default = config_of("compared", name), config_of("strega")
    detector = build(run.detector, run.model)
    size, channels = run.preprocess.size, run.preprocess.channels
    jax.eval_shape(lambda: detector.init(jax.random.key(0), (size, size, channels)))
    assert run.detector == name
    assert (run.preprocess.grid, size) == (default.preprocess.grid, default.preprocess.size)
    if name != "intensity_threshold":  # which looks at one channel
        tissue = dataclasses.replace(default.preprocess, representation="fractions_excess")
        assert run.preprocess == tissue
    if name != "tissue_class":  # its fraction has a threshold of its own
        refinement = dataclasses.replace(run.postprocess, clip=default.postprocess.clip).refinement
        assert refinement == default.postprocess.refinement


@pytest.mark.parametrize("name", ["skip_ae", "gm_vae", "ce_vae", "ce_vae_strega"])
def test_the_papers_baselines_differ_from_its_method_in_network_and_input(name):
    run, paper = config_of("paper_baselines", name), config_of("paper_t1")
    build(run.detector, run.model)
    assert run.detector == name.removesuffix("_strega")
    assert (run.training, run.optimiser) == (paper.training, paper.optimiser)
    assert dataclasses.replace(run.preprocess, representation="pveseg") == paper.preprocess
    strega = name == "ce_vae_strega"
    assert (run.preprocess == paper.preprocess) == strega
    assert run.augment == (paper.augment if strega else Augment())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_config_fits_its_slices_in_either_precision(name, dtype):
    run = config_of(name)
    assert run.detector == name
    detector = build(name, run.model, dtype)
    assert isinstance(detector, Detector)
    size, channels = run.preprocess.size, run.preprocess.channels
    variables = jax.eval_shape(lambda: detector.init(jax.random.key(0), (size, size, channels)))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    like = {"images": (2, size, size, channels), "brain": (2, size, size), "position": (2,)}

    def all_of(variables):
        batch: Batch = {key: jnp.zeros(shape) for key, shape in like.items()}  # pyright: ignore
        key = jax.random.key(0)
        loss, aux = detector.loss(variables, batch, key, jnp.int32(0))
        return loss, aux, detector.reconstruct(variables, batch), detector.score(variables, batch, key)

    loss, aux, expected, score = jax.eval_shape(all_of, variables)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert (expected.shape, score.shape) == (like["images"], like["brain"])
    assert expected.dtype == score.dtype == jnp.float32
    kept = {key: value for key, value in variables.items() if key != "params"}
    assert jax.tree.structure(aux.mutable) == jax.tree.structure(kept)


SMALL = {
    "vae": {"maps": (4, 8), "latent": 4},
    "ce_vae": {"maps": (4, 8), "latent": 4},
    "cce_vae": {"maps": (8,), "latent": 4},
    "atlas_judge": {"atlas_heights": 2, "maps": (8,), "blocks": 1},
    "cce_vae_judge": {"healthy": {"maps": (8,), "latent": 4, "atlas_heights": 2}, "maps": (8,), "blocks": 1},
    "skip_ae": {"maps": (4, 8), "bottleneck": 4},
    "ss_ae": {"maps": (4, 8), "latent": 4, "levels": 2},
    "aae": {"maps": (4, 8), "latent": 4, "critic_units": (8,)},  # two optimisers
    # two stages, the restart in the first
    "vq_vae": {"maps": (4, 4, 4), "codes": 8, "code_width": 4, "width": 8, "heads": 2, "layers": 1, "samples": 2,
               "unlikely_nats": 0.1, "autoencoder_steps": 32},
    "gm_vae": {"maps": 4, "depth": 1, "clusters": 2, "restoration_steps": 3, "tv_weights": (0.0, 1.0)},  # settles
    "dae": {"maps": (4, 8)},
    "intensity_threshold": {},
    "tissue_class": {},
    "tissue_atlas": {"bins": 4},  # no parameters
}  # fmt: skip
SAMPLED = ("vae", "ce_vae", "cce_vae", "cce_vae_judge", "skip_ae", "vq_vae")
STEPS = 48
# What falls within a few steps; the rest of these losses belongs to an opponent or to another stage.
FALLING = {"aae": "rec", "vq_vae": "nll"}
# The one has nothing to learn; the other's loss is in units of the spread that it learns.
NOT_FALLING = ("tissue_class", "tissue_atlas")


def small_run_of(name: str) -> Run:
    """Eight slices a step from the demo cohort."""
    training = {"batch_size": 8, "steps": STEPS, "log_every": 1, "checkpoint_every": 16, "validate_every": STEPS}
    representation = "intensity" if name == "intensity_threshold" else "fractions"
    return Run.from_mapping(
        {
            **DEMO_RUN.to_dict(),
            "detector": name,
            "model": SMALL[name],
            "preprocess": {**DEMO_RUN.to_dict()["preprocess"], "representation": representation},
            "training": training,
            "optimiser": {"learning_rate": 3e-3},
        }
    )


def demo_store(run: Run, folder: Path) -> SliceStore:
    if run.preprocess == DEMO_RUN.preprocess:
        return SliceStore.open(small_workdir() / "store")
    cases = find_cases(small_workdir() / "demo_cohort")
    prepare_cohort(cases, subject_splits(cases), folder / "store", run.preprocess, workers=1)
    return SliceStore.open(folder / "store")


def test_these_are_all_detectors():
    assert sorted(SMALL) == names()


@pytest.mark.parametrize("name", SMALL)
def test_it_trains_on_the_demo_cohort_restarts_exactly_and_its_checkpoint_predicts(name, tmp_path):
    run = small_run_of(name)
    store = demo_store(run, tmp_path)
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(run, store, whole) == STEPS
    shutil.copytree(whole, again)
    for step in (32, 48):
        shutil.rmtree(again / "checkpoints" / str(step))
    assert train(run, store, again) == STEPS
    history = [{line["step"]: line for line in read_metrics(path) if "loss" in line} for path in (whole, again)]
    losses = [{step: line["loss"] for step, line in lines.items()} for lines in history]
    assert losses[0] == losses[1]
    assert sorted(losses[0]) == list(range(1, STEPS + 1))
    if name not in NOT_FALLING:
        falling = [history[0][step][FALLING.get(name, "loss")] for step in range(1, 33)]
        assert np.mean(falling[-4:]) < np.mean(falling[:4])
    models = [load_model(path) for path in (whole, again)]
    jax.tree.map(np.testing.assert_array_equal, models[0].variables, models[1].variables)
    entry = store.entries[-1]
    images = np.asarray(store.array(entry), np.float32)
    score, expected, probability = models[0].score(images, np.array(entry.positions, np.float32))
    assert (probability is not None) == isinstance(models[0].detector, Judging)
    if probability is not None:
        assert 0 <= probability.min() < probability.max() <= 1
        assert (score <= probability).all()  # times a share of at most 1
    assert np.isfinite(score).all()
    assert np.isfinite(expected).all()
    assert score.max() > 0
    assert not score[images.max(axis=-1) == 0].any()
    if name in SAMPLED:
        deviation = score_deviation(models[0], images, np.array(entry.positions, np.float32), 2)
        brain = images.max(axis=-1) > 0
        assert deviation[brain].mean() > 1e-5
        assert not deviation[~brain].any()


def test_a_score_read_off_the_reconstruction_is_the_detectors_own():
    detector, batch = build("gm_vae", SMALL["gm_vae"]), discs(3, 3)
    assert isinstance(detector, Restoring)
    variables = fresh(detector, 3)
    raw = {"images": batch["images"], "position": batch["position"]}
    plain = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    score, expected = jax.jit(lambda: score_and_reconstruct(detector, plain, variables, raw, jax.random.key(0)))()
    np.testing.assert_allclose(score, jax.jit(detector.score)(variables, batch, jax.random.key(0)), atol=1e-6)
    assert np.abs(np.asarray(score)).max() > 0
    np.testing.assert_allclose(expected, detector.reconstruct(variables, batch) * batch["brain"][..., None], atol=1e-6)
