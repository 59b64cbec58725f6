"""What segmentation computes on the device: classes and bias field, then partial volumes."""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

from strega_jax.programs import BY_MLIR, Program
from strega_jax.tissue import bias as bias_field
from strega_jax.tissue import hmrf, mixel


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How often and how strongly each step acts, with FAST's flags and its defaults."""

    start_rounds: int = 19  # -W and -O together: clustering without neighbours
    bias_rounds: int = 4  # -I
    final_rounds: int = 4  # -O: the bias field stays as it is
    sweeps: int = 2  # of the field a round
    beta_bias: float = 0.02  # -f
    beta_final: float = 0.1  # -H
    beta_mixel: float = 0.3  # -R
    bias_extent_mm: float = 20.0  # -l
    boost_bias: bool = False  # add what is still smooth in the residual, instead of estimating the field afresh
    linear_final: bool = False  # final rounds on the intensities, where noise has one variance, not on their log
    ramp_final: bool = False  # final rounds couple neighbours more and more, from none, so that noise is not locked in
    # weight of the variance common to all classes in that of each (their geometric mean) in the final rounds: on
    # intensities noise is the same in every tissue, and what makes fluid's variance larger is partial volume
    pooling: float = 0.0


class Fields(NamedTuple):
    """What expectation maximisation leaves on the device; see `TissueMap`."""

    seg: UInt8[Array, "x y z"]
    bias: Float[Array, "x y z"]
    bins: UInt16[Array, "x y z"]  # of the restored intensity, in `grid`
    grid: Float[Array, "g"]  # restored intensities over `scale`, minus 1
    means: Float[Array, "k"]  # in the units of `grid`
    variances: Float[Array, "k"]
    scale: Float[Array, ""]  # mean restored intensity


def fields_of(shape: tuple[int, ...], n_classes: int) -> Fields:
    """Shapes and types of the fields of a volume."""
    of: Any = jax.ShapeDtypeStruct
    return Fields(
        seg=of(shape, np.uint8),
        bias=of(shape, np.float32),
        bins=of(shape, np.uint16),
        grid=of((mixel.TABLE_SIZE,), np.float32),
        means=of((n_classes,), np.float32),
        variances=of((n_classes,), np.float32),
        scale=of((), np.float32),
    )


# Packed posteriors, means, variances, log bias; intensities that the means are of, and their unit.
_State = tuple[hmrf.Words, Array, Array, Array, Array, Array]


class _Round(NamedTuple):
    """What one round does; arrays of rounds, so that one compiled body serves all."""

    beta: Array
    sweeps: Array
    bias: Array  # renew the bias field after the sweeps
    statistics: Array  # renew means and variances after that
    linear: Array  # on restored intensities instead of their logarithm
    pooling: Array  # weight of the variance common to all classes in that of each


def _rounds(schedule: Schedule) -> _Round:
    """The schedule in order: bias alone, rounds with bias, final rounds; the first of these has the weak field."""
    n_bias, n_final, pooling = schedule.bias_rounds, schedule.final_rounds, schedule.pooling
    first = [(0.0, 0, True, False, False, 0.0)]
    with_bias = [(schedule.beta_bias, schedule.sweeps, True, True, False, 0.0)] * n_bias
    # Statistics alone, where the scale of the intensities changes.
    change = [(0.0, 0, False, True, True, pooling)] * schedule.linear_final
    betas = [schedule.beta_bias] + [schedule.beta_final] * (n_final - 1)
    if schedule.ramp_final:
        betas = [schedule.beta_final * i / (n_final - 1) for i in range(n_final)]
    final = [
        (beta, schedule.sweeps, False, True, schedule.linear_final, pooling * schedule.linear_final) for beta in betas
    ]
    # Statistics alone, for mixtures of classes that differ in noise alone.
    last = [(0.0, 0, False, True, True, float(pooling > 0))]
    columns = zip(*(first + with_bias + change + final + last), strict=True)
    kinds = (np.float32, np.int32, bool, bool, bool, np.float32)
    # By NumPy: as JAX arrays each would be a transfer of its own.
    return _Round(*(cast(Array, np.array(column, kind)) for column, kind in zip(columns, kinds, strict=True)))


@functools.partial(Program, options=BY_MLIR)
def expectation_maximisation(
    image: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    weights: Float[Array, "9"],
    smoothers: tuple[bias_field.Smoother, bias_field.Smoother, bias_field.Smoother],
    schedule: Schedule,
    bright_fluid: bool,
) -> Fields:
    inside = mask.astype(jnp.float32)
    n_voxels = inside.sum()
    log_image = jnp.where(mask, jnp.log1p(image), jnp.float32(0))
    centre = log_image.sum() / n_voxels
    y = jnp.where(mask, log_image - centre, jnp.float32(0))
    means = means - centre
    n_free = means.shape[0] - 1
    reach = hmrf.neighbour_sums(hmrf.pack((inside,)), weights, 1)[0]

    def relative(bias: Array) -> tuple[Array, Array]:
        """Restored intensities over their mean, minus 1, and that mean."""
        restored = jnp.where(mask, jnp.exp(y - bias + centre), jnp.float32(0))
        scale = restored.sum() / n_voxels
        return jnp.where(mask, restored / scale - 1.0, jnp.float32(0)), scale

    def one_round(state: _State, step: _Round) -> tuple[_State, None]:
        words, means, variances, bias, data, _ = state
        for i in range(schedule.sweeps):
            wanted = i < step.sweeps
            words = hmrf.sweep(words, data, mask, reach, means, variances, weights, step.beta, wanted)
        p = hmrf.unpack(words, n_free)

        def renewed() -> Array:
            if schedule.boost_bias:
                return bias + bias_field.estimate_bias(p, y - bias, mask, means, variances, smoothers)
            return bias_field.estimate_bias(p, y, mask, means, variances, smoothers)

        bias = jax.lax.cond(step.bias, renewed, lambda: bias)
        data, scale = jax.lax.cond(step.linear, lambda: relative(bias), lambda: (y - bias, jnp.float32(1)))
        fresh = hmrf.class_statistics(p, data, inside)
        if schedule.pooling:
            fresh = fresh[0], hmrf.pooled_variances(p, inside, fresh[1], step.pooling)
        means, variances = (
            jnp.where(step.statistics, new, old) for new, old in zip(fresh, (means, variances), strict=True)
        )
        return (words, means, variances, bias, data, scale), None

    words = hmrf.pack(hmrf.posteriors(y, mask, means, variances))
    start = (words, means, variances, jnp.zeros_like(y), y, jnp.float32(1))
    (words, means, variances, bias, data, scale), _ = jax.lax.scan(one_round, start, _rounds(schedule))
    p = hmrf.unpack(words, n_free)
    rank = jnp.argsort(means, descending=bright_fluid)
    low, high = data.min(), data.max()
    grid = jnp.linspace(low, high, mixel.TABLE_SIZE, dtype=jnp.float32)
    bins = jnp.round((data - low) * ((mixel.TABLE_SIZE - 1) / (high - low)))
    return Fields(
        seg=_labels(p, mask, rank),
        bias=jnp.exp(bias),
        bins=bins.astype(jnp.uint16),
        grid=grid,
        means=means[rank],
        variances=variances[rank],
        scale=scale,
    )


def _labels(p: hmrf.Volumes, mask: Bool[Array, "x y z"], rank: Int[Array, "k"]) -> UInt8[Array, "x y z"]:
    """1 + the rank of the likeliest class; 0 outside the mask."""
    label = (jnp.argsort(rank) + 1).astype(jnp.uint8)
    best, choice = p[0], jnp.full(mask.shape, label[0])
    for c, volume in enumerate((*p[1:], 1.0 - sum(p[1:], p[0])), start=1):
        choice = jnp.where(volume > best, label[c], choice)
        best = jnp.maximum(volume, best)
    return jnp.where(mask, choice, jnp.uint8(0))


@Program
def partial_volumes(
    fields: Fields,
    mask: Bool[Array, "x y z"],
    fronts: mixel.Wavefronts,
    weights: Float[Array, "9"],
    beta: float,
) -> tuple[UInt8[Array, "x y z"], UInt16[Array, "x y z"]]:
    likelihood, fraction = mixel.tabulate(fields.grid, fields.means, fields.variances)
    types = mixel.classify(fields.bins, mask, likelihood, fronts, weights, jnp.float32(beta))
    return mixel.encode(types, fields.bins, fraction)
