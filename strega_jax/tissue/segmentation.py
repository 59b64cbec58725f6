"""Brain tissue segmentation: hidden Markov random field, expectation maximisation and bias field, as in FSL FAST.

Written from Zhang, Brady and Smith, IEEE TMI 20(1), 2001, and from the behaviour of FAST on public data.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16

from strega_jax import memory
from strega_jax.boxes import bounding_box
from strega_jax.errors import ConfigError
from strega_jax.forked import require_own_threads
from strega_jax.programs import BY_MLIR, Program
from strega_jax.scans.contrast import CONTRASTS, NAMES, Contrast
from strega_jax.tissue import bias as bias_field
from strega_jax.tissue import checks, hmrf, mixel

Preset = Literal["fsl", "robust"]
PAD_TO = 32


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


PRESETS: dict[Preset, Schedule] = {
    "fsl": Schedule(),
    "robust": Schedule(
        bias_rounds=12,
        sweeps=1,
        beta_bias=0.3,
        beta_final=0.6,
        beta_mixel=0.8,
        bias_extent_mm=50.0,
        boost_bias=True,
        linear_final=True,
        ramp_final=True,
        pooling=0.4,
    ),
}


@dataclasses.dataclass(frozen=True)
class TissueMap:
    """A segmented scan, every array on the scan's grid. Three classes run CSF, GM, WM.

    Attributes:
        seg: (x, y, z) uint8; 0 outside the mask, else 1 + the class of the highest posterior.
        pveseg: (x, y, z) uint8; 0 outside the mask, else 1 + the class of the largest fraction.
        pve: (x, y, z, k) float32; share of each class in the voxel, sums to 1 in the mask.
        mixeltype: (x, y, z) uint8; see `strega_jax.tissue.mixel`; 0 outside the mask too.
        bias: (x, y, z) float32; multiplicative field, 1 outside the mask; NaN everywhere where it was not wanted.
        restored: (x, y, z) float32; the image divided by `bias`, 0 outside the mask; NaN as `bias`.
        means, variances: (k,) float32; of the restored intensities of each class.
    """

    seg: UInt8[np.ndarray, "x y z"]
    pveseg: UInt8[np.ndarray, "x y z"]
    pve: Float[np.ndarray, "x y z k"]
    mixeltype: UInt8[np.ndarray, "x y z"]
    bias: Float[np.ndarray, "x y z"]
    restored: Float[np.ndarray, "x y z"]
    means: Float[np.ndarray, "k"]
    variances: Float[np.ndarray, "k"]

    def part(self, box: tuple[slice, ...]) -> "TissueMap":
        """What a box of the scan holds."""
        return dataclasses.replace(self, **{of: x[box] for of, x in vars(self).items() if x.ndim >= 3})


def segment(
    image: Float[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    *,
    contrast: Contrast = "T1w",
    preset: Preset = "fsl",
    mask: Bool[np.ndarray, "x y z"] | None = None,
    n_classes: int = 3,
    raster: mixel.Raster = mixel.X_FASTEST,
    assume_stripped: bool = False,
    restore: bool = True,
) -> TissueMap:
    """Segment a brain-extracted image into tissue classes.

    Args:
        image: intensities, 0 outside the brain.
        spacing_mm: voxel edge lengths.
        contrast: classes are numbered by rising mean intensity, by falling mean for T2w, so that class 1 is CSF
            in T1w, T1ce and T2w. In PD and FLAIR the order by brightness is kept as it is, and the classes are
            brightness classes, not tissues: FLAIR nulls the fluid and grey and white matter overlap.
        preset: `fsl` does what FAST does by default; `robust` couples neighbours more and corrects the bias field
            for longer, for noisy images.
        mask: which voxels to segment; default: all that differ from the background.
        n_classes: 2, 3 or 4.
        raster: voxel order of the partial-volume sweep, whose outcome (`mixeltype`, `pve`, `pveseg`) depends on it
            a little; FAST's is the order of the file, x fastest, x running from right to left.

        assume_stripped: skip the check that the brain is extracted.
        restore: `bias` and `restored` are wanted; without them the map takes a third less memory.

    Intensities that `checks.brain_intensities` had to shift or scale stay so in `restored`, `means`, `variances`.

    Raises:
        ConfigError: contrast, preset or n_classes unknown.
        ScanError: not brain-extracted, not finite, or without the intensities to tell the classes apart.
    """
    require_own_threads()
    _check_settings(contrast, preset, n_classes)
    schedule = PRESETS[preset]
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    values, mask = checks.brain_intensities(image, spacing, mask, assume_stripped)
    del image  # a volume that nothing needs any more
    box = bounding_box(mask)
    assert box is not None  # a mask without voxels is refused above
    inner_shape = tuple(s.stop - s.start for s in box)
    pad = tuple((1, -(n + 2) % PAD_TO + 1) for n in inner_shape)
    mask_box = np.pad(mask[box], pad)
    weights = hmrf.step_weights(spacing)
    smoothers = tuple(
        bias_field.smoother(n, mm, schedule.bias_extent_mm) for n, mm in zip(mask_box.shape, spacing, strict=True)
    )

    fluid_bright = CONTRASTS[contrast].fluid_bright

    def fit(start: hmrf.Start) -> _Fields:
        low, high = (np.float32(np.expm1(end)) for end in (start.low, start.high))
        bounded = np.zeros(mask_box.shape, np.float32)
        bounded[mask_box] = np.clip(values, low, high)
        inputs = bounded, mask_box, start.means, start.variances, weights, smoothers
        return _expectation_maximisation(*inputs, schedule=schedule, bright_fluid=fluid_bright)

    fronts: mixel.Wavefronts | None = None
    memory.give_back_after_fine(mask.size)
    for start in hmrf.starts(np.log1p(values), n_classes, schedule.start_rounds):
        fields = fit(start)
        if memory.is_fine(mask.size):  # what follows would have its memory beside that of the fields
            jax.block_until_ready(fields)
            memory.give_back_after_fine(mask.size)
        # Of other scans the device is busy with the fields meanwhile.
        fronts = fronts or mixel.wavefronts(mask_box, raster)
        parts = _partial_volumes(fields, mask_box, fronts, weights, beta=schedule.beta_mixel)
        if _has_all_classes(fields, n_classes):
            break
    else:
        raise checks.too_few_kinds(n_classes)
    keep = tuple(slice(1, 1 + n) for n in inner_shape)

    def place(values: Array) -> np.ndarray:
        full = np.zeros(mask.shape, values.dtype)
        full[box] = np.asarray(values)[keep]
        return full

    # Still the device has the partial volumes to do.
    bias = restored = np.broadcast_to(np.float32(np.nan), mask.shape)
    if restore:
        bias, restored = np.ones(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
        bias[box] = np.asarray(fields.bias)[keep]
        restored[mask] = values / bias[mask]
    seg = place(fields.seg)
    scale = float(fields.scale)
    types, code = parts[0], np.asarray(parts[1])  # waits for the device
    memory.give_back_after_fine(mask.size)
    pveseg, pve = np.zeros(mask.shape, np.uint8), np.zeros((*mask.shape, n_classes), np.float32)
    mixel.decode(code[keep], pveseg[box], pve[box])
    return TissueMap(
        seg=seg,
        pveseg=pveseg,
        pve=pve,
        mixeltype=place(types),
        bias=bias,
        restored=restored,
        means=(np.asarray(fields.means) + 1) * scale,
        variances=np.asarray(fields.variances) * scale**2,
    )


def _check_settings(contrast: str, preset: str, n_classes: int) -> None:
    for name, value, known in (
        ("contrast", contrast, NAMES),
        ("preset", preset, get_args(Preset)),
        ("n_classes", n_classes, (2, 3, 4)),
    ):
        if value not in known:
            raise ConfigError(f"{name} {value!r} is unknown; it is one of {', '.join(map(str, known))}")


class _Fields(NamedTuple):
    """What expectation maximisation leaves on the device; see `TissueMap`."""

    seg: UInt8[Array, "x y z"]
    bias: Float[Array, "x y z"]
    bins: UInt16[Array, "x y z"]  # of the restored intensity, in `grid`
    grid: Float[Array, "g"]  # restored intensities over `scale`, minus 1
    means: Float[Array, "k"]  # in the units of `grid`
    variances: Float[Array, "k"]
    scale: Float[Array, ""]  # mean restored intensity


def _has_all_classes(fields: _Fields, n_classes: int) -> bool:
    labels = np.asarray(fields.seg)
    return all((labels == label).any() for label in range(1, n_classes + 1))


_State = tuple[hmrf.Words, Array, Array, Array]  # packed posteriors, means, variances, log bias


class _Round(NamedTuple):
    """What one round does; arrays of rounds, so that one compiled body serves all."""

    beta: Array
    sweeps: Array
    bias: Array  # renew the bias field after the sweeps
    statistics: Array  # renew means and variances after that
    linear: Array  # on restored intensities instead of their logarithm


def _rounds(schedule: Schedule) -> _Round:
    """The schedule in order: bias alone, rounds with bias, final rounds; the first of these has the weak field."""
    n_bias, n_final = schedule.bias_rounds, schedule.final_rounds
    first = [(0.0, 0, True, False, False)]
    with_bias = [(schedule.beta_bias, schedule.sweeps, True, True, False)] * n_bias
    # Statistics alone, where the scale of the intensities changes.
    change = [(0.0, 0, False, True, True)] * schedule.linear_final
    betas = [schedule.beta_bias] + [schedule.beta_final] * (n_final - 1)
    if schedule.ramp_final:
        betas = [schedule.beta_final * i / (n_final - 1) for i in range(n_final)]
    final = [(beta, schedule.sweeps, False, True, schedule.linear_final) for beta in betas]
    columns = zip(*(first + with_bias + change + final), strict=True)
    kinds = (np.float32, np.int32, bool, bool, bool)
    # By NumPy: as JAX arrays each would be a transfer of its own.
    return _Round(*(cast(Array, np.array(column, kind)) for column, kind in zip(columns, kinds, strict=True)))


@functools.partial(Program, options=BY_MLIR)
def _expectation_maximisation(
    image: Float[Array, "x y z"],
    mask: Bool[Array, "x y z"],
    means: Float[Array, "k"],
    variances: Float[Array, "k"],
    weights: Float[Array, "9"],
    smoothers: tuple[bias_field.Smoother, bias_field.Smoother, bias_field.Smoother],
    schedule: Schedule,
    bright_fluid: bool,
) -> _Fields:
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

    def values(bias: Array, linear: Array) -> Array:
        return jax.lax.cond(linear, lambda: relative(bias)[0], lambda: y - bias)

    def one_round(state: _State, step: _Round) -> tuple[_State, None]:
        words, means, variances, bias = state
        data = values(bias, step.linear)
        for i in range(schedule.sweeps):
            wanted = i < step.sweeps
            words = hmrf.sweep(words, data, mask, reach, means, variances, weights, step.beta, wanted)
        p = hmrf.unpack(words, n_free)

        def renewed() -> Array:
            if schedule.boost_bias:
                return bias + bias_field.estimate_bias(p, y - bias, mask, means, variances, smoothers)
            return bias_field.estimate_bias(p, y, mask, means, variances, smoothers)

        bias = jax.lax.cond(step.bias, renewed, lambda: bias)
        fresh = hmrf.class_statistics(p, values(bias, step.linear), inside)
        if schedule.pooling:
            pooled = hmrf.pooled_variances(p, inside, fresh[1], schedule.pooling)
            fresh = fresh[0], jnp.where(step.linear, pooled, fresh[1])
        means, variances = (
            jnp.where(step.statistics, new, old) for new, old in zip(fresh, (means, variances), strict=True)
        )
        return (words, means, variances, bias), None

    start = (hmrf.pack(hmrf.posteriors(y, mask, means, variances)), means, variances, jnp.zeros_like(y))
    (words, means, variances, bias), _ = jax.lax.scan(one_round, start, _rounds(schedule))
    p = hmrf.unpack(words, n_free)
    data, scale = relative(bias)
    rank = jnp.argsort(means, descending=bright_fluid)
    means, variances = hmrf.class_statistics(p, data, inside)
    if schedule.pooling:  # mixtures of classes that differ in noise alone
        variances = hmrf.pooled_variances(p, inside, variances, 1.0)
    low, high = data.min(), data.max()
    grid = jnp.linspace(low, high, mixel.TABLE_SIZE, dtype=jnp.float32)
    bins = jnp.round((data - low) * ((mixel.TABLE_SIZE - 1) / (high - low)))
    return _Fields(
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
def _partial_volumes(
    fields: _Fields,
    mask: Bool[Array, "x y z"],
    fronts: mixel.Wavefronts,
    weights: Float[Array, "9"],
    beta: float,
) -> tuple[UInt8[Array, "x y z"], UInt16[Array, "x y z"]]:
    likelihood, fraction = mixel.tabulate(fields.grid, fields.means, fields.variances)
    types = mixel.classify(fields.bins, mask, likelihood, fronts, weights, jnp.float32(beta))
    return mixel.encode(types, fields.bins, fraction)
