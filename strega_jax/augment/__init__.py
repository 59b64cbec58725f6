"""Random MR augmentations and context-encoding masks, on the device, inside the train step's program."""

from strega_jax.augment.chain import augment
from strega_jax.augment.context import ContextEncoding, context_mask

__all__ = ["ContextEncoding", "augment", "context_mask"]
