"""The compact context-encoding VAE with a judge: is what the VAE cannot explain foreign, or just another scanner?

A residual is large wherever a scan differs from the training scans: in a tumour, and wherever scanner, contrast or
segmentation put a little more of one tissue. The judge, a small U-Net, learns to tell these apart on healthy slices
alone: noise-made anomalies are planted in them and are to be found; changes of appearance are to be ignored
(`augment.foreign`; after the discriminative subnetwork of Zavrtanik et al. 2021). It sees a slice, its mirror image
and the healthy mean. The score is the residual times the judge's probability. The VAE rebuilds much of what is
brighter than the mean of healthy brains there, white matter where grey matter or fluid belong: what the judge calls
foreign may also be weighed by its distance from the healthy mean.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.augment.foreign import Planting, plant, vary
from strega_jax.detectors.base import Aux, Batch, Variables
from strega_jax.detectors.cce_vae import CceVae
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.layers import (
    Activation,
    Conv,
    Norm,
    ResidualBlock,
    depth_to_space,
    initialise,
    space_to_depth,
)

PATCH = 4  # pixels a side; the judge's first level works on patches
FEATURES = 14  # channels that the judge is given, see `_features`
FRACTIONS = ((3, "fractions"), (4, "fractions_excess"))
DICE_SMOOTHING = 1.0  # pixels


@dataclasses.dataclass(frozen=True)
class CceVaeJudge:
    """Hyperparameters, and the `Detector` made of them.

    Images are tissue fractions, with what lies beyond white matter after them or without (representations `fractions`
    and `fractions_excess`, normalisation `unit`), aligned to a template, so that a slice's mirror image is the other
    hemisphere and the healthy mean of a place is known.
    """

    healthy: CceVae = dataclasses.field(default_factory=lambda: CceVae(atlas_heights=39))  # residual and healthy mean
    residual_scale: float = 1.5  # residuals are counted in units of this, and those above as 1; 0: as they are
    # this times how far a pixel lies above the healthy mean of its place, on the tissue scale and up to white matter,
    # is added to the residual before it is cut
    brighter: float = 0.0
    maps: tuple[int, ...] = (64, 128, 128)  # of the judge's levels
    blocks: int = 2  # residual blocks a level, on the way down and on the way up
    planting: Planting = dataclasses.field(default_factory=Planting)
    samples: int = 0  # latent samples of the VAE whose mean reconstruction is scored; 0: the posterior mean's
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(self.healthy.atlas_heights >= 1, "healthy.atlas_heights", self.healthy.atlas_heights, "≥ 1")
        require(self.residual_scale >= 0, "residual_scale", self.residual_scale, "≥ 0")
        require(self.brighter >= 0, "brighter", self.brighter, "≥ 0")
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 4, "maps", self.maps, "one or more numbers ≥ 4")
        require(self.blocks >= 1, "blocks", self.blocks, "≥ 1")
        require(self.samples >= 0, "samples", self.samples, "≥ 0")
        require(self.healthy.samples == 0, "healthy.samples", self.healthy.samples, "0; set model.samples")

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh float32 variables; each collection holds what is the VAE's under `healthy`, the judge's under `judge`.

        Raises ConfigError when the sides are no multiples of what is halved, or the images no tissue fractions.
        """
        h, w, channels = image_shape
        known = " or ".join(f"{count} ({name})" for count, name in FRACTIONS)
        require(
            channels in dict(FRACTIONS), "healthy", f"given {channels} channels", f"given tissue fractions: {known}"
        )
        require_sides(image_shape, PATCH * 2 ** (len(self.maps) - 1), "cce_vae_judge")
        parts = {
            "healthy": self._healthy.init(jax.random.fold_in(key, 0), image_shape),
            "judge": initialise(self._judge, jax.random.fold_in(key, 1), (h, w, FEATURES)),
        }
        return _joined(parts)

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The VAE's loss plus the judge's: cross-entropy a brain pixel and half of the soft Dice loss.

        The parts share no parameter. Metrics: the VAE's, `judge` and `judge_dice` (soft, of the planted anomalies).
        """
        vae_key, plant_key, vary_key = jax.random.split(key, 3)
        vae_loss, aux = self._healthy.loss(_part(variables, "healthy"), batch, vae_key, step)
        brain = batch["brain"] > 0
        planted, foreign = plant(plant_key, tissue_scale(batch["images"]), brain, self.planting)
        features = _features(vary(vary_key, planted, brain), self._atlas_mean(variables, batch))
        judge = _part(variables, "judge")
        result: Any = self._judge.apply(judge, features, train=True, mutable=["batch_stats"])
        logits, renewed = result
        wanted = foreign.astype(jnp.float32)
        entropy = (optax.sigmoid_binary_cross_entropy(logits, wanted) * batch["brain"]).sum()
        entropy = entropy / jnp.maximum(batch["brain"].sum(), 1.0)
        probability = jax.nn.sigmoid(logits) * batch["brain"]
        dice = (2.0 * (probability * wanted).sum() + DICE_SMOOTHING) / (
            probability.sum() + wanted.sum() + DICE_SMOOTHING
        )
        mutable = _joined({"healthy": aux.mutable, "judge": renewed})
        metrics = {**aux.metrics, "judge": entropy, "judge_dice": dice}
        return vae_loss + entropy + 0.5 * (1.0 - dice), Aux(metrics, mutable)

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The VAE's image."""
        return self._healthy.reconstruct(_part(variables, "healthy"), batch)

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """The VAE's score, brightened and scaled, times the judge's probability; ≥ 0, 0 outside the brain."""
        residual = self._healthy.score(_part(variables, "healthy"), batch, key)
        if self.brighter:
            above = jnp.minimum(tissue_scale(batch["images"]), 3.0) - self._atlas_mean(variables, batch)
            residual = residual + self.brighter * jnp.maximum(above, 0.0)
        if self.residual_scale:
            residual = jnp.minimum(residual / self.residual_scale, 1.0)
        return residual * self.probability(variables, batch)

    def probability(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """How sure the judge is that a pixel is foreign: mean of what it says of the slice and of its mirror image."""
        tissue = tissue_scale(batch["images"]) * batch["brain"]
        atlas_mean = self._atlas_mean(variables, batch)

        @jax.jit  # so that it is traced once
        def judged(tissue: Array, atlas_mean: Array) -> Array:
            logits: Any = self._judge.apply(_part(variables, "judge"), _features(tissue, atlas_mean))
            return jax.nn.sigmoid(logits)

        mirrored = judged(tissue[:, ::-1], atlas_mean[:, ::-1])[:, ::-1]
        return 0.5 * (judged(tissue, atlas_mean) + mirrored) * batch["brain"]

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own."""
        return default

    @property
    def _healthy(self) -> CceVae:
        return dataclasses.replace(self.healthy, samples=self.samples, compute_dtype=self.compute_dtype)

    @property
    def _judge(self) -> "Judge":
        return Judge(self.maps, self.blocks, jnp.dtype(self.compute_dtype))

    def _atlas_mean(self, variables: Variables, batch: Batch) -> Float[Array, "b h w"]:
        """The healthy mean of each brain pixel on the tissue scale, as far as it is known yet."""
        return jax.lax.stop_gradient(tissue_scale(self._healthy.atlas_mean(_part(variables, "healthy"), batch)))


class Judge(nn.Module):
    """U-Net (Ronneberger et al. 2015) on patches, of bottleneck blocks; what comes up is added to what went down."""

    maps: tuple[int, ...]
    blocks: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w f"], train: bool = False) -> Float[Array, "b h w"]:
        """Logits of the probability to be foreign, float32."""

        def unit(x: Array, maps: int) -> Array:
            return Activation()(Norm(self.dtype)(Conv(maps, dtype=self.dtype)(x), train))

        def refine(x: Array) -> Array:
            for _ in range(self.blocks):
                x = ResidualBlock("bottleneck", dtype=self.dtype)(x, train)
            return x

        first = unit(space_to_depth(features.astype(self.dtype), PATCH), self.maps[0])
        x, passed = refine(first), []
        for maps in self.maps[1:]:
            passed.append(x)
            x = refine(unit(space_to_depth(x, 2), maps))
        for maps, down in zip(self.maps[-2::-1], reversed(passed), strict=True):
            x = refine(depth_to_space(unit(x, 4 * maps), 2) + down)
        x = unit(jnp.concatenate([x, first], axis=-1), self.maps[0])
        x = Conv(PATCH**2, use_bias=True)(x.astype(jnp.float32))
        return depth_to_space(x, PATCH)[..., 0]


def tissue_scale(images: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """Fractions CSF, GM, WM (and a third of what lies beyond) → 1, 2, 3 (and up to 6); 0 where there are none."""
    values = jnp.asarray((1.0, 2.0, 3.0, 3.0)[: images.shape[-1]], jnp.float32)
    return images @ values


def _features(tissue: Float[Array, "b h w"], atlas_mean: Float[Array, "b h w"]) -> Float[Array, "b h w f"]:
    """Slice, mirror image and healthy mean, each as fractions; slice and mirror image on the tissue scale too."""
    mirror = tissue[:, ::-1]
    shares = [share for image in (tissue, mirror, atlas_mean) for share in _fractions(image)]
    return jnp.stack([*shares, tissue / 3.0, mirror / 3.0], axis=-1)


def _fractions(tissue: Float[Array, "b h w"]) -> list[Float[Array, "b h w"]]:
    """The tissue scale taken apart: each class's share falls evenly to its neighbours'; and what is beyond WM."""
    fluid = jnp.where(tissue > 0, jnp.clip(2.0 - tissue, 0.0, 1.0), 0.0)
    grey = jnp.maximum(1.0 - jnp.abs(tissue - 2.0), 0.0)
    return [fluid, grey, jnp.clip(tissue - 2.0, 0.0, 1.0), jnp.clip((tissue - 3.0) / 3.0, 0.0, 1.0)]


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
