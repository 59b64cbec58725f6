"""From image and healthy counterpart to a score, and the mean of repeated samples."""

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

    # brighter than healthy (positive), darker, or either, channel by channel; contrast: the channels' weighted sum,
    # which may weigh some against others, where it is above 0
    sign: Literal["positive", "negative", "absolute", "contrast"] = "absolute"
    channel_weights: tuple[float, ...] = ()  # empty: all 1; below 0 with `contrast` alone

    def __post_init__(self) -> None:
        fits = self.sign == "contrast" or min(self.channel_weights, default=0) >= 0
        require(fits, "residual.channel_weights", self.channel_weights, "numbers ≥ 0")

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
        weights = jnp.asarray(self.channel_weights or (1.0,) * images.shape[-1], jnp.float32)
        if self.sign == "contrast":
            return jax.nn.relu(difference @ weights) * brain
        part = {
            "positive": jax.nn.relu(difference),
            "negative": jax.nn.relu(-difference),
            "absolute": jnp.abs(difference),
        }[self.sign]
        return (part @ weights) * brain


def mean_of(draw: Callable[[PRNGKeyArray], Float[Array, "*s"]], key: PRNGKeyArray, samples: int) -> Float[Array, "*s"]:
    """Mean of `draw` over `samples` ≥ 1 keys, one draw after the other in memory."""
    keys = jax.random.split(key, samples)

    def add(total: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        return total + draw(key), None

    return jax.lax.scan(add, draw(keys[0]), keys[1:])[0] / samples
