"""Brain tissue segmentation: hidden Markov random field, expectation maximisation and bias field, as in FSL FAST.

Written from Zhang, Brady and Smith, IEEE TMI 20(1), 2001, and from the behaviour of FAST on public data.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from strega_jax import memory
from strega_jax.boxes import bounding_box
from strega_jax.errors import ConfigError
from strega_jax.forked import require_own_threads
from strega_jax.scans.contrast import CONTRASTS, NAMES, Contrast
from strega_jax.tissue import bias as bias_field
from strega_jax.tissue import checks, fields, hmrf, mixel
from strega_jax.tissue.fields import Schedule

Preset = Literal["fsl", "robust"]
PAD_TO = 32


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
    meanwhile: Callable[[], None] = lambda: None,
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
        meanwhile: called once the programs of the last step are compiled, most often before the fit has begun.

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

    def fit(start: hmrf.Start) -> fields.Fields:
        low, high = (np.float32(np.expm1(end)) for end in (start.low, start.high))
        bounded = np.zeros(mask_box.shape, np.float32)
        bounded[mask_box] = np.clip(values, low, high)
        inputs = bounded, mask_box, start.means, start.variances, weights, smoothers
        return fields.expectation_maximisation(*inputs, schedule=schedule, bright_fluid=fluid_bright)

    def prepare_fit() -> None:
        """Compile the program of `fit`, whose starts are looked for meanwhile."""
        volume, numbers = (jax.ShapeDtypeStruct(shape, np.float32) for shape in (mask_box.shape, (n_classes,)))
        inputs = volume, mask_box, numbers, numbers, weights, smoothers
        fields.expectation_maximisation.ready(*inputs, schedule=schedule, bright_fluid=fluid_bright)

    def prepare() -> mixel.Wavefronts:
        """The order of the last sweep, whose program is compiled by then."""
        fronts = mixel.wavefronts(mask_box, raster)
        wanted = fields.fields_of(mask_box.shape, n_classes)
        fields.partial_volumes.ready(wanted, mask_box, fronts, weights, beta=schedule.beta_mixel)
        meanwhile()
        return fronts

    fine = memory.is_fine(mask.size)
    memory.give_back_after_fine(mask.size)
    with ThreadPoolExecutor(2) as beside:
        beside.submit(prepare_fit)  # what goes wrong is raised again by the fit
        coming = None if fine else beside.submit(prepare)
        for start in hmrf.starts(np.log1p(values), n_classes, schedule.start_rounds):
            found = fit(start)
            if fine:  # what follows would have its memory beside that of the fields
                jax.block_until_ready(found)
                memory.give_back_after_fine(mask.size)
            # Of other scans the device is busy with the fields meanwhile.
            coming = coming or beside.submit(prepare)
            parts = fields.partial_volumes(found, mask_box, coming.result(), weights, beta=schedule.beta_mixel)
            if _has_all_classes(found, n_classes):
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
        bias[box] = np.asarray(found.bias)[keep]
        restored[mask] = values / bias[mask]
    seg = place(found.seg)
    scale = float(found.scale)
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
        means=(np.asarray(found.means) + 1) * scale,
        variances=np.asarray(found.variances) * scale**2,
    )


def _check_settings(contrast: str, preset: str, n_classes: int) -> None:
    for name, value, known in (
        ("contrast", contrast, NAMES),
        ("preset", preset, get_args(Preset)),
        ("n_classes", n_classes, (2, 3, 4)),
    ):
        if value not in known:
            raise ConfigError(f"{name} {value!r} is unknown; it is one of {', '.join(map(str, known))}")


def _has_all_classes(found: fields.Fields, n_classes: int) -> bool:
    labels = np.asarray(found.seg)
    return all((labels == label).any() for label in range(1, n_classes + 1))
