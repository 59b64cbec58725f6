"""Hidden Markov random field of tissue classes: Gaussian intensities, mean-field neighbours (Zhang 2001).

Posteriors of K classes are held as K − 1 volumes, a tuple: in the mask the last class is what the others leave
of 1. The mask never touches the border of the array, so that a neighbour is always inside it.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Voxel steps to half of the 18 neighbours (faces and edges); the other half are their opposites.
HALF_STEPS = tuple(
    step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0) and np.abs(step).sum() <= 2
)
START_BINS = 4096

Volumes = tuple[Float[Array, "x y z"], ...]


def step_weights(spacing_mm: tuple[float, float, float]) -> Float[np.ndarray, "9"]:
    """Weight of each of `HALF_STEPS`: one over its length in millimetres."""
    lengths = np.linalg.norm(np.array(HALF_STEPS) * np.array(spacing_mm), axis=1)
    return (1.0 / lengths).astype(np.float32)


def start_classes(
    y: Float[np.ndarray, "n"], n_classes: int, rounds: int
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Class means and variances to start from, ascending: `rounds` of soft clustering from the percentiles.

    Class proportions play no part, nor do neighbours. Works on a fine histogram of the log intensities `y`.
    Not finite where `y` has fewer kinds of intensity than classes.
    """
    low, high = float(y.min()), float(y.max())
    bins = ((y - np.float32(low)) * np.float32((START_BINS - 1) / (high - low))).astype(np.int32)
    count = np.bincount(bins, minlength=START_BINS).astype(np.float64)
    centre = low + (np.arange(START_BINS) + 0.5) * (high - low) / (START_BINS - 1)
    cumulative = np.cumsum(count)
    ranks = np.arange(1, n_classes + 1) / (n_classes + 1) * cumulative[-1]
    means = centre[np.searchsorted(cumulative, ranks)]
    posteriors = (np.abs(centre - means[:, None]).argmin(0) == np.arange(n_classes)[:, None]).astype(np.float64)
    variances = np.zeros(n_classes)
    # A class that no intensity falls into ends as NaN: the caller's to refuse.
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(rounds):
            weight = posteriors * count
            total = weight.sum(1)
            means = weight @ centre / total
            variances = (weight * (centre - means[:, None]) ** 2).sum(1) / total
            logits = -0.5 * ((centre - means[:, None]) ** 2 / variances[:, None] + np.log(variances)[:, None])
            posteriors = np.exp(logits - logits.max(0))
            posteriors /= posteriors.sum(0)
    return means.astype(np.float32), variances.astype(np.float32)


def neighbour_sum(volume: Float[Array, "x y z"], weights: Float[Array, "9"]) -> Float[Array, "x-2 y-2 z-2"]:
    """For every voxel off the border: the sum of its 18 neighbours, each times its weight."""
    nx, ny, nz = volume.shape

    def shifted(x: int, y: int, z: int) -> Float[Array, "x-2 y-2 z-2"]:
        return volume[1 + x : nx - 1 + x, 1 + y : ny - 1 + y, 1 + z : nz - 1 + z]

    total = jnp.zeros((nx - 2, ny - 2, nz - 2), volume.dtype)
    for i, (x, y, z) in enumerate(HALF_STEPS):
        total = total + weights[i] * (shifted(x, y, z) + shifted(-x, -y, -z))
    return total


def posteriors(
    y: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    field: Volumes | None = None,
) -> Volumes:
    """Probability of each class but the last given the intensity; 0 outside `mask`.

    `field` adds to the log odds of each of these classes against the last.
    """
    last = means.shape[0] - 1

    def log_density(c: int) -> Float[Array, "x y z"]:
        return -0.5 * ((y - means[c]) ** 2 / variances[c] + jnp.log(variances[c]))

    logits = [log_density(c) - log_density(last) for c in range(last)]
    if field is not None:
        logits = [logit + f for logit, f in zip(logits, field, strict=True)]
    highest = functools.reduce(jnp.maximum, logits, jnp.float32(0))
    # The barrier keeps XLA from computing every exponential once per class.
    odds = jax.lax.optimization_barrier([jnp.exp(logit - highest) for logit in [*logits, jnp.zeros_like(y)]])
    total = sum(odds[1:], odds[0])
    return tuple(jnp.where(mask, o / total, jnp.float32(0)) for o in odds[:-1])


def sweep(
    p: Volumes,
    y: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    reach: Float[Array, "x-2 y-2 z-2"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    weights: Float[Array, "9"],
    beta: Float[Array, ""],
) -> Volumes:
    """One mean-field update of all voxels at once; `reach` is the neighbour sum of the mask."""
    # Materialised once each: as part of the odds they would be recomputed for every class.
    sums = jax.lax.optimization_barrier([neighbour_sum(volume, weights) for volume in p])
    last = reach - sum(sums[1:], sums[0])
    core = (slice(1, -1),) * 3
    field = tuple(beta * (own - last) for own in sums)
    inner = posteriors(y[core], mask[core], means, variances, field)
    return tuple(whole.at[core].set(new) for whole, new in zip(p, inner, strict=True))


def class_statistics(
    p: Volumes, y: Float[Array, "x y z"], inside: Float[Array, "x y z"]
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Mean and variance of `y` in each class, voxels weighted by their posteriors; `inside` is the mask as 0 and 1.

    `y` should be centred near 0 and 0 outside the mask; single precision serves such sums best.
    """

    def moments(volume: Float[Array, "x y z"]) -> Float[Array, "3"]:
        w, v = volume.reshape(-1), y.reshape(-1)
        dot = lambda a, b: jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
        return jnp.stack([w.sum(), dot(w, v), dot(w * v, v)])

    rows = jnp.stack([moments(volume) for volume in (*p, inside)])
    rows = rows.at[-1].add(-rows[:-1].sum(0))
    weight = jnp.maximum(rows[:, 0], jnp.float32(1e-6))
    means = rows[:, 1] / weight
    return means, jnp.maximum(rows[:, 2] / weight - means * means, jnp.float32(1e-8))


def pooled_variances(
    p: Volumes, inside: Float[Array, "x y z"], variances: Float[Array, "k"], share: float
) -> Float[Array, "k"]:
    """Each class's variance drawn towards the mean over all voxels, `share` of the way on the log scale."""
    sizes = jnp.stack([volume.sum() for volume in (*p, inside)])
    sizes = sizes.at[-1].add(-sizes[:-1].sum())
    common = (sizes * variances).sum() / sizes.sum()
    return common**share * variances ** (1.0 - share)
