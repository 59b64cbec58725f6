"""What training costs on more simulated devices, and on two processes, at the same global batch; one table.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --size=128 --batch=32 --steps=5

All share this machine's cores: the table shows the overhead of dividing the work, not a speed-up. Each row is a process
(or two) of its own. The all-reduce is timed apart: a program that sums arrays of the gradients' shapes over the devices
and nothing else. Reductions are counted in the compiled step.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import PartitionSpec

from benchmarks import step_timing
from strega_jax import command
from strega_jax.config import Run
from strega_jax.training import mesh as meshes

SIZE = flags.DEFINE_integer("size", 64, "Side of the square images, in pixels.")
BATCH = flags.DEFINE_integer("batch", 32, "Images a step, over all devices.")
STEPS = flags.DEFINE_integer("steps", 8, "Timed steps.", lower_bound=1)
ROW = flags.DEFINE_bool("row", False, "Measure one row; set by the benchmark itself.")
ROWS = ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2))  # devices, processes


def measure() -> dict[str, Any]:
    """Median seconds of a step and of the gradients' all-reduce, and the compiled step's reductions."""
    mesh = meshes.data_mesh()
    timed = step_timing.train_step(Run(), mesh, SIZE.value, BATCH.value // jax.process_count())
    whole = meshes.replicated(mesh)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), timed.gradients_like), out_shardings=whole
    )
    gradients = zeros()
    sums = jax.jit(
        jax.shard_map(
            lambda tree: jax.lax.psum(tree, "data"), mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
        )
    )
    reductions = len(re.findall(r"= .* all-reduce(?:-start)?\(", timed.compiled.as_text()))
    return {"step": median(timed.advance), "reduce": median(lambda: jax.block_until_ready(sums(gradients))),
            "reductions": reductions}  # fmt: skip


def median(call: Callable[[], Any]) -> float:
    """Median seconds over `--steps` calls, after two."""
    seconds = []
    for _ in range(STEPS.value + 2):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[2:]))


def start_row(devices: int, processes: int) -> dict[str, Any]:
    """Measure in processes of their own; what the first of them found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    line = [sys.executable, "-m", "benchmarks.scaling", "--row", f"--cpu_devices={devices // processes}",
            *(f"--{flag.name}={flag.value}" for flag in (SIZE, BATCH, STEPS))]  # fmt: skip
    started = []
    for index in range(processes):
        variables = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address,
                     "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(index)}  # fmt: skip
        distributed = ["--distributed"] if processes > 1 else []
        started.append(subprocess.Popen([*line, *distributed], env=variables, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{devices} devices, {processes} processes: a process failed")
    return json.loads(told[0].splitlines()[-1])


def main() -> int:
    """Print the table, or measure one row of it."""
    if ROW.value:
        print(json.dumps(measure()))
        return 0
    print(f"{SIZE.value}×{SIZE.value}, global batch {BATCH.value}, {os.cpu_count()} cores\n")
    print("| devices | processes | images/s | all-reduce of the gradients | share of the step | reductions a step |")
    print("|---|---|---|---|---|---|")
    for devices, processes in ROWS:
        row = start_row(devices, processes)
        reduce = row["reduce"] if devices > 1 else 0.0
        print(
            f"| {devices} | {processes} | {BATCH.value / row['step']:.1f} | {1e3 * reduce:.1f} ms "
            f"| {100 * reduce / row['step']:.1f} % | {row['reductions']} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    command.run(main)
