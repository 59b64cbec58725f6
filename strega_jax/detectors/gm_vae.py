"""Gaussian-mixture VAE with MAP restoration (Dilokthanakul et al. 2016; Chen et al. 2020; paper, sec. 2.6, eq. 12).

The model draws w ~ N(0, 1), a cluster c of K alike, z ~ N(μ_c(w), σ²_c(w)) and the image x ~ N(g(z), variance).
w and z are maps, and every place of them has its own cluster. The encoder gives q(w|x) and q(z|x), both normal; the
posterior of c given z and w follows from Bayes' rule.

Restoration climbs log p(y) + log p(x|y) from y = x: the ELBO stands for log p(y), and an anomaly x − y is taken to
have a small total variation.

The network sees patches and all its maps are of the latent's size: a volume takes hundreds of passes through it.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.gaussian import bounded, kl_divergence, log_density, sample
from strega_jax.detectors.layers import Conv
from strega_jax.detectors.operations import depth_to_space, space_to_depth
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

    maps: int = 16  # feature maps of all hidden convolutions
    depth: int = 2  # 3×3 convolutions of the encoder, and of the decoder, each added to its input
    patch: int = 4  # pixels a side of what one place of the latent maps stands for
    latent: int = 1  # channels of z and of w
    clusters: int = 9  # K
    variance: float = 1.0  # of a pixel about its reconstruction
    # nats: a place's KL of the cluster, averaged over the batch, counts as no less; below it, clusters may differ
    c_lambda: float = 0.5
    restoration_steps: int = 500
    step_lengths: tuple[float, float] = (5e-3, 2e-3)  # of the first 100 steps, and of the others
    gradient_clip: float = 100.0  # of each pixel's
    # tried on healthy slices when training is over; the one with which restoration changes them least is kept
    tv_weights: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    residual: Residual = dataclasses.field(default_factory=Residual)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        for name in ("maps", "depth", "patch", "latent", "clusters", "restoration_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1")
        for name in ("variance", "gradient_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")
        require(self.c_lambda >= 0, "c_lambda", self.c_lambda, "≥ 0")
        require(min(self.tv_weights, default=-1) >= 0, "tv_weights", self.tv_weights, "one or more numbers ≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params`, and the `tv_weight` in use until `fit_after_training` finds one: of those tried
        the middle.

        Raises ConfigError when the sides are no multiples of a patch's.
        """
        require_sides(image_shape, self.patch, "GmVae")
        self.residual.check(image_shape[-1])
        patches = space_to_depth(jnp.zeros((1, *image_shape)), self.patch)
        weight = jnp.float32(self.tv_weights[len(self.tv_weights) // 2])
        return {**self._network(image_shape[-1]).init(key, patches), "restoration": {"tv_weight": weight}}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """−eq. 12 with one draw of z and w, averaged over the batch; metrics `nll`, `kl_z`, `kl_w`, `kl_c`."""
        terms = self.elbo_terms(variables, batch["images"], key)
        by_place = {"kl_z": terms.kl_z.mean(axis=0), "kl_w": terms.kl_w.mean(axis=0), "kl_c": terms.kl_c.mean(axis=0)}
        metrics = {"nll": terms.nll.mean(), **{name: value.sum() for name, value in by_place.items()}}
        held = jnp.maximum(by_place["kl_c"], self.c_lambda).sum()
        total = metrics["nll"] + metrics["kl_z"] + metrics["kl_w"] + held
        return total, Aux(metrics, {"restoration": variables["restoration"]})

    def elbo_terms(
        self, variables: Variables, images: Float[Array, "b h w c"], key: PRNGKeyArray | None = None
    ) -> Terms:
        """The terms of −eq. 12 with z and w drawn by `key`; without one, at their means."""
        return self._terms(variables, space_to_depth(images, self.patch), images.shape[-1], key)

    def _terms(
        self, variables: Variables, patches: Float[Array, "b h w p"], channels: int, key: PRNGKeyArray | None
    ) -> Terms:
        network: Any = self._network(channels).bind({"params": variables["params"]})
        w_mean, w_spread, z_mean, z_spread = network.encode(patches)
        w, z = w_mean, z_mean
        if key is not None:
            w_key, z_key = jax.random.split(key)
            w, z = sample(w_key, w_mean, w_spread), sample(z_key, z_mean, z_spread)
        means, spreads = network.clusters_of(w)
        share = cluster_posterior(z, means, spreads)
        each = kl_divergence(z_mean[..., None], z_spread[..., None], means, spreads).sum(axis=3)
        known = jnp.full((1, 1, 1, 1), math.log(self.variance))
        return Terms(
            nll=-log_density(patches, network.decode(z), known).sum(axis=(1, 2, 3)),
            kl_z=(share * each).sum(axis=-1),
            kl_w=kl_divergence(w_mean, w_spread).sum(axis=-1),
            kl_c=(share * (jnp.log(jnp.maximum(share, 1e-30)) + math.log(self.clusters))).sum(axis=-1),
        )

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The restored image."""
        return self.restore(variables, batch["images"], variables["restoration"]["tv_weight"])

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """What the restoration took away, inside the brain."""
        return self.score_of_reconstruction(batch, self.reconstruct(variables, batch))

    def score_of_reconstruction(self, batch: Batch, expected: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
        """What was taken away to come from the image to `expected`, inside the brain."""
        return self.residual(batch["images"], expected, batch["brain"])

    def fit_after_training(self, variables: Variables, healthy: Batch) -> Variables:
        """The collection `restoration` with the `tv_weight` that changes healthy slices least."""
        changes = self.healthy_changes(variables, healthy)
        return {"restoration": {"tv_weight": jnp.asarray(self.tv_weights, jnp.float32)[changes.argmin()]}}

    def healthy_changes(self, variables: Variables, healthy: Batch) -> Float[Array, "n"]:
        """How much restoration changes healthy slices with each of `tv_weights` (Chen et al. 2020, sec. 3.4).

        Mean absolute change over brain pixels and channels: what is healthy should stay.
        """
        images, brain = healthy["images"], healthy["brain"][..., None]

        def change(weight: Array) -> Array:
            moved = jnp.abs(self.restore(variables, images, weight) - images) * brain
            return moved.sum() / jnp.maximum(brain.sum() * images.shape[-1], 1.0)

        return jax.lax.map(change, jnp.asarray(self.tv_weights, jnp.float32))

    def restore(
        self, variables: Variables, images: Float[Array, "b h w c"], tv_weight: Float[Array, ""] | float
    ) -> Float[Array, "b h w c"]:
        """`restoration_steps` steps up ELBO(y) − tv_weight · TV(x − y) from y = x, z and w at their means."""
        channels, seen = images.shape[-1], space_to_depth(images, self.patch)

        def objective(patches: Array) -> Array:
            terms = self._terms(variables, patches, channels, None)
            removed = depth_to_space(seen - patches, self.patch)
            latent = (terms.kl_z + terms.kl_w + terms.kl_c).sum()
            return -terms.nll.sum() - latent - tv_weight * total_variation(removed).sum()

        def climb(patches: Array, length: Array) -> tuple[Array, None]:
            slope = jnp.clip(jax.grad(objective)(patches), -self.gradient_clip, self.gradient_clip)
            return patches + length * slope, None

        first, later = self.step_lengths
        lengths = jnp.where(jnp.arange(self.restoration_steps) < FIRST_STEPS, first, later)
        return depth_to_space(jax.lax.scan(climb, seen, lengths.astype(jnp.float32))[0], self.patch)

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


class Network(nn.Module):
    """Encoder of w and z from patches, clusters of z given w, and decoder to patches; ReLU."""

    settings: GmVae
    channels: int

    def setup(self) -> None:
        s, dtype = self.settings, jnp.dtype(self.settings.compute_dtype)

        def layers() -> list[Conv]:
            return [Conv(s.maps, 3, use_bias=True, dtype=dtype) for _ in range(s.depth)]

        self.from_patch = Conv(s.maps, use_bias=True, dtype=dtype)
        self.inward, self.outward = layers(), layers()
        self.posterior = Conv(4 * s.latent, use_bias=True)
        self.hidden = Conv(s.maps, use_bias=True, dtype=dtype)
        self.mixture = Conv(2 * s.latent * s.clusters, use_bias=True)
        self.from_latent = Conv(s.maps, use_bias=True, dtype=dtype)
        self.to_patch = Conv(s.patch**2 * self.channels, use_bias=True)

    def __call__(self, patches: Float[Array, "b h w p"]) -> Float[Array, "b h w p"]:
        w, _, z, _ = self.encode(patches)
        self.clusters_of(w)
        return self.decode(z)

    def encode(self, patches: Float[Array, "b h w p"]) -> tuple[Array, Array, Array, Array]:
        """Mean and log variance of q(w|x), then of q(z|x): maps of `latent` channels, float32."""
        x = nn.relu(self.from_patch(patches))
        for layer in self.inward:
            x = nn.relu(x + layer(x))
        w_mean, w_spread, z_mean, z_spread = jnp.split(self.posterior(x.astype(jnp.float32)), 4, axis=-1)
        return w_mean, bounded(w_spread), z_mean, bounded(z_spread)

    def clusters_of(self, w: Float[Array, "b h w d"]) -> tuple[Float[Array, "b h w d k"], Float[Array, "b h w d k"]]:
        """Mean and log variance of each cluster of z."""
        both = self.mixture(nn.relu(self.hidden(w)).astype(jnp.float32))
        mean, spread = jnp.split(both.reshape(*w.shape, 2 * self.settings.clusters), 2, axis=-1)
        return mean, bounded(spread)

    def decode(self, z: Float[Array, "b h w d"]) -> Float[Array, "b h w p"]:
        """Patches, float32."""
        x = nn.relu(self.from_latent(z))
        for layer in self.outward:
            x = nn.relu(x + layer(x))
        return self.to_patch(x.astype(jnp.float32))


DETECTOR = GmVae
