"""Context-encoding masks: squares of the input are hidden, and the network has to fill them in."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, Shaped

from strega_jax.errors import ConfigError

RELEASED_SIDE = 128  # pixels; the released code draws sides below it


@dataclasses.dataclass(frozen=True)
class ContextEncoding:
    """How squares are drawn.

    `brain`: `squares` of them, each centred on a random brain pixel; only their brain pixels are hidden.
    `released`: what the released code does: one square of side 0–127 pixels anywhere in the image for two
    thirds of the samples, nothing for the others; the other fields do not count.
    """

    variant: Literal["brain", "released"] = "brain"
    squares: tuple[int, int] = (1, 3)  # inclusive range
    side: tuple[float, float] = (0.05, 0.25)  # range of a square's side, as a share of the image's longer side

    def __post_init__(self) -> None:
        if self.variant not in ("brain", "released"):
            raise ConfigError(f"context variant is {self.variant!r}; it must be 'brain' or 'released'")
        if not 0 <= self.squares[0] <= self.squares[1]:
            raise ConfigError(f"context squares are {self.squares!r}; they must be a range of counts, low to high")
        if not 0 < self.side[0] <= self.side[1] <= 1:
            raise ConfigError(f"context side is {self.side!r}; it must be a range within (0, 1]")


def context_mask(key: PRNGKeyArray, brain: Shaped[Array, "b h w"], settings: ContextEncoding) -> Float[Array, "b h w"]:
    """1 where the input is kept, 0 where it is hidden, drawn for each sample; `brain` is true or nonzero inside."""
    draw = _brain_squares if settings.variant == "brain" else _released_square
    hidden = jax.vmap(lambda k, b: draw(k, b.astype(bool), settings))(jax.random.split(key, brain.shape[0]), brain)
    return 1 - hidden.astype(jnp.float32)


def _brain_squares(key: PRNGKeyArray, brain: Bool[Array, "h w"], settings: ContextEncoding) -> Bool[Array, "h w"]:
    low, high = settings.squares
    # one call for all draws: each call of jax.random adds half a second to compilation
    first, *draws = jax.random.uniform(key, (high + 1, 3))
    count = low + _below(first[0], high + 1 - low)
    hidden = jnp.zeros_like(brain)
    for index, draw in enumerate(draws):
        row, column = _random_pixel(draw[:2], brain)
        side = (settings.side[0] + draw[2] * (settings.side[1] - settings.side[0])) * max(brain.shape)
        hidden |= _square(brain.shape, row - side / 2, column - side / 2, side) & (index < count)
    return hidden & brain


def _released_square(key: PRNGKeyArray, brain: Bool[Array, "h w"], settings: ContextEncoding) -> Bool[Array, "h w"]:
    del settings
    coin, size, row, column = jax.random.uniform(key, (4,))
    side = _below(size, min(RELEASED_SIDE, *brain.shape))
    top, left = _below(row, brain.shape[0] - side + 1), _below(column, brain.shape[1] - side + 1)
    square = _square(brain.shape, top.astype(jnp.float32), left.astype(jnp.float32), side.astype(jnp.float32))
    return square & (coin < 2 / 3)


def _below(uniform: Float[Array, ""], count: Int32[Array, ""] | int) -> Int32[Array, ""]:
    """A whole number from 0 to `count` − 1 from a draw of U[0, 1)."""
    count = jnp.asarray(count, jnp.int32)
    return jnp.clip((uniform * count.astype(jnp.float32)).astype(jnp.int32), 0, count - 1)


def _random_pixel(uniform: Float[Array, "2"], brain: Bool[Array, "h w"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """A pixel drawn uniformly from the brain, by inverting the cumulative count first of rows, then of columns."""
    rows = jnp.cumsum(brain.sum(1, dtype=jnp.int32))
    row = jnp.searchsorted(rows, _below(uniform[0], rows[-1]), side="right", method="compare_all")
    columns = jnp.cumsum(brain[row].astype(jnp.int32))
    column = jnp.searchsorted(columns, _below(uniform[1], columns[-1]), side="right", method="compare_all")
    return row.astype(jnp.float32), column.astype(jnp.float32)


def _square(
    shape: tuple[int, ...], top: Float[Array, ""], left: Float[Array, ""], side: Float[Array, ""]
) -> Bool[Array, "h w"]:
    """Pixels whose index lies in [top, top + side) × [left, left + side)."""
    row, column = jnp.arange(shape[0], dtype=jnp.float32), jnp.arange(shape[1], dtype=jnp.float32)
    rows, columns = (row >= top) & (row < top + side), (column >= left) & (column < left + side)
    return rows[:, None] & columns[None, :]
