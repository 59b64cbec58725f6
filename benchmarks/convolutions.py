"""Where the train step's time goes on this machine: its convolutions, one by one, against PyTorch's.

    python -m benchmarks.convolutions --sizes=128,256
    python -m benchmarks.convolutions --sizes=256 --each

The compact ceVAE of `train_step.py`, batch 8: every convolution of its two branches, forward and both gradients, alone
in a program of its own; JAX as the package computes it, and PyTorch (channels_last), in turns; added up over a step by
the size of their kernels, or, with --each, by layer; and the whole step.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.step_timing import Layer, Step, convolutions, jax_step, timings, torch_step
from strega_jax.detectors import build
from strega_jax.detectors.operations import conv
from strega_jax.memory import keep_freed_memory

SIZES = flags.DEFINE_list("sizes", ["128", "256"], "Sides of the square images, in pixels.")
BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed calls of each, taken in turns.", lower_bound=1)
EACH = flags.DEFINE_bool("each", False, "A row for each layer, not for each size of kernel.")


def arrays(layer: Layer) -> Iterator[np.ndarray]:
    """Input, kernel and gradient of the output of a layer."""
    side, size, maps, features = layer
    rng = np.random.default_rng(0)
    for shape in ((BATCH.value, side, side, maps), (size, size, maps, features), (BATCH.value, side, side, features)):
        yield rng.standard_normal(shape, dtype=np.float32)


def in_jax(layer: Layer) -> Step:
    """Output and both gradients, as the package computes them."""

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        output, backward = jax.vjp(conv, x, kernel)
        return output, backward(gradient)

    given = [jnp.asarray(array) for array in arrays(layer)]
    return lambda: jax.block_until_ready(run(*given))


def in_torch(layer: Layer) -> Step:
    """The same in PyTorch."""
    import torch

    def tensor(array: np.ndarray, order: tuple[int, ...]) -> Any:
        return torch.from_numpy(array).permute(*order).contiguous(memory_format=torch.channels_last)

    x, kernel, gradient = arrays(layer)
    x, gradient = tensor(x, (0, 3, 1, 2)), tensor(gradient, (0, 3, 1, 2))
    kernel = tensor(kernel, (3, 2, 0, 1))
    x.requires_grad_()
    kernel.requires_grad_()

    def advance() -> None:
        output = torch.nn.functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        torch.autograd.grad(output, (x, kernel), gradient)

    return advance


def report(size: int) -> None:
    """Time the layers and the whole step of one image size, and print the rows."""
    detector = build("cce_vae", {}, "float32")
    names = ("JAX", "PyTorch") if importlib.util.find_spec("torch") else ("JAX",)
    makers = dict(zip(names, (in_jax, in_torch), strict=False))
    rows: dict[str, tuple[int, np.ndarray]] = {}
    for layer, calls in sorted(convolutions(detector, size).items(), reverse=True):
        taken = timings({name: make(layer) for name, make in makers.items()}, ROUNDS.value)
        seconds = calls * np.array([taken[name][0] for name in names])
        side, kernel, maps, features = layer
        what = f"{kernel}×{kernel}" + (f", {maps} to {features} maps of {side}×{side}" if EACH.value else "")
        before = rows.get(what, (0, np.zeros(len(names))))
        rows[what] = before[0] + calls, before[1] + seconds
    images = np.random.default_rng(0).standard_normal((BATCH.value, size, size, 1), dtype=np.float32)
    steps = {"JAX": jax_step(detector, images, np.ones(images.shape[:3], np.float32)).advance}
    if len(names) > 1:
        steps["PyTorch"] = torch_step(detector, images, compiled=False)[0]
    taken = timings(steps, ROUNDS.value)
    whole = np.array([taken[name][0] for name in names])
    for what, (calls, seconds) in rows.items():
        print(line(size, f"{calls} convolutions {what}", seconds), flush=True)
    print(line(size, "the step", whole), flush=True)


def line(size: int, what: str, seconds: np.ndarray) -> str:
    """A row of the table; without PyTorch with two empty cells."""
    times = [f"{1e3 * one:.1f}" for one in seconds] + ["–"] * (2 - len(seconds))
    ratio = f"{seconds[1] / seconds[0]:.2f}" if len(seconds) > 1 else "–"
    return f"| {size}×{size} | {what} | {' | '.join(times)} | {ratio} |"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    keep_freed_memory()  # as every command does; for both
    print("| image | what | JAX, ms | PyTorch, ms | JAX over this |\n|---|---|---|---|---|")
    for size in SIZES.value:
        report(int(size))


if __name__ == "__main__":
    app.run(main)
