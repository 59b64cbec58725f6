"""Histogram-equalised intensity as the score: bright is anomalous (Meissen et al. 2021). No gradient is followed."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require


@dataclasses.dataclass(frozen=True)
class IntensityThreshold:
    """Hyperparameters, and the `Detector` made of them; for slices of intensities (one channel)."""

    # slice: rank among the brain pixels of the same slice; training: among those of the training slices
    equalise: Literal["slice", "training"] = "training"
    anomaly: Literal["bright", "dark"] = "bright"
    bins: int = 512  # training: intensities told apart …
    limits: tuple[float, float] = (-5.0, 5.0)  # … between these normalised values; what lies beyond, at the ends
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of every detector; counts are float32

    def __post_init__(self) -> None:
        require(self.bins >= 2, "bins", self.bins, "≥ 2")
        require(self.limits[0] < self.limits[1], "limits", self.limits, "low, high")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """No parameters; collection `histogram`: `count` (bins,) of training brain pixels, float32."""
        require(image_shape[-1] == 1, "detector", "intensity_threshold", "used with one channel")
        return {"params": {}, "histogram": {"count": jnp.zeros(self.bins)}}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Cross entropy, in nats a pixel, of the batch under the histogram so far; the batch is then added to it."""
        index, brain = self._bin(batch["images"][..., 0]), batch["brain"]
        count = variables["histogram"]["count"]
        # One pixel more in each bin, so that what was never seen is unlikely, not impossible.
        log_share = jnp.log(count + 1.0) - jnp.log(count.sum() + float(self.bins))
        loss = -(log_share[index] * brain).sum() / jnp.maximum(brain.sum(), 1.0)
        seen = jax.ops.segment_sum(brain.reshape(-1), index.reshape(-1), self.bins)
        return loss, Aux({}, {"histogram": {"count": count + seen}})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The image as it is: the method expects nothing else."""
        return batch["images"]

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Share, in (0, 1], of the reference's brain pixels that are no brighter (or no darker) than this one."""
        values, brain = batch["images"][..., 0], batch["brain"]
        flip = 1.0 if self.anomaly == "bright" else -1.0
        if self.equalise == "slice":
            return jax.vmap(_ranks)(flip * values, brain)
        count = variables["histogram"]["count"]
        below = jnp.cumsum(count) if self.anomaly == "bright" else jnp.cumsum(count[::-1])[::-1]
        share = (below / jnp.maximum(count.sum(), 1.0))[self._bin(values)]
        return share * brain

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own, with nothing to move."""
        return default

    def _bin(self, values: Float[Array, "b h w"]) -> Array:
        low, high = self.limits
        return jnp.clip(((values - low) * (self.bins / (high - low))).astype(jnp.int32), 0, self.bins - 1)


def _ranks(values: Float[Array, "h w"], brain: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Share of the brain's pixels that are ≤ this one; 0 outside the brain."""
    inside = jnp.where(brain > 0, values, jnp.inf).reshape(-1)
    rank = jnp.searchsorted(jnp.sort(inside), inside, side="right").reshape(values.shape)
    return rank.astype(jnp.float32) / jnp.maximum(brain.sum(), 1.0) * brain


DETECTOR = IntensityThreshold
