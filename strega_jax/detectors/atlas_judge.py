"""Distance from the healthy mean of each place, weighed by judges (`judge`): the default for real brains.

The mean is a running average over training slices at every height of the brain (`tissue_atlas`). Nothing is
reconstructed from the image itself. With one seed and the same slices the judge of tissue is that of `cce_vae_judge`,
whose VAE takes the place of the mean.

Slices with a channel of intensities (representation `fractions_intensity`) have a second judge, of the same network,
which looks at these in place of tissue: it sees what the segmentation made nothing of, and is not misled where that
went wrong. It learns them in random contrasts (`augment.contrast`). Where tissues lie in the training contrast's order
of brightness the segmentation is good, and the judge of tissue is asked alone.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.augment.contrast import random_contrast
from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.checks import require
from strega_jax.detectors.judge import Judged, tissue_scale
from strega_jax.detectors.residual import Residual
from strega_jax.detectors.tissue_atlas import TissueAtlas
from strega_jax.scans.contrast import same_brightness_order

INTENSITY = "intensity"  # of the second judge's variables, in each collection of the first's
WITH_INTENSITY = 5  # channels
INTENSITY_SCALE = 3.0  # the brain's bright end comes to lie where white matter does on the tissue scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtlasJudge(Judged):
    """Hyperparameters, and the `Detector` made of them; images as `Judged` says, intensities after them or not."""

    atlas_heights: int = 39  # of the brain told apart
    empty_channels: int = 0  # the last so many channels of tissue are 0 in health: their mean is not used
    # of the judge of intensities in the probability, where tissues have another order of brightness than in training
    intensity_share: float = 0.5
    residual: Residual = dataclasses.field(default_factory=Residual)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.atlas_heights >= 1, "atlas_heights", self.atlas_heights, "≥ 1")
        require(self.empty_channels >= 0, "empty_channels", self.empty_channels, "≥ 0")
        require(0 <= self.intensity_share <= 1, "intensity_share", self.intensity_share, "from 0 to 1")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 `params` and `batch_stats` of the judges, and the empty `atlas`.

        Raises ConfigError when the sides are no multiples of what is halved, or the images no tissue fractions.
        """
        h, w, channels = image_shape
        tissue_shape = (h, w, channels - 1 if channels == WITH_INTENSITY else channels)
        judge = self.init_judge(jax.random.fold_in(key, 1), tissue_shape, "atlas_judge")
        require(
            self.empty_channels < tissue_shape[-1],
            "empty_channels",
            self.empty_channels,
            f"less than {tissue_shape[-1]}",
        )
        self.residual.check(tissue_shape[-1])
        if channels == WITH_INTENSITY:
            second = self.init_judge(jax.random.fold_in(key, 2), tissue_shape, "atlas_judge")
            judge = {name: {**part, INTENSITY: second[name]} for name, part in judge.items()}
        return {**self._atlas.init(key, tissue_shape), **judge}

    def for_contrast(self, contrast: str, trained: str) -> Self:
        """The detector for scans of this contrast: without the judge of intensities where tissue alone is asked."""
        return dataclasses.replace(self, intensity_share=0.0) if same_brightness_order(contrast, trained) else self

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The judges' losses; the batch is merged into the atlas."""
        _, plant_key, vary_key = jax.random.split(key, 3)  # as `cce_vae_judge` does
        tissue = _tissue(batch)
        _, atlas = self._atlas.loss(variables, tissue, key, step)
        usual = self._usual(variables, tissue)
        shown = tissue_scale(tissue["images"])
        loss, metrics, renewed = self.judge_loss(_judge_of(variables), shown, batch, usual, (plant_key, vary_key))
        if batch["images"].shape[-1] == WITH_INTENSITY:
            contrast_key, plant_key, vary_key = jax.random.split(jax.random.fold_in(key, 1), 3)
            shown = random_contrast(contrast_key, batch["images"][..., -1], batch["brain"] > 0) * INTENSITY_SCALE
            second, told, other = self.judge_loss(
                _second_judge_of(variables), shown, batch, usual, (plant_key, vary_key)
            )
            loss = loss + second
            metrics |= {f"{INTENSITY}_{name}": value for name, value in told.items()}
            renewed = {name: {**part, INTENSITY: other[name]} for name, part in renewed.items()}
        return loss, Aux(metrics, {**atlas.mutable, **renewed})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The healthy mean of each brain pixel, empty channels 0, intensities as they are; 0 outside the brain."""
        mean = self._mean(variables, _tissue(batch))
        used = mean.shape[-1] - self.empty_channels
        mean = mean * (jnp.arange(mean.shape[-1]) < used).astype(jnp.float32)[None, None, None]
        own = batch["images"][..., mean.shape[-1] :] * batch["brain"][..., None]
        return jnp.concatenate([mean, own], axis=-1)

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """Image − mean, brightened and scaled, times the judges' probability; ≥ 0, 0 outside the brain."""
        return self.score_of_probability(variables, batch, key, self.probability(variables, batch))

    def score_of_probability(
        self, variables: Variables, batch: Batch, key: PRNGKeyArray, probability: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """`score`, given what the judges say."""
        expected = self.reconstruct(variables, batch)
        batch = _tissue(batch)
        residual = self.residual(batch["images"], expected[..., : batch["images"].shape[-1]], batch["brain"])
        return self.weighed(residual, probability, batch, self._usual(variables, batch))

    def probability(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """How sure the judges are that a pixel is foreign: the mean of both by `intensity_share`."""
        tissue = _tissue(batch)
        usual = self._usual(variables, tissue)
        first = self.judge_probability(_judge_of(variables), tissue_scale(tissue["images"]), batch, usual)
        if not self.intensity_share or batch["images"].shape[-1] != WITH_INTENSITY:
            return first
        shown = batch["images"][..., -1] * INTENSITY_SCALE
        second = self.judge_probability(_second_judge_of(variables), shown, batch, usual)
        return (1.0 - self.intensity_share) * first + self.intensity_share * second

    @property
    def _atlas(self) -> TissueAtlas:
        return TissueAtlas(bins=self.atlas_heights)

    def _mean(self, variables: Variables, tissue: Batch) -> Float[Array, "b h w c"]:
        mean = self._atlas.reconstruct(variables, tissue)
        return jax.lax.stop_gradient(mean * tissue["brain"][..., None])

    def _usual(self, variables: Variables, tissue: Batch) -> Float[Array, "b h w"]:
        """The mean on the tissue scale, as far as it is known yet."""
        return tissue_scale(self._mean(variables, tissue))


def _tissue(batch: Batch) -> Batch:
    """The batch without intensities."""
    images = batch["images"]
    return {**batch, "images": images[..., :-1] if images.shape[-1] == WITH_INTENSITY else images}


def _judge_of(variables: Variables) -> Variables:
    return {
        name: {part: value for part, value in variables[name].items() if part != INTENSITY}
        for name in ("params", "batch_stats")
    }


def _second_judge_of(variables: Variables) -> Variables:
    return {name: variables[name][INTENSITY] for name in ("params", "batch_stats")}


DETECTOR = AtlasJudge
