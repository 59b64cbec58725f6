"""What a GPU or TPU is given to run: nothing that works round the CPU's compiler, nothing that waits for the host.

No such device is needed, because a program is lowered for a platform without one.
"""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import export

from conftest import small_run
from strega_jax.augment import augment, noise, spatial
from strega_jax.config import Augment
from strega_jax.detectors import build, operations
from strega_jax.models.model import score_and_reconstruct
from strega_jax.slices.store import Normalisation
from strega_jax.training.mesh import data_mesh
from strega_jax.training.state import init_state, make_optimizer
from strega_jax.training.step import make_train_step

ACCELERATORS = ("cuda", "tpu")
SHAPE, BATCH = (32, 32, 3), 4
FULL = Augment(1.0, noise=1.0, gamma=1.0, ghosting=1.0, flip_left_right=0.5, affine=1.0, rotation=1.0)
UNIT = Normalisation((0.0,) * 3, (1.0,) * 3)
RAW = {
    "images": jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.float16),
    "position": jax.ShapeDtypeStruct((BATCH,), jnp.float32),
}
CONVOLUTION = re.compile(r"stablehlo\.convolution\(.*?dim_numbers = (.*?), window.*? : \(tensor<[\dx]*x(\w+)>, tensor<")


@functools.cache
def traced_train_step():
    """The step that training runs, in bfloat16, augmentation and moving average included."""
    run = small_run(compute_dtype="bfloat16", augment=FULL, optimiser={"ema_decay": 0.9, "clip_norm": 1.0})
    detector = build(run.detector, run.model, run.compute_dtype)
    optimizer = make_optimizer(run.optimiser, detector, 10)
    step = make_train_step(detector, optimizer, run, UNIT, data_mesh())
    state = jax.eval_shape(functools.partial(init_state, detector, optimizer, run.optimiser, SHAPE, 0))
    return step.trace(state, RAW), state


@pytest.mark.parametrize(("accumulate", "found"), [(1, True), (2, False)])
def test_on_a_cpu_kernels_have_gradients_by_convolution_but_not_in_the_loop_over_parts(accumulate, found):
    run = small_run(model={"maps": (16,), "block": "basic"}, optimiser={"accumulate": accumulate})
    detector = build(run.detector, run.model, run.compute_dtype)
    optimizer = make_optimizer(run.optimiser, detector, 10)
    step = make_train_step(detector, optimizer, run, UNIT, data_mesh())
    state = jax.eval_shape(functools.partial(init_state, detector, optimizer, run.optimiser, SHAPE, 0))
    lowered = step.trace(state, RAW).lower(lowering_platforms=("cpu",)).as_text()
    assert bool(re.search(r"stablehlo.convolution.*-> tensor<3x3x16x16xf32>", lowered)) == found


@functools.cache
def train_program(platform: str) -> str:
    """The step as StableHLO for a platform."""
    return traced_train_step()[0].lower(lowering_platforms=(platform,)).as_text()


def convolutions(text: str) -> Counter[tuple[str, str]]:
    """How many there are of each arrangement of axes and type."""
    found = CONVOLUTION.findall(text)
    assert len(found) == text.count("stablehlo.convolution(")
    return Counter(found)


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_the_train_step_has_no_loop_no_library_call_and_asks_the_host_for_nothing(platform):
    text = train_program(platform)
    for op in ("while", "custom_call", "infeed", "outfeed", "send", "recv"):
        assert f"stablehlo.{op}" not in text
    # What chooses the platform remains as branches on a constant, each the only one.
    index = set(re.findall(r'"stablehlo.case"\((%\w+)\)', text))
    assert index
    for name in index:
        assert re.search(rf'{name} = (stablehlo.constant|"stablehlo.case")', text)
    assert "stablehlo.while" in train_program("cpu")


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_gradients_of_convolutions_are_xlas_own_but_on_cpu(platform, gradient_program):
    chosen = convolutions(gradient_program(platform))
    on_cpu = convolutions(gradient_program("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "_convolution", operations._plain_convolution)
        plain = convolutions(gradient_program(platform))
    assert chosen == plain
    assert plain.total() == 3 * on_cpu.total() / 2  # on CPU the gradient by the kernel is none


@pytest.fixture(scope="module")
def gradient_program():
    """Of a platform: the gradient of two layers as StableHLO."""

    def energy(x: jax.Array, kernels: list[jax.Array]) -> jax.Array:
        for kernel in kernels:
            x = operations.padded_conv(x, kernel, 1)
        return jnp.square(x).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 3, 4, 6), (2, 2, 6, 8))]
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)

    def program(platform: str) -> str:
        gradient = jax.jit(lambda x, kernels: jax.grad(energy, (0, 1))(x, kernels))
        return export.export(gradient, platforms=[platform])(x, shapes).mlir_module()

    return program


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_convolutions_of_the_step_are_bfloat16_but_for_the_output_layers(platform):
    kinds = Counter(kind for _, kind in convolutions(train_program(platform)).elements())
    assert set(kinds) == {"bf16", "f32"}
    assert kinds["f32"] == 2 * 3  # both branches: value, gradients by image and by kernel
    assert kinds["bf16"] >= kinds["f32"]
    # So are the 1×1 convolutions, which are matrix products over pixels.
    over_pixels = re.findall(rf"stablehlo\.dot_general .*: \(tensor<{BATCH}x8x8x\d+x(\w+)>, ", train_program(platform))
    assert over_pixels
    assert set(over_pixels) == {"bf16"}


@pytest.mark.parametrize("platform", [*ACCELERATORS, "cpu"])
def test_every_array_of_the_state_is_donated(platform):
    arguments = re.search(r"func.func public @main\((.*?)\) -> ", train_program(platform)).group(1)
    donated = len(re.findall(r"tf.aliasing_output|jax.buffer_donor", arguments))
    assert donated == len(jax.tree.leaves(traced_train_step()[1]))
    assert arguments.count("%arg") == donated + 1  # the images; what the detector does not use is not passed


def test_the_score_program_is_the_same_on_every_platform():
    run = small_run()
    detector = build(run.detector, run.model, run.compute_dtype)
    variables = jax.eval_shape(lambda: detector.init(jax.random.key(0), SHAPE))
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.jit(functools.partial(score_and_reconstruct, detector, UNIT))
    raw = {**RAW, "images": jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.float32)}
    texts = {
        platform: export.export(program, platforms=[platform])(variables, raw, key).mlir_module()
        for platform in ("cpu", *ACCELERATORS)
    }
    assert "stablehlo.convolution" in texts["cpu"]
    assert "stablehlo.case" not in texts["cpu"]
    assert texts["cpu"] == texts["cuda"] == texts["tpu"]


def test_a_program_for_several_platforms_takes_the_cpus_way_on_cpu():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 4)))

    def gradient(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda x, kernel: jnp.square(operations.conv(x, kernel)).sum(), (0, 1))(x, kernel)

    both = export.export(jax.jit(gradient), platforms=["cpu", "cuda"])(x, kernel)
    jax.tree.map(np.testing.assert_array_equal, both.call(x, kernel), jax.jit(gradient)(x, kernel))
    shape = jax.ShapeDtypeStruct((2,), jnp.uint32)
    draw = jax.jit(lambda seed: noise.standard_normal(seed, (1, 8, 8)))
    seed = jnp.asarray([1, 2], jnp.uint32)
    np.testing.assert_array_equal(export.export(draw, platforms=["tpu", "cpu"])(shape).call(seed), draw(seed))


def elsewhere(*arguments, cpu, default):
    """Stands for `jax.lax.platform_dependent` on another platform."""
    del cpu
    return default(*arguments)


@pytest.fixture
def as_elsewhere(monkeypatch):
    """Computes on CPU what other platforms compute."""
    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)


def test_elsewhere_pixels_come_from_the_same_places():
    moves = [
        spatial.Flip(jnp.asarray(True), jnp.asarray(False)),
        spatial.Affine(jnp.asarray(20.0), jnp.asarray([1.1, 0.9])),
        spatial.Affine(jnp.asarray(-7.0), jnp.asarray([1.0, 1.0])),
    ]
    here = spatial.source_index(24, 18, *moves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", elsewhere)
        there = spatial.source_index(24, 18, *moves)
    assert (np.asarray(here) == spatial.OUTSIDE).any()
    # A place halfway between two pixels may be rounded either way.
    assert np.mean(np.asarray(here) != np.asarray(there)) < 0.01


def test_elsewhere_noise_is_standard_normal_too(as_elsewhere):
    first, second = (
        np.asarray(noise.standard_normal(jnp.asarray([1, word], jnp.uint32), (1, 200, 250))).ravel() for word in (2, 3)
    )
    assert scipy.stats.kstest(first, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size)


def test_elsewhere_the_whole_chain_gives_finite_images_of_their_own(as_elsewhere):
    images = jnp.asarray(np.random.default_rng(0).random((4, 16, 16, 1)), jnp.float32)
    changed, brain = jax.jit(augment, static_argnums=3)(jax.random.key(0), images, images[..., 0] > 0, FULL)
    assert bool(jnp.isfinite(changed).all())
    assert changed.shape == images.shape
    assert brain.shape == images.shape[:3]
    assert len(np.unique(np.asarray(changed).reshape(4, -1), axis=0)) == 4
