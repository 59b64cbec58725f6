"""Denoising autoencoder with coarse noise (Kascenas et al. 2022): what is not healthy is removed like noise."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.layers import Conv
from strega_jax.detectors.residual import Residual

GROUP_SIZE = 8  # maps normalised together


@dataclasses.dataclass(frozen=True)
class Dae:
    """Hyperparameters, and the `Detector` made of them."""

    maps: tuple[int, ...] = (64, 128, 256, 512)  # of the U-Net's levels; each below the first halves the image
    noise_grid: int = 16  # the noise is drawn on so many points a side and enlarged
    noise_std: float = 0.2  # in units of the normalised image
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(len(self.maps) >= 2 and min(self.maps, default=0) >= 1, "maps", self.maps, "two or more numbers ≥ 1")
        require(self.noise_grid >= 1, "noise_grid", self.noise_grid, "≥ 1")
        require(self.noise_std > 0, "noise_std", self.noise_std, "> 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`. Raises ConfigError when the sides cannot be halved as often as there are levels."""
        require_sides(image_shape, 2 ** (len(self.maps) - 1), "Dae")
        self.residual.check(image_shape[-1])
        return dict(self._network(image_shape[-1]).init(key, jnp.zeros((1, *image_shape))))

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Mean squared error, over brain pixels and channels, of the cleaned noisy image against the clean one."""
        images, brain = batch["images"], batch["brain"][..., None]
        noisy = images + coarse_noise(key, images.shape, self.noise_grid, self.noise_std) * brain
        output = self._denoised(variables, noisy)
        error = jnp.square(output - images) * brain
        return error.sum() / jnp.maximum(brain.sum() * images.shape[-1], 1.0), Aux({}, {})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The image cleaned; no noise is added."""
        return self._denoised(variables, batch["images"])

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual inside the brain."""
        return self.residual(batch["images"], self.reconstruct(variables, batch), batch["brain"])

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _denoised(self, variables: Variables, images: Array) -> Array:
        return jnp.asarray(self._network(images.shape[-1]).apply(variables, images))

    def _network(self, channels: int) -> "UNet":
        return UNet(self.maps, channels, jnp.dtype(self.compute_dtype))


def coarse_noise(key: PRNGKeyArray, shape: tuple[int, ...], grid: int, std: float) -> Float[Array, "b h w c"]:
    """Normal noise of `grid`² points enlarged to the image (linearly) and shifted at random, around the borders."""
    b, h, w, c = shape
    draw_key, shift_key = jax.random.split(key)
    small = std * jax.random.normal(draw_key, (b, grid, grid, c))
    noise = jax.image.resize(small, shape, "linear")
    shifts = (jax.random.uniform(shift_key, (b, 2)) * jnp.array([[h, w]], jnp.float32)).astype(jnp.int32)
    return jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(noise, shifts)


class UNet(nn.Module):
    """Encoder and decoder of paired 3×3 convolutions with a skip at every level (Ronneberger et al. 2015)."""

    maps: tuple[int, ...]
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x, skips = images.astype(self.dtype), []
        for level, maps in enumerate(self.maps):
            if level:
                skips.append(x)
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
            x = _Pair(maps, self.dtype)(x)
        for maps, skip in zip(reversed(self.maps[:-1]), reversed(skips), strict=True):
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "linear")
            x = _Pair(maps, self.dtype)(jnp.concatenate([x, skip], axis=-1))
        return Conv(self.channels, use_bias=True)(x.astype(jnp.float32))


class _Pair(nn.Module):
    """Twice: 3×3 convolution, group norm (in float32), SiLU."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = Conv(self.features, 3, dtype=self.dtype)(x)
            groups = max(1, self.features // GROUP_SIZE)
            x = nn.silu(nn.GroupNorm(groups)(x.astype(jnp.float32)).astype(self.dtype))
        return x


DETECTOR = Dae
