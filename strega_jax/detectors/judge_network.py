"""The network of the judge (`judge`)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from strega_jax.detectors.layers import Activation, Conv, Norm, ResidualBlock, depth_to_space, space_to_depth


class Judge(nn.Module):
    """U-Net (Ronneberger et al. 2015) on patches, of bottleneck blocks; what comes up is added to what went down."""

    maps: tuple[int, ...]
    blocks: int
    patch: int  # pixels a side
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w f"], train: bool = False) -> Float[Array, "b h w"]:
        """Logits of the probability to be foreign, float32."""

        def unit(x: Array, maps: int) -> Array:
            return Activation()(Norm(self.dtype)(Conv(maps, dtype=self.dtype)(x), train))

        def refine(x: Array) -> Array:
            for _ in range(self.blocks):
                x = ResidualBlock("bottleneck", dtype=self.dtype)(x, train)
            return x

        first = unit(space_to_depth(features.astype(self.dtype), self.patch), self.maps[0])
        x, passed = refine(first), []
        for maps in self.maps[1:]:
            passed.append(x)
            x = refine(unit(space_to_depth(x, 2), maps))
        for maps, down in zip(self.maps[-2::-1], reversed(passed), strict=True):
            x = refine(depth_to_space(unit(x, 4 * maps), 2) + down)
        x = unit(jnp.concatenate([x, first], axis=-1), self.maps[0])
        x = Conv(self.patch**2, use_bias=True)(x.astype(jnp.float32))
        return depth_to_space(x, self.patch)[..., 0]
