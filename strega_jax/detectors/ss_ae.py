"""Scale-space autoencoder (Baur et al. 2020b; paper, sec. 2.2 and eqs. 2 to 5).

The image's Laplacian pyramid is compressed and restored, each level by an autoencoder of its own.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.convolutional import AutoEncoder
from strega_jax.detectors.pyramid import gaussian_pyramid, rebuild, residuals
from strega_jax.detectors.residual import Residual


@dataclasses.dataclass(frozen=True)
class SsAe:
    """Hyperparameters, and the `Detector` made of them."""

    levels: int = 3  # K: how often the image is halved
    maps: tuple[int, ...] = (16, 32, 64, 128)  # of the finest level's autoencoder; each coarser one halves once less
    latent: int = 128  # dimensions of each level's z
    level_weights: tuple[float, ...] = ()  # λ_0 (full scale) to λ_K of eq. 4; empty: all 1
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(self.levels >= 1, "levels", self.levels, "≥ 1")
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 1, "maps", self.maps, "one or more numbers ≥ 1")
        require(self.latent >= 1, "latent", self.latent, "≥ 1")
        count = len(self.level_weights)
        require(count in (0, self.levels + 1), "level_weights", self.level_weights, f"{self.levels + 1} numbers")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`. Raises ConfigError when the sides cannot be halved as often as asked."""
        # A coarse level halves at least once itself.
        require_sides(image_shape, 2 ** max(len(self.maps), self.levels + 1), "SsAe")
        self.residual.check(image_shape[-1])
        return dict(self._network(image_shape).init(key, gaussian_pyramid(jnp.zeros((1, *image_shape)), self.levels)))

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Eqs. 4 and 5: weighted squared errors, summed over a level's image; metrics `level_0` (full scale) on."""
        images = gaussian_pyramid(batch["images"], self.levels)
        errors = [
            jnp.square(image - output).sum(axis=(1, 2, 3)).mean()
            for image, output in zip(images, self._restored(variables, images), strict=True)
        ]
        weights = self.level_weights or (1.0,) * len(errors)
        total = sum((weight * error for weight, error in zip(weights, errors, strict=True)), jnp.zeros(()))
        return total, Aux({f"level_{k}": error for k, error in enumerate(errors)}, {})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The image rebuilt from its restored pyramid (eq. 2)."""
        return self._restored(variables, gaussian_pyramid(batch["images"], self.levels))[0]

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual at full scale, inside the brain."""
        return self.residual(batch["images"], self.reconstruct(variables, batch), batch["brain"])

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _restored(self, variables: Variables, images: list[Float[Array, "b _ _ c"]]) -> list[Float[Array, "b _ _ c"]]:
        outputs: Any = self._network(images[0].shape[1:]).apply(variables, images)
        return rebuild(outputs[-1], outputs[:-1])

    def _network(self, image_shape: tuple[int, ...]) -> "Network":
        return Network(self.maps, self.latent, self.levels, image_shape, jnp.dtype(self.compute_dtype))


class Network(nn.Module):
    """Ĥ_0 to Ĥ_{K−1} and Î_K of a pyramid I_0 to I_K."""

    maps: tuple[int, ...]
    latent: int
    levels: int
    image_shape: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: list[Float[Array, "b _ _ c"]]) -> list[Float[Array, "b _ _ c"]]:
        outputs = []
        for level, image in enumerate([*residuals(images), images[-1]]):
            maps = self.maps[min(level, len(self.maps) - 1) :]
            outputs.append(
                AutoEncoder(maps, self.latent, image.shape[1:], dtype=self.dtype, name=f"level_{level}")(image)
            )
        return outputs


DETECTOR = SsAe
