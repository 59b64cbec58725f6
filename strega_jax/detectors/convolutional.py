"""The plain convolutional encoder and decoder of the VAE family (Zimmerer et al. 2018): 4×4, stride 2, no norm."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from strega_jax.detectors.layers import Double, Halve


class Encoder(nn.Module):
    """Convolutions that halve the image, each with LeakyReLU 0.01, then a layer over the whole map; float32 out."""

    maps: tuple[int, ...]
    outputs: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        x = images.astype(self.dtype)
        for features in self.maps:
            x = nn.leaky_relu(Halve(features, self.dtype)(x), 0.01)
        return nn.Dense(self.outputs)(x.reshape(x.shape[0], -1).astype(jnp.float32))


class Decoder(nn.Module):
    """The encoder's mirror image; float32 out."""

    maps: tuple[int, ...]
    image_shape: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b z"]) -> Float[Array, "b h w c"]:
        h, w, channels = self.image_shape
        h, w = h >> len(self.maps), w >> len(self.maps)
        x = nn.Dense(h * w * self.maps[-1], dtype=self.dtype)(z.astype(self.dtype))
        x = nn.leaky_relu(x.reshape(-1, h, w, self.maps[-1]), 0.01)
        for features in reversed(self.maps[:-1]):
            x = nn.leaky_relu(Double(features, self.dtype)(x), 0.01)
        return Double(channels)(x.astype(jnp.float32))


class AutoEncoder(nn.Module):
    """Encoder and decoder for images of one shape (h, w, c); `moments` is 2 where z has mean and variance."""

    maps: tuple[int, ...]
    latent: int
    image_shape: tuple[int, ...]
    moments: int = 1
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.maps, self.moments * self.latent, self.dtype)
        self.decoder = Decoder(self.maps, self.image_shape, self.dtype)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.decode(self.encode(images)[:, : self.latent])

    def encode(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        """z, or its mean and log variance side by side."""
        return self.encoder(images)

    def decode(self, z: Float[Array, "b z"]) -> Float[Array, "b h w c"]:
        """Image."""
        return self.decoder(z)
