"""Quality control: warnings with reasons against believing a detection, from the header, the scan and the network.

An image that is not brain-extracted, or in which no tissues can be told apart, never comes this far: the
segmentation refuses it with a ScanError.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from nibabel.affines import from_matvec

from strega_jax.boxes import bounding_box
from strega_jax.detection.brain_quality import mask_warnings
from strega_jax.detection.field_of_view import SIDES, field_of_view_warnings, is_cut
from strega_jax.detection.found import Detection
from strega_jax.detection.ghosting import strongest_ghost
from strega_jax.detection.grey_white import white_brightness
from strega_jax.detection.pose import fit_pose
from strega_jax.models.reference import Reference, slice_error
from strega_jax.scans.contrast import UNKNOWN, tissue_contrasts
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume

# A better orientation than the header's must be better by this much in the sum of two correlations.
POSE_MARGIN = 0.1
# An exchanged tissue map that fits as well as a right one does.
SURE_FIT = 1.3
# Below this sum the tissue map is like the template's in no orientation; brains of five sources gave 1.3 to 1.7, the
# right outline alone gives 1.
LEAST_FIT = 1.15
# `white_brightness` read as FLAIR: eight FLAIR scans gave -0.35 to 0.11, the highest a large tumour; seven healthy T1w
# brains 0.34 to 0.56, fourteen T1w and T1ce scans of patients 0.21 to 0.49.
WHITE_BRIGHTER = 0.2
# Standard deviations of the training cohort beyond which a number is unlike it; small cohorts get a wider floor.
UNLIKE_STD = 4.0
LEAST_STD = {"csf": 0.02, "gm": 0.02, "wm": 0.02, "brain_ml": 80.0}
# Of the training scans' mean. Other scanners and contrasts, read rightly, gave 1.2 to 1.9 times.
LARGEST_ERROR = 2.0
# 160 healthy brains gave at most 0.053; of 29 scans of patients, 28 gave at most 0.067, one 0.088.
GHOST_STRENGTH = 0.07
# Of the brain's mean. 69 scans of five sources gave at most 0.071.
NOISE_SHARE = 0.12
NOISE_FILTER = (1.0, -4.0, 6.0, -4.0, 1.0)  # fourth difference: blind to what is cubic over five voxels
# The masks of four tumours averaged to sagittal slices of 3 mm had a Dice of 0.94 or more with those at 1 mm, of 4 mm
# down to 0.86, of 7 mm down to 0.79. Coronal ones of 7 mm had 0.93 or more, better than axial ones (0.89).
THICK_MM = 3.5
THICKER = 1.5  # times the finest edge of a voxel: what is coarse in all directions has no slices
DARK = 0.6  # a slice with less than this share of its neighbours' brightness lost signal


@dataclasses.dataclass(frozen=True)
class QualityWarning:
    """One quality-control warning."""

    # orientation, contrast, slices, field of view, brain volume, brain hole, brain parts, noise, ghosting, tissue or
    # reconstruction
    check: str
    reason: str  # one sentence: what was seen and what to do


def scan_warnings(scan: Scan, slices: SliceVolume, training_contrast: str) -> list[QualityWarning]:
    """Warnings about a scan and its slices: `pose_warnings` and `image_warnings`."""
    return pose_warnings(scan, slices, training_contrast) + image_warnings(scan, slices.brain)


def image_warnings(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> list[QualityWarning]:
    """Warnings about the intensities and the brain mask: lost slices, volume, holes, parts, noise, ghosts."""
    lost = _slice_flags(scan.data, brain)
    if lost:  # they take the mask apart, and a dark slice is like itself at any shift within it
        return lost + _noise_flags(scan, brain)
    mask = [QualityWarning(check, reason) for check, reason in mask_warnings(brain, scan.affine)]
    return mask + _noise_flags(scan, brain) + _ghost_flags(scan, brain)


def pose_warnings(scan: Scan, slices: SliceVolume, training_contrast: str) -> list[QualityWarning]:
    """Warnings about header and pose: orientation, thickness of the slices, contrast, field of view."""
    return [
        *_header_flags(scan),
        *_thickness_flags(scan),
        *_contrast_flags(scan, slices, training_contrast),
        *_pose_flags(scan, slices, scan.contrast or training_contrast),
        *(QualityWarning(check, reason) for check, reason in field_of_view_warnings(scan, slices)),
    ]


def detection_warnings(
    detection: Detection, training_contrast: str, reference: Reference | None
) -> list[QualityWarning]:
    """All warnings about a scan that was detected: `scan_warnings` and `reference_warnings`."""
    warnings = scan_warnings(detection.scan, detection.slices, training_contrast)
    return warnings + reference_warnings(measure(detection), reference)


def measure(detection: Detection) -> dict[str, float]:
    """What a scan is compared by with the training scans: shares of `csf`, `gm`, `wm`, `brain_ml` and `error`.

    Without `gm` and `wm` where the contrast does not tell them apart.
    """
    pve = detection.slices.tissue.pve[bounding_box(detection.slices.brain) or ...]
    sums = [float(pve[..., c].sum()) for c in range(3)]
    brain = sum(sums)
    seen = {name: of / brain for name, of in zip(("csf", "gm", "wm"), sums, strict=True)}
    error = slice_error(detection.slices.images, detection.reconstruction)
    if detection.slices.grey_from_template:
        seen = {"csf": seen["csf"]}
    return {**seen, "brain_ml": brain * detection.scan.voxel_ml, "error": error}


def reference_warnings(measured: Mapping[str, float], reference: Reference | None) -> list[QualityWarning]:
    """Warnings that what `measure` gave is unlike the training scans; none can be had without a reference."""
    if reference is None:
        return []
    flags = []
    for name, least in LEAST_STD.items():
        if name not in measured:
            continue
        value, spread = measured[name], reference.numbers[name]
        if abs(value - spread.mean) > UNLIKE_STD * max(spread.std, least):
            shown = (
                f"the brain has {value:.0f} ml; the training scans, {spread.low:.0f} to {spread.high:.0f} ml"
                if name == "brain_ml"
                else f"{name.upper()} makes {value:.0%} of the brain; in the training scans {spread.low:.0%} to "
                f"{spread.high:.0%}"
            )
            flags.append(QualityWarning("tissue", f"{shown}: check the brain extraction and the contrast"))
    error, spread = measured["error"], reference.numbers["error"]
    if error > LARGEST_ERROR * spread.mean:
        flags.append(
            QualityWarning(
                "reconstruction",
                f"the network reconstructs the slices with an error of {error:.3g}; training scans gave "
                f"{spread.low:.3g} to {spread.high:.3g}: motion, noise, another contrast, or much pathology",
            )
        )
    return flags


def noise_share(
    image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> float:
    """Standard deviation of white noise in the brain, as a share of its mean.

    From the median of fourth differences along each of the finest axes (after Gasser et al. 1986, who take second
    ones); the least of these, for anatomy only adds. 0 where no five voxels of brain lie in a row.
    """
    box = bounding_box(brain)
    if box is None:
        return 0.0
    image, brain = image[box], brain[box]
    scale = 1.4826 / float(np.linalg.norm(NOISE_FILTER))  # of a median of absolute values, and of the filter
    found: list[float] = []
    for axis in range(3):
        if spacing_mm[axis] > 1.5 * min(spacing_mm):
            continue
        # Every second line will do.
        lines = tuple(slice(None) if a == axis else slice(None, None, 2) for a in range(3))
        values, inside = np.moveaxis(image[lines], axis, 0), np.moveaxis(brain[lines], axis, 0)
        count = len(values) - len(NOISE_FILTER) + 1
        if count < 1:
            continue
        difference, whole = NOISE_FILTER[0] * values[:count], inside[:count].copy()
        for i, tap in enumerate(NOISE_FILTER[1:], start=1):
            difference += tap * values[i : i + count]
            whole &= inside[i : i + count]
        if whole.any():
            found.append(scale * float(np.median(np.abs(difference[whole]))))
    return min(found, default=0.0) / float(image[brain].mean())


def _header_flags(scan: Scan) -> list[QualityWarning]:
    if scan.forms:
        return []
    return [QualityWarning("orientation", "the header sets neither sform nor qform: left and right are a guess")]


def _thickness_flags(scan: Scan) -> list[QualityWarning]:
    thickness = scan.spacing_mm[0]
    if thickness <= max(THICK_MM, THICKER * min(scan.spacing_mm)):
        return []
    reason = (
        f"sagittal slices of {thickness:.1f} mm: the network sees axial ones, which are as coarse from left to right, "
        "and may mark another region than it would in thin slices. Prefer an axial, coronal or 3-D scan"
    )
    return [QualityWarning("slices", reason)]


def _contrast_flags(scan: Scan, slices: SliceVolume, training_contrast: str) -> list[QualityWarning]:
    contrast = scan.contrast
    if contrast == UNKNOWN:
        reason = f"nothing tells the contrast: read as {training_contrast}. Name it (--contrast)"
        return [QualityWarning("contrast", reason)]
    if slices.grey_from_template:
        return _white_flags(contrast, scan, slices)
    if contrast == training_contrast or contrast in tissue_contrasts():
        return []
    known = ", ".join(tissue_contrasts())
    return [
        QualityWarning("contrast", f"{contrast}: tissues are told apart in {known} and the training contrast alone")
    ]


def _white_flags(contrast: str, scan: Scan, slices: SliceVolume) -> list[QualityWarning]:
    if slices.alignment is None:
        return []
    if white_brightness(slices.tissue.pve, scan.affine, slices.alignment) <= WHITE_BRIGHTER:
        return []
    reason = f"white matter is brighter than grey, as in T1w: is this a {contrast} scan? Name it (--contrast)"
    return [QualityWarning("contrast", reason)]


def _pose_flags(scan: Scan, slices: SliceVolume, contrast: str) -> list[QualityWarning]:
    cut = is_cut(scan, slices)
    # Of a brain that is whole its box is enough; where one is cut, the ends of the array tell what was scanned.
    box = None if cut else bounding_box(slices.brain)
    fractions, affine = slices.tissue.pve[box or ...], scan.affine
    if box is not None:
        affine = affine @ from_matvec(np.eye(3), [side.start for side in box])
    if slices.grey_from_template:  # classes of brightness: what is not fluid counts as half grey, half white
        tissue = (fractions[..., 1:2] + fractions[..., 2:]) / 2
        fractions = np.concatenate([fractions[..., :1], tissue, tissue], axis=-1)
    elif contrast not in tissue_contrasts():
        return []
    pose = fit_pose(fractions, affine, slices.alignment if cut else None)
    if pose.exchanged > max(pose.best + POSE_MARGIN, SURE_FIT):
        return [
            QualityWarning(
                "contrast", f"fluid and white matter look exchanged: is this a {contrast} scan? Name it (--contrast)"
            )
        ]
    if pose.orientation and pose.best > pose.upright + POSE_MARGIN:
        return [
            QualityWarning(
                "orientation", f"the brain fits MNI152 better with {pose.orientation}: the header looks wrong"
            )
        ]
    if pose.best < LEAST_FIT:
        return [
            QualityWarning(
                "tissue",
                f"the tissue map hardly resembles MNI152's (fit {pose.upright:.2f} of 2; brains give 1.3 to 1.7): the "
                "tissues were not told apart, or this is no whole brain",
            )
        ]
    return []


def _slice_flags(image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> list[QualityWarning]:
    flags = []
    box = bounding_box(brain) or ...
    image, brain = image[box], brain[box]
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        others = tuple({0, 1, 2} - {axis})
        area = brain.sum(axis=others)
        held = np.flatnonzero(area)
        between = np.arange(held[0], held[-1] + 1)
        empty = int((area[between] == 0).sum())
        if empty:
            flags.append(QualityWarning("slices", f"{empty} {name} slices inside the brain are empty"))
        large = between[area[between] > 0.2 * area.max()]
        level = np.sum(image, axis=others, where=brain)[large] / area[large]
        beside = np.minimum(np.roll(level, 2), np.roll(level, -2))
        dark = int((level < DARK * beside)[2:-2].sum())
        if dark:
            flags.append(
                QualityWarning("slices", f"{dark} {name} slices are much darker than their neighbours: signal was lost")
            )
        rows = np.moveaxis(image, axis, 0)[large]
        repeated = sum(np.array_equal(a, b) for a, b in itertools.pairwise(rows))
        if repeated:
            flags.append(QualityWarning("slices", f"{repeated} {name} slices repeat the one before"))
    return flags


def _ghost_flags(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> list[QualityWarning]:
    ghost = strongest_ghost(scan.data, brain, scan.spacing_mm)
    if ghost.strength <= GHOST_STRENGTH:
        return []
    along = " to ".join(SIDES[ghost.axis])
    return [
        QualityWarning(
            "ghosting",
            f"the brain shows a copy of itself {ghost.shift_mm:.0f} mm aside, from {along} (strength "
            f"{ghost.strength:.2f}; scans without reach {GHOST_STRENGTH:.2f}): motion or flow",
        )
    ]


def _noise_flags(scan: Scan, brain: Bool[np.ndarray, "x y z"]) -> list[QualityWarning]:
    share = noise_share(scan.data, brain, scan.spacing_mm)
    if share <= NOISE_SHARE:
        return []
    return [
        QualityWarning(
            "noise", f"noise is {share:.0%} of the brain's mean; scans at hand reach 7 %: lesions may drown in it"
        )
    ]
