"""Vector-quantised VAE with an autoregressive prior (van den Oord et al. 2017; Marimont & Tarroni 2020; Pinaya et
al. 2022; paper, sec. 2.5 and eqs. 10, 11).

Trained in two stages: the autoencoder and its codebook, then a causal transformer over the codes of healthy
slices. Codes that the prior finds unlikely are drawn anew, and what that changes in the image is the anomaly.
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from strega_jax import cpu
from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.layers import Conv, Double, Halve
from strega_jax.detectors.residual import Residual
from strega_jax.detectors.transformer import CausalTransformer


@dataclasses.dataclass(frozen=True)
class VqVae:
    """Hyperparameters, and the `Detector` made of them."""

    maps: tuple[int, ...] = (64, 128, 256)  # feature maps of the halving convolutions; the decoder mirrors them
    codes: int = 128  # vectors of the codebook …
    code_width: int = 256  # … and their dimensions
    commitment: float = 1.0  # weight of eq. 11's last term
    variance: float = 1.0  # of a pixel about its reconstruction, in eq. 11's likelihood
    autoencoder_steps: int = 10_000  # optimiser steps of the first stage; the prior is trained after them
    width: int = 256  # of the transformer
    heads: int = 8
    layers: int = 6
    unlikely_nats: float = 5.0  # codes whose −log p is above this are resampled
    samples: int = 15  # restorations, whose codes are drawn
    sharpness: float = 3.0  # a restoration weighs exp(sharpness / mean absolute difference to the reconstruction)
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 1, "maps", self.maps, "one or more numbers ≥ 1")
        require(self.codes >= 2, "codes", self.codes, "≥ 2")
        for name in ("samples", "code_width", "heads", "layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1")
        require(self.width % self.heads == 0, "width", self.width, f"a multiple of heads, {self.heads}")
        require(self.variance > 0, "variance", self.variance, "> 0")
        for name in ("commitment", "autoencoder_steps", "unlikely_nats", "sharpness"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`, of `autoencoder` and `prior`. Raises ConfigError when the sides do not fit."""
        require_sides(image_shape, 2 ** len(self.maps), "VqVae")
        self.residual.check(image_shape[-1])
        own_key, prior_key = jax.random.split(key)
        autoencoder = self._network(image_shape[-1]).init(own_key, jnp.zeros((1, *image_shape)))
        codes = jnp.zeros((1, self._length(image_shape)), jnp.int32)
        prior = self._prior(image_shape).init(prior_key, codes, jnp.zeros(1))
        return {"params": {"autoencoder": autoencoder["params"], "prior": prior["params"]}}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Eq. 11 for `autoencoder_steps` steps, then the prior's −log p of the codes; nats an image, batch mean.

        Only the stage's own part is computed and has gradients; metrics of the other are 0.
        """
        with cpu.control_flow():
            parts = jax.lax.cond(
                step < self.autoencoder_steps, self._autoencoder_parts, self._prior_parts, variables, batch
            )
        nll, codebook, commitment, prior = parts
        total = nll + codebook + self.commitment * commitment + prior
        return total, Aux({"nll": nll, "codebook": codebook, "commitment": commitment, "prior": prior}, {})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The image with unlikely codes replaced by the likeliest."""
        return self.decode(variables, self.restored_codes(variables, batch, None), batch["images"])

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Weighted mean over restorations, whose codes `key` draws, of the residual inside the brain."""
        scores, weights = self._restorations(variables, batch, key)
        return (scores * weights[:, :, None, None]).sum(axis=0)

    def sample_score(self, variables: Variables, batch: Batch) -> Float[Array, "b"]:
        """How anomalous each slice is as a whole: Σ −log p over its codes above `unlikely_nats`."""
        nats = self._code_nats(variables, batch, self.encode(variables, batch["images"]))
        return jnp.where(nats > self.unlikely_nats, nats, 0.0).sum(axis=1)

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own, with moments apart for each stage, and no update for the stage that rests."""
        rested = resting(default)
        return optax.multi_transform(
            {"autoencoder": rested, "prior": rested}, {"autoencoder": "autoencoder", "prior": "prior"}
        )

    def encode(self, variables: Variables, images: Float[Array, "b h w c"]) -> Int[Array, "b n"]:
        """The index of the nearest codebook vector (eq. 10) at each place of the latent grid, row by row."""
        network, params = self._network(images.shape[-1]), {"params": variables["params"]["autoencoder"]}
        features = jnp.asarray(network.apply(params, images, method="encode"))
        return nearest(features, self._codebook(variables)).reshape(images.shape[0], -1)

    def decode(
        self, variables: Variables, codes: Int[Array, "b n"], images: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        """The image of codes, of the shape of `images`."""
        b, h, w, c = images.shape
        halved = len(self.maps)
        vectors = self._codebook(variables)[codes].reshape(b, h >> halved, w >> halved, self.code_width)
        params = {"params": variables["params"]["autoencoder"]}
        return jnp.asarray(self._network(c).apply(params, vectors, method="decode"))

    def restored_codes(self, variables: Variables, batch: Batch, key: PRNGKeyArray | None) -> Int[Array, "b n"]:
        """Codes judged in turn, each given those restored before it; the unlikely drawn anew, or, without a key,
        replaced by the likeliest."""
        codes = self.encode(variables, batch["images"])
        prior = self._prior(batch["images"].shape[1:])
        params = {"params": variables["params"]["prior"]}
        start = jnp.asarray(prior.apply(params, batch["position"], method="begin"))
        cache: Any = prior.empty_cache(codes.shape[0])

        def visit(carry: tuple[Array, Any], item: tuple[Array, Array]) -> tuple[tuple[Array, Any], Array]:
            before, cache = carry
            place, code = item
            logits, cache = prior.apply(params, before, cache, place, method="step")  # pyright: ignore
            nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), code[:, None], axis=1)[:, 0]
            if key is None:
                other = logits.argmax(axis=1).astype(jnp.int32)
            else:
                other = jax.random.categorical(jax.random.fold_in(key, place), logits).astype(jnp.int32)
            code = jnp.where(nats > self.unlikely_nats, other, code)
            return (jnp.asarray(prior.apply(params, code, method="embed")), cache), code

        places = jnp.arange(codes.shape[1], dtype=jnp.int32)
        _, restored = jax.lax.scan(visit, (start, cache), (places, codes.T))
        return restored.T

    def _restorations(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, "r b h w"], Float[Array, "r b"]]:
        """Scores of the restorations and their weights, which sum to 1."""
        images = batch["images"]
        plain = self.decode(variables, self.encode(variables, images), images)

        def restore(draw_key: PRNGKeyArray) -> tuple[Array, Array]:
            restored = self.decode(variables, self.restored_codes(variables, batch, draw_key), images)
            score = self.residual(images, restored, batch["brain"])
            return score, jnp.abs(plain - restored).mean(axis=(1, 2, 3))

        scores, distances = jax.lax.map(restore, jax.random.split(key, self.samples))
        # Nothing resampled gives distance 0; the floor keeps the softmax finite there.
        return scores, jax.nn.softmax(self.sharpness / jnp.maximum(distances, 1e-6), axis=0)

    def _autoencoder_parts(self, variables: Variables, batch: Batch) -> tuple[Array, Array, Array, Array]:
        images = batch["images"]
        network, params = self._network(images.shape[-1]), {"params": variables["params"]["autoencoder"]}
        features = jnp.asarray(network.apply(params, images, method="encode"))
        codebook = self._codebook(variables)
        vectors = codebook[nearest(features, codebook)]
        output = jnp.asarray(network.apply(params, straight_through(features, vectors), method="decode"))
        error = jnp.square(images - output) / self.variance + math.log(2 * math.pi * self.variance)
        return (
            0.5 * error.sum(axis=(1, 2, 3)).mean(),
            _distance(jax.lax.stop_gradient(features), vectors),
            _distance(features, jax.lax.stop_gradient(vectors)),
            jnp.zeros(()),
        )

    def _prior_parts(self, variables: Variables, batch: Batch) -> tuple[Array, Array, Array, Array]:
        codes = self.encode(variables, batch["images"])
        nats = self._code_nats(variables, batch, codes).sum(axis=1).mean()
        return jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), nats

    def _code_nats(self, variables: Variables, batch: Batch, codes: Int[Array, "b n"]) -> Float[Array, "b n"]:
        prior = self._prior(batch["images"].shape[1:])
        logits = prior.apply({"params": variables["params"]["prior"]}, codes, batch["position"])
        return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), codes)

    def _codebook(self, variables: Variables) -> Float[Array, "k d"]:
        return variables["params"]["autoencoder"]["codebook"]

    def _length(self, image_shape: tuple[int, ...]) -> int:
        return (image_shape[0] >> len(self.maps)) * (image_shape[1] >> len(self.maps))

    def _network(self, channels: int) -> "Network":
        return Network(self.maps, self.codes, self.code_width, channels, jnp.dtype(self.compute_dtype))

    def _prior(self, image_shape: tuple[int, ...]) -> CausalTransformer:
        length, dtype = self._length(image_shape), jnp.dtype(self.compute_dtype)
        return CausalTransformer(self.codes, length, self.width, self.heads, self.layers, dtype)


def nearest(features: Float[Array, "b h w d"], codebook: Float[Array, "k d"]) -> Int[Array, "b h w"]:
    """Index of the codebook vector with the least Euclidean distance (eq. 10)."""
    # ‖f‖² is the same for every code.
    distance = jnp.square(codebook).sum(axis=1)[None, None, None, :] - 2 * features @ codebook.T
    return distance.argmin(axis=-1).astype(jnp.int32)


def straight_through(features: Float[Array, "*s"], vectors: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`vectors`, with the gradient passed on to `features` as it comes, and none to `vectors`."""
    return features + jax.lax.stop_gradient(vectors - features)


def _distance(a: Float[Array, "b h w d"], b: Float[Array, "b h w d"]) -> Float[Array, ""]:
    return jnp.square(a - b).sum(axis=(1, 2, 3)).mean()


def resting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` while there are gradients; where all are exactly 0, no update and no change of its state."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moving = jnp.stack([(gradient != 0).any() for gradient in jax.tree.leaves(updates)]).any()
        moved, renewed = inner.update(updates, state, params)

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(moving, new, old)

        return jax.tree.map(choose, moved, jax.tree.map(jnp.zeros_like, moved)), jax.tree.map(choose, renewed, state)

    return optax.GradientTransformation(inner.init, update)


class Network(nn.Module):
    """Convolutions 4×4 with stride 2 to the latent grid and back, and the codebook between."""

    maps: tuple[int, ...]
    codes: int
    code_width: int
    channels: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.halving = [Halve(features, self.dtype) for features in self.maps]
        self.to_code = Conv(self.code_width, use_bias=True)
        ups = (*reversed(self.maps[:-1]), self.maps[0])
        self.from_code = Conv(self.maps[-1], 3, use_bias=True, dtype=self.dtype)
        self.doubling = [Double(features, self.dtype) for features in ups]
        self.to_image = Conv(self.channels, 3, use_bias=True)
        # Vectors far longer than the first features would leave the shortest few of them always the nearest.
        start = nn.initializers.normal(1 / self.codes)
        self.codebook = self.param("codebook", start, (self.codes, self.code_width))

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.decode(self.encode(images))

    def encode(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """z_e: what is compared with the codebook, float32."""
        x = images.astype(self.dtype)
        for layer in self.halving:
            x = nn.leaky_relu(layer(x), 0.01)
        return self.to_code(x.astype(jnp.float32))

    def decode(self, vectors: Float[Array, "b h2 w2 d"]) -> Float[Array, "b h w c"]:
        """Image, float32."""
        x = nn.leaky_relu(self.from_code(vectors.astype(self.dtype)), 0.01)
        for layer in self.doubling:
            x = nn.leaky_relu(layer(x), 0.01)
        return self.to_image(x.astype(jnp.float32))


DETECTOR = VqVae
