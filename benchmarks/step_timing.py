"""Train steps to be timed: the package's own, and the compact ceVAE's alone in JAX and in PyTorch."""

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from strega_jax.config import Run
from strega_jax.detectors import build
from strega_jax.detectors.layers import Conv
from strega_jax.slices.store import Normalisation
from strega_jax.training import mesh as meshes
from strega_jax.training.state import init_state, make_optimizer
from strega_jax.training.step import make_train_step

LEARNING_RATE = 1e-4

Step = Callable[[], None]  # one or more optimiser steps, finished when it returns
Layer = tuple[int, int, int, int]  # side of the maps, side of the kernel, maps in, maps out


@dataclasses.dataclass(frozen=True)
class Timed:
    """A step in JAX, and what is known of its program."""

    advance: Step
    gflop: float  # an image, XLA's count before optimisation
    compiled: Any  # the compiled program
    parameters: int
    gradients_like: Any  # the parameters

    @property
    def compiled_flops(self) -> float:
        """Operations of one device a step, XLA's count of the compiled program."""
        return float(self.compiled.cost_analysis()["flops"])


def train_step(run: Run, mesh: jax.sharding.Mesh, size: int, images: int, steps: int = 1) -> Timed:
    """What `strega_jax.train` runs, augmentation included, on `images` of size × size a process.

    Args:
        run: detector, model, augmentation and optimiser.
        mesh: the devices; the state lies on each, the batch is shared out.
        size: side of the images, pixels.
        images: those that this process gives; drawn at random, one channel, seeded by the process.
        steps: how many are started, one after another, before the last is waited for.
    """
    shape = (size, size, 1)
    detector = build(run.detector, run.model, run.compute_dtype)
    optimizer = make_optimizer(run.optimiser, detector, 1)
    whole = meshes.replicated(mesh)
    state = jax.jit(lambda: init_state(detector, optimizer, run.optimiser, shape, 0), out_shardings=whole)()
    values = np.random.default_rng(jax.process_index()).random((images, *shape)).astype(np.float16)
    batch = meshes.shard_batch(mesh, {"images": values, "position": np.zeros(images, np.float32)})
    step = make_train_step(detector, optimizer, run, Normalisation((0.0,), (1.0,)), mesh)
    lowered = step.lower(state, batch)  # pyright: ignore[reportFunctionMemberAccess]
    compiled = lowered.compile()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state.params)

    def advance() -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = compiled(state, batch)
        jax.block_until_ready(state)

    gflop = float(lowered.cost_analysis()["flops"]) / (images * jax.process_count()) / 1e9
    return Timed(advance, gflop, compiled, _count(state.params), like)


def jax_step(detector: Any, images: np.ndarray, brain: np.ndarray, steps: int = 1) -> Timed:
    """Loss, gradient and Adam alone, with donated state."""
    batch = {"images": jnp.asarray(images), "brain": jnp.asarray(brain), "position": jnp.zeros(len(images))}
    variables = jax.jit(detector.init, static_argnums=1)(jax.random.key(0), images.shape[1:])
    optimiser = optax.adam(LEARNING_RATE)
    state = (variables, optimiser.init(variables["params"]), jax.random.key(1), jnp.int32(0))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables["params"])

    def one(state: Any, batch: Any) -> Any:
        variables, moments, key, count = state

        def loss(params: Any) -> Any:
            return detector.loss({**variables, "params": params}, batch, jax.random.fold_in(key, count), count)

        gradient, aux = jax.grad(loss, has_aux=True)(variables["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by its integer counts
            update, moments = optimiser.update(gradient, moments)
        return {"params": optax.apply_updates(variables["params"], update), **aux.mutable}, moments, key, count + 1

    lowered = jax.jit(one, donate_argnums=0).lower(state, batch)
    compiled = lowered.compile()
    flops = lowered.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]

    def advance() -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state, batch)
        jax.block_until_ready(state)

    return Timed(advance, float(flops) / len(images) / 1e9, compiled, _count(like), like)


def torch_step(detector: Any, images: np.ndarray, compiled: bool, steps: int = 1) -> tuple[Step, int]:
    """The same in PyTorch on the same kind of device, with its fastest settings there; number of parameters.

    On CUDA: TF32 in float32, as XLA, cuDNN's own search for algorithms, and the fused Adam.
    """
    import torch

    from benchmarks.torch_cce_vae import TorchCceVae

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if cuda:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    network = TorchCceVae(detector, images.shape[1:]).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=cuda or None)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    seen = x.clone()
    side = x.shape[-1] // 4
    seen[..., side : 2 * side, side : 2 * side] = 0
    loss = torch.compile(network) if compiled else network
    bfloat16 = detector.compute_dtype == "bfloat16"

    def advance() -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                total = loss(x, seen)
            total.backward()
            optimiser.step()
        if cuda:
            torch.cuda.synchronize()

    return advance, sum(p.numel() for p in network.parameters())


def convolutions(detector: Any, size: int) -> collections.Counter[Layer]:
    """How often a step of images of one channel runs each convolution: once for each call in its loss."""
    found: collections.Counter[Layer] = collections.Counter()

    def note(following: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if isinstance(module, Conv) and context.method_name == "__call__":
            found[arguments[0].shape[1], module.size, arguments[0].shape[-1], module.features] += 1
        return following(*arguments, **options)

    images, brain = jnp.zeros((1, size, size, 1)), jnp.ones((1, size, size))
    batch = {"images": images, "brain": brain, "position": jnp.zeros(1)}
    variables = jax.eval_shape(lambda: detector.init(jax.random.key(0), images.shape[1:]))
    with nn.intercept_methods(note):
        jax.eval_shape(lambda variables: detector.loss(variables, batch, jax.random.key(1), jnp.int32(0))[0], variables)
    return found


def timings(steps: dict[str, Step], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of a call of each, taken in turns, after two calls of warm-up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            if turn >= 2:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(np.median(values, axis=0)) for name, values in seconds.items()}


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
