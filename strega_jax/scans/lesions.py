"""Lesions of known size, contrast and texture, planted in healthy brains."""

import heapq

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.errors import ConfigError

IRREGULARITY = 0.35  # SD of the boundary's radius, as a share of the radius
BORDER_MM = 2.0  # over this depth from its border a lesion mixes with the tissue around it
RIND_MM = 4.0  # lesions keep this far from the brain's surface
TEXTURE_MM = 3.0  # grain of the texture
SPOTS = 12  # small lesions in one brain
SPOT_ML = (0.05, 1.0)  # their volumes, uniform on a log scale
SPOT_CONTRAST = (0.5, 1.0)  # their contrasts, as shares of what is asked for
_NEIGHBOURS = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])


def plant_lesion(
    volume: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    volume_ml: float = 20.0,
    contrast: float = -0.6,
    texture: float = 0.2,
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Add one connected lesion with an irregular smooth boundary, deep in the brain.

    Inside the lesion `contrast` × (the brain's 2nd–98th percentile range) is added to the intensity, and the sum is
    held between those percentiles: with -0.6 on a T1w scan white and grey matter become as dark as CSF, with +0.6 on
    a T2w scan as bright as CSF, which is how oedema and necrosis move a voxel to another tissue class. Towards its
    border the lesion mixes with its surroundings. Outside of it nothing changes.

    Args:
        volume: intensities, float32.
        brain: True inside the brain.
        spacing_mm: voxel edge lengths.
        rng: source of place, shape and texture; two equal generators give two equal lesions.
        volume_ml: size of the lesion, met to one voxel.
        contrast: signed, in units of the brain's intensity range.
        texture: SD of the contrast inside the lesion, as a share of it.

    Returns:
        The changed volume (float32, a copy) and the lesion's mask.

    Raises:
        ConfigError: a lesion smaller than a voxel or larger than its brain has room for.
    """
    spacing = np.asarray(spacing_mm, float)
    voxels = round(volume_ml * 1000.0 / spacing.prod())
    box = ndimage.find_objects(brain.astype(np.uint8))[0] if brain.any() else (slice(0),) * 3
    image, inside = volume[box], np.pad(brain[box], 1)
    depth = _depth(inside, spacing)[1:-1, 1:-1, 1:-1]
    room = depth > RIND_MM
    if not 1 <= voxels <= room.sum() // 2:
        most = room.sum() // 2 * spacing.prod() / 1000
        raise ConfigError(f"a lesion of {volume_ml} ml does not fit: this brain has room for up to {most:.0f} ml")
    low, high = np.percentile(volume[brain], (2, 98))
    change = contrast * (high - low)
    yields = _share_of_change(ndimage.gaussian_filter(image, 4.0 / spacing), change, low, high)
    centre = _centre(depth, room, yields, voxels * spacing.prod(), rng)
    lesion = _grow(centre, room, yields, voxels, spacing, rng)
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, np.float32), TEXTURE_MM / spacing / 2)
    strength = (_depth(lesion, spacing) / BORDER_MM).clip(0.5, 1.0) * (1 + texture * grain / grain.std()).clip(0)
    if change < 0:
        changed = np.maximum(image + change * strength, np.minimum(image, low))
    else:
        changed = np.minimum(image + change * strength, np.maximum(image, high))
    result, mask = volume.astype(np.float32), np.zeros(volume.shape, bool)
    mask[box] = lesion
    result[mask] = changed[lesion]
    return result, mask


def plant_spots(
    volume: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    contrast: float = -0.6,
    texture: float = 0.2,
) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Add `SPOTS` lesions of 0.05 to 1 ml, as `plant_lesion` makes them; each has half to all of the contrast.

    Args and errors are those of `plant_lesion`. Lesions may touch. Voxels of over 0.05 ml make a voxel a lesion.

    Returns:
        The changed volume (float32, a copy) and the mask of all lesions.
    """
    result, mask = volume, np.zeros(volume.shape, bool)
    smallest = float(np.prod(spacing_mm)) / 1000
    for _ in range(SPOTS):
        ml = max(float(np.exp(rng.uniform(*np.log(SPOT_ML)))), smallest)
        own = contrast * rng.uniform(*SPOT_CONTRAST)
        result, lesion = plant_lesion(result, brain, spacing_mm, rng, volume_ml=ml, contrast=own, texture=texture)
        mask |= lesion
    return result, mask


def _depth(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance to the nearest voxel outside the mask in millimetres."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=tuple(spacing)))


def _share_of_change(volume: np.ndarray, change: float, low: float, high: float) -> np.ndarray:
    """How much of the wanted change a voxel can take before it meets the end of the brain's range; 0 to 1."""
    if change == 0:
        return np.ones_like(volume)
    room = volume - low if change < 0 else high - volume
    return (room / abs(change)).clip(0, 1)


def _centre(
    depth: np.ndarray, room: np.ndarray, yields: np.ndarray, volume_mm3: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """A voxel that lies deep enough for the lesion's radius (or as deep as brains are), in tissue it can change."""
    radius = (0.75 * volume_mm3 / np.pi) ** (1 / 3)
    candidates = room & (depth >= min(radius + RIND_MM, 0.5 * depth.max()))
    candidates &= yields >= np.median(yields[candidates])
    places = np.argwhere(candidates)
    return tuple(int(n) for n in places[rng.integers(len(places))])


def _grow(
    centre: tuple[int, ...],
    room: np.ndarray,
    yields: np.ndarray,
    voxels: int,
    spacing: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Grow from the centre to exactly `voxels` voxels, always by the neighbour of least cost.

    The cost is the distance, bent by smooth noise (an irregular border) and raised where the tissue cannot change,
    as tumours push ventricles aside rather than fill them.
    """
    radius = (0.75 * voxels * spacing.prod() / np.pi) ** (1 / 3)
    offsets = np.indices(room.shape) - np.reshape(centre, (3, 1, 1, 1))
    distance = np.sqrt(((offsets * spacing[:, None, None, None]) ** 2).sum(0))
    bend = ndimage.gaussian_filter(rng.standard_normal(room.shape, np.float32), radius / 2.5 / spacing)
    cost = distance * np.exp(IRREGULARITY * bend / bend.std()) * (3 - 2 * yields)
    mask = np.zeros(room.shape, bool)
    seen = ~room
    seen[centre] = True
    border = [(0.0, centre)]
    for _ in range(voxels):
        if not border:
            raise ConfigError(f"a lesion of {voxels} voxels does not fit into the part of the brain around {centre}")
        _, voxel = heapq.heappop(border)
        mask[voxel] = True
        for step in _NEIGHBOURS:
            near = (voxel[0] + int(step[0]), voxel[1] + int(step[1]), voxel[2] + int(step[2]))
            within = all(0 <= n < end for n, end in zip(near, seen.shape, strict=True))  # a brain may fill its box
            if within and not seen[near]:
                seen[near] = True
                heapq.heappush(border, (float(cost[near]), near))
    return mask
