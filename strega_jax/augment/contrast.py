"""Brain intensities as another contrast might show them; on device.

A judge of intensities is to find what is foreign in contrasts that it was never shown (SynthSeg, Billot et al. 2023,
draws a contrast a tissue class for that; here the whole scale of a real scan is bent, so that its texture stays).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

# Of the scale that `slices.preprocess.brain_scaled` makes: the brain's dark end at 0.1, its bright end at 0.9.
KNOTS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 2.0], np.float32)
LOWEST, HIGHEST = 0.02, 2.0
AS_IT_IS, MOVED = 0.4, 0.4  # of the slices; of the rest a half is turned round, a half has any contrast
SHIFT = 0.12  # of each knot, at most
INVERTED = 1.25, 0.9  # this minus so much of the intensity: dark becomes bright
ANY = 0.03, 1.2  # range of each knot of any contrast
BRIGHTNESS = 0.15  # of the whole slice, at most, as a share


def random_contrast(
    key: PRNGKeyArray, intensity: Float[Array, "b h w"], brain: Bool[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """Slices whose intensities are led through a random curve each; 0 outside the brain.

    The curve is linear between knots: the intensities themselves, slightly moved, turned round, or any.
    """
    count, knots = len(intensity), jnp.asarray(KNOTS)[None]
    uniform = jax.random.uniform(key, (count, 2 * len(KNOTS) + 3))
    kind, half, brightness, first, second = jnp.split(uniform, (1, 2, 3, 3 + len(KNOTS)), axis=1)
    shift = SHIFT * (2.0 * first - 1.0)
    low, high = ANY
    bright, slope = INVERTED
    other = jnp.where(half < 0.5, low + (high - low) * second, bright - slope * knots + shift)
    values = jnp.where(kind < AS_IT_IS, knots, jnp.where(kind < AS_IT_IS + MOVED, knots + shift, other))
    bent = jax.vmap(lambda image, to: jnp.interp(image, jnp.asarray(KNOTS), to))(intensity, values)
    scaled = bent * (1.0 + BRIGHTNESS * (2.0 * brightness[:, :, None] - 1.0))
    return jnp.where(brain, jnp.clip(scaled, LOWEST, HIGHEST), 0.0)
