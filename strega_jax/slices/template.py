"""The MNI152 tissue template that scans are aligned to, and the features by which they are compared with it."""

import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from nibabel.affines import apply_affine
from scipy import ndimage

from strega_jax.slices.registration import GRID_MM, Level

# Brain, GM, WM. CSF enters through the brain only: skull stripping keeps or drops the outer CSF as it likes.
FEATURE_WEIGHT = np.array([0.7, 1.0, 1.0], np.float32)
SHELL_MM = 12.0  # around the template's brain, where the scan must be empty
# Coarse to fine: stride over the 4 mm template, and smoothing.
STRIDE = (2, 1)
SMOOTHING_MM = (8.0, 4.0)


class Template(NamedTuple):
    """The template's centre of gravity (millimetres), volume (mm³) and levels, coarse to fine."""

    centre: Float[np.ndarray, "3"]
    volume: float
    levels: tuple[Level, ...]


@functools.cache
def mni152_template() -> Template:
    """The packaged template, smoothed. Made by tests/make_mni152_tissue.py from the ICBM 152 average."""
    fractions, affine = tissue_template()
    brain = fractions.sum(axis=-1)
    millimetres = np.moveaxis(np.indices(brain.shape), 0, -1) * GRID_MM + affine[:3, 3]
    centre = np.average(millimetres.reshape(-1, 3), axis=0, weights=brain.ravel())
    near = np.asarray(ndimage.distance_transform_edt(brain < 0.5)) <= SHELL_MM / GRID_MM
    levels = []
    for stride, sigma in zip(STRIDE, SMOOTHING_MM, strict=True):
        every = (slice(None, None, stride),) * 3
        maps = np.concatenate([fractions, np.ones((*brain.shape, 1), np.float32)], axis=-1)
        found = features(maps, sigma)[every][near[every]]
        points = (millimetres[every][near[every]] - centre).astype(np.float32)
        levels.append(Level(points, found[:, :3]))
    return Template(centre, float(brain.sum()) * GRID_MM**3, tuple(levels))


@functools.cache
def brain_points() -> Float[np.ndarray, "n 3"]:
    """MNI152 millimetres of the template's brain voxels, 4 mm apart."""
    fractions, affine = tissue_template()
    return apply_affine(affine, np.argwhere(fractions.sum(axis=-1) > 0.5))


def tissue_template() -> tuple[Float[np.ndarray, "x y z 3"], Float[np.ndarray, "4 4"]]:
    """CSF, GM and WM fractions of the packaged template, and its affine (index → MNI152 millimetres)."""
    with resources.files("strega_jax.slices").joinpath("mni152_tissue.npz").open("rb") as file:
        stored = np.load(file)
        return stored["fractions"].astype(np.float32) / 255, stored["affine"]


def features(maps: Float[np.ndarray, "x y z 4"], sigma_mm: float) -> Float[np.ndarray, "x y z 4"]:
    """CSF, GM, WM, field of view → smoothed and weighted brain, GM, WM, and the field of view as it was."""
    raw = np.stack([maps[..., :3].sum(axis=-1), maps[..., 1], maps[..., 2]], axis=-1) * FEATURE_WEIGHT
    sigma = (sigma_mm / GRID_MM,) * 3 + (0.0,)
    smooth = ndimage.gaussian_filter(raw, sigma, mode="constant")
    # What lies beyond a cut face must not darken what lies before it.
    seen = ndimage.gaussian_filter(maps[..., 3:], sigma, mode="nearest")
    return np.concatenate([smooth / np.maximum(seen, 0.5), maps[..., 3:]], axis=-1)
