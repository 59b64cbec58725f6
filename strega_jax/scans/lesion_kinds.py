"""Kinds of planted lesion: one dark blob, a tumour with cavity, rim and oedema, plaques, a tumour of both hemispheres.

They are made in the volume's own intensities and share no code with the anomalies of training (`augment.foreign`), so
that a kind which a training leaves out says what its detector makes of what it was never shown. For images on which
lesions are darker than white matter the contrast is negative, on others positive.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.errors import ConfigError
from strega_jax.scans.anomalies import ANOMALIES, local_anomaly
from strega_jax.scans.lesions import RIND_MM, plant_lesion

PLAIN = "lesion"  # one dark or bright blob
VOLUMES_ML = (8.0, 40.0)  # of lesion and tumour, uniform on a log scale: clearly visible to a large tumour
BILATERAL_ML = (30.0, 90.0)  # of the two hemispheres together
PLAQUES, PLAQUE_ML = (8, 25), (0.1, 1.5)  # how many of multiple sclerosis, and how large; the largest are confluent
OEDEMA, RIM = 0.45, 0.6  # share of the tumour's depth down to which it is oedema, and from there down to which rim
Planted = tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]


class _Healthy(NamedTuple):
    """Where a lesion is planted; as the arguments of `plant_kind`."""

    volume: np.ndarray
    brain: np.ndarray
    spacing_mm: tuple[float, float, float]
    contrast: float


Planter = Callable[[_Healthy, np.random.Generator], Planted]


def plant_kind(
    kind: str,
    volume: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    contrast: float,
) -> Planted:
    """Plant one lesion of a kind, a name in `KINDS`.

    Args:
        kind: which.
        volume: intensities, float32, on the canonical grid: its first axis runs from side to side.
        brain: True inside the brain.
        spacing_mm: voxel edge lengths.
        rng: source of all chance; equal generators give equal lesions.
        contrast: of lesions, in units of the brain's 2nd–98th percentile range.

    Returns:
        The changed volume (float32, a copy) and the mask of what was changed.

    Raises:
        ConfigError: unknown kind, or a brain too small for it.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of planted lesion {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind](_Healthy(volume, brain, spacing_mm, contrast), rng)


def _lesion(healthy: _Healthy, rng: np.random.Generator) -> Planted:
    volume, brain, spacing, contrast = healthy
    volume_ml = float(np.exp(rng.uniform(*np.log(VOLUMES_ML))))
    return plant_lesion(volume, brain, spacing, rng, volume_ml=volume_ml, contrast=contrast)


def _tumour(healthy: _Healthy, rng: np.random.Generator) -> Planted:
    """A cavity, a rim as bright as the brightest tissue or brighter, and oedema in which anatomy is still seen."""
    volume, brain, spacing, contrast = healthy
    volume_ml = float(np.exp(rng.uniform(*np.log(VOLUMES_ML))))
    changed, mask = plant_lesion(
        volume, brain, spacing, rng, volume_ml=volume_ml, contrast=contrast * rng.uniform(0.3, 0.6)
    )
    depth = np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), np.float32)
    bend = _noise(mask.shape, 6.0, spacing, rng)
    depth = depth / depth.max() * (1 + 0.2 * bend)
    low, high = np.percentile(volume[brain], (2, 98))
    texture = 1 + 0.1 * _noise(mask.shape, 2.0, spacing, rng)
    bright = high + rng.uniform(0.0, 0.6) * (high - low)
    dark = low if contrast < 0 else high
    inner = mask & (depth > OEDEMA)
    changed[inner] = bright * texture[inner]
    inner = mask & (depth > RIM)
    changed[inner] = dark * texture[inner]
    return changed.astype(np.float32), mask


def _plaques(healthy: _Healthy, rng: np.random.Generator) -> Planted:
    """Many small ellipsoids in the tissue that is brightest on T1w, the deep half of the brain."""
    volume, brain, spacing, contrast = healthy
    depth = np.asarray(ndimage.distance_transform_edt(brain, sampling=spacing))
    smooth = ndimage.gaussian_filter(volume, 2.0 / np.asarray(spacing))
    deep = brain & (depth > 2 * RIND_MM)
    if not deep.any():
        raise ConfigError(f"plaques do not fit: no part of this brain is {2 * RIND_MM} mm below its surface")
    places = np.argwhere(deep & (smooth >= np.median(smooth[deep])))
    low, high = np.percentile(volume[brain], (2, 98))
    share = np.zeros(volume.shape, np.float32)
    for place in places[rng.integers(len(places), size=rng.integers(*PLAQUES))]:
        radius = (0.75 * 1000 * np.exp(rng.uniform(*np.log(PLAQUE_ML))) / np.pi) ** (1 / 3)
        axes = np.exp(rng.normal(0, 0.3, 3))
        axes /= axes.prod() ** (1 / 3)
        span = [
            _near(int(n), radius * 2.5 / mm, size) for n, mm, size in zip(place, spacing, volume.shape, strict=True)
        ]
        grid = np.meshgrid(*(np.arange(part.start, part.stop) for part in span), indexing="ij")
        offsets = [(g - n) * mm / (radius * a) for g, n, mm, a in zip(grid, place, spacing, axes, strict=True)]
        distance = np.sqrt(sum(np.square(offset) for offset in offsets))
        box = tuple(span)
        share[box] = np.maximum(share[box], np.clip(2 * (1.25 - distance), 0, 1) * rng.uniform(0.7, 1.0))
    mask = brain & (share >= 0.5)
    share[~mask] = 0
    return _shifted(volume, share, 0.8 * contrast * (high - low), low, high), mask


def _bilateral(healthy: _Healthy, rng: np.random.Generator) -> Planted:
    """One infiltrating tumour in each hemisphere, joined or not: the same outline in both, weaker in one."""
    volume, brain, spacing, contrast = healthy
    volume_ml = float(np.exp(rng.uniform(*np.log(BILATERAL_ML)))) / 2
    _, one = plant_lesion(volume, brain, spacing, rng, volume_ml=volume_ml, contrast=contrast)
    ends = ndimage.find_objects(brain.astype(np.uint8))[0][0]
    other = np.zeros_like(one)
    other[ends] = one[ends][::-1]
    noise = _noise(brain.shape, 8.0, spacing, rng)
    mask = brain & (one | (other & (noise < 1.0)))
    low, high = np.percentile(volume[brain], (2, 98))
    grain = 1 + 0.3 * _noise(brain.shape, 3.0, spacing, rng)
    strength = np.where(one, 1.0, rng.uniform(0.6, 1.0)) * grain.clip(0.3, 1.7) * mask
    strength = ndimage.gaussian_filter(strength, 1.0 / np.asarray(spacing)) * mask
    change = rng.uniform(0.4, 0.8) * contrast * (high - low)
    return _shifted(volume, strength.astype(np.float32), change, low, high), mask


def _shifted(volume: np.ndarray, share: np.ndarray, change: float, low: float, high: float) -> np.ndarray:
    """The volume with a share of a change added, as far as the brain's range goes."""
    changed = volume + share * change
    end = np.maximum(changed, np.minimum(volume, low)) if change < 0 else np.minimum(changed, np.maximum(volume, high))
    return np.where(share > 0, end, volume).astype(np.float32)


def _noise(
    shape: tuple[int, ...], mm: float, spacing: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Smooth noise of unit variance, with a grain of so many millimetres."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), mm / np.asarray(spacing) / 2)
    return noise / noise.std()


def _near(place: int, reach: float, size: int) -> slice:
    return slice(max(0, place - int(reach)), min(size, place + int(reach) + 2))


def _local(kind: str) -> Planter:
    return lambda healthy, rng: local_anomaly(healthy.volume, healthy.brain, healthy.spacing_mm, rng, kind=kind)


KINDS: dict[str, Planter] = {
    PLAIN: _lesion,
    "tumour": _tumour,
    "plaques": _plaques,
    "bilateral": _bilateral,
    **{kind: _local(kind) for kind in ANOMALIES},
}
