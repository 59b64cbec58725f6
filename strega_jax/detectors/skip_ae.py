"""Bayesian skip-autoencoder (Baur et al. 2020a; paper, sec. 2.3 and eq. 6)."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.layers import Conv, Norm
from strega_jax.detectors.operations import depth_to_space, space_to_depth
from strega_jax.detectors.residual import Residual, mean_of


@dataclasses.dataclass(frozen=True)
class SkipAe:
    """Hyperparameters, and the `Detector` made of them."""

    maps: tuple[int, ...] = (64, 128, 256, 512)  # the first at full resolution, each other halves the image …
    bottleneck: int = 64  # … and so do the maps of the bottleneck
    dropout: float = 0.5  # share of the maps of each skip connection that are dropped, so that no copy is learnt
    # of the gradient difference loss, which is added. Eq. 6 prints a minus (−1 here), with which the loss has no
    # lower bound: the difference of gradients would be made large
    gdl_weight: float = 1.0
    residual: Residual = dataclasses.field(default_factory=Residual)
    samples: int = 0  # Monte-Carlo dropout: passes whose mean is the reconstruction scored; 0: one without dropout
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 1, "maps", self.maps, "one or more numbers ≥ 1")
        require(self.bottleneck >= 1, "bottleneck", self.bottleneck, "≥ 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(self.samples >= 0, "samples", self.samples, "≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params` and `batch_stats`. Raises ConfigError when the sides cannot be halved so often."""
        require_sides(image_shape, 2 ** len(self.maps), "SkipAe")
        self.residual.check(image_shape[-1])
        return dict(self._network(image_shape[-1]).init(key, jnp.zeros((1, *image_shape)), False, False))

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Eq. 6, each part summed over an image and averaged over the batch; metrics `l1` and `gdl`."""
        images = batch["images"]
        output, renewed = self._network(images.shape[-1]).apply(
            variables, images, True, True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        l1 = jnp.abs(images - output).sum(axis=(1, 2, 3)).mean()
        gdl = gradient_difference(images, output).mean()
        return l1 + self.gdl_weight * gdl, Aux({"l1": l1, "gdl": gdl}, dict(renewed))

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """One pass without dropout."""
        images = batch["images"]
        return jnp.asarray(self._network(images.shape[-1]).apply(variables, images, False, False))

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual inside the brain: of one pass, or of the mean of `samples` passes with dropout drawn by `key`."""
        expected = self._mean_of_passes(variables, batch, key) if self.samples else self.reconstruct(variables, batch)
        return self.residual(batch["images"], expected, batch["brain"])

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _mean_of_passes(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w c"]:
        images = batch["images"]
        network = self._network(images.shape[-1])

        def once(dropout_key: PRNGKeyArray) -> Array:
            return jnp.asarray(network.apply(variables, images, False, True, rngs={"dropout": dropout_key}))

        return mean_of(once, key, self.samples)

    def _network(self, channels: int) -> "Network":
        return Network(self.maps, self.bottleneck, self.dropout, channels, jnp.dtype(self.compute_dtype))


def gradient_difference(target: Float[Array, "b h w c"], output: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """Σ | |∂target| − |∂output| | over neighbours in both directions (Mathieu et al. 2015, eq. 6 with α = 1)."""

    def along(axis: int) -> Array:
        steps = jnp.abs(jnp.diff(target, axis=axis)), jnp.abs(jnp.diff(output, axis=axis))
        return jnp.abs(steps[0] - steps[1]).sum(axis=(1, 2, 3))

    return along(1) + along(2)


class Network(nn.Module):
    """Convolutions down, transposed ones up, BatchNorm and ReLU; skips join with dropout of whole maps.

    The first and the last convolution are 5×5. Those with stride 2 work on 2×2 patches and see 6×6 pixels instead of
    the 5×5 of Baur et al.: strided and dilated convolutions are slow on CPU.
    """

    maps: tuple[int, ...]
    bottleneck: int
    dropout: float
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool, drop: bool) -> Float[Array, "b h w c"]:
        x = self._unit(Conv(self.maps[0], 5, dtype=self.dtype)(images), train)
        skips = [x]
        for features in (*self.maps[1:], self.bottleneck):
            x = self._unit(Conv(features, 3, dtype=self.dtype)(space_to_depth(x, 2)), train)
            skips.append(x)
        for features, skip in zip(reversed(self.maps), reversed(skips[:-1]), strict=True):
            x = self._unit(depth_to_space(Conv(4 * features, 3, dtype=self.dtype)(x), 2), train)
            kept = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(skip, deterministic=not drop)
            x = jnp.concatenate([x, kept], axis=-1)
        return Conv(self.channels, 5, use_bias=True)(x.astype(jnp.float32))

    def _unit(self, x: Float[Array, "b h w d"], train: bool) -> Float[Array, "b h w d"]:
        return nn.relu(Norm(self.dtype)(x, train))


DETECTOR = SkipAe
