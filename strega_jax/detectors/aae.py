"""Adversarial autoencoder (Makhzani et al. 2016; paper, sec. 2.1 and eq. 1), its critic a WGAN-GP.

The aggregated posterior q(z) = ∫ q(z|x) p(x) dx (eq. 1) is what the encoder makes of the batch; a critic that tells
it from the prior N(0, 1) drives it there (Gulrajani et al. 2017).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.convolutional import AutoEncoder
from strega_jax.detectors.residual import Residual


@dataclasses.dataclass(frozen=True)
class Aae:
    """Hyperparameters, and the `Detector` made of them."""

    maps: tuple[int, ...] = (16, 32, 64, 256)  # feature maps of the halving convolutions; the decoder mirrors them
    latent: int = 128  # dimensions of z
    critic_units: tuple[int, ...] = (50, 50)  # of the critic's hidden layers
    penalty: float = 10.0  # λ, of the gradient penalty
    adversarial_weight: float = 1.0  # of the encoder's share of the critic's game; 0: a plain autoencoder
    critic_steps: int = 5  # the encoder plays in one of so many steps, so that the critic keeps ahead of it
    critic_learning_rate: float = 1e-4
    critic_betas: tuple[float, float] = (0.5, 0.9)  # of the critic's Adam; the autoencoder has the config's own
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 1, "maps", self.maps, "one or more numbers ≥ 1")
        for name in ("latent", "critic_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1")
        for name in ("penalty", "adversarial_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")
        require(self.critic_learning_rate > 0, "critic_learning_rate", self.critic_learning_rate, "> 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`, of `autoencoder` and `critic`. Raises ConfigError when the sides do not fit."""
        require_sides(image_shape, 2 ** len(self.maps), "Aae")
        self.residual.check(image_shape[-1])
        own_key, critic_key = jax.random.split(key)
        autoencoder = self._network(image_shape).init(own_key, jnp.zeros((1, *image_shape)))
        critic = Critic(self.critic_units).init(critic_key, jnp.zeros((1, self.latent)))
        return {"params": {"autoencoder": autoencoder["params"], "critic": critic["params"]}}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The three losses summed, each gradient stopped from all but the network that it trains.

        `rec` (squared error, summed over an image) moves the autoencoder, `generator` the encoder alone, and
        `critic` with its `penalty` the critic alone. So one backward pass serves both optimisers.
        """
        images, params = batch["images"], variables["params"]
        prior_key, mix_key = jax.random.split(key)
        fake = self.encode(variables, images)
        rec = jnp.square(images - self._decode(variables, images, fake)).sum(axis=(1, 2, 3)).mean()

        frozen = jax.lax.stop_gradient(params["critic"])
        generator = -self._criticise(frozen, fake).mean()
        real, still = jax.random.normal(prior_key, fake.shape), jax.lax.stop_gradient(fake)
        critic = self._criticise(params["critic"], still).mean() - self._criticise(params["critic"], real).mean()
        share = jax.random.uniform(mix_key, (fake.shape[0], 1))
        penalty = gradient_penalty(lambda z: self._criticise(params["critic"], z), real, still, share)
        turn = (step % self.critic_steps == 0).astype(jnp.float32)
        total = rec + self.adversarial_weight * turn * generator + critic + self.penalty * penalty
        return total, Aux({"rec": rec, "generator": generator, "critic": critic, "penalty": penalty}, {})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The decoder's image of the encoder's z."""
        images = batch["images"]
        return self._decode(variables, images, self.encode(variables, images))

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual inside the brain."""
        return self.residual(batch["images"], self.reconstruct(variables, batch), batch["brain"])

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """`default` for the autoencoder, Adam of its own for the critic."""
        b1, b2 = self.critic_betas
        return optax.multi_transform(
            {"autoencoder": default, "critic": optax.adam(self.critic_learning_rate, b1, b2)},
            {"autoencoder": "autoencoder", "critic": "critic"},
        )

    def encode(self, variables: Variables, images: Float[Array, "b h w c"]) -> Float[Array, "b z"]:
        """z of each image."""
        params = {"params": variables["params"]["autoencoder"]}
        return jnp.asarray(self._network(images.shape[1:]).apply(params, images, method="encode"))

    def _decode(self, variables: Variables, images: Array, z: Array) -> Array:
        params = {"params": variables["params"]["autoencoder"]}
        return jnp.asarray(self._network(images.shape[1:]).apply(params, z, method="decode"))

    def _criticise(self, params: Any, z: Float[Array, "b z"]) -> Float[Array, "b"]:
        return jnp.asarray(Critic(self.critic_units).apply({"params": params}, z))

    def _network(self, image_shape: tuple[int, ...]) -> AutoEncoder:
        return AutoEncoder(self.maps, self.latent, image_shape, 1, jnp.dtype(self.compute_dtype))


def gradient_penalty(
    critic: Callable[[Float[Array, "b z"]], Float[Array, "b"]],
    real: Float[Array, "b z"],
    fake: Float[Array, "b z"],
    share: Float[Array, "b 1"],
) -> Float[Array, ""]:
    """Mean (‖∇critic‖₂ − 1)² at real + share · (fake − real) (Gulrajani et al. 2017, eq. 3)."""
    between = real + share * (fake - real)
    slope = jax.grad(lambda z: critic(z).sum())(between)
    # The root's own gradient has no value at 0.
    length = jnp.sqrt(jnp.square(slope).sum(axis=1) + 1e-12)
    return jnp.square(length - 1.0).mean()


class Critic(nn.Module):
    """Dense layers with LeakyReLU 0.2 and one number out: how much z looks like the prior's."""

    units: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Float[Array, "b z"]) -> Float[Array, "b"]:
        for units in self.units:
            z = nn.leaky_relu(nn.Dense(units)(z), 0.2)
        return nn.Dense(1)(z)[:, 0]


DETECTOR = Aae
