"""Every detector: its config builds and fits its slices, and it goes through training, restart and prediction."""

import importlib.util
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import small_run
from strega_jax.config import Run
from strega_jax.detectors import build, names
from strega_jax.detectors.base import Batch, Detector
from strega_jax.inference.model import load_model
from strega_jax.run_config import as_run
from strega_jax.training.loop import train
from strega_jax.training.metrics import read_metrics

CONFIGS = Path(__file__).parent.parent / "configs"
OURS = [
    name for name in names() if name not in ("cce_vae", "cce_vae_judge")
]  # whose configs are the paper's and the default


def config_of(name: str) -> Run:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return as_run(module.get_config())


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


UNUSUAL = {
    "aae": {"maps": (4, 8), "latent": 4, "critic_units": (8,)},  # two optimisers
    "vq_vae": {"maps": (4, 4, 4), "codes": 8, "code_width": 4, "width": 8, "heads": 2, "layers": 1,
               "restorations": 2, "autoencoder_steps": 3},  # two stages, the restart in the first
    "tissue_atlas": {"bins": 4},  # no parameters
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_training_restarts_exactly_and_the_checkpoint_predicts(name, disc_store, tmp_path):
    run = small_run(training={"steps": 6, "checkpoint_every": 2, "validate_every": 6})
    run = Run.from_mapping({**run.to_dict(), "detector": name, "model": UNUSUAL[name]})
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(run, disc_store, whole) == 6
    shutil.copytree(whole, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / str(step))
    assert train(run, disc_store, again) == 6
    losses = [{line["step"]: line["loss"] for line in read_metrics(path) if "loss" in line} for path in (whole, again)]
    assert losses[0] == losses[1]
    assert sorted(losses[0]) == [1, 2, 3, 4, 5, 6]
    models = [load_model(path) for path in (whole, again)]
    jax.tree.map(np.testing.assert_array_equal, models[0].variables, models[1].variables)
    entry = disc_store.entries[-1]
    images = np.asarray(disc_store.array(entry), np.float32)
    score, expected = models[0].score(images, np.array(entry.positions, np.float32))
    assert np.isfinite(score).all()
    assert np.isfinite(expected).all()
    assert score.max() > 0
    assert not score[images.max(axis=-1) == 0].any()
