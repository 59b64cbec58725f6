"""Distance to healthy voxel statistics: mean and variance of every pixel at every height of the brain.

No gradient is followed: each batch is merged into running statistics (Chan, Golub & LeVeque 1983), which are
exact whatever the batches. Meant for slices aligned to a template or centred on the brain.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require

if TYPE_CHECKING:
    import optax

MIN_VARIANCE = 1e-6


class Statistics(NamedTuple):
    """Of the brain pixels seen: number, mean, and sum of squared deviations from the mean."""

    count: Float[Array, "*s 1"]
    mean: Float[Array, "*s c"]
    squares: Float[Array, "*s c"]


@dataclasses.dataclass(frozen=True)
class TissueAtlas:
    """Hyperparameters, and the `Detector` made of them."""

    bins: int = 32  # heights of the brain told apart
    # voxels' statistics count as if so many samples of the whole brain's had been seen too
    prior_count: float = 5.0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of every detector; statistics are float32

    def __post_init__(self) -> None:
        require(self.bins >= 1, "bins", self.bins, "≥ 1")
        require(self.prior_count > 0, "prior_count", self.prior_count, "> 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """No parameters; collection `atlas`: count, mean and squares of (bins, h, w, c), float32."""
        h, w, c = image_shape
        shape = (self.bins, h, w)
        atlas = Statistics(jnp.zeros((*shape, 1)), jnp.zeros((*shape, c)), jnp.zeros((*shape, c)))
        return {"params": {}, "atlas": atlas._asdict()}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Mean squared distance of the batch from the statistics so far, and these with the batch merged in."""
        images, brain = batch["images"], batch["brain"][..., None]
        distance = self._squared_distance(variables, batch)
        loss = (distance * batch["brain"]).sum() / jnp.maximum(brain.sum(), 1.0)
        seen = _of_samples(images, brain, self._bin(batch), self.bins)
        return loss, Aux({}, {"atlas": merge(_atlas(variables), seen)._asdict()})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The healthy mean of each brain pixel at the slice's height; the image itself outside the brain."""
        mean, _ = self._expected(variables, batch)
        return jnp.where(batch["brain"][..., None] > 0, mean, batch["images"])

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Root mean square over channels of the distance in healthy standard deviations."""
        return jnp.sqrt(self._squared_distance(variables, batch)) * batch["brain"]

    def optimizer(self, default: "optax.GradientTransformation") -> "optax.GradientTransformation":
        """The config's own, with nothing to move."""
        return default

    def _bin(self, batch: Batch) -> Int[Array, "b"]:
        return jnp.clip((batch["position"] * self.bins).astype(jnp.int32), 0, self.bins - 1)

    def _squared_distance(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        mean, variance = self._expected(variables, batch)
        return (jnp.square(batch["images"] - mean) / jnp.maximum(variance, MIN_VARIANCE)).mean(axis=-1)

    def _expected(self, variables: Variables, batch: Batch) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Mean and variance of each pixel, drawn towards those of all brain pixels where few were seen."""
        atlas = _atlas(variables)
        whole = _pooled(atlas)
        spread = jnp.where(whole.count > 1, whole.squares / jnp.maximum(whole.count, 1.0), jnp.ones_like(whole.squares))
        own = Statistics(*(part[self._bin(batch)] for part in atlas))
        prior = Statistics(jnp.full((1, 1, 1, 1), self.prior_count), whole.mean, spread * self.prior_count)
        joined = merge(own, prior)
        return joined.mean, joined.squares / joined.count


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the union of two sets of samples; 0 where both are empty."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1e-12)
    shift = b.mean - a.mean
    return Statistics(count, a.mean + share * shift, a.squares + b.squares + jnp.square(shift) * a.count * share)


def _atlas(variables: Variables) -> Statistics:
    return Statistics(**variables["atlas"])


def _of_samples(
    images: Float[Array, "b h w c"], brain: Float[Array, "b h w 1"], bins: Int[Array, "b"], number: int
) -> Statistics:
    """Of the brain pixels of a batch, by height."""

    def total(x: Array) -> Array:
        return jax.ops.segment_sum(x, bins, number)

    count = total(brain)
    mean = total(images * brain) / jnp.maximum(count, 1.0)
    return Statistics(count, mean, total(jnp.square(images - mean[bins]) * brain))


def _pooled(atlas: Statistics) -> Statistics:
    """Of all brain pixels together, (1, 1, 1, ·)."""

    def over_all(x: Array) -> Array:
        # Axis by axis, as means: one float32 sum over some 100,000 pixels is off by 1e-4, and by how much depends on
        # what runs it.
        for axis in (2, 1, 0):
            x = x.mean(axis, keepdims=True)
        return x

    count = over_all(atlas.count)
    mean = over_all(atlas.count * atlas.mean) / jnp.where(count > 0, count, 1.0)
    squares = over_all(atlas.squares + atlas.count * jnp.square(atlas.mean - mean))
    pixels = math.prod(atlas.count.shape)
    return Statistics(count * pixels, mean, squares * pixels)


DETECTOR = TissueAtlas
