"""Speed of the compact ceVAE's train step: JAX against the same network, batch and optimiser in PyTorch.

Both branches, forward, backward and Adam. The two take turns within one process; PyTorch runs channels_last,
eager and, with --compiled, through torch.compile. Without PyTorch only the JAX rows are printed.

    python -m benchmarks.train_step --sizes=128,256 --batch=8
    python -m benchmarks.train_step --sizes=128 --field=stem_stride=2 --field=block=basic --field=head=full_conv

`GFLOP/image` is XLA's count of the step's operations before optimisation, divided by the batch. CPU-ms/image is
the processor time of all threads: on a busy machine trust it before the images/s.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from strega_jax.detectors import build
from strega_jax.errors import StregaError

SIZES = flags.DEFINE_list("sizes", ["128", "256"], "Sides of the square images, in pixels.")
BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed steps of each implementation, taken in turns.", lower_bound=1)
FIELD = flags.DEFINE_multi_string("field", [], "NAME=VALUE of the detector, repeatable; see CceVae.")
COMPUTE_DTYPE = flags.DEFINE_enum(
    "compute_dtype", "float32", ["float32", "bfloat16"], "Type that the layers compute in."
)
COMPILED = flags.DEFINE_bool("compiled", False, "Also time torch.compile; it needs a C++ compiler.")
LEARNING_RATE = 1e-4

Step = Callable[[], None]  # one optimiser step, finished when it returns


def jax_step(detector: Any, images: np.ndarray, brain: np.ndarray) -> tuple[Step, float, int]:
    """The step with donated state; GFLOP an image; number of parameters."""
    batch = {"images": jnp.asarray(images), "brain": jnp.asarray(brain), "position": jnp.zeros(len(images))}
    variables = jax.jit(detector.init, static_argnums=1)(jax.random.key(0), images.shape[1:])
    optimiser = optax.adam(LEARNING_RATE)
    state = (variables, optimiser.init(variables["params"]), jax.random.key(1), jnp.int32(0))

    def advance(state: Any, batch: Any) -> Any:
        variables, moments, key, count = state

        def loss(params: Any) -> Any:
            return detector.loss({**variables, "params": params}, batch, jax.random.fold_in(key, count), count)

        gradient, aux = jax.grad(loss, has_aux=True)(variables["params"])
        update, moments = optimiser.update(gradient, moments)
        return {"params": optax.apply_updates(variables["params"], update), **aux.mutable}, moments, key, count + 1

    lowered = jax.jit(advance, donate_argnums=0).lower(state, batch)
    advance = lowered.compile()
    flops = lowered.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(advance(state, batch))

    return step, float(flops) / len(images) / 1e9, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def torch_step(detector: Any, images: np.ndarray, compiled: bool) -> tuple[Step, int]:
    """The same step in PyTorch on the same kind of device; number of parameters."""
    import torch

    from benchmarks.torch_cce_vae import TorchCceVae

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = TorchCceVae(detector, images.shape[1:]).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    seen = x.clone()
    side = x.shape[-1] // 4
    seen[..., side : 2 * side, side : 2 * side] = 0
    loss = torch.compile(network) if compiled else network
    bfloat16 = detector.compute_dtype == "bfloat16"

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            total = loss(x, seen)
        total.backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step, sum(p.numel() for p in network.parameters())


def timings(steps: dict[str, Step], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of a step of each, after two steps of warm-up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            if turn >= 2:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(np.median(values, axis=0)) for name, values in seconds.items()}


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
    step, gflop, parameters = jax_step(detector, images, np.ones(images.shape[:3], np.float32))
    steps = {"JAX": step}
    if importlib.util.find_spec("torch"):
        steps["PyTorch eager"], torch_parameters = torch_step(detector, images, compiled=False)
        if parameters != torch_parameters:
            raise StregaError(f"the networks differ: {parameters} and {torch_parameters} parameters")
        if COMPILED.value:
            steps["PyTorch compiled"], _ = torch_step(detector, images, compiled=True)
    print(f"\n{size}×{size}, batch {BATCH.value}, {parameters:,} parameters, {gflop:.2f} GFLOP/image, ", end="")
    print(f"{COMPUTE_DTYPE.value}, {jax.devices()[0].device_kind}")
    results = timings(steps, ROUNDS.value)
    base_wall, base_cpu = results["JAX"]
    for name, (wall, cpu) in results.items():
        print(
            f"{name:17s} {BATCH.value / wall:9.2f} images/s  {gflop * BATCH.value / wall:9.1f} GFLOP/s"
            f"  {1e3 * cpu / BATCH.value:8.1f} CPU-ms/image   JAX/this: {wall / base_wall:.2f}× by wall, "
            f"{cpu / base_cpu:.2f}× by CPU time",
            flush=True,
        )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    for size in SIZES.value:
        report(int(size))


if __name__ == "__main__":
    app.run(main)
