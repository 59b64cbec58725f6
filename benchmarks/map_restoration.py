"""MAP restoration of the Gaussian-mixture VAE: seconds a volume, and what it does to healthy brains.

    python -m benchmarks.map_restoration --size=128 --slices=75
    python -m benchmarks.map_restoration --checkpoint=runs/gm_vae --store=stores/ixi --scans=4

Without a checkpoint, a fresh network restores noise: the time does not depend on the values. With one, held-out
healthy scans of the store are restored with the checkpoint's own steps and TV weight, and a pixel counts as changed
where it moves by more than a share of the brain's intensity range (1st to 99th percentile, averaged over channels).
CPU-s is the processor time of all threads: on a busy machine trust it before the seconds.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from strega_jax.detectors.gm_vae import GmVae
from strega_jax.models.model import SCORING_BATCH, load_model
from strega_jax.slices.store import SliceStore

_SIZE = flags.DEFINE_integer("size", 128, "Sides of the slices, in pixels.")
_SLICES = flags.DEFINE_integer("slices", 75, "Slices of the volume.")
_CHANNELS = flags.DEFINE_integer("channels", 1, "Channels of a slice.")
_STEPS = flags.DEFINE_integer("steps", 500, "Gradient steps.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "Timed restorations of the volume.", lower_bound=1)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "A workdir of a trained gm_vae.")
_STORE = flags.DEFINE_string("store", "", "Its slice store.")
_SCANS = flags.DEFINE_integer("scans", 4, "Held-out healthy scans restored.", lower_bound=1)

SHARES = (0.05, 0.1, 0.2)


def timed(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, and its seconds and processor seconds in words."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, f"{time.perf_counter() - wall:.1f} s a volume, {time.process_time() - cpu:.1f} CPU-s"


def time_volume() -> None:
    """Print what a volume takes once compiled, in the batches that prediction uses."""
    shape = (_SIZE.value, _SIZE.value, _CHANNELS.value)
    detector = GmVae(restoration_steps=_STEPS.value)
    variables = jax.jit(detector.init, static_argnums=1)(jax.random.key(0), shape)
    batches = -(-_SLICES.value // SCORING_BATCH)
    images = np.random.default_rng(0).normal(size=(SCORING_BATCH, *shape)).astype(np.float32)
    restore = jax.jit(detector.restore).lower(variables, images, np.float32(1)).compile()
    print(f"{_SLICES.value} slices of {shape[0]}×{shape[1]}×{shape[2]}, {_STEPS.value} steps")
    for _ in range(_ROUNDS.value):
        _, told = timed(lambda: [restore(variables, images, np.float32(1)).block_until_ready() for _ in range(batches)])
        print(told, flush=True)


def look_at_healthy() -> None:
    """Print time, TV weight and changed shares on held-out healthy scans."""
    model, store = load_model(_CHECKPOINT.value), SliceStore.open(_STORE.value)
    held_out = [entry for entry in store.entries if entry.split == "dev"][: _SCANS.value]
    print(f"TV weight {float(model.variables['restoration']['tv_weight']):g}")
    changed: list[list[float]] = []
    for entry in held_out:
        images = np.asarray(store.array(entry), np.float32)
        inside = images.max(axis=-1) > 0
        positions = np.array(entry.positions, np.float32)
        (_, restored), told = timed(functools.partial(model.score, images, positions))
        low, high = np.percentile(images[inside], (1, 99), axis=0)
        moved = (np.abs(restored - images) / np.maximum(high - low, 1e-6)).mean(axis=-1)[inside]
        changed.append([float((moved > share).mean()) for share in SHARES])
        print(f"{entry.name}: {told} (the first compiles)", flush=True)
    means = ", ".join(
        f"{100 * share:.1f} % by more than {limit:g}" for share, limit in zip(np.mean(changed, 0), SHARES, strict=True)
    )
    print(f"healthy pixels changed: {means} of the range")


def main(_: list[str]) -> None:
    """As the module says."""
    look_at_healthy() if _CHECKPOINT.value else time_volume()


if __name__ == "__main__":
    app.run(main)
