"""A tissue class of the tissue map taken as the anomaly (paper, sec. 4.2, does so with CSF). Nothing is trained."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from strega_jax.detectors.base import Aux, Batch, Variables

CLASSES = ("CSF", "GM", "WM")


@dataclasses.dataclass(frozen=True)
class TissueClass:
    """Hyperparameters, and the `Detector` made of them. The slices must be prepared with `normalise="unit"`."""

    tissue: Literal["CSF", "GM", "WM"] = "CSF"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of every detector; here there is nothing to compute in

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, int, int]) -> Variables:
        """Nothing: no parameters."""
        return {"params": {}}

    def loss(self, variables: Variables, batch: Batch, key: PRNGKeyArray, step: Array) -> tuple[Float[Array, ""], Aux]:
        """The class's share of the brain, which is what a healthy brain is marked with."""
        brain = batch["brain"]
        return self.score(variables, batch, key).sum() / jnp.maximum(brain.sum(), 1.0), Aux({}, {})

    def reconstruct(self, variables: Variables, batch: Batch) -> Float[Array, "b h w c"]:
        """The image as it is: the method expects nothing else."""
        return batch["images"]

    def score(self, variables: Variables, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b h w"]:
        """The class's fraction, whatever channels follow; of a label map (label / 3, one channel), 1 where its label is
        the nearest, else 0."""
        index, images = CLASSES.index(self.tissue), batch["images"]
        if images.shape[-1] >= len(CLASSES):
            return jax.nn.relu(images[..., index]) * batch["brain"]
        nearest = jnp.round(images[..., 0] * 3) == index + 1
        return nearest.astype(jnp.float32) * batch["brain"]

    def optimizer(self, default: optax.GradientTransformation) -> optax.GradientTransformation:
        """The config's own, with nothing to move."""
        return default


DETECTOR = TissueClass
