"""The whole chain on a batch, in the order of `strega_jax.config.Augment`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from strega_jax.augment.bias_field import BiasField, bias_field, sample_bias_field
from strega_jax.augment.gamma import Gamma, gamma, sample_gamma
from strega_jax.augment.ghosting import Ghosting, ghosting, sample_ghosting
from strega_jax.augment.noise import Noise, noise, sample_noise
from strega_jax.augment.spatial import Affine, Flip, pick, sample_affine, sample_flip, source_index
from strega_jax.config import Augment


class Sampled(NamedTuple):
    """What was drawn for each image; None where a transform is switched off."""

    bias_field: BiasField | None
    noise: Noise | None
    gamma: Gamma | None
    ghosting: Ghosting | None
    flip: Flip | None
    affine: Affine | None
    rotation: Affine | None


def sample(key: PRNGKeyArray, channels: int, settings: Augment) -> Sampled:
    """Draw the parameters of every transform whose probability is above 0, for one image.

    All in one call, because each call of jax.random adds half a second to compilation; a transform's draw stays
    the same if another one is switched on or off.
    """
    sizes = {
        "seed": 2,
        "bias": 11,
        "noise": 2,
        "ghosting": 4,
        "flip": 2,
        "affine": 4,
        "rotation": 4,
        "gamma": 1 + channels,
    }
    bits = jax.random.bits(key, (sum(sizes.values()),))
    uniform = (bits >> np.uint32(8)).astype(jnp.float32) * np.float32(2**-24)
    starts = np.cumsum([0, *sizes.values()])
    u = {name: uniform[start : start + size] for (name, size), start in zip(sizes.items(), starts, strict=False)}
    s = settings
    flips = s.flip_left_right > 0 or s.flip_front_back > 0
    return Sampled(
        sample_bias_field(u["bias"], s.bias_field, s.bias_coefficient) if s.bias_field > 0 else None,
        sample_noise(u["noise"], bits[:2], s.noise, s.noise_std) if s.noise > 0 else None,
        sample_gamma(u["gamma"], s.gamma, s.log_gamma) if s.gamma > 0 else None,
        sample_ghosting(u["ghosting"], s.ghosting, s.ghosts, s.ghost_intensity) if s.ghosting > 0 else None,
        sample_flip(u["flip"], s.flip_left_right, s.flip_front_back) if flips else None,
        sample_affine(u["affine"], s.affine, s.affine_degrees, s.affine_scale) if s.affine > 0 else None,
        sample_affine(u["rotation"], s.rotation, s.rotation_degrees) if s.rotation > 0 else None,
    )


def change_intensity(image: Float[Array, "c h w"], sampled: Sampled) -> Float[Array, "c h w"]:
    """Bias field, noise, gamma and ghosting, in this order."""
    if sampled.bias_field is not None:
        image = bias_field(image, sampled.bias_field)
    if sampled.noise is not None:
        image = noise(image, sampled.noise)
    if sampled.gamma is not None:
        image = gamma(image, sampled.gamma)
    if sampled.ghosting is not None:
        image = ghosting(image, sampled.ghosting)
    return image


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    brain: Shaped[Array, "b h w"],
    settings: Augment,
    *,
    lesions: Shaped[Array, "b h w"] | None = None,
) -> tuple[Array, ...]:
    """Transform each image of a batch at random; masks follow the spatial transforms.

    Every image has its own draws, which depend on `key`, the size of the batch and the place in it alone. What
    comes from outside the image gets the minimum of the image's channel, and 0 in masks. `settings` are static
    under jit: a transform with probability 0 is not in the program at all.

    Returns (images, brain), or (images, brain, lesions) if lesions are given, with shapes and dtypes kept.
    """
    masks = (brain,) if lesions is None else (brain, lesions)

    def one(key: PRNGKeyArray, image: Array, masks: tuple[Array, ...]) -> tuple[Array, ...]:
        sampled = sample(key, image.shape[0], settings)
        image = change_intensity(image, sampled)
        spatial = [t for t in (sampled.flip, sampled.affine, sampled.rotation) if t is not None]
        if not spatial:
            return image, *masks
        index = source_index(image.shape[1], image.shape[2], *spatial)
        follow = (pick(mask[None], index, jnp.zeros(1, mask.dtype))[0] for mask in masks)
        return pick(image, index, image.min((1, 2))), *follow

    # channels first inside: a last axis of one or three values keeps XLA's CPU compiler from vectorising
    planes = jnp.moveaxis(images, -1, 1)
    planes, *masks = jax.vmap(one)(jax.random.split(key, images.shape[0]), planes, masks)
    return jnp.moveaxis(planes, 1, -1), *masks
