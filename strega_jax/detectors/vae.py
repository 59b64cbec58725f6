"""Variational autoencoder (Kingma & Welling 2014; Chatterjee et al. 2021; paper, sec. 2.4 and eqs. 7 to 9)."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.convolutional import AutoEncoder
from strega_jax.detectors.gaussian import bounded, kl_divergence, log_density
from strega_jax.detectors.residual import Residual, mean_of


@dataclasses.dataclass(frozen=True)
class Vae:
    """Hyperparameters, and the `Detector` made of them."""

    maps: tuple[int, ...] = (16, 32, 64, 256)  # feature maps of the halving convolutions; the decoder mirrors them
    latent: int = 256  # dimensions of z
    variance: float = 1.0  # c of eq. 9: of a pixel about its reconstruction
    kl_weight: float = 1.0  # of the KL term; 1: the ELBO
    residual: Residual = dataclasses.field(default_factory=Residual)
    samples: int = 0  # latent samples whose mean score is taken; 0: the posterior mean's score
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 1, "maps", self.maps, "one or more numbers ≥ 1")
        require(self.latent >= 1, "latent", self.latent, "≥ 1")
        require(self.variance > 0, "variance", self.variance, "> 0")
        require(self.kl_weight >= 0, "kl_weight", self.kl_weight, "≥ 0")
        require(self.samples >= 0, "samples", self.samples, "≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`. Raises ConfigError when the sides cannot be halved as often as there are maps."""
        require_sides(image_shape, 2 ** len(self.maps), type(self).__name__)
        self.residual.check(image_shape[-1])
        return dict(self._network(image_shape).init(key, jnp.zeros((1, *image_shape))))

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """−ELBO (eq. 7) with one latent sample, averaged over the batch; metrics `kl` and `nll`, in nats an image."""
        del step
        images = batch["images"]
        noise = jax.random.normal(key, (images.shape[0], self.latent))
        kl, nll = (part.mean() for part in self.elbo_parts(variables, images, noise))
        return self.kl_weight * kl + nll, Aux({"kl": kl, "nll": nll}, {})

    def elbo_parts(
        self, variables: Variables, images: Float[Array, "b h w c"], noise: Float[Array, "b z"]
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """KL(q(z|x) ‖ N(0, 1)) and −log p(x|z) of each image, in nats; `noise` is z's draw before scaling."""
        mean, log_variance = self.posterior(variables, images)
        output = self.decode(variables, images, mean + jnp.exp(0.5 * log_variance) * noise)
        return kl_divergence(mean, log_variance).sum(axis=1), self.negative_log_likelihood(images, output)

    def posterior(
        self, variables: Variables, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        """Mean and log variance of q(z|x) (eq. 8)."""
        both = jnp.asarray(self._network(images.shape[1:]).apply(variables, images, method="encode"))
        mean, log_variance = jnp.split(both, 2, axis=1)
        return mean, bounded(log_variance)

    def decode(
        self, variables: Variables, images: Float[Array, "b h w c"], z: Float[Array, "b z"]
    ) -> Float[Array, "b h w c"]:
        """g(z): the image of z, of the shape of `images`."""
        return jnp.asarray(self._network(images.shape[1:]).apply(variables, z, method="decode"))

    def negative_log_likelihood(
        self, images: Float[Array, "b h w c"], output: Float[Array, "b h w c"]
    ) -> Float[Array, "b"]:
        """−log N(x; g(z), c·I) of each image (eq. 9), in nats."""
        return -log_density(images, output, jnp.full((1, 1, 1, 1), math.log(self.variance))).sum(axis=(1, 2, 3))

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The decoder's image of the posterior mean."""
        mean, _ = self.posterior(variables, batch["images"])
        return self.decode(variables, batch["images"], mean)

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Residual inside the brain: of the posterior mean, or averaged over `samples` draws of z with `key`."""
        if not self.samples:
            return self.score_of(variables, batch, jnp.zeros((batch["images"].shape[0], self.latent)))
        shape = (batch["images"].shape[0], self.latent)
        return mean_of(lambda k: self.score_of(variables, batch, jax.random.normal(k, shape)), key, self.samples)

    def score_of(self, variables: Variables, batch: Batch, noise: Float[Array, "b z"]) -> Float[Array, "b h w"]:
        """The score with z at this draw."""
        mean, log_variance = self.posterior(variables, batch["images"])
        output = self.decode(variables, batch["images"], mean + jnp.exp(0.5 * log_variance) * noise)
        return self.residual(batch["images"], output, batch["brain"])

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _network(self, image_shape: tuple[int, ...]) -> AutoEncoder:
        return AutoEncoder(self.maps, self.latent, image_shape, 2, jnp.dtype(self.compute_dtype))


DETECTOR = Vae
