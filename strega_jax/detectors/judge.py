"""A judge: is what differs from healthy anatomy foreign, or just another scanner?

A residual is large wherever a scan differs from the training scans: in a tumour, and wherever scanner, contrast or
segmentation put a little more of one tissue. The judge, a small U-Net, learns to tell these apart on healthy slices
alone: noise-made anomalies are planted in them and are to be found; changes of appearance are to be ignored
(`augment.foreign`; after the discriminative subnetwork of Zavrtanik et al. 2021). It sees a slice, its mirror image
and the healthy mean. A score is a residual times the judge's probability.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.augment.foreign import Planting, plant, vary
from strega_jax.detectors.base import Batch, Variables
from strega_jax.detectors.checks import require, require_sides
from strega_jax.detectors.judge_unet import Trained, u_net

if TYPE_CHECKING:  # a kept program is run without them, and they take long to load
    import optax

    from strega_jax.detectors.judge_network import Judge

PATCH = 4  # pixels a side; the judge's first level works on patches
FEATURES = 14  # channels that the judge is given, see `_features`
FRACTIONS = ((3, "fractions"), (4, "fractions_excess"))
DICE_SMOOTHING = 1.0  # pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Hyperparameters of the judge and of the score; what a detector with a judge inherits.

    Images are tissue fractions, with what lies beyond white matter after them or without (representations `fractions`
    and `fractions_excess`, normalisation `unit`), aligned to a template, so that a slice's mirror image is the other
    hemisphere and the healthy mean of a place is known. That mean is given to the methods as `usual`, on the tissue
    scale.
    """

    residual_scale: float = 1.5  # residuals are counted in units of this, and those above as 1; 0: as they are
    # this times how far a pixel lies above the healthy mean of its place, on the tissue scale and up to white matter,
    # is added to the residual before it is cut
    brighter: float = 0.0
    maps: tuple[int, ...] = (64, 128, 128)  # of the judge's levels
    blocks: int = 2  # residual blocks a level, on the way down and on the way up
    planting: Planting = dataclasses.field(default_factory=Planting)
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters, output, losses: float32

    def __post_init__(self) -> None:
        require(self.residual_scale >= 0, "residual_scale", self.residual_scale, "≥ 0")
        require(self.brighter >= 0, "brighter", self.brighter, "≥ 0")
        require(len(self.maps) >= 1 and min(self.maps, default=0) >= 4, "maps", self.maps, "one or more numbers ≥ 4")
        require(self.blocks >= 1, "blocks", self.blocks, "≥ 1")

    def init_judge(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], method: str) -> Variables:
        """Fresh float32 `params` and `batch_stats` of the judge.

        Raises ConfigError when the sides are no multiples of what is halved, or the images no tissue fractions.
        """
        h, w, channels = image_shape
        known = " or ".join(f"{count} ({name})" for count, name in FRACTIONS)
        require(channels in dict(FRACTIONS), method, f"given {channels} channels", f"given tissue fractions: {known}")
        require_sides(image_shape, PATCH * 2 ** (len(self.maps) - 1), method)
        from strega_jax.detectors.layers import initialise

        return initialise(self._judge, key, (h, w, FEATURES))

    def judge_loss(
        self,
        judge: Variables,
        shown: Float[Array, "b h w"],
        batch: Batch,
        usual: Float[Array, "b h w"],
        keys: tuple[PRNGKeyArray, PRNGKeyArray],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], Variables]:
        """Cross-entropy a brain pixel and half of the soft Dice loss, of anomalies planted in a batch.

        `shown` are its slices on the tissue scale; `keys` those of planting and of changing the appearance. Returns
        the loss, the metrics `judge` (cross-entropy) and `judge_dice` (soft), and the renewed collections.
        """
        import optax

        plant_key, vary_key = keys
        brain = batch["brain"] > 0
        planted, foreign = plant(plant_key, shown, brain, self.planting)
        features = _features(vary(vary_key, planted, brain), usual)
        result: Any = self._judge.apply(judge, features, train=True, mutable=["batch_stats"])
        logits, renewed = result
        wanted = foreign.astype(jnp.float32)
        entropy = (optax.sigmoid_binary_cross_entropy(logits, wanted) * batch["brain"]).sum()
        entropy = entropy / jnp.maximum(batch["brain"].sum(), 1.0)
        probability = jax.nn.sigmoid(logits) * batch["brain"]
        dice = (2.0 * (probability * wanted).sum() + DICE_SMOOTHING) / (
            probability.sum() + wanted.sum() + DICE_SMOOTHING
        )
        return entropy + 0.5 * (1.0 - dice), {"judge": entropy, "judge_dice": dice}, renewed

    def judge_probability(
        self, judge: Variables, shown: Float[Array, "b h w"], batch: Batch, usual: Float[Array, "b h w"]
    ) -> Float[Array, "b h w"]:
        """How sure the judge is that a pixel is foreign: mean of what it says of the slice and of its mirror image.

        `shown` are the batch's slices on the tissue scale.
        """
        tissue = shown * batch["brain"]
        # Both in one batch: the network is compiled once. Stacked and reshaped, for ONNX export cannot yet tell how
        # many rows a concatenation along a batch of any size has.
        both, usual = (jnp.stack([x, x[:, ::-1]]).reshape(-1, *x.shape[1:]) for x in (tissue, usual))
        layers = Trained(judge, jnp.dtype(self.compute_dtype))
        features = _features(both, usual).astype(self.compute_dtype)
        logits = u_net(layers, features, self.maps, self.blocks, PATCH)
        straight, mirrored = jax.nn.sigmoid(logits).reshape(2, *tissue.shape)
        return 0.5 * (straight + mirrored[:, ::-1]) * batch["brain"]

    def weighed(
        self,
        residual: Float[Array, "b h w"],
        probability: Float[Array, "b h w"],
        batch: Batch,
        usual: Float[Array, "b h w"],
    ) -> Float[Array, "b h w"]:
        """The residual, brightened and scaled, times the judge's probability; ≥ 0, 0 outside the brain."""
        if self.brighter:
            above = jnp.minimum(tissue_scale(batch["images"]), 3.0) - usual
            residual = residual + self.brighter * jnp.maximum(above, 0.0)
        if self.residual_scale:
            residual = jnp.minimum(residual / self.residual_scale, 1.0)
        return residual * probability

    def optimizer(self, default: "optax.GradientTransformation") -> "optax.GradientTransformation":
        """The config's own."""
        return default

    @property
    def _judge(self) -> "Judge":
        from strega_jax.detectors.judge_network import Judge

        return Judge(self.maps, self.blocks, PATCH, jnp.dtype(self.compute_dtype))


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
