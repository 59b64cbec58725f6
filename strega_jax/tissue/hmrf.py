"""Hidden Markov random field of tissue classes: Gaussian intensities, mean-field neighbours (Zhang 2001).

Posteriors of K classes are held as K − 1 volumes, a tuple: in the mask the last class is what the others leave
of 1. Between sweeps two of them share a 32-bit word, 16 bits each, so that one pass over memory makes a sweep. The
mask never touches the border of the array, so that a neighbour is always inside it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

# Voxel steps to half of the 18 neighbours (faces and edges); the other half are their opposites.
HALF_STEPS = tuple(
    step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0) and np.abs(step).sum() <= 2
)
START_BINS = 4096
# Beyond a tenth and ten times the median …
OUTLYING_LOG = float(np.log(10.0))
# … and, where that is not enough, in these shares of the darkest and the brightest, voxels are outlying.
OUTLYING_SHARES = (
    *((0.005, 0), (0.005, 0.005), (0.01, 0), (0.01, 0.01), (0.02, 0), (0.03, 0), (0.02, 0.02), (0.05, 0)),
    *((0.03, 0.03), (0.065, 0), (0.08, 0), (0.05, 0.05), (0.1, 0), (0.12, 0), (0.08, 0.08), (0.12, 0.12)),
)
# Means of neighbouring classes nearer than this, in standard deviations, are of one tissue; those of healthy T1w
# brains lie 0.59 to 1.4 apart (IXI, OASIS, ABIDE, Kirby21).
COLLAPSED, APART = 0.3, 0.5
HALF_WORD, ONE = 16, 2**16 - 1

Volumes = tuple[Float[Array, "x y z"], ...]
Words = tuple[UInt32[Array, "x y z"], ...]


def step_weights(spacing_mm: tuple[float, float, float]) -> Float[np.ndarray, "9"]:
    """Weight of each of `HALF_STEPS`: one over its length in millimetres."""
    lengths = np.linalg.norm(np.array(HALF_STEPS) * np.array(spacing_mm), axis=1)
    return (1.0 / lengths).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Start:
    """Classes to start from, and between which log intensities they were estimated.

    Attributes:
        means, variances: (k,) float32, of log intensities; ascending means.
        low, high: log intensities beyond these are outlying: they count as if they were these.
    """

    means: Float[np.ndarray, "k"]
    variances: Float[np.ndarray, "k"]
    low: float
    high: float

    @property
    def separation(self) -> float:
        """The smallest gap between neighbouring means, in standard deviations of the wider class of the two."""
        widths = np.sqrt(self.variances)
        gaps = np.diff(self.means) / np.maximum(widths[:-1], widths[1:])
        return float(gaps.min()) if np.isfinite(gaps).all() else -np.inf


def starts(y: Float[np.ndarray, "n"], n_classes: int, rounds: int) -> Iterator[Start]:
    """Classes to start from, the best first; none where `y` has fewer kinds of intensity than classes.

    Intensities below a tenth of the median or above its tenfold are outlying. The classes found within these fences
    are the best unless they have collapsed: one has spread over both tails (near-zero voxels at the brain's rim,
    vessels, contrast agent) and left one tissue to two others. Then the least share of the darkest and brightest
    voxels is outlying too that lets the classes stand apart.

    Args:
        y: log intensities.
        n_classes: how many.
        rounds: of clustering, as in `start_classes`.
    """
    if y.min() == y.max():
        return
    count, centre = _histogram(y)
    del y  # this generator lives on while the device works, and needs it no more
    middle = float(_quantiles(count, centre, np.array([0.5]))[0])
    fences = middle - OUTLYING_LOG, middle + OUTLYING_LOG
    others: list[Start] = []
    for dark, bright in ((0, 0), *OUTLYING_SHARES):
        darkest, brightest = _quantiles(count, centre, np.array([dark, 1.0 - bright]))
        low = max(float(darkest), fences[0]) if dark else fences[0]
        high = min(float(brightest), fences[1]) if bright else fences[1]
        found = Start(*start_classes(count, np.clip(centre, low, high), n_classes, rounds), low, high)
        if found.separation >= (APART if dark else COLLAPSED):
            yield found
        else:
            others.append(found)
    yield from sorted((start for start in others if start.separation > 0), key=lambda start: -start.separation)


def _histogram(y: Float[np.ndarray, "n"]) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
    """Counts and centres of fine bins from the least to the greatest `y`."""
    low, high = float(y.min()), float(y.max())
    bins = ((y - np.float32(low)) * np.float32((START_BINS - 1) / (high - low))).astype(np.int32)
    centre = low + (np.arange(START_BINS) + 0.5) * (high - low) / (START_BINS - 1)
    return np.bincount(bins, minlength=START_BINS).astype(np.float64), centre


def _quantiles(
    count: Float[np.ndarray, "b"], centre: Float[np.ndarray, "b"], shares: Float[np.ndarray, "q"]
) -> Float[np.ndarray, "q"]:
    cumulative = np.cumsum(count)
    return centre[np.searchsorted(cumulative, shares * cumulative[-1])]


def start_classes(
    count: Float[np.ndarray, "b"], centre: Float[np.ndarray, "b"], n_classes: int, rounds: int
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Class means and variances of a histogram, ascending: `rounds` of soft clustering from its percentiles.

    Class proportions play no part, nor do neighbours. Not finite where a class stays empty.
    """
    ranks = np.arange(1, n_classes + 1) / (n_classes + 1)
    means = _quantiles(count, centre, ranks)
    if (np.diff(means) == 0).any():  # one value, as where intensities saturate, is several percentiles at once
        means = _quantiles((count > 0).astype(np.float64), centre, ranks)
    posteriors = (np.abs(centre - means[:, None]).argmin(0) == np.arange(n_classes)[:, None]).astype(np.float64)
    variances = np.zeros(n_classes)
    narrowest = ((centre[-1] - centre[0]) / START_BINS) ** 2 / 12  # of a class that is one bin
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(rounds):
            weight = posteriors * count
            total = weight.sum(1)
            means = weight @ centre / total
            variances = np.maximum((weight * (centre - means[:, None]) ** 2).sum(1) / total, narrowest)
            logits = -0.5 * ((centre - means[:, None]) ** 2 / variances[:, None] + np.log(variances)[:, None])
            posteriors = np.exp(logits - logits.max(0))
            posteriors /= posteriors.sum(0)
    order = np.argsort(means)
    return means[order].astype(np.float32), variances[order].astype(np.float32)


def pack(p: Volumes) -> Words:
    """Probabilities rounded to 16 bits, two in a word."""
    halves = [jnp.round(volume * ONE).astype(jnp.int32).astype(jnp.uint32) for volume in p]
    return tuple(
        functools.reduce(jnp.bitwise_or, [half << (HALF_WORD * i) for i, half in enumerate(halves[first : first + 2])])
        for first in range(0, len(halves), 2)
    )


def unpack(words: Words, count: int) -> Volumes:
    """The `count` volumes that `pack` was given."""
    return tuple(half.astype(jnp.int32).astype(jnp.float32) * jnp.float32(1 / ONE) for half in _halves(words)[:count])


def _halves(words: Words) -> list[UInt32[Array, "x y z"]]:
    return [half for word in words for half in (word & jnp.uint32(ONE), word >> HALF_WORD)]


def neighbour_sums(words: Words, weights: Float[Array, "9"], count: int) -> list[Float[Array, "x-2 y-2 z-2"]]:
    """For every voxel off the border and every volume: the sum of its 18 neighbours, each times its weight."""
    shape = words[0].shape
    total = [jnp.zeros([n - 2 for n in shape], jnp.float32)] * count
    for weight, steps in steps_of_one_length():
        near = []
        for step in (*steps, *(-s for s in steps)):
            place = tuple(slice(1 + s, n - 1 + s) for s, n in zip(step.tolist(), shape, strict=True))
            near.append(_halves(tuple(word[place] for word in words))[:count])
        for c in range(count):
            alike = functools.reduce(jnp.add, [halves[c] for halves in near]).astype(jnp.int32)
            total[c] = total[c] + weights[weight] * alike.astype(jnp.float32)
    return [volume * jnp.float32(1 / ONE) for volume in total]


def steps_of_one_length() -> list[tuple[int, list[np.ndarray]]]:
    """`HALF_STEPS` grouped by what gives them one weight, each group with the place of that weight."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, step in enumerate(HALF_STEPS):
        groups.setdefault(tuple(abs(s) for s in step), []).append(i)
    return [(ids[0], [np.array(HALF_STEPS[i]) for i in ids]) for ids in groups.values()]


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
    odds = [jnp.exp(logit - highest) for logit in [*logits, jnp.zeros_like(y)]]
    share = 1.0 / sum(odds[1:], odds[0])
    return tuple(jnp.where(mask, o * share, jnp.float32(0)) for o in odds[:-1])


def sweep(
    words: Words,
    y: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    reach: Float[Array, "x-2 y-2 z-2"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    weights: Float[Array, "9"],
    beta: Float[Array, ""],
    wanted: Bool[Array, ""],
) -> Words:
    """One mean-field update of all packed posteriors at once, if `wanted`; `reach` is the neighbour sum of the mask."""
    core = (slice(1, -1),) * 3

    def updated() -> Words:
        sums = neighbour_sums(words, weights, means.shape[0] - 1)
        last = reach - sum(sums[1:], sums[0])
        field = tuple(beta * (own - last) for own in sums)
        return pack(posteriors(y[core], mask[core], means, variances, field))

    # The branch also keeps XLA from merging the update with the padding, which makes it many times slower.
    inner = jax.lax.cond(wanted, updated, lambda: tuple(word[core] for word in words))
    return tuple(jnp.pad(word, 1) for word in inner)


def class_statistics(
    p: Volumes, y: Float[Array, "x y z"], inside: Float[Array, "x y z"]
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Mean and variance of `y` in each class, voxels weighted by their posteriors; `inside` is the mask as 0 and 1.

    `y` should be centred near 0 and 0 outside the mask; single precision serves such sums best.
    """

    parts = [part for w in (*p, inside) for part in (w, w * y, w * y * y)]
    # All sums in one pass over memory; along z first, so that no single-precision sum grows long.
    along_z = jax.lax.reduce(tuple(parts), (jnp.float32(0),) * len(parts), _add_each, (2,))
    rows = jnp.stack([part.sum() for part in along_z]).reshape(-1, 3)
    rows = rows.at[-1].add(-rows[:-1].sum(0))
    weight = jnp.maximum(rows[:, 0], jnp.float32(1e-6))
    means = rows[:, 1] / weight
    return means, jnp.maximum(rows[:, 2] / weight - means * means, jnp.float32(1e-8))


def _add_each(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def pooled_variances(
    p: Volumes, inside: Float[Array, "x y z"], variances: Float[Array, "k"], share: Float[Array, ""]
) -> Float[Array, "k"]:
    """Each class's variance drawn towards the mean over all voxels, `share` of the way on the log scale."""
    sizes = jnp.stack([volume.sum() for volume in (*p, inside)])
    sizes = sizes.at[-1].add(-sizes[:-1].sum())
    common = (sizes * variances).sum() / sizes.sum()
    drawn = common**share * variances ** (1.0 - share)
    # Powers of 0 and 1 are not exact where the exponent is not known when the program is compiled.
    return jnp.where(share == 0, variances, jnp.where(share == 1, common, drawn))
