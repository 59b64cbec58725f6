"""Flips, affine maps and rotations with nearest-neighbour sampling, composed into one gather."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Shaped

from strega_jax import cpu

OUTSIDE = -1  # index of an output pixel whose value comes from outside the image


class Flip(NamedTuple):
    """Whether rows (left–right) and columns (front–back) are mirrored."""

    rows: Bool[Array, ""]
    columns: Bool[Array, ""]


class Affine(NamedTuple):
    """Rotation in degrees and scale of rows and columns; 0 and (1, 1) move nothing."""

    degrees: Float[Array, ""]
    scale: Float[Array, "2"]


Transform = Flip | Affine
Place = tuple[Float[Array, "n w"], Float[Array, "n w"]]  # rows and columns, whole numbers


def sample_flip(uniform: Float[Array, "2"], rows: float, columns: float) -> Flip:
    """Each axis mirrored with its own probability, from draws of U[0, 1)."""
    return Flip(uniform[0] < rows, uniform[1] < columns)


def sample_affine(uniform: Float[Array, "4"], probability: float, degrees: float, scale: float = 0.0) -> Affine:
    """Degrees uniform in ± `degrees`, each axis' scale uniform in 1 ± `scale`; else the identity.

    `uniform` are draws of U[0, 1).
    """
    chosen, angle, size = uniform[0] < probability, (2 * uniform[1] - 1) * degrees, 1 + (2 * uniform[2:] - 1) * scale
    return Affine(jnp.where(chosen, angle, jnp.zeros_like(angle)), jnp.where(chosen, size, jnp.ones_like(size)))


def resample(image: Shaped[Array, "c h w"], *transforms: Transform) -> Shaped[Array, "c h w"]:
    """Apply `transforms` from left to right, nearest neighbour; what comes from outside gets the channel's minimum.

    One sampling for all of them, with the values that one sampling for each would give.
    """
    return pick(image, source_index(image.shape[1], image.shape[2], *transforms), image.min((1, 2)))


def source_index(height: int, width: int, *transforms: Transform) -> Int32[Array, "h w"]:
    """Flat index of the input pixel that each output pixel shows after all `transforms`, or `OUTSIDE`."""
    shape = height, width

    def index(rows: Float[Array, "n"]) -> Int32[Array, "n w"]:
        row = jnp.broadcast_to(rows[:, None], (rows.size, width))
        place, inside = (row, jax.lax.broadcasted_iota(jnp.float32, row.shape, 1)), jnp.ones(row.shape, bool)
        for transform in reversed(transforms):
            if isinstance(transform, Flip):
                place = _flip_source(place, transform, shape)
            else:
                place = _affine_source(place, transform, shape)
                inside &= (place[0] >= 0) & (place[0] < height) & (place[1] >= 0) & (place[1] < width)
        return jnp.where(inside, (place[0] * width + place[1]).astype(jnp.int32), OUTSIDE)

    rows = jnp.arange(height, dtype=jnp.float32)
    on_cpu = functools.partial(cpu.in_two_blocks, index)
    return jax.lax.platform_dependent(rows, cpu=on_cpu, default=index)


def pick(image: Shaped[Array, "c h w"], index: Int32[Array, "h w"], fill: Shaped[Array, "c"]) -> Array:
    """The values of `image` at a flat `index`, `fill` where it is `OUTSIDE`."""
    values = image.reshape(image.shape[0], -1).at[:, index.reshape(-1)].get(mode="promise_in_bounds")
    outside = jnp.broadcast_to(index[None] == OUTSIDE, image.shape)
    return jnp.where(outside, jnp.broadcast_to(fill[:, None, None], image.shape), values.reshape(image.shape))


def _flip_source(place: Place, flip: Flip, shape: tuple[int, int]) -> Place:
    row, column = place
    return jnp.where(flip.rows, shape[0] - 1 - row, row), jnp.where(flip.columns, shape[1] - 1 - column, column)


def _affine_source(place: Place, affine: Affine, shape: tuple[int, int]) -> Place:
    """An output pixel's place about the centre, divided by the scale, turned by −degrees, to the nearest pixel.

    Nearest is floor(place + ½), as in ITK.
    """
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    angle, size = jnp.deg2rad(affine.degrees), 1 / affine.scale
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x, y = (place[0] - middle[0]) * size[0], (place[1] - middle[1]) * size[1]
    row, column = cosine * x + sine * y, cosine * y - sine * x
    return jnp.floor(row + (middle[0] + 0.5)), jnp.floor(column + (middle[1] + 0.5))
