"""Blocks that detectors are built from: NHWC, float32 parameters, computing in `dtype`."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.operations import (
    NORM_EPSILON,
    SLOPE,
    bottleneck,
    conv,
    depth_to_space,
    padded_conv,
    space_to_depth,
)

NORM_MOMENTUM = 0.9  # share of the running averages that a step keeps
# Of a transposed convolution, as flax draws it: a quarter of the variance that an output pixel's inputs would allow.
SMALL_NORMAL = nn.initializers.variance_scaling(0.25, "fan_in", "truncated_normal")


def parameter(module: nn.Module, name: str, start: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """`module.param`, which traces `start` to learn the shape of a parameter that is there: half of tracing a network.

    Raises:
        ScopeParamShapeError: it is there, with another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, start, shape)
    value = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value


def initialise(network: nn.Module, key: PRNGKeyArray, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """A network's variables for images of (h, w, c), its kernels drawn from one stream of normal numbers.

    Standard deviations are √(2 / inputs) of a convolution (He et al. 2015) and √(1 / inputs) of a dense layer.
    One draw, because XLA on CPU takes a second or more to compile each random stream of another shape: half a
    minute for a small network.
    """

    @jax.jit
    def make(key: PRNGKeyArray) -> dict[str, Any]:
        variables = network.init(key, jnp.zeros((1, *image_shape)))
        leaves, tree = jax.tree.flatten_with_path(variables["params"])
        ends = np.cumsum([leaf.size for path, leaf in leaves if path[-1].key == "kernel"])
        pieces = iter(jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1]))

        def fill(path: tuple[Any, ...], leaf: Array) -> Array:
            if path[-1].key != "kernel":
                return leaf
            gain = 2.0 if leaf.ndim == 4 else 1.0
            return next(pieces).reshape(leaf.shape) * math.sqrt(gain / math.prod(leaf.shape[:-1]))

        return {**variables, "params": jax.tree.unflatten(tree, [fill(path, leaf) for path, leaf in leaves])}

    return make(key)


class Conv(nn.Module):
    """`size` × `size` convolution (odd, stride 1, same size), He-normal; a bias unless a norm follows."""

    features: int
    size: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = parameter(self, "kernel", nn.initializers.he_normal(), shape)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)[None, None, None, :]
        return y


class Halve(nn.Module):
    """4×4 convolution with stride 2 and one zero around, as a 2×2 convolution of 2×2 patches; LeCun-normal, a bias.

    `h` and `w` must be even. The same numbers as a strided convolution, whose gradients XLA on CPU is slow at.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        kernel = parameter(self, "kernel", nn.initializers.lecun_normal(), (2, 2, 4 * x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        y: Any = padded_conv(space_to_depth(x, 2), kernel.astype(self.dtype), 0)
        return y + bias[None, None, None, :]


class Double(nn.Module):
    """The transpose of `Halve`: a transposed 4×4 convolution with stride 2 to twice the size; a bias."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        kernel = parameter(self, "kernel", SMALL_NORMAL, (2, 2, x.shape[-1], 4 * self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = depth_to_space(padded_conv(x.astype(self.dtype), kernel.astype(self.dtype), 1), 2)
        return x[:, 1:-1, 1:-1] + bias[None, None, None, :]


class Norm(nn.Module):
    """Batch normalisation over batch and pixels (Ioffe & Szegedy 2015), statistics in float32.

    Training uses the batch's statistics and renews the running averages (collection `batch_stats`, biased
    variance), which inference uses.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        maps = x.shape[-1:]
        scale = parameter(self, "scale", nn.initializers.ones, maps)
        bias = parameter(self, "bias", nn.initializers.zeros, maps)
        average = self.variable("batch_stats", "mean", jnp.zeros, maps)
        spread = self.variable("batch_stats", "var", jnp.ones, maps)
        x = x.astype(jnp.float32)
        if train:
            mean = x.mean((0, 1, 2))
            variance = jnp.square(x - mean[None, None, None, :]).mean((0, 1, 2))
            if not self.is_initializing():
                average.value = NORM_MOMENTUM * average.value + (1 - NORM_MOMENTUM) * mean
                spread.value = NORM_MOMENTUM * spread.value + (1 - NORM_MOMENTUM) * variance
        else:
            mean, variance = average.value, spread.value
        gain = scale * jax.lax.rsqrt(variance + NORM_EPSILON)
        shift = bias - mean * gain
        return (x * gain[None, None, None, :] + shift[None, None, None, :]).astype(self.dtype)


class Activation(nn.Module):
    """LeakyReLU with slope 0.01, or PReLU with one learned slope (0.25 at first)."""

    kind: str = "leaky_relu"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.kind == "leaky_relu":
            return nn.leaky_relu(x, SLOPE)
        slope = parameter(self, "slope", nn.initializers.constant(0.25), ())
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class ResidualBlock(nn.Module):
    """x + F(x), then the activation (He et al. 2016, fig. 5).

    F is two 3×3 convolutions (`basic`), or 1×1, 3×3, 1×1 (`bottleneck`), each with its norm.
    """

    kind: str = "basic"
    activation: str = "leaky_relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        maps = x.shape[-1]
        plan = [(maps, 3), (maps, 3)] if self.kind == "basic" else bottleneck(maps)
        y = x
        for features, size in plan[:-1]:
            y = Norm(self.dtype)(Conv(features, size, dtype=self.dtype)(y), train)
            y = Activation(self.activation)(y)
        features, size = plan[-1]
        y = Norm(self.dtype)(Conv(features, size, dtype=self.dtype)(y), train)
        return Activation(self.activation)(x + y)
