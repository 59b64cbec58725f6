"""Distance from the healthy mean of each place, weighed by a judge (`judge`): the default for real brains.

The mean is a running average over training slices at every height of the brain (`tissue_atlas`). Nothing is
reconstructed from the image itself. With one seed and the same slices the judge is that of `cce_vae_judge`, whose VAE
takes the place of the mean.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require
from strega_jax.detectors.judge import Judged, tissue_scale
from strega_jax.detectors.residual import Residual
from strega_jax.detectors.tissue_atlas import TissueAtlas


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtlasJudge(Judged):
    """Hyperparameters, and the `Detector` made of them; images as `Judged` says."""

    atlas_heights: int = 39  # of the brain told apart
    empty_channels: int = 0  # the last so many channels are 0 in health: their mean is not used
    residual: Residual = dataclasses.field(default_factory=Residual)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.atlas_heights >= 1, "atlas_heights", self.atlas_heights, "≥ 1")
        require(self.empty_channels >= 0, "empty_channels", self.empty_channels, "≥ 0")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params` and `batch_stats` of the judge, and the empty `atlas`.

        Raises ConfigError when the sides are no multiples of what is halved, or the images no tissue fractions.
        """
        judge = self.init_judge(jax.random.fold_in(key, 1), image_shape, "atlas_judge")
        channels = image_shape[-1]
        require(self.empty_channels < channels, "empty_channels", self.empty_channels, f"less than {channels}")
        self.residual.check(channels)
        return {**self._atlas.init(key, image_shape), **judge}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The judge's loss; the batch is merged into the atlas."""
        _, plant_key, vary_key = jax.random.split(key, 3)  # as `cce_vae_judge` does
        _, atlas = self._atlas.loss(variables, batch, key, step)
        usual = self._usual(variables, batch)
        loss, metrics, renewed = self.judge_loss(_judge_of(variables), batch, usual, (plant_key, vary_key))
        return loss, Aux(metrics, {**atlas.mutable, **renewed})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The healthy mean of each brain pixel, empty channels 0; 0 outside the brain."""
        mean = self._mean(variables, batch)
        used = mean.shape[-1] - self.empty_channels
        return mean * (jnp.arange(mean.shape[-1]) < used).astype(jnp.float32)[None, None, None]

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Image − mean, brightened and scaled, times the judge's probability; ≥ 0, 0 outside the brain."""
        return self.score_of_probability(variables, batch, key, self.probability(variables, batch))

    def score_of_probability(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray, probability: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """`score`, given what the judge says."""
        residual = self.residual(batch["images"], self.reconstruct(variables, batch), batch["brain"])
        return self.weighed(residual, probability, batch, self._usual(variables, batch))

    def probability(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """How sure the judge is that a pixel is foreign."""
        return self.judge_probability(_judge_of(variables), batch, self._usual(variables, batch))

    @property
    def _atlas(self) -> TissueAtlas:
        return TissueAtlas(bins=self.atlas_heights)

    def _mean(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        mean = self._atlas.reconstruct(variables, batch)
        return jax.lax.stop_gradient(mean * batch["brain"][..., None])

    def _usual(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """The mean on the tissue scale, as far as it is known yet."""
        return tissue_scale(self._mean(variables, batch))


def _judge_of(variables: Variables) -> Variables:
    return {name: variables[name] for name in ("params", "batch_stats")}


DETECTOR = AtlasJudge
