"""The optimiser's settings, the moving average, the meter and the parameter table, against a hand's arithmetic."""

import contextlib
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from test_training_loop import losses, mesh_of, step_results

from conftest import small_run
from strega_jax.config import Optimiser
from strega_jax.detectors import build
from strega_jax.models.model import load_model
from strega_jax.slices.loader import training_batches
from strega_jax.training.loop import parameter_table
from strega_jax.training.mesh import replicated, shard_batch
from strega_jax.training.meter import Meter
from strega_jax.training.state import init_state, make_optimizer
from strega_jax.training.step import make_train_step

DETECTOR = build("cce_vae", small_run().model)


def moves(settings: Optimiser, gradients: list[np.ndarray], total: int) -> np.ndarray:
    """What the optimiser adds to a parameter of three numbers, step by step."""
    optimizer = make_optimizer(settings, DETECTOR, total)
    params = jnp.zeros(3)
    state, seen = optimizer.init(params), []
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        seen.append(updates)
    return np.asarray(seen)


def adam(gradients: list[np.ndarray], rates: list[float]) -> np.ndarray:
    """Kingma & Ba 2014, algorithm 1."""
    first, second, seen = np.zeros(3), np.zeros(3), []
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        seen.append(-rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8))
    return np.asarray(seen)


GRADIENTS = list(np.random.default_rng(0).normal(size=(12, 3)) * np.geomspace(1e-3, 1e3, 12)[:, None])


def test_a_constant_rate_is_adam():
    ours = moves(Optimiser(learning_rate=0.01), GRADIENTS, 12)
    np.testing.assert_allclose(ours, adam(GRADIENTS, [0.01] * 12), rtol=1e-4)


def test_warm_up_and_cosine_follow_their_formulas():
    settings = Optimiser(learning_rate=0.01, warmup_steps=4, decay="cosine")
    rates = [0.01 * step / 4 for step in range(4)]
    rates += [0.01 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose(moves(settings, GRADIENTS, 12), adam(GRADIENTS, rates), rtol=1e-4, atol=1e-9)


def test_gradients_beyond_the_norm_are_scaled_down_to_it():
    clipped = [gradient * min(1.0, 0.5 / np.linalg.norm(gradient)) for gradient in GRADIENTS]
    ours = moves(Optimiser(learning_rate=0.01, clip_norm=0.5), GRADIENTS, 12)
    np.testing.assert_allclose(ours, adam(clipped, [0.01] * 12), rtol=1e-4)
    assert not np.allclose(ours, adam(GRADIENTS, [0.01] * 12), rtol=0.01)


def test_the_average_is_that_of_all_parameters_since_the_start(disc_store):
    run = small_run(optimiser={"ema_decay": 0.75, "learning_rate": 0.01})
    optimizer = make_optimizer(run.optimiser, DETECTOR, 4)
    mesh = mesh_of(1)
    state = init_state(DETECTOR, optimizer, run.optimiser, (32, 32, 3), run.seed)
    average = jax.tree.map(np.array, state.params)  # a copy: the step takes the state's memory
    state = jax.device_put(state, replicated(mesh))
    step = make_train_step(DETECTOR, optimizer, run, disc_store.normalisation, mesh)
    with contextlib.closing(training_batches(disc_store.source("train"), 8, run.seed, 1)) as batches:
        for _ in range(3):
            state, _ = step(state, shard_batch(mesh, next(batches)))
            average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * np.array(p), average, state.params)
    assert state.best_variables["params"] is state.average
    expected, last = jax.tree.leaves(average), jax.tree.leaves(state.params)
    for a, b in zip(jax.tree.leaves(state.average), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert any(not np.allclose(a, b, atol=1e-4) for a, b in zip(expected, last, strict=True))


def test_the_table_has_every_parameter_and_their_sum():
    params = DETECTOR.init(jax.random.key(0), (32, 32, 3))["params"]
    rows = [line.split() for line in parameter_table(params).splitlines()[1:]]
    counts = [int(row[-1].replace(",", "")) for row in rows]
    assert rows[-1][0] == "total"
    assert len(rows) == len(jax.tree.leaves(params)) + 1
    assert counts[-1] == sum(counts[:-1]) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_meter_tells_waiting_from_working(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 8.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr("strega_jax.training.meter.time.perf_counter", lambda: next(clock))
    meter = Meter(batch_size=16)  # at 0
    with meter.waiting():  # 1 to 3
        pass
    meter.count()
    meter.count()
    assert meter.read() == {"images_per_second": 32 / 8, "data_wait_fraction": 2 / 8}  # at 8; anew from 10
    assert meter.read() == {"images_per_second": 0.0, "data_wait_fraction": 0.0}


def test_eight_devices_train_like_one_and_their_state_is_restored_on_one(disc_store, tmp_path):
    run = small_run(augment={"rotation": 1.0}, training={"steps": 3})
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import conftest
        import jax
        jax.config.update("jax_num_cpu_devices", 8)
        from pathlib import Path
        from strega_jax.config import Run
        from strega_jax.slices.store import SliceStore
        from strega_jax.training.loop import train
        assert len(jax.devices()) == 8
        train(Run.from_mapping({run.to_dict()!r}), SliceStore.open({str(disc_store.path)!r}),
              Path({str(tmp_path / "eight")!r}))
    """)
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    eight = losses(tmp_path / "eight")
    one, state = step_results(run, disc_store, 1)
    np.testing.assert_allclose([eight[step] for step in (1, 2, 3)], one, rtol=2e-5)
    there = load_model(tmp_path / "eight")
    for a, b in zip(jax.tree.leaves(there.variables["params"]), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # Adam's first steps magnify a gradient's last bits
