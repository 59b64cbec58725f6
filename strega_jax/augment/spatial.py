"""Flips, affine maps and rotations with nearest-neighbour sampling, composed into one gather."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, Shaped


class Flip(NamedTuple):
    """Whether rows (left–right) and columns (front–back) are mirrored."""

    rows: Bool[Array, ""]
    columns: Bool[Array, ""]


class Affine(NamedTuple):
    """Rotation in degrees and scale of rows and columns; 0 and (1, 1) move nothing."""

    degrees: Float[Array, ""]
    scale: Float[Array, "2"]


class Pixels(NamedTuple):
    """For each output pixel the row and column of the input pixel it shows; outside the image: fill."""

    row: Int32[Array, "h w"]
    column: Int32[Array, "h w"]
    inside: Bool[Array, "h w"]


def sample_flip(key: PRNGKeyArray, rows: float, columns: float) -> Flip:
    """Each axis mirrored with its own probability."""
    first, second = jax.random.split(key)
    return Flip(jax.random.bernoulli(first, rows), jax.random.bernoulli(second, columns))


def sample_affine(key: PRNGKeyArray, probability: float, degrees: float, scale: float = 0.0) -> Affine:
    """Degrees uniform in ± `degrees`, each axis' scale uniform in 1 ± `scale`; else the identity."""
    coin, angle, size = jax.random.split(key, 3)
    angles = jax.random.uniform(angle, minval=-degrees, maxval=degrees)
    scales = jax.random.uniform(size, (2,), minval=1 - scale, maxval=1 + scale)
    chosen = jax.random.bernoulli(coin, probability)
    return Affine(
        jnp.where(chosen, angles, jnp.zeros_like(angles)),
        jnp.where(chosen, scales, jnp.ones_like(scales)),
    )


def all_pixels(height: int, width: int) -> Pixels:
    """The map that shows each pixel at its own place."""
    row = jax.lax.broadcasted_iota(jnp.int32, (height, width), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (height, width), 1)
    return Pixels(row, column, jnp.ones((height, width), bool))


def flipped(pixels: Pixels, params: Flip) -> Pixels:
    """Where `pixels` look for their values if the image beneath is mirrored first."""
    height, width = pixels.row.shape
    return Pixels(
        jnp.where(params.rows, height - 1 - pixels.row, pixels.row),
        jnp.where(params.columns, width - 1 - pixels.column, pixels.column),
        pixels.inside,
    )


def moved(pixels: Pixels, params: Affine) -> Pixels:
    """Where `pixels` look for their values if the image beneath is scaled and rotated first.

    An output pixel's place relative to the centre is divided by the scale, then turned by −degrees, and the
    nearest input pixel is floor(place + ½), as in ITK.
    """
    height, width = pixels.row.shape
    middle = (height - 1) / 2, (width - 1) / 2
    angle = jnp.deg2rad(params.degrees)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x = (pixels.row.astype(jnp.float32) - middle[0]) / params.scale[0]
    y = (pixels.column.astype(jnp.float32) - middle[1]) / params.scale[1]
    row = jnp.floor(cosine * x + sine * y + (middle[0] + 0.5)).astype(jnp.int32)
    column = jnp.floor(cosine * y - sine * x + (middle[1] + 0.5)).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return Pixels(row, column, inside & pixels.inside)


def show(pixels: Pixels, image: Shaped[Array, "h w c"], fill: Shaped[Array, "c"]) -> Shaped[Array, "h w c"]:
    """The values of `image` at `pixels`, `fill` where these lie outside."""
    height, width, channels = image.shape
    index = jnp.where(pixels.inside, pixels.row * width + pixels.column, 0).reshape(-1)
    values = image.reshape(-1, channels).at[index].get(mode="promise_in_bounds").reshape(image.shape)
    return jnp.where(pixels.inside[..., None], values, jnp.broadcast_to(fill, image.shape))


def flip(image: Shaped[Array, "h w c"], params: Flip) -> Shaped[Array, "h w c"]:
    """Mirror the axes that `params` names."""
    image = jnp.where(params.rows, image[::-1], image)
    return jnp.where(params.columns, image[:, ::-1], image)


def affine(image: Shaped[Array, "h w c"], params: Affine) -> Shaped[Array, "h w c"]:
    """Scale and rotate about the centre, nearest neighbour; what comes from outside gets the channel's minimum."""
    pixels = moved(all_pixels(*image.shape[:2]), params)
    return show(pixels, image, image.min((0, 1)))
