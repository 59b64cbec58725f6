"""Context-encoding VAE (Zimmerer et al. 2018; paper, sec. 2.7 and eqs. 13, 14) with its three anomaly scores."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.augment.context import ContextEncoding, context_mask
from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require
from strega_jax.detectors.filters import gaussian_blur
from strega_jax.detectors.gaussian import kl_divergence
from strega_jax.detectors.vae import Vae


@dataclasses.dataclass(frozen=True)
class CeVae(Vae):
    """A VAE that must also fill in what is hidden from it. Fields beyond those of `Vae`:"""

    maps: tuple[int, ...] = (16, 64, 256, 1024)
    latent: int = 1024
    ce_weight: float = 1.0  # of the context-encoding term
    context: ContextEncoding = dataclasses.field(default_factory=ContextEncoding)  # what the CE branch does not see
    # reconstruction: residual; elbo_gradient: |∂ELBO/∂x|; combi: smoothed |∂KL/∂x| times the residual
    anomaly: Literal["reconstruction", "elbo_gradient", "combi"] = "combi"
    smooth_px: float = 2.0  # Gaussian sigma for combi's gradient

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ce_weight >= 0, "ce_weight", self.ce_weight, "≥ 0")
        require(self.smooth_px >= 0, "smooth_px", self.smooth_px, "≥ 0")

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """Eq. 14, averaged over the batch; metrics `kl`, `nll` and `nll_ce`, in nats an image.

        The context-encoding branch decodes the posterior mean of the masked image and is held to the clean one.
        """
        vae_key, mask_key = jax.random.split(key)
        total, aux = super().loss(variables, batch, vae_key, step)
        images = batch["images"]
        seen = images * context_mask(mask_key, batch["brain"], self.context)[..., None]
        mean, _ = self.posterior(variables, seen)
        nll_ce = self.negative_log_likelihood(images, self.decode(variables, images, mean)).mean()
        return total + self.ce_weight * nll_ce, Aux({**aux.metrics, "nll_ce": nll_ce}, {})

    def score_of(self, variables: Variables, batch: Batch, noise: Float[Array, "b z"]) -> Float[Array, "b h w"]:
        """The `anomaly` wanted, with z at this draw; gradients are summed over channels by magnitude."""
        if self.anomaly == "elbo_gradient":
            return self._gradient(lambda x: sum(self.elbo_parts(variables, x, noise)), batch)
        residual = super().score_of(variables, batch, noise)
        if self.anomaly == "reconstruction":
            return residual
        gradient = self._gradient(lambda x: kl_divergence(*self.posterior(variables, x)).sum(axis=1), batch)
        return gaussian_blur(gradient[..., None], self.smooth_px)[..., 0] * residual

    def _gradient(self, of_each: Callable[[Array], Any], batch: Batch) -> Float[Array, "b h w"]:
        # Images do not see one another, so the gradient of the sum holds each image's own.
        gradient = jax.grad(lambda x: of_each(x).sum())(batch["images"])
        return jnp.abs(gradient).sum(axis=-1) * batch["brain"]


DETECTOR = CeVae
