"""What is computed in another way on CPU because XLA's CPU compiler is slow at the plain one; nothing else lies here.

Each caller gives the plain way beside it to `jax.lax.platform_dependent`, which chooses when a program is lowered:
one for CUDA or TPU holds nothing of this, whichever machine it was lowered on. Only the last bits of numbers differ,
but for `standard_normal`, which draws other values. The ratios are of processor time, plain over this, taken in turns
on two cores with jax 0.10.2, float32.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

# 3×3 kernels with this many maps in and out have their gradient as a convolution, outside of branches and loops.
MANY_MAPS = 16
_controlled = contextvars.ContextVar("controlled", default=False)
THREEFRY_PARITY = np.uint32(0x1BD11BDA)
THREEFRY_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
THREEFRY_ROUNDS = 20


@contextlib.contextmanager
def control_flow() -> Iterator[None]:
    """Around a `lax.cond`, `lax.scan` or `lax.map` that holds convolutions of `layers` and is differentiated."""
    before = _controlled.set(True)
    try:
        yield
    finally:
        _controlled.reset(before)


def in_control_flow() -> bool:
    """Whether what is traced now lies in a `control_flow`."""
    return _controlled.get()


def convolution_gradients(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c d"],
    gradient: Float[Array, "b h2 w2 d"],
    pad: int,
    controlled: bool = True,
) -> tuple[Float[Array, "b h w c"], Float[Array, "k k c d"]]:
    """Gradients of a convolution with stride 1 and `pad` zeros around: by x, and by the kernel, as matrix products.

    The kernel's gradient as a convolution takes 35 to 47 times as long where the output is larger than the input (2×2
    kernels, one zero around), 3 to 5 times with one to three maps out, and 13 to 108 times inside a branch or a loop,
    where XLA does not hand it to its fast convolution. For 3×3 kernels and `MANY_MAPS` outside of these it takes 0.15
    to 0.83 of the time, and is what is done.

    Args:
        controlled: whether this runs in a branch or a loop; see `control_flow`.
    """
    size = kernel.shape[0]
    if size == 1:
        by_x = jnp.einsum("bhwd,dc->bhwc", gradient, kernel[0, 0].T)
        return by_x, jnp.einsum("bhwc,bhwd->cd", x, gradient)[None, None]
    around = size - 1 - pad
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    by_x = jax.lax.conv_general_dilated(
        gradient, mirrored, (1, 1), [(around, around)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if size == 3 and pad == 1 and min(kernel.shape[2:]) >= MANY_MAPS and not controlled:
        return by_x, _by_convolution(x, gradient)
    return by_x, _kernel_gradient(x, gradient, size, pad)


def _by_convolution(x: Array, gradient: Array) -> Array:
    """Of a 3×3 kernel with one zero around: batch and maps change places, as XLA's own gradient has it."""
    return jax.lax.conv_general_dilated(
        x, gradient, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("CHWN", "IHWO", "HWNC")
    )


def _kernel_gradient(x: Array, gradient: Array, size: int, pad: int) -> Array:
    """One matrix product a kernel row. Whichever side has fewer maps is shifted, for fewer copied values."""
    if x.shape[-1] <= gradient.shape[-1]:
        shifted = _shifted(x, size, pad, gradient.shape[1:3])
        return jnp.stack([jnp.einsum("bhwjc,bhwd->jcd", columns, gradient) for columns in shifted])
    shifted = _shifted(gradient, size, size - 1 - pad, x.shape[1:3])
    return jnp.stack([jnp.einsum("bhwc,bhwjd->jcd", x, columns) for columns in shifted])[::-1, ::-1]


def _shifted(x: Float[Array, "b h w c"], size: int, pad: int, sides: tuple[int, ...]) -> list[Array]:
    """For each kernel row, the zero-padded `x` as (b, *sides, k, c), seen from each of the row's columns."""
    h, w = sides
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return [jnp.stack([x[:, i : i + h, j : j + w] for j in range(size)], axis=3) for i in range(size)]


def in_two_blocks(function: Callable[[Array], Array], rows: Float[Array, "h"]) -> Array:
    """`function` of a volume's rows, (h,) → (h, w), in two halves where h is even: a loop, which fusion does not cross.

    The compiler would otherwise work out an index inside the gather that it serves, which is not vectorised: 2.2 times
    as long for affine, rotation and flips of 32 slices of 256².
    """
    blocks = rows.reshape(2 if rows.size % 2 == 0 else 1, -1)
    return jax.lax.map(function, blocks).reshape(rows.size, -1)


def standard_normal(seed: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Independent N(0, 1) values, one for each position of `shape`, a function of seed and position only.

    Box and Muller's transform √(−2 log u)·cos(2πv); 24 bits make u and 32 make v, so values stay within ± 5.9.
    `jax.random.normal` takes 1.4 times as long for 32 slices of 256².
    """
    counter = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    first, second = threefry_2x32(seed, counter)
    # through int32: vector units convert signed integers only
    u = ((first >> np.uint32(8)).astype(jnp.int32).astype(jnp.float32) + 0.5) * np.float32(2**-24)
    v = jax.lax.bitcast_convert_type(second, jnp.int32).astype(jnp.float32) * np.float32(2**-32)
    return jnp.sqrt(-2 * jnp.log(u)) * _cosine_of_turns(v)


def _cosine_of_turns(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """cos(2πv) for v in [−½, ½] by its Taylor series, off by less than 1e-6; four times faster than jnp.cos."""
    square, cosine = v * v, jnp.zeros_like(v)
    for k in reversed(range(9)):
        cosine = cosine * square + np.float32((-1) ** k * (2 * math.pi) ** (2 * k) / math.factorial(2 * k))
    return cosine


def threefry_2x32(seed: UInt32[Array, "2"], counter: UInt32[Array, "..."]) -> tuple[Array, Array]:
    """Both words of the Threefry-2x32 hash (Salmon et al., 2011) of (`counter`, 0) under `seed`.

    jax.random hashes in a loop over rounds on CPU; written out, the compiler vectorises it.
    """
    schedule = (seed[0], seed[1], seed[0] ^ seed[1] ^ THREEFRY_PARITY)
    first, second = counter + schedule[0], jnp.full_like(counter, schedule[1])
    for index in range(THREEFRY_ROUNDS):
        turn = THREEFRY_ROTATIONS[index // 4 % 2][index % 4]
        first = first + second
        second = first ^ ((second << np.uint32(turn)) | (second >> np.uint32(32 - turn)))
        if index % 4 == 3:
            group = index // 4 + 1
            first = first + schedule[group % 3]
            second = second + schedule[(group + 1) % 3] + np.uint32(group)
    return first, second
