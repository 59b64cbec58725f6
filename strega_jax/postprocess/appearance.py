"""Detections bounded anew by what the scan shows: voxels near them that look like them join, others leave.

An anomaly map says where something does not fit, but its extent is that of a network's coarse view. The intensities of
the detections, and those of the rest of the same brain, are modelled by one Gaussian mixture each; a voxel near a
detection belongs to whichever explains it better, given how far it lies from the edge found before.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.boxes import bounding_box, within_reach
from strega_jax.postprocess.mask import components_with_seeds
from strega_jax.scans.holes import fill_holes

PASSES = 3  # of fitting the mixtures and deciding anew
SAMPLES = 8000  # voxels that a mixture is fitted to
INSIDE, OUTSIDE = 2, 4  # components of a detection's mixture (oedema, core), and of the brain's
STEPS = 30  # of expectation and maximisation
AT_ONCE = 2**14  # values whose density is taken at once, which the processor's cache holds
NOISE_MM, SMOOTH_MM = 0.6, 1.5  # Gaussian sigmas: of the intensities, and of the evidence
LARGEST_EVIDENCE = 6.0  # log ratio of one voxel
PRIOR = 3.0  # log odds at the distance `reach_mm` from the edge found before
VARIANCE_FLOOR = 1e-3  # of the brain's spread of intensities, 1


class Mixture(NamedTuple):
    """A Gaussian mixture: k components in d dimensions."""

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]


def refine_by_appearance(
    mask: Bool[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    reach_mm: float,
) -> Bool[np.ndarray, "x y z"]:
    """The detections with their extent decided by intensity.

    Args:
        mask: detections.
        images: intensities, one volume a contrast, all on this grid.
        brain: brain mask.
        spacing_mm: voxel edges.
        reach_mm: nothing changes farther than this outside the detections.

    Returns:
        Components that overlap the detections given, in the brain, without holes; those themselves where the
        intensities tell nothing.
    """
    if not mask.any() or (brain & ~mask).sum() < SAMPLES:
        return mask
    # Nothing beyond it counts, but what smoothing sees of it.
    whole = _box(mask | brain, spacing_mm, 2 * SMOOTH_MM)
    out = np.zeros_like(mask)
    out[whole] = _refined(mask[whole], [image[whole] for image in images], brain[whole], spacing_mm, reach_mm)
    return out


def _refined(
    mask: Bool[np.ndarray, "x y z"],
    images: Sequence[Float[np.ndarray, "x y z"]],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    reach_mm: float,
) -> Bool[np.ndarray, "x y z"]:
    box = _box(mask, spacing_mm, reach_mm)
    before, within = mask[box], brain[box]

    def surroundings() -> tuple[Float[np.ndarray, "i j k"], Bool[np.ndarray, "i j k"], Bool[np.ndarray, "x y z"]]:
        distance = _signed_distance(before, spacing_mm)
        near = within & (distance > -reach_mm)
        # What was missed of an anomaly must not count as the rest of the brain.
        far = brain.copy()
        far[box] &= ~near
        return distance, near, far if far.sum() >= SAMPLES else brain & ~mask

    def feature(image: Float[np.ndarray, "x y z"]) -> tuple[Float[np.ndarray, "i j k"], Float[np.ndarray, " n"]]:
        standardised = _standardised(image, brain, spacing_mm)
        return standardised[box].copy(), standardised[around.result()[2]]

    with ThreadPoolExecutor(2) as pool:  # NumPy and SciPy let go of the interpreter
        around = pool.submit(surroundings)
        features = list(pool.map(feature, images))
    distance, near, _ = around.result()
    image, outside = (np.stack(parts, axis=-1) for parts in zip(*features, strict=True))
    prior = np.clip(distance * (PRIOR / reach_mm), -PRIOR, PRIOR)
    sigma = [SMOOTH_MM / mm for mm in spacing_mm]
    found = before
    values = image[near]
    rest = log_density(fit_mixture(outside, OUTSIDE), values)
    for _ in range(PASSES):
        evidence = np.zeros(before.shape, np.float32)
        # The deeper half: what was marked too far out must not count as the anomaly.
        core = found & (distance >= np.median(distance[found]))
        ratio = log_density(fit_mixture(image[core], INSIDE), values) - rest
        evidence[near] = np.clip(ratio, -LARGEST_EVIDENCE, LARGEST_EVIDENCE)
        likely = ndimage.gaussian_filter(evidence, sigma) + prior > 0
        new = components_with_seeds(near & likely, before, connectivity=6)
        if new.sum() < OUTSIDE:
            break
        found = new
    out = np.zeros_like(mask)
    out[box] = fill_holes(found) & within
    return out


def _box(mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float], reach_mm: float) -> tuple[slice, ...]:
    """The mask's box and `reach_mm` around it, and as much as smoothing of what lies there sees."""
    inner = bounding_box(mask)
    assert inner is not None  # an empty mask comes back as it is
    return within_reach(inner, spacing_mm, reach_mm + 2 * SMOOTH_MM, mask.shape)


def _standardised(
    image: Float[np.ndarray, "x y z"],
    brain: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
) -> Float[np.ndarray, "x y z"]:
    """Log intensities, smoothed, in units of the brain's spread."""
    offset = min(0.0, float(image[brain].min()))
    # One volume, worked on in place: fine scans have large ones.
    log = np.subtract(image, offset, dtype=np.float32)
    np.maximum(log, 0, out=log)
    np.log1p(log, out=log)
    low, middle, high = np.percentile(log[brain], (10, 50, 90))
    scale = max(float(high - low), 1e-6)
    ndimage.gaussian_filter(log, [NOISE_MM / mm for mm in spacing_mm], output=log)
    log -= np.float32(middle)
    log /= np.float32(scale)
    return log


def _signed_distance(
    mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> Float[np.ndarray, "x y z"]:
    """Millimetres from the mask's edge, positive inside."""

    def within(side: Bool[np.ndarray, "i j k"]) -> Float[np.ndarray, "i j k"]:
        nearest: np.ndarray = ndimage.distance_transform_edt(  # pyright: ignore[reportAssignmentType]
            side, sampling=spacing_mm, return_distances=False, return_indices=True
        )
        along_y, along_z = np.ogrid[: side.shape[1], : side.shape[2]]
        distance = np.empty(side.shape, np.float32)
        for x in range(len(side)):  # all planes at once would take 24 bytes a voxel
            steps = [(n - at) * mm for n, at, mm in zip(nearest[:, x], (x, along_y, along_z), spacing_mm, strict=True)]
            distance[x] = np.sqrt(steps[0] ** 2 + steps[1] ** 2 + steps[2] ** 2)
        return distance

    with ThreadPoolExecutor(2) as pool:  # SciPy lets go of the interpreter
        inside, outside = pool.map(within, (mask, ~mask))
    return inside - outside


def fit_mixture(values: Float[np.ndarray, "n d"], components: int) -> Mixture:
    """A Gaussian mixture by expectation and maximisation, from evenly spaced values; nothing in it is random.

    It starts from equal groups along the first principal direction.
    """
    x = values[:: max(1, len(values) // SAMPLES)].astype(np.float64)
    centred = x - x.mean(axis=0)
    direction = np.linalg.svd(centred[:: max(1, len(x) // 2000)], full_matrices=False)[2][0]
    group = np.empty(len(x), int)
    group[np.argsort(centred @ direction, kind="stable")] = np.arange(len(x)) * components // len(x)
    responsibility = np.eye(components)[:, group]
    mixture = _maximised(x, responsibility)
    for _ in range(STEPS):
        density = _log_densities(mixture, x)
        responsibility = np.exp(density - _log_sum(density))
        mixture = _maximised(x, responsibility)
    return mixture


def _maximised(x: Float[np.ndarray, "n d"], responsibility: Float[np.ndarray, "k n"]) -> Mixture:
    # As einsum and not as matrix products: for products so narrow, threads that wait for each other take far longer.
    total = responsibility.sum(axis=1) + 1e-6
    means = np.einsum("kn,nd->kd", responsibility, x) / total[:, None]
    floor = VARIANCE_FLOOR * np.eye(x.shape[1])
    covariances = np.stack(
        [
            np.einsum("n,nd,ne->de", weight, x - mean, x - mean) / n
            for weight, mean, n in zip(responsibility, means, total, strict=True)
        ]
    )
    return Mixture(total / total.sum(), means, covariances + floor)


def log_density(mixture: Mixture, values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Log density of values under a mixture."""
    out = np.empty(len(values))
    for start in range(0, len(values), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        out[part] = _log_sum(_log_densities(mixture, values[part].astype(np.float64)))
    return out


def _log_sum(density: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    """Log of the sum of exponentials; `logaddexp.reduce` takes several times as long."""
    highest = density.max(axis=0)
    return highest + np.log(np.exp(density - highest).sum(axis=0))


def _log_densities(mixture: Mixture, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "k n"]:
    """Log of each component's weighted density."""
    rows = []
    for weight, mean, covariance in zip(*mixture, strict=True):
        factor = np.linalg.cholesky(covariance)
        constant = np.log(weight) - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * np.log(2 * np.pi)
        # A triangular solver takes longer for thousands of right sides of at most four rows.
        z = np.einsum("de,ne->dn", np.linalg.inv(factor), x - mean)
        rows.append(constant - 0.5 * (z**2).sum(axis=0))
    return np.stack(rows)
