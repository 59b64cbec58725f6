"""The compact context-encoding VAE with a judge (`judge`): the VAE's residual, weighed by a network.

The VAE rebuilds much of what is brighter than the mean of healthy brains there, white matter where grey matter or fluid
belong: what the judge calls foreign may also be weighed by its distance from the healthy mean.
"""

import dataclasses

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.checks import require
from strega_jax.detectors.judge import Judged, tissue_scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class CceVaeJudge(Judged):
    """Hyperparameters, and the `Detector` made of them; images as `Judged` says."""

    healthy: CceVae = dataclasses.field(default_factory=lambda: CceVae(atlas_heights=39))  # residual and healthy mean
    samples: int = 0  # latent samples of the VAE whose mean reconstruction is scored; 0: the posterior mean's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.healthy.atlas_heights >= 1, "healthy.atlas_heights", self.healthy.atlas_heights, "≥ 1")
        require(self.samples >= 0, "samples", self.samples, "≥ 0")
        require(self.healthy.samples == 0, "healthy.samples", self.healthy.samples, "0; set model.samples")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 variables; each collection holds what is the VAE's under `healthy`, the judge's under `judge`.

        Raises ConfigError when the sides are no multiples of what is halved, or the images no tissue fractions.
        """
        judge = self.init_judge(jax.random.fold_in(key, 1), image_shape, "cce_vae_judge")
        return _joined({"healthy": self._healthy.init(jax.random.fold_in(key, 0), image_shape), "judge": judge})

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The VAE's loss plus the judge's. The parts share no parameter; metrics are those of both."""
        vae_key, plant_key, vary_key = jax.random.split(key, 3)
        vae_loss, aux = self._healthy.loss(_part(variables, "healthy"), batch, vae_key, step)
        usual = self._usual(variables, batch)
        judge, shown = _part(variables, "judge"), tissue_scale(batch["images"])
        loss, metrics, renewed = self.judge_loss(judge, shown, batch, usual, (plant_key, vary_key))
        mutable = _joined({"healthy": aux.mutable, "judge": renewed})
        return vae_loss + loss, Aux({**aux.metrics, **metrics}, mutable)

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The VAE's image."""
        return self._healthy.reconstruct(_part(variables, "healthy"), batch)

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """The VAE's score, brightened and scaled, times the judge's probability; ≥ 0, 0 outside the brain."""
        return self.score_of_probability(variables, batch, key, self.probability(variables, batch))

    def score_of_probability(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray, probability: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """`score`, given what the judge says."""
        residual = self._healthy.score(_part(variables, "healthy"), batch, key)
        return self.weighed(residual, probability, batch, self._usual(variables, batch))

    def probability(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """How sure the judge is that a pixel is foreign."""
        usual = self._usual(variables, batch)
        return self.judge_probability(_part(variables, "judge"), tissue_scale(batch["images"]), batch, usual)

    @property
    def _healthy(self) -> CceVae:
        return dataclasses.replace(self.healthy, samples=self.samples, compute_dtype=self.compute_dtype)

    def _usual(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """The healthy mean of each brain pixel on the tissue scale, as far as it is known yet."""
        return jax.lax.stop_gradient(tissue_scale(self._healthy.atlas_mean(_part(variables, "healthy"), batch)))


def _part(variables: Variables, name: str) -> Variables:
    """Of each collection what belongs to one part."""
    return {collection: parts[name] for collection, parts in variables.items() if name in parts}


def _joined(parts: dict[str, Variables]) -> Variables:
    """Inverse of `_part`."""
    collections = sorted({collection for part in parts.values() for collection in part})
    return {
        collection: {name: part[collection] for name, part in parts.items() if collection in part}
        for collection in collections
    }


DETECTOR = CceVaeJudge
