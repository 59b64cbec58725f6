"""What speaks against believing a detection: flags with reasons, from the header, the scan and the network.

An image that is not brain-extracted, or in which no tissues can be told apart, never comes this far: the
segmentation refuses it with a ScanError.
"""

import dataclasses
import itertools

import nibabel
import numpy as np
from jaxtyping import Bool, Float

from strega_jax.inference.detect import Detection
from strega_jax.inference.pose import fit_pose
from strega_jax.inference.reference import Reference, slice_error
from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume

# A better orientation than the header's must be better by this much in the sum of two correlations.
POSE_MARGIN = 0.1
# Below this sum the brain is like the template's in no orientation.
LEAST_FIT = 0.7
# Tissue classes are tissues in these only.
TISSUE_CONTRASTS = ("T1w", "T1ce", "T2w")
# Standard deviations of the training cohort beyond which a number is unlike it; small cohorts get a wider floor.
UNLIKE_STD = 4.0
LEAST_STD = {"csf": 0.02, "gm": 0.02, "wm": 0.02, "brain_ml": 80.0}
LEAST_ERROR_STD = 0.1  # of the mean error
DARK = 0.6  # a slice with less than this share of its neighbours' brightness lost signal
CUT_FACE = 0.25  # brain on a face of the volume, relative to the largest section
SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))


@dataclasses.dataclass(frozen=True)
class Flag:
    """One doubt."""

    check: str  # orientation, contrast, slices, field of view, tissue or reconstruction
    reason: str  # one sentence: what was seen and what to do


def scan_flags(scan: Scan, slices: SliceVolume, contrast: str) -> list[Flag]:
    """Doubts about a scan that is segmented: header, orientation, contrast, missing slices, field of view."""
    return [
        *_header_flags(scan),
        *_pose_flags(scan, slices, contrast),
        *_slice_flags(scan.data, slices.brain),
        *_cut_flags(slices.brain),
    ]


def reference_flags(detection: Detection, reference: Reference | None) -> list[Flag]:
    """Doubts whether the scan is like the training scans; none can be had without a reference."""
    if reference is None:
        return []
    pve = detection.slices.tissue.pve
    brain = float(pve.sum())
    seen = {name: float(pve[..., c].sum()) / brain for c, name in enumerate(("csf", "gm", "wm"))}
    seen["brain_ml"] = brain * detection.scan.voxel_ml
    flags = []
    for name, value in seen.items():
        spread = reference.numbers[name]
        if abs(value - spread.mean) > UNLIKE_STD * max(spread.std, LEAST_STD[name]):
            shown = (
                f"the brain has {value:.0f} ml; the training scans, {spread.low:.0f} to {spread.high:.0f} ml"
                if name == "brain_ml"
                else f"{name.upper()} makes {value:.0%} of the brain; in the training scans {spread.low:.0%} to "
                f"{spread.high:.0%}"
            )
            flags.append(Flag("tissue", f"{shown}: check the brain extraction and the contrast"))
    error, spread = slice_error(detection.slices.images, detection.reconstruction), reference.numbers["error"]
    if error > spread.mean + UNLIKE_STD * max(spread.std, LEAST_ERROR_STD * spread.mean):
        flags.append(
            Flag(
                "reconstruction",
                f"the network reconstructs the slices with an error of {error:.3g}; training scans gave "
                f"{spread.low:.3g} to {spread.high:.3g}: motion, another scanner or contrast, or much pathology",
            )
        )
    return flags


def _header_flags(scan: Scan) -> list[Flag]:
    if not scan.path.is_file():
        return []
    header = getattr(nibabel.load(scan.path), "header", None)
    if header is None or int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0:
        return []
    return [Flag("orientation", "the header sets neither sform nor qform: left and right are a guess")]


def _pose_flags(scan: Scan, slices: SliceVolume, contrast: str) -> list[Flag]:
    pose = fit_pose(slices.tissue.pve, scan.affine)
    if contrast not in TISSUE_CONTRASTS:
        return []
    if pose.exchanged > pose.best + POSE_MARGIN:
        return [
            Flag("contrast", f"fluid and white matter look exchanged: is this a {contrast} scan? Name it (--contrast)")
        ]
    if pose.orientation and pose.best > pose.upright + POSE_MARGIN:
        return [Flag("orientation", f"the brain fits MNI152 better with {pose.orientation}: the header looks wrong")]
    if max(pose.best, pose.exchanged) < LEAST_FIT:
        return [Flag("orientation", f"the brain hardly resembles MNI152's (fit {pose.upright:.2f} of 2): look at it")]
    return []


def _slice_flags(image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> list[Flag]:
    flags = []
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        others = tuple({0, 1, 2} - {axis})
        area = brain.sum(axis=others)
        held = np.flatnonzero(area)
        between = np.arange(held[0], held[-1] + 1)
        empty = int((area[between] == 0).sum())
        if empty:
            flags.append(Flag("slices", f"{empty} {name} slices inside the brain are empty"))
        large = between[area[between] > 0.2 * area.max()]
        level = np.sum(image, axis=others, where=brain)[large] / area[large]
        beside = np.minimum(np.roll(level, 2), np.roll(level, -2))
        dark = int((level < DARK * beside)[2:-2].sum())
        if dark:
            flags.append(Flag("slices", f"{dark} {name} slices are much darker than their neighbours: signal was lost"))
        rows = np.moveaxis(image, axis, 0)[large]
        repeated = sum(np.array_equal(a, b) for a, b in itertools.pairwise(rows))
        if repeated:
            flags.append(Flag("slices", f"{repeated} {name} slices repeat the one before"))
    return flags


def _cut_flags(brain: Bool[np.ndarray, "x y z"]) -> list[Flag]:
    cut = []
    for axis, names in enumerate(SIDES):
        area = brain.sum(axis=tuple({0, 1, 2} - {axis}))
        cut += [name for name, face in zip(names, (area[0], area[-1]), strict=True) if face > CUT_FACE * area.max()]
    if not cut:
        return []
    return [Flag("field of view", f"the field of view cuts the brain off at the {' and the '.join(cut)}")]
