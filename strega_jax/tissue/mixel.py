"""Partial volumes: every voxel is pure or a mixture of two tissues (Zhang 2001; mixel types as FAST counts them).

Mixel types of K classes: 0…K−1 are the pure classes, then one type for each pair a < b in lexicographic
order; with three classes 3 is CSF+GM, 4 CSF+WM and 5 GM+WM.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16, UInt32

from strega_jax.tissue.hmrf import steps_of_one_length

FRACTION_STEPS = 100
TABLE_SIZE = 16384
CHUNK = 2048
AGREEMENT, KINSHIP, CONFLICT = 2.0, 1.0, -1.0
# Neighbours of each type are counted side by side in one word: 18 need five bits.
COUNT_BITS, TYPES_A_WORD = 5, 6

Raster = tuple[tuple[int, bool], tuple[int, bool], tuple[int, bool]]
"""Axes from fastest to slowest, each with whether it runs backwards."""
X_FASTEST: Raster = ((0, False), (1, False), (2, False))


@dataclasses.dataclass(frozen=True)
class Wavefronts:
    """Brain voxels in an order whose chunks may each be updated at once and still equal the raster sweep.

    In a raster sweep (x fastest) a voxel sees the new state of the neighbours before it and the old state of
    those after it. All 18 neighbours before it have a smaller t = x + 2y + 3z, all after it a larger one.

    Attributes:
        order: flat voxel indices sorted by t, padded to the size of the volume and one chunk.
        starts, counts: place in `order` and length of each chunk; no chunk spans two values of t.
        n_chunks: how many of them are in use.
    """

    order: Int[Array | np.ndarray, "n"]
    starts: Int[Array | np.ndarray, "m"]
    counts: Int[Array | np.ndarray, "m"]
    n_chunks: Int[Array | np.ndarray, ""]


jax.tree_util.register_dataclass(Wavefronts, ["order", "starts", "counts", "n_chunks"], [])


def wavefronts(mask: Bool[np.ndarray, "x y z"], raster: Raster = X_FASTEST) -> Wavefronts:
    """Order the voxels of `mask`, whose border must be empty. The lengths depend on its shape alone."""
    time = np.zeros((1, 1, 1), np.uint16)
    for pace, (axis, backwards) in enumerate(raster, start=1):
        ramp = np.arange(mask.shape[axis], dtype=np.uint16) * np.uint16(pace)
        time = time + (ramp[::-1] if backwards else ramp).reshape([-1 if a == axis else 1 for a in range(3)])
    count = np.bincount(time[mask])
    order = np.zeros(mask.size + CHUNK, np.int32)
    ends = np.cumsum(count)
    # Plane by plane each value of t takes its next places: a sort of all voxels at once takes many times their memory.
    next_place = ends - count
    for x, plane in enumerate(mask):
        index = np.flatnonzero(plane).astype(np.int32)
        t = time[x].reshape(-1)[index]
        by_time = np.argsort(t, kind="stable")
        t, here = t[by_time], np.bincount(t, minlength=count.size)
        before = np.cumsum(here) - here
        order[np.arange(t.size) + (next_place - before)[t]] = index[by_time] + np.int32(x * plane.size)
        next_place += here
    bounds = np.concatenate([[0], ends])
    starts = np.concatenate([np.arange(a, b, CHUNK) for a, b in itertools.pairwise(bounds)])
    counts = np.concatenate([np.minimum(b - np.arange(a, b, CHUNK), CHUNK) for a, b in itertools.pairwise(bounds)])
    pad = (0, mask.size // CHUNK + 3 * sum(mask.shape) - starts.size)
    chunks = np.pad(starts, pad).astype(np.int32), np.pad(counts, pad).astype(np.int32)
    return Wavefronts(order, *chunks, np.asarray(starts.size, np.int32))


def pairs(n_classes: int) -> list[tuple[int, int]]:
    """The two classes of each mixed type, in the order of the types."""
    return list(itertools.combinations(range(n_classes), 2))


def members(n_classes: int) -> list[set[int]]:
    """The classes of each type."""
    return [{c} for c in range(n_classes)] + [set(pair) for pair in pairs(n_classes)]


def mixtures(means: Float[Array, "k"], variances: Float[Array, "k"]) -> tuple[Float[Array, "m f"], Float[Array, "m f"]]:
    """Mean and variance of each mixed type at fractions 0, 0.01, …, 1 of its first class."""
    first, second = (np.array(side) for side in zip(*pairs(means.shape[0]), strict=True))
    fraction = jnp.linspace(0, 1, FRACTION_STEPS + 1, dtype=jnp.float32)[None]
    mean = fraction * means[first][:, None] + (1 - fraction) * means[second][:, None]
    variance = fraction**2 * variances[first][:, None] + (1 - fraction) ** 2 * variances[second][:, None]
    return mean, variance


def tabulate(
    intensity: Float[Array, "n"], means: Float[Array, "k"], variances: Float[Array, "k"]
) -> tuple[Float[Array, "t n"], UInt8[Array, "m n"]]:
    """Per intensity, the log likelihood of each type (up to one constant) and the best fraction of each mixture.

    A mixture's likelihood is the sum over its 101 fractions times their step 0.01. The best fraction, in
    percent of the first class, minimises (y − μ)²/v + log v.
    """
    pure = -0.5 * ((intensity[None] - means[:, None]) ** 2 / variances[:, None] + jnp.log(variances)[:, None])
    mean, variance = mixtures(means, variances)

    def step(k: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, best, fraction = state
        m, v = mean[:, k][:, None], variance[:, k][:, None]
        log = -0.5 * ((intensity[None] - m) ** 2 / v + jnp.log(v))
        better = log > best
        return jnp.logaddexp(total, log), jnp.where(better, log, best), jnp.where(better, k, fraction)

    lowest = jnp.full((mean.shape[0], intensity.size), -jnp.inf, jnp.float32)
    start = (lowest, lowest, jnp.zeros(lowest.shape, jnp.int32))
    total, _, fraction = jax.lax.fori_loop(0, FRACTION_STEPS + 1, step, start)
    return jnp.concatenate([pure, total - np.log(FRACTION_STEPS)]), fraction.astype(jnp.uint8)


def classify(
    bins: UInt16[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    likelihood: Float[Array, "t n"],
    fronts: Wavefronts,
    weights: Float[Array, "9"],
    beta: Float[Array, ""],
) -> UInt8[Array, "x y z"]:
    """Mixel type of every voxel: the likeliest, then one raster sweep of iterated conditional modes.

    Args:
        bins: columns of `likelihood`.
        mask: where to classify; not on the border.
        likelihood: log likelihood of each type in each bin.
        weights: of the neighbours, as in `hmrf.step_weights`.
        beta: strength of the neighbours.

    Returns:
        The types; outside the mask the number of types.
    """
    n_types = likelihood.shape[0]
    kin = members({3: 2, 6: 3, 10: 4}[n_types])
    shape, bins, mask = bins.shape, bins.reshape(-1), mask.reshape(-1)
    likeliest = jnp.argmax(likelihood, axis=0).astype(jnp.uint8)
    by_bin = likelihood.T
    types = jnp.where(mask, likeliest[bins.astype(jnp.int32)], jnp.uint8(n_types))
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    lane = jnp.arange(CHUNK, dtype=jnp.int32)

    def take(values: Array, index: Array) -> Array:
        return values.at[index].get(mode="promise_in_bounds")

    def counted(types: UInt8[Array, "v"], index: Int[Array, "c"]) -> list[Float[Array, "c"]]:
        """Weight of the neighbours of each type."""
        total = [jnp.zeros(index.shape, jnp.float32)] * n_types
        for weight, steps in steps_of_one_length():
            near = [take(types, index + jnp.int32(sign * (strides @ s))) for s in steps for sign in (1, -1)]
            for first in range(0, n_types, TYPES_A_WORD):
                word = sum((_one_in_word(n, first) for n in near[1:]), _one_in_word(near[0], first))
                for t in range(first, min(first + TYPES_A_WORD, n_types)):
                    count = word >> jnp.uint32(COUNT_BITS * (t - first)) & jnp.uint32(2**COUNT_BITS - 1)
                    total[t] = total[t] + weights[weight] * count.astype(jnp.float32)
        return total

    def update(i: Int[Array, ""], types: UInt8[Array, "v"]) -> UInt8[Array, "v"]:
        index = jax.lax.dynamic_slice(fronts.order, (fronts.starts[i],), (CHUNK,))
        prior = take(by_bin, take(bins, index).astype(jnp.int32))
        near = counted(types, index)
        best, choice = jnp.full(CHUNK, -jnp.inf, jnp.float32), jnp.zeros(CHUNK, jnp.uint8)
        for t in range(n_types):
            # Against "conflict" with all: a constant, whatever the type, that the comparison does not need.
            gain = (AGREEMENT - CONFLICT) * near[t]
            for other in range(n_types):
                if kin[t] < kin[other] or kin[other] < kin[t]:
                    gain = gain + (KINSHIP - CONFLICT) * near[other]
            score = prior[:, t] + beta * gain
            choice = jnp.where(score > best, jnp.uint8(t), choice)
            best = jnp.maximum(score, best)
        new = jnp.where(lane < fronts.counts[i], choice, take(types, index))
        return types.at[index].set(new, mode="promise_in_bounds", unique_indices=True)

    types = jax.lax.fori_loop(0, fronts.n_chunks, update, types)
    return types.reshape(shape)


def encode(
    types: UInt8[Array, "x y z"], bins: UInt16[Array, "x y z"], fraction: UInt8[Array, "m n"]
) -> tuple[UInt8[Array, "x y z"], UInt16[Array, "x y z"]]:
    """`mixeltype` of a `TissueMap` from the types and the best fractions of `tabulate`, and what `decode` reads."""
    n_mixed = fraction.shape[0]
    n_classes = {1: 2, 3: 3, 6: 4}[n_mixed]
    kind = types.astype(jnp.int32)
    inside = kind < n_classes + n_mixed
    mixed = jnp.clip(kind - n_classes, 0, n_mixed - 1)
    percent = fraction.reshape(-1)[mixed * fraction.shape[1] + bins.astype(jnp.int32)].astype(jnp.int32)
    code = jnp.where(inside, 1 + (FRACTION_STEPS + 1) * kind + jnp.where(kind < n_classes, 0, percent), 0)
    return jnp.where(inside, types, jnp.uint8(0)), code.astype(jnp.uint16)


def decode(
    code: UInt16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"],
    shares: Float[np.ndarray, "x y z k"],
) -> None:
    """Fill in `pveseg` and `pve` of a `TissueMap` from what `encode` gave."""
    share_of, label_of = _by_code(shares.shape[-1])
    for plane, its_labels, its_shares in zip(code, labels, shares, strict=True):  # a copy of all shares would be large
        its_labels[...], its_shares[...] = label_of[plane], share_of[plane]


@functools.cache
def _by_code(n_classes: int) -> tuple[Float[np.ndarray, "c k"], UInt8[np.ndarray, "c"]]:
    """Of 0 (background) and 1 + 101·type + percent of its first class: the share of each class, and the label."""
    eye = np.eye(n_classes)
    percent = np.arange(FRACTION_STEPS + 1)[:, None] / FRACTION_STEPS
    mixed = [percent * eye[a] + (1 - percent) * eye[b] for a, b in pairs(n_classes)]
    shares = np.concatenate([np.zeros((1, n_classes)), np.repeat(eye, FRACTION_STEPS + 1, axis=0), *mixed])
    # Of two equal halves the second class counts, as in FAST.
    label = np.where(shares.any(1), n_classes - shares[:, ::-1].argmax(1), 0)
    return shares.astype(np.float32), label.astype(np.uint8)


def _one_in_word(types: UInt8[Array, "c"], first: int) -> UInt32[Array, "c"]:
    """A one in the place of the type among those counted in this word, which starts at type `first`."""
    place = types.astype(jnp.int32) - first
    here = (place >= 0) & (place < TYPES_A_WORD)
    return jnp.where(here, jnp.uint32(1) << (COUNT_BITS * jnp.where(here, place, 0)).astype(jnp.uint32), jnp.uint32(0))
