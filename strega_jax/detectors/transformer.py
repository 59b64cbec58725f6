"""A causal transformer over a raster of codes (Vaswani et al. 2017; Radford et al. 2019): p(z_i | z_<i, condition).

The same weights serve two ways through it: all places at once, for training, and place by place with the keys
and values of the places before kept, for resampling.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Cache = list[tuple[Float[Array, "b n heads d"], Float[Array, "b n heads d"]]]


class Block(nn.Module):
    """Pre-norm attention and a two-layer perceptron, each added to its input."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m w"], kept: tuple[Array, Array] | None = None, place: Int[Array, ""] | None = None
    ) -> tuple[Float[Array, "b m w"], tuple[Array, Array]]:
        """Causal attention among the m places of `x`; or, with `kept`, of the one place given to all up to it."""
        b, m, width = x.shape
        shape = (b, m, self.heads, width // self.heads)
        both = nn.Dense(3 * width, dtype=self.dtype)(_norm(x))
        query, key, value = (part.reshape(shape) for part in jnp.split(both, 3, axis=-1))
        if kept is None or place is None:
            seen = _attend(query, key, value, is_causal=True)
        else:
            key = jax.lax.dynamic_update_slice_in_dim(kept[0], key, place, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(kept[1], value, place, axis=1)
            past = (jnp.arange(key.shape[1]) <= place)[None, None, None, :]
            seen = _attend(query, key, value, mask=past)
        x = x + nn.Dense(width, dtype=self.dtype)(seen.reshape(b, m, width))
        inner = nn.gelu(nn.Dense(4 * width, dtype=self.dtype)(_norm(x)))
        return x + nn.Dense(width, dtype=self.dtype)(inner), (key, value)


def _norm(x: Float[Array, "b m w"]) -> Float[Array, "b m w"]:
    """A layer norm of the enclosing module, in float32."""
    return nn.LayerNorm()(x.astype(jnp.float32)).astype(x.dtype)


class CausalTransformer(nn.Module):
    """Logits of each of `length` codes out of `vocabulary`, given those before it and a condition in [0, 1]."""

    vocabulary: int
    length: int
    width: int
    heads: int
    layers: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.embedding = nn.Embed(self.vocabulary, self.width)
        self.places = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        self.start = nn.Dense(self.width)
        self.blocks = [Block(self.heads, self.dtype) for _ in range(self.layers)]
        self.norm = nn.LayerNorm()
        self.output = nn.Dense(self.vocabulary)

    def __call__(self, codes: Int[Array, "b n"], condition: Float[Array, "b"]) -> Float[Array, "b n k"]:
        """Logits of every place at once; those of place i depend on codes before i only."""
        before = self.embedding(codes[:, :-1])
        x = jnp.concatenate([self.begin(condition)[:, None], before], axis=1) + self.places[None]
        x = x.astype(self.dtype)
        for block in self.blocks:
            x, _ = block(x)
        return self._logits(x)

    def begin(self, condition: Float[Array, "b"]) -> Float[Array, "b w"]:
        """What stands before the first code: the condition, as sines and cosines of one to eight half turns."""
        angle = condition[:, None] * (jnp.pi * 2.0 ** jnp.arange(4, dtype=jnp.float32))[None]
        return self.start(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1))

    def embed(self, codes: Int[Array, "b"]) -> Float[Array, "b w"]:
        """What stands before the next code."""
        return self.embedding(codes)

    def step(
        self, before: Float[Array, "b w"], cache: Cache, place: Int[Array, ""]
    ) -> tuple[Float[Array, "b k"], Cache]:
        """Logits of one place from what stands before it, and the cache with this place in it."""
        x = (before + jax.lax.dynamic_slice_in_dim(self.places, place, 1)).astype(self.dtype)[:, None]
        renewed = []
        for block, kept in zip(self.blocks, cache, strict=True):
            x, kept = block(x, kept, place)
            renewed.append(kept)
        return self._logits(x)[:, 0], renewed

    def empty_cache(self, batch: int) -> Cache:
        """Room for the keys and values of all places."""
        shape = (batch, self.length, self.heads, self.width // self.heads)
        return [(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)) for _ in range(self.layers)]

    def _logits(self, x: Float[Array, "b m w"]) -> Float[Array, "b m k"]:
        return self.output(self.norm(x.astype(jnp.float32)))


def _attend(query: Array, key: Array, value: Array, **which: Any) -> Array:
    """Scaled dot-product attention; inside it jax scores bfloat16 in float32 and mixes the two on purpose."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, **which)
