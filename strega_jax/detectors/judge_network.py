"""The network of the judge (`judge`), as it is trained."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from strega_jax.detectors.judge_unet import u_net
from strega_jax.detectors.layers import Activation, Conv, Norm, ResidualBlock


class Judge(nn.Module):
    """The U-Net of `judge_unet`."""

    maps: tuple[int, ...]
    blocks: int
    patch: int  # pixels a side
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w f"], train: bool = False) -> Float[Array, "b h w"]:
        """Logits of the probability to be foreign, float32."""
        layers = _Layers(self.dtype, train)
        return u_net(layers, features.astype(self.dtype), self.maps, self.blocks, self.patch)


class _Layers:
    """Made, and named by flax, as they are called."""

    def __init__(self, dtype: Any, train: bool) -> None:
        self._dtype, self._train = dtype, train

    def unit(self, x: Array, maps: int) -> Array:
        return Activation()(Norm(self._dtype)(Conv(maps, dtype=self._dtype)(x), self._train))

    def block(self, x: Array) -> Array:
        return ResidualBlock("bottleneck", dtype=self._dtype)(x, self._train)

    def last(self, x: Array, maps: int) -> Array:
        return Conv(maps, use_bias=True)(x.astype(jnp.float32))
