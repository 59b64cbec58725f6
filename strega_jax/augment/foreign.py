"""Foreign tissue planted in healthy slices, and healthy slices as other scanners might show them; on device.

Both work on the tissue scale: 1 is CSF, 2 GM, 3 WM, and beyond 3 lies what is farther from GM than WM is. A planted
anomaly is made of noise alone: no patient and no real lesion has a part in it (self-supervision by foreign patches,
Tan et al. 2020; by planted anomalies, Zavrtanik et al. 2021).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from strega_jax.fields import Probability, Rule, check_fields

Drawn = TypeVar("Drawn")
LOWEST, HIGHEST = 0.05, 6.0  # of the tissue scale inside the brain
# Points a side of the noise behind a lesion's outline (coarse, fine) and its texture (coarse, fine).
OUTLINE_POINTS, TEXTURE_POINTS = (8, 24), (16, 40)
# Of uneven fields alike in both hemispheres, of those that are not, of bright vessels, and of noise (coarse, fine).
FIELD_POINTS, UNEVEN_POINTS, VESSEL_POINTS, NOISE_POINTS = 4, 3, 40, (48, 96)
# How much depth the tissue's resistance adds in an infiltrating anomaly: range of the factor.
INFILTRATION = (0.2, 1.0)
TRACE = 0.25  # mean change on the tissue scale, about a pixel, below which nothing was planted
# The tissue scale's knots, and how far each may be moved when contrast is changed.
KNOTS = np.array([0.0, 1.0, 2.0, 3.0, 4.5, 6.0], np.float32)
KNOT_SHIFTS = np.array([0.3, 0.3, 0.45, 0.35, 0.6, 0.0], np.float32)
BLUR_REACH = 4  # pixels
_RADIUS = Rule("low, high with 0 < low ≤ high ≤ 1", lambda of: 0 < of[0] <= of[1] <= 1)


@dataclasses.dataclass(frozen=True)
class Planting:
    """How often and how large anomalies are planted."""

    probability: Probability = 0.7  # of a slice to get one
    # range, as a share of the slice's longer side; even in its logarithm
    radius: Annotated[tuple[float, float], _RADIUS] = (0.03, 0.3)
    infiltrating: Probability = 0.4  # of one to grow along white matter and to spare grey matter and CSF

    def __post_init__(self) -> None:
        check_fields(self, "planting")


class _Draws:
    """Random numbers of a batch, from two calls: each call of jax.random costs half a second of compilation.

    Attributes:
        numbers: how many were asked for.
        points: of the fields asked for.
    """

    def __init__(
        self, shape: tuple[int, ...], uniform: Float[Array, "n b 1 1"] | None, normal: Float[Array, "b m"] | None
    ) -> None:
        self.numbers, self.points = 0, list[int]()
        self._shape, self._uniform, self._normal = shape, uniform, normal

    def between(self, low: float, high: float) -> Float[Array, "b 1 1"]:
        """Uniform numbers, one a slice."""
        return low + (high - low) * self._number()

    def chance(self, probability: float) -> Bool[Array, "b 1 1"]:
        """True with this probability, slice by slice."""
        return self._number() < probability

    def switch(self, probability: float) -> Float[Array, "b 1 1"]:
        """1 with this probability, else 0, slice by slice."""
        return self.chance(probability).astype(jnp.float32)

    def field(self, points: int) -> Float[Array, "b h w"]:
        """A smooth Gaussian field of about unit variance, from noise of so many points a side."""
        first = sum(side**2 for side in self.points)
        self.points.append(points)
        normal = (
            jnp.zeros((self._shape[0], points**2)) if self._normal is None else self._normal[:, first:][:, : points**2]
        )
        field = jax.image.resize(normal.reshape(-1, points, points), self._shape, "cubic")
        return field / (jnp.sqrt(jnp.square(field).mean((1, 2), keepdims=True)) + 1e-6)

    def _number(self) -> Float[Array, "b 1 1"]:
        self.numbers += 1
        return jnp.zeros((self._shape[0], 1, 1)) if self._uniform is None else self._uniform[self.numbers - 1]


def _with_draws(key: PRNGKeyArray, shape: tuple[int, ...], work: Callable[[_Draws], Drawn]) -> Drawn:
    """What `work` makes of random numbers; how many it takes is found by a trial without any."""
    trial = _Draws(shape, None, None)
    jax.eval_shape(lambda: work(trial))
    uniform_key, normal_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, (trial.numbers, shape[0], 1, 1))
    normal = jax.random.normal(normal_key, (shape[0], sum(side**2 for side in trial.points)))
    return work(_Draws(shape, uniform, normal))


def plant(
    key: PRNGKeyArray, tissue: Float[Array, "b h w"], brain: Bool[Array, "b h w"], settings: Planting
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Plant an anomaly, by chance, in each slice of a batch.

    Its outline is an ellipse disturbed by noise, and by the tissue where it is infiltrating; inside are a core, a rim
    and a surrounding zone, any of which may be missing, each of one random tissue value and a common texture. The
    surrounding zone may only lower values, as oedema does in white matter, or only raise them.

    Args:
        key: governs all.
        tissue: slices on the tissue scale.
        brain: where they are brain; nothing is planted elsewhere.
        settings: how often and how large.

    Returns:
        The slices, and where they were changed visibly.
    """
    return _with_draws(key, tissue.shape, lambda draws: _plant(draws, tissue, brain, settings))


def _plant(
    draws: _Draws, tissue: Float[Array, "b h w"], brain: Bool[Array, "b h w"], settings: Planting
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    longer = max(tissue.shape[1:])
    radius = jnp.exp(draws.between(*(math.log(share * longer) for share in settings.radius)))
    strength = draws.between(*INFILTRATION) * draws.switch(settings.infiltrating)
    depth = _depth(draws, brain, radius) + strength * _resistance(draws, tissue, brain)
    # Between depths 0 and `core`, `core` and `rim`, `rim` and 1.
    core = draws.between(0.15, 0.8) * draws.switch(0.6)
    rim = jnp.where(draws.chance(0.65), core + (1.0 - core) * draws.between(0.15, 1.0), core)
    rim = jnp.where(draws.chance(0.35), 1.0, rim)
    core_value, dark_value = draws.between(0.3, 2.6), draws.between(0.3, 2.4)
    rim_value = jnp.where(draws.chance(0.3), dark_value, draws.between(3.0, HIGHEST))
    around = draws.between(0.8, 2.6)
    around = jnp.where(draws.chance(0.7), jnp.minimum(tissue, around), around)
    around = jnp.where(draws.chance(0.25), jnp.maximum(tissue, draws.between(3.0, 5.0)), around)
    beyond_core = jax.nn.sigmoid((depth - core) * radius * 1.5)
    beyond_rim = jax.nn.sigmoid((depth - rim) * radius * 1.5)
    value = (1.0 - beyond_core) * core_value + beyond_core * (1.0 - beyond_rim) * rim_value
    value = value + beyond_core * beyond_rim * around
    value = value + draws.between(0.0, 0.6) * (draws.field(TEXTURE_POINTS[0]) + 0.7 * draws.field(TEXTURE_POINTS[1]))
    share = jax.nn.sigmoid((1.0 - depth) * radius * draws.between(0.3, 2.0)) * draws.between(0.5, 1.0)
    share = jnp.where(brain & draws.chance(settings.probability), share, 0.0)
    planted = tissue + share * (jnp.clip(value, LOWEST, HIGHEST) - tissue)
    inside = (depth < 1.0) & brain & (share > 0)
    change = _blur(jnp.where(inside, jnp.abs(planted - tissue), 0.0), jnp.full_like(radius, 1.5))
    return planted, inside & (change > TRACE)


def _depth(draws: _Draws, brain: Bool[Array, "b h w"], radius: Float[Array, "b 1 1"]) -> Float[Array, "b h w"]:
    """0 at the centre of an anomaly, a random brain pixel; 1 on its outline."""
    count, h, w = brain.shape
    order = jnp.cumsum(brain.reshape(count, h * w), axis=1, dtype=jnp.int32)
    wanted = (draws.between(0.0, 1.0)[:, :, 0] * order[:, -1:].astype(jnp.float32)).astype(jnp.int32)
    centre = (order <= wanted).sum(axis=1, dtype=jnp.int32)[:, None, None]
    rows = jnp.arange(h, dtype=jnp.int32)[None, :, None] - centre // w
    columns = jnp.arange(w, dtype=jnp.int32)[None, None, :] - centre % w
    rows, columns = rows.astype(jnp.float32), columns.astype(jnp.float32)
    angle, longer = draws.between(0.0, math.pi), draws.between(0.6, 1.0)
    along = rows * jnp.cos(angle) + columns * jnp.sin(angle)
    across = columns * jnp.cos(angle) - rows * jnp.sin(angle)
    rough = jnp.exp(draws.between(math.log(0.05), math.log(0.5)))
    ellipse = jnp.sqrt(jnp.square(along / longer) + jnp.square(across * longer)) / radius
    return ellipse + rough * (draws.field(OUTLINE_POINTS[0]) + 0.5 * draws.field(OUTLINE_POINTS[1]))


def _resistance(draws: _Draws, tissue: Float[Array, "b h w"], brain: Bool[Array, "b h w"]) -> Float[Array, "b h w"]:
    """What infiltrating anomalies meet: 0 halfway between GM and WM, less in white matter, more in GM and CSF."""
    inside = brain.astype(jnp.float32)
    sigma = draws.between(0.7, 1.6)
    soft = _blur(tissue, sigma) / jnp.maximum(_blur(inside, sigma), 0.3)
    return jnp.clip(2.5 - soft, -0.5, 1.5)


def vary(key: PRNGKeyArray, tissue: Float[Array, "b h w"], brain: Bool[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Slices as another scanner, contrast or segmentation might have shown them; anomalies stay anomalies.

    In this order, each by chance: contrast bent; white matter or fluid drawn towards grey matter; uneven fields,
    alike in both hemispheres or not; blur; noise; bright vessels where CSF or cortex is; nothing told apart beyond
    white matter. 0 outside the brain.
    """
    return _with_draws(key, tissue.shape, lambda draws: _vary(draws, tissue, brain))


def _vary(draws: _Draws, tissue: Float[Array, "b h w"], brain: Bool[Array, "b h w"]) -> Float[Array, "b h w"]:
    moved = jnp.concatenate([draws.between(-1.0, 1.0)[:, 0] for _ in KNOTS], axis=1) * jnp.asarray(KNOT_SHIFTS)[None]
    bent = jnp.asarray(KNOTS)[None] + moved * draws.switch(0.7)[:, 0]
    x = jax.vmap(lambda image, values: jnp.interp(image, jnp.asarray(KNOTS), values))(tissue, bent)
    white, fluid = draws.between(0.1, 1.0), draws.between(0.3, 1.0)
    x = jnp.where(draws.chance(0.25) & (x > 2.0) & (x < 3.0), 2.0 + (x - 2.0) * white, x)
    x = jnp.where(draws.chance(0.25) & (x < 2.0), 2.0 + (x - 2.0) * fluid, x)
    alike = draws.field(FIELD_POINTS)
    alike = (alike + alike[:, ::-1]) * math.sqrt(0.5)
    x = x + draws.between(0.0, 0.7) * draws.switch(0.6) * alike
    x = x + draws.between(0.0, 0.35) * draws.switch(0.6) * draws.field(UNEVEN_POINTS)
    inside = brain.astype(jnp.float32)
    sigma = draws.between(0.3, 1.6)
    blurred = _blur(x * inside, sigma) / jnp.maximum(_blur(inside, sigma), 0.3)
    x = jnp.where(draws.chance(0.5), blurred, x)
    noise = draws.between(0.0, 0.35) * draws.switch(0.6)
    x = x + noise * (0.5 * draws.field(NOISE_POINTS[0]) + 0.6 * draws.field(NOISE_POINTS[1]))
    vessels = draws.field(VESSEL_POINTS)
    vessels = jnp.where(draws.chance(0.5), (vessels + vessels[:, ::-1]) * math.sqrt(0.5), vessels)
    spots = jnp.where(x < 2.4, jax.nn.sigmoid((vessels - draws.between(1.6, 2.6)) * 6.0), 0.0)
    x = x + spots * draws.between(0.5, 4.0) * draws.switch(0.6)
    x = jnp.where(draws.chance(0.3), jnp.minimum(x, 3.0), x)
    return jnp.where(brain, jnp.clip(x, LOWEST, HIGHEST), 0.0)


def _blur(images: Float[Array, "b h w"], sigma: Float[Array, "b 1 1"]) -> Float[Array, "b h w"]:
    """Gaussian filter within the slice, a sigma a slice (pixels), zero beyond the border."""
    offsets = jnp.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=jnp.float32)
    taps = jnp.exp(-0.5 * jnp.square(offsets[None] / sigma[:, :, 0]))
    taps = taps / taps.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        length = images.shape[axis]
        padding = [(BLUR_REACH, BLUR_REACH) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(images, padding)
        shifted = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(taps.shape[1])]
        images = sum((taps[:, i, None, None] * part for i, part in enumerate(shifted)), start=jnp.zeros_like(images))
    return images
