"""What networks compute, as functions of arrays, without flax: NHWC."""

import functools

import jax
from jaxtyping import Array, Float

from strega_jax import cpu

NORM_EPSILON = 1e-5
SLOPE = 0.01  # of LeakyReLU
BOTTLENECK = 4  # the 3×3 of a bottleneck block works on 1/BOTTLENECK of the maps (He et al. 2016)


def bottleneck(maps: int) -> list[tuple[int, int]]:
    """Maps and size of the three convolutions of a bottleneck block."""
    inner = max(1, maps // BOTTLENECK)
    return [(inner, 1), (inner, 3), (maps, 1)]


def space_to_depth(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Fold each factor × factor patch into channels; `h` and `w` must be multiples of `factor`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c2"]:
    """Inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "b h w d"]:
    """Convolution of odd size, stride 1, zero padding that keeps the size; see `padded_conv`."""
    return padded_conv(x, kernel, kernel.shape[0] // 2)


def padded_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], pad: int) -> Float[Array, "b h2 w2 d"]:
    """Convolution with stride 1 and `pad` ≤ k − 1 zeros on every side. Differentiable once.

    In a branch or a loop that is differentiated: within `strega_jax.cpu.control_flow()`, or CPUs take long.
    """
    return _convolution(x, kernel, pad, cpu.in_control_flow())


def forward_conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "b h w d"]:
    """As `conv`, where no gradient is wanted: quicker to trace."""
    return _plain_convolution(x, kernel, kernel.shape[0] // 2)


def _plain_convolution(x: Array, kernel: Array, pad: int, controlled: bool = False) -> Array:
    if kernel.shape[0] == 1:
        return jax.lax.dot_general(x, kernel.reshape(kernel.shape[2:]), (((3,), (0,)), ((), ())))
    sides = [(pad, pad), (pad, pad)]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


# XLA's own convolution and gradients, but for the gradients on CPU.
_convolution = jax.custom_vjp(_plain_convolution, nondiff_argnums=(2, 3))


def _forward(x: Array, kernel: Array, pad: int, controlled: bool) -> tuple[Array, tuple[Array, Array]]:
    return _plain_convolution(x, kernel, pad), (x, kernel)


def _backward(pad: int, controlled: bool, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def plain(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: _plain_convolution(x, kernel, pad), x, kernel)[1](gradient)

    on_cpu = functools.partial(cpu.convolution_gradients, pad=pad, controlled=controlled)
    return jax.lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=plain)


_convolution.defvjp(_forward, _backward)
