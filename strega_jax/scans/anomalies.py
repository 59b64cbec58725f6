"""Local anomalies in the manner of the MOOD challenge: a region is shifted, mirrored, deformed, noised or recoloured.

Unlike `lesions.plant_lesion` they look like no disease: they ask whether a detector finds what it has never seen.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.errors import ConfigError

RADIUS_MM = (8.0, 25.0)
Patch = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def local_anomaly(
    volume: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    kind: str,
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Change a random ball inside the brain in the way that `kind`, a key of `ANOMALIES`, names.

    Returns:
        The changed volume (float32, a copy) and the mask of the voxels whose intensity changed.

    Raises:
        ConfigError: unknown kind, or a brain too small to hold a ball.
    """
    if kind not in ANOMALIES:
        raise ConfigError(f"unknown local anomaly {kind!r}; known: {', '.join(ANOMALIES)}")
    spacing = np.asarray(spacing_mm, float)
    depth = np.asarray(ndimage.distance_transform_edt(brain, sampling=tuple(spacing)))
    if depth.max() < RADIUS_MM[0]:
        raise ConfigError(f"the brain is only {2 * depth.max():.0f} mm thick; there is no room for an anomaly")
    radius = rng.uniform(RADIUS_MM[0], min(RADIUS_MM[1], depth.max()))
    places = np.argwhere(depth >= 0.75 * radius)
    centre = places[rng.integers(len(places))]
    offset = (np.indices(volume.shape, np.float32) - centre[:, None, None, None]) * spacing[:, None, None, None]
    share = np.sqrt((offset**2).sum(0)) / radius
    ball = brain & (share < 1)
    # Work on the ball's box alone, with room around it for what moves in.
    margin = np.ceil(radius / spacing).astype(int)
    ends = ndimage.find_objects(ball.astype(np.uint8))[0]
    box = tuple(slice(max(0, end.start - m), end.stop + m) for end, m in zip(ends, margin, strict=True))
    values = np.where(brain, volume, np.median(volume[brain]))[box].astype(np.float32)
    changed = ANOMALIES[kind](values, share[box], offset[(slice(None), *box)] / spacing[:, None, None, None], rng)
    result = volume.astype(np.float32)
    low = volume[brain].min()
    result[box][ball[box]] = changed[ball[box]].clip(low)
    return result, result != volume


def _sample(values: np.ndarray, offset: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """The image seen where every voxel's offset from the ball's centre is multiplied by `scale`."""
    where = np.indices(values.shape, np.float32) + offset * (scale - 1)
    return ndimage.map_coordinates(values, where.astype(np.float32), order=1, mode="nearest")


def _range(values: np.ndarray) -> float:
    low, high = np.percentile(values, (2, 98))
    return float(high - low)


def _bulge(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tissue pushed outwards from the centre."""
    return _sample(values, offset, share.clip(0, 1) ** rng.uniform(0.6, 1.2))


def _pinch(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tissue drawn in towards the centre."""
    return _sample(values, offset, 1 + rng.uniform(0.6, 1.0) * (1 - share.clip(0, 1)))


def _mirror(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ball reflected along one axis."""
    signs = np.ones((3, 1, 1, 1))
    signs[rng.integers(3)] = -1
    return _sample(values, offset, signs)


def _shift(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ball replaced by what lies beside it, half a radius to one radius away."""
    direction = rng.normal(size=3)
    reach = np.abs(offset[:, share < 1]).max(1) * rng.uniform(0.5, 1.0) * direction / np.abs(direction).max()
    where = np.indices(values.shape, np.float32) + reach[:, None, None, None]
    return ndimage.map_coordinates(values, where.astype(np.float32), order=1, mode="nearest")


def _recolour(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One constant added, of either sign."""
    return values + rng.choice([-1, 1]) * rng.uniform(0.25, 0.6) * (
        np.percentile(values, 98) - np.percentile(values, 2)
    )


def _noise(values: np.ndarray, share: np.ndarray, offset: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise added, of a tenth to a third of the intensity range."""
    return values + rng.uniform(0.1, 0.3) * _range(values) * rng.standard_normal(values.shape, np.float32)


ANOMALIES: dict[str, Patch] = {
    "bulge": _bulge,
    "pinch": _pinch,
    "mirror": _mirror,
    "shift": _shift,
    "recolour": _recolour,
    "noise": _noise,
}
