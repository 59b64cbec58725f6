"""Layers against XLA's own convolutions and flax's batch norm, values and gradients."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import discs, fresh
from jax import lax

from strega_jax import cpu
from strega_jax.detectors import layers, operations
from strega_jax.detectors.vq_vae import VqVae

NHWC = ("NHWC", "HWIO", "NHWC")


def draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("size", "maps_in", "maps_out"), [(1, 3, 5), (3, 2, 6), (3, 6, 2), (3, 4, 4), (3, 16, 24), (5, 3, 2)]
)
def test_conv_and_both_gradients_equal_xla(size: int, maps_in: int, maps_out: int):
    x, kernel, gradient = draw(0, 2, 7, 9, maps_in), draw(1, size, size, maps_in, maps_out), draw(2, 2, 7, 9, maps_out)
    expected, pull_expected = jax.vjp(
        lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC), x, kernel
    )
    got, pull = jax.vjp(operations.conv, x, kernel)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    for ours, theirs in zip(pull(gradient), pull_expected(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def kernel_gradients_by_convolution(function, *arguments) -> int:
    """How many gradients of 3×3 kernels with 16 maps are convolutions themselves, which loops are slow at."""
    lowered = jax.jit(jax.grad(function)).lower(*arguments).as_text()
    return len(re.findall(r"stablehlo.convolution.*-> tensor<3x3x16x16xf32>", lowered))


def test_many_maps_have_their_kernels_gradient_as_a_convolution_but_in_branches_and_loops():
    x, kernel = draw(0, 2, 8, 8, 16), draw(1, 3, 3, 16, 16)

    def energy(kernel: jax.Array) -> jax.Array:
        return jnp.square(operations.conv(x, kernel)).sum()

    def in_a_loop(kernel: jax.Array) -> jax.Array:
        with cpu.control_flow():
            return lax.map(lambda _: energy(kernel), jnp.arange(2)).sum() / 2

    assert kernel_gradients_by_convolution(energy, kernel) == 1
    assert kernel_gradients_by_convolution(in_a_loop, kernel) == 0
    np.testing.assert_allclose(jax.grad(in_a_loop)(kernel), jax.grad(energy)(kernel), rtol=1e-4, atol=1e-2)


def test_the_stages_of_a_vq_vae_are_in_branches():
    detector, batch = VqVae(maps=(16, 16, 16), codes=4, code_width=16, width=8, heads=1, layers=1), discs(4)
    variables = fresh(detector)

    def loss(variables):
        return detector.loss(variables, batch, jax.random.key(0), jnp.int32(0))[0]

    assert kernel_gradients_by_convolution(loss, variables) == 0


def test_conv_gradient_is_derivative_by_finite_differences():
    x, kernel, direction = draw(0, 1, 5, 6, 2), draw(1, 3, 3, 2, 3), draw(2, 3, 3, 2, 3)

    def energy(kernel: jax.Array) -> jax.Array:
        return jnp.square(operations.conv(x, kernel)).sum()

    slope = jnp.vdot(jax.grad(energy)(kernel), direction)
    step = 0.5  # the energy is quadratic in the kernel: central differences are exact
    numeric = (energy(kernel + step * direction) - energy(kernel - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-4)


@pytest.mark.parametrize(("maps_in", "maps_out"), [(3, 5), (6, 2)])
def test_halve_is_a_4x4_convolution_with_stride_2(maps_in: int, maps_out: int):
    x, kernel, bias = draw(0, 2, 8, 6, maps_in), draw(1, 4, 4, maps_in, maps_out), draw(2, maps_out)
    # rows and columns of the kernel, each parted into the patch it lies in and the place there
    folded = kernel.reshape(2, 2, 2, 2, maps_in, maps_out).transpose(0, 2, 1, 3, 4, 5)
    params = {"params": {"kernel": folded.reshape(2, 2, 4 * maps_in, maps_out), "bias": bias}}

    def theirs(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=NHWC)

    got, pull = jax.vjp(lambda x, p: layers.Halve(maps_out).apply(p, x), x, params)
    expected, pull_expected = jax.vjp(theirs, x, kernel)
    np.testing.assert_allclose(got, expected + bias[None, None, None, :], atol=2e-5)
    by_x, by_params = pull(got)
    by_x_expected, by_kernel = pull_expected(got)
    np.testing.assert_allclose(by_x, by_x_expected, atol=2e-4)
    by_kernel = by_kernel.reshape(2, 2, 2, 2, maps_in, maps_out).transpose(0, 2, 1, 3, 4, 5)
    np.testing.assert_allclose(by_params["params"]["kernel"].reshape(by_kernel.shape), by_kernel, atol=2e-3)


def test_double_is_the_transpose_of_halve():
    x, y, kernel = draw(0, 2, 8, 6, 3), draw(1, 2, 4, 3, 5), draw(2, 2, 2, 12, 5)
    down, bias = {"params": {"kernel": kernel, "bias": jnp.zeros(5)}}, jnp.arange(3.0)
    up = {"params": {"kernel": kernel[::-1, ::-1].swapaxes(2, 3), "bias": bias}}
    _, pull = jax.vjp(lambda x: layers.Halve(5).apply(down, x), x)
    got = layers.Double(3).apply(up, y)
    np.testing.assert_allclose(got, pull(y)[0] + bias[None, None, None, :], atol=2e-5)


def test_folded_1x1_is_strided_convolution():
    x, kernel = draw(0, 2, 8, 6, 3), draw(1, 2, 2, 3, 5)
    expected = lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=NHWC)
    got = operations.conv(operations.space_to_depth(x, 2), kernel.reshape(1, 1, 12, 5))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_unfolded_1x1_is_transposed_convolution():
    x, kernel = draw(0, 2, 4, 3, 5), draw(1, 2, 2, 5, 3)
    expected = lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=NHWC, transpose_kernel=False)
    # lax.conv_transpose slides the kernel over the dilated input, so that its taps arrive mirrored
    folded = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(1, 1, 5, 12)
    np.testing.assert_allclose(operations.depth_to_space(operations.conv(x, folded), 2), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_depth_to_space_undoes_space_to_depth(factor: int):
    x = draw(0, 2, 8, 16, 3)
    folded = operations.space_to_depth(x, factor)
    assert folded.shape == (2, 8 // factor, 16 // factor, 3 * factor**2)
    np.testing.assert_array_equal(folded[0, 0, 0], x[0, :factor, :factor].reshape(-1))
    np.testing.assert_array_equal(operations.depth_to_space(folded, factor), x)


def test_norm_equals_flax_batch_norm_in_value_gradient_and_averages():
    x, weights = 3 + 2 * draw(0, 4, 5, 6, 3), draw(1, 4, 5, 6, 3)
    parameters = {"scale": draw(2, 3), "bias": draw(3, 3)}
    averages = {"mean": draw(4, 3), "var": jnp.square(draw(5, 3))}
    theirs = nn.BatchNorm(momentum=layers.NORM_MOMENTUM, epsilon=operations.NORM_EPSILON, use_fast_variance=False)

    def run(module: nn.Module, parameters: dict, x: jax.Array, **mode: bool):
        variables = {"params": parameters, "batch_stats": averages}
        y, renewed = module.apply(variables, x, mutable=["batch_stats"], **mode)
        return jnp.vdot(y, weights), (y, renewed)

    def gradients(module: nn.Module, **mode: bool):
        both = jax.grad(lambda p, x: run(module, p, x, **mode), (0, 1), has_aux=True)
        return jax.jit(both)(parameters, x)

    for train in (True, False):
        ours, flax = gradients(layers.Norm(), train=train), gradients(theirs, use_running_average=not train)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), ours, flax)


class Single(nn.Module):
    """One residual block."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.ResidualBlock(self.kind, name="block")(x, True)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_residual_block_passes_its_input_through_when_its_branch_is_silent(kind: str):
    x = draw(0, 2, 6, 6, 8)
    variables = layers.initialise(Single(kind), jax.random.key(0), (6, 6, 8))
    block = variables["params"]["block"]
    last = max(block, key=lambda name: (name.startswith("Norm"), name))
    silent = {"block": {**block, last: jax.tree.map(jnp.zeros_like, block[last])}}
    run = jax.jit(lambda variables: Single(kind).apply(variables, x, mutable=["batch_stats"])[0])
    y = run({**variables, "params": silent})
    np.testing.assert_allclose(y, np.where(x >= 0, x, 0.01 * x), rtol=1e-6)
    assert not np.allclose(run(variables), y)


def test_initialise_draws_every_kernel_at_its_own_scale_and_by_the_key():
    first, again, other = (layers.initialise(Single("basic"), jax.random.key(k), (6, 6, 16)) for k in (0, 0, 1))
    kernels = [leaf for leaf in jax.tree.leaves(first["params"]) if leaf.ndim == 4]
    assert len(kernels) == 2
    for kernel in kernels:
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 16)), rtol=0.1)
        assert abs(kernel.mean()) < 0.01
    assert not np.allclose(*kernels)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.allclose(kernels[0], next(leaf for leaf in jax.tree.leaves(other["params"]) if leaf.ndim == 4))


def test_prelu_slope_starts_at_a_quarter_and_is_learned():
    x = draw(0, 1, 4, 4, 2)
    module = layers.Activation("prelu")
    variables = module.init(jax.random.key(0), x)
    np.testing.assert_allclose(module.apply(variables, x), np.where(x >= 0, x, 0.25 * x), rtol=1e-6)
    slope = jax.grad(lambda v: module.apply(v, x).sum())(variables)["params"]["slope"]
    np.testing.assert_allclose(slope, np.minimum(x, 0).sum(), rtol=1e-5)
