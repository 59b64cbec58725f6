"""Training: exact restarts, the same on any number of devices, clear ends."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from conftest import small_run, write_disc_store
from strega_jax.detectors import build
from strega_jax.errors import CheckpointError, ConfigError
from strega_jax.models.model import load_model
from strega_jax.slices.loader import training_batches
from strega_jax.training import mesh as meshes
from strega_jax.training.loop import DivergedError, train
from strega_jax.training.metrics import read_metrics
from strega_jax.training.state import init_state, make_optimizer
from strega_jax.training.step import make_train_step


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(workdir) if "loss" in line}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The workdir of `small_run()`, never stopped; tests write into copies."""
    folder = tmp_path_factory.mktemp("whole")
    train(small_run(), write_disc_store(folder / "store", small_run().preprocess), folder / "run")
    return folder / "run"


def test_training_learns_logs_and_can_be_loaded(disc_store, tmp_path):
    run = small_run(training={"steps": 60, "checkpoint_every": 60, "validate_every": 30},
                    optimiser={"learning_rate": 3e-3, "ema_decay": 0.5})  # fmt: skip
    assert train(run, disc_store, tmp_path / "run") == 60
    lines = read_metrics(tmp_path / "run")
    assert {"step", "loss", "kl", "rec", "rec_ce", "images_per_second", "data_wait_fraction"} <= set(lines[0])
    trained = losses(tmp_path / "run")
    assert trained[60] < 0.7 * trained[1]
    assert any("validation_loss" in line for line in lines)
    model = load_model(tmp_path / "run")
    assert model.about.run == run
    assert model.about.training_scans == 4
    assert model.about.split == disc_store.rule
    entry = disc_store.entries[-1]
    images = np.asarray(disc_store.array(entry), np.float32)
    score, reconstruction, probability = model.score(images, np.array(entry.positions, np.float32))
    assert probability is None  # its detector has no judge
    assert score.shape == images.shape[:3]
    assert score.min() >= 0
    assert not score[images.max(axis=-1) == 0].any()
    assert np.isfinite(reconstruction).all()
    assert not reconstruction[images.max(axis=-1) == 0].any()


def test_a_stopped_run_goes_on_as_if_never_stopped(disc_store, tmp_path):
    run = small_run(augment={"rotation": 1.0, "noise": 0.5})
    train(run, disc_store, tmp_path / "whole")
    half = dataclasses.replace(run, training=dataclasses.replace(run.training, steps=8, checkpoint_every=3))
    script = textwrap.dedent(f"""
        import dataclasses, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import conftest
        from pathlib import Path
        from strega_jax.config import Run
        from strega_jax.slices.store import SliceStore
        from strega_jax.training.loop import train
        run = Run.from_mapping({half.to_dict()!r})
        train(run, SliceStore.open({str(disc_store.path)!r}), Path({str(tmp_path / "killed")!r}))
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and '"step": 5' in metrics.read_text():
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate()
    train(half, disc_store, tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_sigterm_saves_and_the_next_start_goes_on(disc_store, tmp_path, monkeypatch, whole):
    run = small_run(training={"checkpoint_every": 1000})
    from strega_jax.training import loop

    inner = loop.Loop.report

    def report_then_terminate(self, pending, *args):
        inner(self, pending, *args)
        if pending and pending[0] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "report", report_then_terminate)
        stopped = train(run, disc_store, tmp_path / "stopped")
    assert 3 <= stopped < 8
    assert train(run, disc_store, tmp_path / "stopped") == 8
    assert losses(tmp_path / "stopped") == losses(whole)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(disc_store, tmp_path, whole):
    run = small_run()
    shutil.copytree(whole, tmp_path / "run")
    before = losses(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "8" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert train(run, disc_store, tmp_path / "run") == 8
    assert (tmp_path / "run" / "damaged-8").exists()
    assert losses(tmp_path / "run") == before


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))


def step_results(run, store, devices):
    mesh = mesh_of(devices)
    detector = build(run.detector, run.model)
    optimizer = make_optimizer(run.optimiser, detector, 4)
    state = init_state(detector, optimizer, run.optimiser, (32, 32, 3), run.seed)
    state = jax.device_put(state, meshes.replicated(mesh))
    step = make_train_step(detector, optimizer, run, store.normalisation, mesh)
    batches = training_batches(store.source("train"), 8, run.seed, 1)
    seen = []
    for _ in range(3):
        state, metrics = step(state, meshes.shard_batch(mesh, next(batches)))
        seen.append(float(metrics["loss"]))
    batches.close()
    return seen, state


def test_the_step_is_compiled_once(disc_store, caplog):
    with jax.log_compiles():
        step_results(small_run(augment={"noise": 0.5}), disc_store, 2)
    compiled = [record.getMessage() for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    assert sum("jit(step)" in message for message in compiled) == 1, compiled


def test_one_device_and_two_give_the_same_training(disc_store):
    run = small_run(augment={"rotation": 1.0})
    one, state_one = step_results(run, disc_store, 1)
    two, state_two = step_results(run, disc_store, 2)
    np.testing.assert_allclose(one, two, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(state_one.mutable), jax.tree.leaves(state_two.mutable), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_accumulated_gradients_are_the_mean_of_the_parts(disc_store):
    run = small_run(model={"ce_weight": 0.0, "kl_weight": 0.0})
    whole, _ = step_results(run, disc_store, 1)
    parts, _ = step_results(dataclasses.replace(run, optimiser=dataclasses.replace(run.optimiser, accumulate=4)),
                            disc_store, 1)  # fmt: skip
    assert parts == pytest.approx(whole, rel=0.2)  # batch statistics of a quarter differ
    assert parts != whole


def test_divergence_stops_the_run_with_a_word(disc_store, tmp_path):
    run = small_run(optimiser={"learning_rate": 1e30})
    with pytest.raises(DivergedError, match="diverged"):
        train(run, disc_store, tmp_path / "run")


def test_a_workdir_belongs_to_one_config(disc_store, whole):
    with pytest.raises(ConfigError, match="another config"):
        train(small_run(seed=5), disc_store, whole)


def test_a_batch_must_divide_among_devices(disc_store, tmp_path):
    with pytest.raises(ConfigError, match="multiple of 2 devices"):
        train(small_run(training={"batch_size": 9}), disc_store, tmp_path / "run")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        load_model(tmp_path)
