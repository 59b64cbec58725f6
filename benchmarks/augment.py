"""The full augmentation chain against TorchIO, in one run.

    python benchmarks/augment.py                # needs: pip install torchio
    python benchmarks/augment.py --batch=32 --seconds=20

Slices of 256 × 256 (a disk of tissue on an empty background, with its brain mask) go through bias field, noise,
gamma, ghosting, flips, affine and rotation, each with probability 1 (flips ½ an axis). Processor time
of all threads is counted, so figures are slices per core-second; this chain and TorchIO in one process take turns,
and the median of the rounds counts, so that load from elsewhere falls on both. Then TorchIO runs in a DataLoader with
1 … `--workers` worker processes, the best of which is compared by wall time: on a busy machine that ratio means
little. On a GPU, slices per second of wall time are given.
"""

import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from strega_jax.augment import augment
from strega_jax.config import Augment

SIZE = 256
FULL = Augment(
    bias_field=1.0,
    noise=1.0,
    gamma=1.0,
    ghosting=1.0,
    flip_left_right=0.5,
    flip_front_back=0.5,
    affine=1.0,
    rotation=1.0,
)
BATCH = flags.DEFINE_integer("batch", 32, "slices in one call of the jitted chain", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 20.0, "time given to each contender", lower_bound=0.1)
WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "most worker processes that TorchIO may use")


def slices(count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, size, size, 1) and masks (count, size, size)."""
    axis = np.linspace(-1, 1, size)
    brain = np.broadcast_to(np.hypot(*np.meshgrid(axis, axis)) < 0.8, (count, size, size))
    values = np.random.default_rng(0).normal(size=brain.shape).astype(np.float32)
    return np.where(brain, values, values.min())[..., None], brain


def core_seconds() -> float:
    """Processor time of this process and its threads."""
    return time.process_time()


def jax_round(step: Callable, images: jax.Array, brain: jax.Array, masks: bool, seconds: float) -> tuple[float, float]:
    """Slices per core-second and per second over about `seconds`."""
    core, wall, done = core_seconds(), time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        changed = step(jax.random.key(done), images, brain)
        jax.block_until_ready(changed if masks else changed[0])
        done += images.shape[0]
    return done / (core_seconds() - core), done / (time.perf_counter() - wall)


class TorchioSlices:
    """A map-style data set of augmented slices, as torch's DataLoader takes it."""

    def __init__(self, images: np.ndarray, brain: np.ndarray, masks: bool) -> None:
        import torchio

        self.images, self.brain, self.masks = images[..., 0], brain.astype(np.uint8), masks
        affine = functools.partial(torchio.RandomAffine, image_interpolation="nearest")
        self.chain = torchio.Compose(
            [
                torchio.RandomBiasField(0.5, 3),
                torchio.RandomNoise(0, (0, 0.25)),
                torchio.RandomGamma((-0.3, 0.3)),
                torchio.RandomGhosting((4, 10), axes=(0, 1)),
                torchio.RandomFlip((0, 1), 0.5),
                affine(scales=0.1, degrees=(0, 0, 0, 0, -35, 35)),
                affine(scales=(1, 1), degrees=(0, 0, 0, 0, -15, 15)),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int):
        import torch
        import torchio

        index %= len(self.images)
        parts: dict[str, torchio.Image] = {
            "image": torchio.ScalarImage(tensor=torch.from_numpy(self.images[index][None, ..., None]))
        }
        if self.masks:
            parts["brain"] = torchio.LabelMap(tensor=torch.from_numpy(self.brain[index][None, ..., None]))
        changed = self.chain(torchio.Subject(parts))
        return tuple(changed[name].data for name in parts)  # pyright: ignore[reportAttributeAccessIssue]


def torchio_round(data: TorchioSlices, seconds: float) -> float:
    """Slices per core-second of one process over about `seconds`."""
    core, wall, done = core_seconds(), time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        _ = data[done]
        done += 1
    return done / (core_seconds() - core)


def torchio_workers(data: TorchioSlices, workers: int, seconds: float) -> float:
    """Slices per second of wall time over about `seconds`, start of the worker processes not counted."""
    import torch

    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=workers)  # pyright: ignore[reportArgumentType]
    batches = iter(loader)
    for _ in range(workers):
        next(batches)
    wall, done = time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        done += next(batches)[0].shape[0]
    return done / (time.perf_counter() - wall)


def main(argv: list[str]) -> None:
    del argv
    on_cpu = jax.default_backend() == "cpu"
    images, brain = slices(BATCH.value)
    on_device = jnp.asarray(images), jnp.asarray(brain)
    whole = jax.jit(lambda key, x, b: augment(key, x, b, FULL))
    print(f"{jax.devices()[0].device_kind}, {SIZE}², batch {BATCH.value}")
    for masks in (False, True):
        step = whole if masks else jax.jit(lambda key, x, b: augment(key, x, b, FULL)[:1])
        jax.block_until_ready(step(jax.random.key(0), *on_device))
        if not on_cpu:
            print(f"{_what(masks)}: {jax_round(step, *on_device, masks, SECONDS.value)[1]:.0f} slices/s")
            continue
        compare(step, on_device, TorchioSlices(images, brain, masks), masks)


def compare(step: Callable, on_device: tuple[jax.Array, jax.Array], data: TorchioSlices, masks: bool) -> None:
    """Alternate the contenders and print medians and their ratio."""
    import torch

    torch.set_num_threads(1)  # two threads are slower on arrays of this size
    rounds, share = 5, SECONDS.value / 5
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(jax_round(step, *on_device, masks, share))
        theirs.append(torchio_round(data, share))
    core, wall = (statistics.median(column) for column in zip(*ours, strict=True))
    single = statistics.median(theirs)
    ratio = statistics.median(a[0] / b for a, b in zip(ours, theirs, strict=True))
    print(f"{_what(masks)}: this {core:.0f} slices/core-s ({wall:.0f}/s); TorchIO {single:.1f}; ratio {ratio:.1f}")
    many = {n: torchio_workers(data, n, share * 2) for n in range(1, WORKERS.value + 1)}
    best = max(many, key=lambda n: many[n])
    print(f"  TorchIO, {best} workers, the best of {list(many)}: {many[best]:.1f}/s; ratio {wall / many[best]:.1f}")


def _what(masks: bool) -> str:
    return "image and brain mask" if masks else "image alone"


if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")  # forking a process with JAX's threads can deadlock
    app.run(main)
