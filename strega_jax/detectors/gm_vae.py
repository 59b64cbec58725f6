"""Gaussian-mixture VAE with MAP restoration (Dilokthanakul et al. 2016; Chen et al. 2020; paper, sec. 2.6, eq. 12).

The model draws w ~ N(0, 1), a cluster c of K alike, z ~ N(μ_c(w), σ²_c(w)) and the image x ~ N(g(z), variance).
w and z are maps, and every place of them has its own cluster. The encoder gives q(w|x) and q(z|x), both normal; the
posterior of c given z and w follows from Bayes' rule.

Restoration climbs log p(y) + log p(x|y) from y = x: the ELBO stands for log p(y), and an anomaly x − y is taken to
have a small total variation.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.gaussian import bounded, kl_divergence, log_density, sample
from strega_jax.detectors.residual import Residual

FIRST_STEPS = 100  # of the restoration, with the first of its two step lengths
TV_SMOOTHING = 1e-6  # |d| ≈ √(d² + this), which has a gradient at 0


class Terms(NamedTuple):
    """The terms of −eq. 12 of each image in nats; those of w, z and c by place of the latent map."""

    nll: Float[Array, "b"]
    kl_z: Float[Array, "b h w"]
    kl_w: Float[Array, "b h w"]
    kl_c: Float[Array, "b h w"]


@dataclasses.dataclass(frozen=True)
class GmVae:
    """Hyperparameters, and the `Detector` made of them."""

    maps: int = 64  # feature maps of all hidden convolutions
    depth: int = 7  # convolutions of the encoder, and of the decoder; the last gives the distributions
    halvings: int = 2  # the latent maps have the image's sides divided by 2 so often
    latent: int = 1  # channels of z and of w
    clusters: int = 9  # K
    variance: float = 1.0  # of a pixel about its reconstruction
    # nats: a place's KL of the cluster, averaged over the batch, counts as no less; below it, clusters may differ
    c_lambda: float = 0.5
    restoration_steps: int = 500
    step_lengths: tuple[float, float] = (5e-3, 2e-3)  # of the first 100 steps, and of the others
    gradient_clip: float = 100.0  # of each pixel's
    tv_weight: float = 1.0  # see `tune_tv_weight`
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        for name in ("maps", "halvings", "latent", "clusters", "restoration_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1")
        require(self.depth >= 2 * self.halvings, "depth", self.depth, f"≥ 2 · halvings, {2 * self.halvings}")
        for name in ("variance", "gradient_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")
        for name in ("c_lambda", "tv_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`. Raises ConfigError when the sides cannot be halved so often."""
        require_sides(image_shape, 2**self.halvings, "GmVae")
        self.residual.check(image_shape[-1])
        return dict(self._network(image_shape[-1]).init(key, jnp.zeros((1, *image_shape))))

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """−eq. 12 with one draw of z and w, averaged over the batch; metrics `nll`, `kl_z`, `kl_w`, `kl_c`."""
        terms = self.elbo_terms(variables, batch["images"], key)
        by_place = {"kl_z": terms.kl_z.mean(axis=0), "kl_w": terms.kl_w.mean(axis=0), "kl_c": terms.kl_c.mean(axis=0)}
        metrics = {"nll": terms.nll.mean(), **{name: value.sum() for name, value in by_place.items()}}
        held = jnp.maximum(by_place["kl_c"], self.c_lambda).sum()
        return metrics["nll"] + metrics["kl_z"] + metrics["kl_w"] + held, Aux(metrics, {})

    def elbo_terms(
        self, variables: Variables, images: Float[Array, "b h w c"], key: PRNGKeyArray | None = None
    ) -> Terms:
        """The terms of −eq. 12 with z and w drawn by `key`; without one, at their means."""
        network: Any = self._network(images.shape[-1]).bind(variables)
        w_mean, w_spread, z_mean, z_spread = network.encode(images)
        w, z = w_mean, z_mean
        if key is not None:
            w_key, z_key = jax.random.split(key)
            w, z = sample(w_key, w_mean, w_spread), sample(z_key, z_mean, z_spread)
        means, spreads = network.clusters_of(w)
        share = cluster_posterior(z, means, spreads)
        each = kl_divergence(z_mean[..., None], z_spread[..., None], means, spreads).sum(axis=3)
        known = jnp.full((1, 1, 1, 1), math.log(self.variance))
        return Terms(
            nll=-log_density(images, network.decode(z), known).sum(axis=(1, 2, 3)),
            kl_z=(share * each).sum(axis=-1),
            kl_w=kl_divergence(w_mean, w_spread).sum(axis=-1),
            kl_c=(share * (jnp.log(jnp.maximum(share, 1e-30)) + math.log(self.clusters))).sum(axis=-1),
        )

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The restored image."""
        return self.restore(variables, batch["images"], self.tv_weight)

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """What the restoration took away, inside the brain."""
        return self.residual(batch["images"], self.reconstruct(variables, batch), batch["brain"])

    def restore(
        self, variables: Variables, images: Float[Array, "b h w c"], tv_weight: Float[Array, ""] | float
    ) -> Float[Array, "b h w c"]:
        """`restoration_steps` steps up ELBO(y) − tv_weight · TV(x − y) from y = x, z and w at their means."""

        def objective(restored: Array) -> Array:
            terms = self.elbo_terms(variables, restored)
            latent = (terms.kl_z + terms.kl_w + terms.kl_c).sum()
            return -terms.nll.sum() - latent - tv_weight * total_variation(images - restored).sum()

        def climb(restored: Array, length: Array) -> tuple[Array, None]:
            slope = jnp.clip(jax.grad(objective)(restored), -self.gradient_clip, self.gradient_clip)
            return restored + length * slope, None

        first, later = self.step_lengths
        lengths = jnp.where(jnp.arange(self.restoration_steps) < FIRST_STEPS, first, later)
        return jax.lax.scan(climb, images, lengths.astype(jnp.float32))[0]

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    def _network(self, channels: int) -> "Network":
        return Network(self, channels)


def cluster_posterior(
    z: Float[Array, "b h w d"], means: Float[Array, "b h w d k"], log_variances: Float[Array, "b h w d k"]
) -> Float[Array, "b h w k"]:
    """p(c | z, w) for clusters as likely as one another before: their densities at z, made to sum to 1."""
    return jax.nn.softmax(log_density(z[..., None], means, log_variances).sum(axis=3), axis=-1)


def total_variation(image: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """Anisotropic: Σ |difference| over neighbours in both directions, smooth at 0."""

    def along(axis: int) -> Array:
        return jnp.sqrt(jnp.square(jnp.diff(image, axis=axis)) + TV_SMOOTHING).sum(axis=(1, 2, 3))

    return along(1) + along(2)


def tune_tv_weight(
    detector: GmVae, variables: Variables, healthy: Batch, weights: Sequence[float]
) -> tuple[float, list[float]]:
    """The TV weight with which restoration changes healthy slices least, and each weight's mean absolute change.

    Chen et al. 2020, sec. 3.4: what is healthy should stay; the mean is over brain pixels and channels.
    """
    images, brain = healthy["images"], healthy["brain"][..., None]

    def change(weight: Array) -> Array:
        moved = jnp.abs(detector.restore(variables, images, weight) - images) * brain
        return moved.sum() / jnp.maximum(brain.sum() * images.shape[-1], 1.0)

    changes = [float(value) for value in jax.jit(lambda w: jax.lax.map(change, w))(jnp.asarray(weights, jnp.float32))]
    return weights[changes.index(min(changes))], changes


class Network(nn.Module):
    """Encoder of w and z, clusters of z given w, and decoder; 3×3 convolutions with ReLU."""

    settings: GmVae
    channels: int

    def setup(self) -> None:
        s, dtype = self.settings, jnp.dtype(self.settings.compute_dtype)
        # Every second convolution halves, from the first on, until all halvings are done.
        strides = [2 if layer % 2 == 0 and layer // 2 < s.halvings else 1 for layer in range(s.depth - 1)]
        self.down = [nn.Conv(s.maps, (3, 3), (stride, stride), dtype=dtype) for stride in strides]
        self.posterior = nn.Conv(4 * s.latent, (1, 1))
        self.hidden = nn.Conv(s.maps, (1, 1), dtype=dtype)
        self.mixture = nn.Conv(2 * s.latent * s.clusters, (1, 1))
        self.up = [nn.ConvTranspose(s.maps, (3, 3), (stride, stride), dtype=dtype) for stride in reversed(strides)]
        self.image = nn.Conv(self.channels, (3, 3))

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        w, _, z, _ = self.encode(images)
        self.clusters_of(w)
        return self.decode(z)

    def encode(self, images: Float[Array, "b h w c"]) -> tuple[Array, Array, Array, Array]:
        """Mean and log variance of q(w|x), then of q(z|x): maps of `latent` channels, float32."""
        x = images.astype(jnp.dtype(self.settings.compute_dtype))
        for layer in self.down:
            x = nn.relu(layer(x))
        w_mean, w_spread, z_mean, z_spread = jnp.split(self.posterior(x.astype(jnp.float32)), 4, axis=-1)
        return w_mean, bounded(w_spread), z_mean, bounded(z_spread)

    def clusters_of(self, w: Float[Array, "b h w d"]) -> tuple[Float[Array, "b h w d k"], Float[Array, "b h w d k"]]:
        """Mean and log variance of each cluster of z."""
        x = nn.relu(self.hidden(w.astype(jnp.dtype(self.settings.compute_dtype))))
        both = self.mixture(x.astype(jnp.float32))
        mean, spread = jnp.split(both.reshape(*w.shape, 2 * self.settings.clusters), 2, axis=-1)
        return mean, bounded(spread)

    def decode(self, z: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        """Image, float32."""
        x = z.astype(jnp.dtype(self.settings.compute_dtype))
        for layer in self.up:
            x = nn.relu(layer(x))
        return self.image(x.astype(jnp.float32))


DETECTOR = GmVae
