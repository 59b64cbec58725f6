"""Speed of the compact ceVAE's train step: JAX against the same network, batch and optimiser in PyTorch.

Both branches, forward, backward and Adam. The two take turns within one process; PyTorch runs channels_last,
eager and, with --compiled, through torch.compile. Without PyTorch only the JAX rows are printed.

    python -m benchmarks.train_step --sizes=128,256 --batch=8
    python -m benchmarks.train_step --sizes=128 --field=stem_stride=2 --field=block=basic --field=head=full_conv

GFLOP/s are XLA's count of the step's operations before optimisation, over the time. CPU-ms are the processor time of
all threads.
"""

import importlib.util
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.step_timing import jax_step, timings, torch_step
from strega_jax.detectors import build
from strega_jax.errors import StregaError
from strega_jax.memory import keep_freed_memory

SIZES = flags.DEFINE_list("sizes", ["128", "256"], "Sides of the square images, in pixels.")
BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed steps of each implementation, taken in turns.", lower_bound=1)
FIELD = flags.DEFINE_multi_string("field", [], "NAME=VALUE of the detector, repeatable; see CceVae.")
COMPUTE_DTYPE = flags.DEFINE_enum(
    "compute_dtype", "float32", ["float32", "bfloat16"], "Type that the layers compute in."
)
COMPILED = flags.DEFINE_bool("compiled", False, "Also time torch.compile; it needs a C++ compiler.")


def parse_fields(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; numbers become numbers."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        fields[name] = int(value) if value.lstrip("-").isdigit() else value
    return fields


def report(size: int) -> None:
    """Time one image size and print its rows."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH.value, size, size, 1), dtype=np.float32)
    detector = build("cce_vae", parse_fields(FIELD.value), COMPUTE_DTYPE.value)
    own = jax_step(detector, images, np.ones(images.shape[:3], np.float32))
    steps, gflop = {"JAX": own.advance}, own.gflop
    if importlib.util.find_spec("torch"):
        steps["PyTorch eager"], torch_parameters = torch_step(detector, images, compiled=False)
        if own.parameters != torch_parameters:
            raise StregaError(f"the networks differ: {own.parameters} and {torch_parameters} parameters")
        if COMPILED.value:
            steps["PyTorch compiled"], _ = torch_step(detector, images, compiled=True)
    results = timings(steps, ROUNDS.value)
    base_wall, base_cpu = results["JAX"]
    for name, (wall, cpu) in results.items():
        speed = BATCH.value / wall
        print(
            f"| {size}×{size} | {name} | {speed:.1f} | {gflop * speed:.0f} | {1e3 * cpu / BATCH.value:.1f} "
            f"| {wall / base_wall:.2f} | {cpu / base_cpu:.2f} |",
            flush=True,
        )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    device = jax.devices()[0].device_kind
    keep_freed_memory()  # as every command does; for both
    print(f"batch {BATCH.value}, {COMPUTE_DTYPE.value}, {device}\n")
    print("| image | step | images/s | GFLOP/s | CPU-ms an image | JAX over this, by wall | by CPU time |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES.value:
        report(int(size))


if __name__ == "__main__":
    app.run(main)
