"""From image and healthy counterpart to a score, and what repeated samples say."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.checks import require


@dataclasses.dataclass(frozen=True)
class Residual:
    """How image − reconstruction becomes a score."""

    # brighter than healthy (positive), darker, or either
    sign: Literal["positive", "negative", "absolute"] = "absolute"
    channel_weights: tuple[float, ...] = ()  # empty: all 1

    def __post_init__(self) -> None:
        require(
            min(self.channel_weights, default=0) >= 0, "residual.channel_weights", self.channel_weights, "numbers ≥ 0"
        )

    def check(self, channels: int) -> None:
        """Raise ConfigError unless there are as many weights as channels, or none."""
        require(
            len(self.channel_weights) in (0, channels),
            "residual.channel_weights",
            self.channel_weights,
            f"empty or {channels} numbers, one a channel",
        )

    def __call__(
        self, images: Float[Array, "b h w c"], expected: Float[Array, "b h w c"], brain: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """Weighted sum over channels of the residual's wanted part; 0 outside the brain."""
        difference = images - expected
        part = {
            "positive": jax.nn.relu(difference),
            "negative": jax.nn.relu(-difference),
            "absolute": jnp.abs(difference),
        }[self.sign]
        weights = jnp.asarray(self.channel_weights or (1.0,) * images.shape[-1], jnp.float32)
        return (part @ weights) * brain


def moments(
    draw: Callable[[PRNGKeyArray], Float[Array, "*s"]], key: PRNGKeyArray, samples: int
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Mean and variance (n − 1) of `draw` over `samples` ≥ 2 keys, one after the other (Welford 1962)."""
    keys = jax.random.split(key, samples)
    first = draw(keys[0])

    def add(carry: tuple[Array, Array], item: tuple[Array, PRNGKeyArray]) -> tuple[tuple[Array, Array], None]:
        mean, squares = carry
        count, key = item
        value = draw(key)
        moved = mean + (value - mean) / count
        return (moved, squares + (value - mean) * (value - moved)), None

    counts = jnp.arange(2, samples + 1, dtype=jnp.float32)
    (mean, squares), _ = jax.lax.scan(add, (first, jnp.zeros_like(first)), (counts, keys[1:]))
    return mean, squares / (samples - 1)
