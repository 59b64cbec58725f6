"""Healthy T1ce, T2w, FLAIR and PD brains rendered from a segmented healthy T1w brain.

The anatomy is the T1w scan's own: its tissue fractions, and what of its texture they do not explain. Intensities are
those of the other contrast, in the manner of SynthSeg (Billot et al. 2023): each structure has a random level in a
wide range, the fractions mix them, and random fields, vessels, blur, bias and noise are laid over.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float
from nibabel.affines import apply_affine
from scipy import ndimage

from strega_jax.scans.looks import LOOKS, MOVING, PLEXUS, REGIONS, VENTRICLES, Look, Point, Range, check_renderable

Volume = Float[np.ndarray, "x y z"]

WHITE_LEVEL = 500.0  # white matter's intensity in the images that are made
FWHM = 2.3548  # of a Gaussian, in standard deviations
SOFTNESS = 5.0  # of an ellipsoid's border: larger is sharper
THICK = 0.5  # share of scans of thick slices
# Standard deviations of slow changes that are alike in both hemispheres, and of those that are not: of one tissue, and
# of the bias field. White matter of the development scans has 0.02 to 0.12 and 0.004 to 0.03 of both together.
SLOW_PAIRED, SLOW_SINGLE = (0.01, 0.03), (0.005, 0.015)
BIAS_PAIRED, BIAS_SINGLE = (0.01, 0.14), (0.005, 0.05)
# How much darker fluid is drawn for what T1w shows darker than the ventricles: dura, vessels and skull mix with it.
VOID = (0.8, 1.2)
NOISE = (0.005, 0.04)  # of white matter


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """The anatomy that is drawn, and the source of everything random."""

    fractions: Float[np.ndarray, "x y z 3"]
    to_template: Float[np.ndarray, "4 4"]
    spacing: Float[np.ndarray, "3"]
    rng: np.random.Generator

    @functools.cached_property
    def brain(self) -> Bool[np.ndarray, "x y z"]:
        return self.fractions.sum(axis=-1) > 0

    @functools.cached_property
    def place(self) -> Float[np.ndarray, "3 x y z"]:
        """MNI152 millimetres of each voxel."""
        index = np.moveaxis(np.indices(self.brain.shape), 0, -1)
        return np.moveaxis(apply_affine(self.to_template, index), -1, 0)

    def between(self, limits: Range) -> float:
        """A uniform random number."""
        return float(self.rng.uniform(*limits))

    def field(self, mm: float) -> Volume:
        """Gaussian random field of unit variance that is smooth over `mm`."""
        noise = self.rng.standard_normal(self.brain.shape, np.float32)
        field = ndimage.gaussian_filter(noise, mm / 2 / self.spacing, mode="wrap")
        return field / max(float(field.std()), 1e-6)

    def paired_field(self, mm: float, paired: float, single: float) -> Volume:
        """Sum of a field alike in both hemispheres and of one that is not, of these standard deviations."""
        mirror = np.linalg.inv(self.to_template) @ np.diag([-1.0, 1.0, 1.0, 1.0]) @ self.to_template
        one = self.field(mm)
        both = one + ndimage.affine_transform(one, mirror, order=1, mode="nearest")
        return paired * both / np.sqrt(2) + single * self.field(mm)

    def uneven(self, grain: float) -> Volume:
        """How the level of one tissue changes over the brain, about 1: over a few millimetres, and over more."""
        slow = self.paired_field(self.between((8, 25)), self.between(SLOW_PAIRED), self.between(SLOW_SINGLE))
        return (1 + grain * self.field(self.between((2.5, 5))) + slow).clip(0.3)

    def ellipsoid(self, centre: Point, axes: Point) -> Volume:
        """1 well inside an ellipsoid on either side of the midline, 0 well outside, 0.5 on its surface."""
        aside = (np.abs(self.place[0]) - centre[0]) / axes[0]
        along = ((self.place[1] - centre[1]) / axes[1]) ** 2 + ((self.place[2] - centre[2]) / axes[2]) ** 2
        return 1 / (1 + np.exp((np.sqrt(aside**2 + along) - 1) * SOFTNESS))

    def depth(self, inside: Bool[np.ndarray, "x y z"]) -> Volume:
        """Distance to the nearest voxel that is not inside, in millimetres."""
        return np.asarray(ndimage.distance_transform_edt(inside, sampling=tuple(self.spacing)))


def render(
    image: Volume,
    fractions: Float[np.ndarray, "x y z 3"],
    to_template: Float[np.ndarray, "4 4"],
    spacing_mm: tuple[float, float, float],
    contrast: str,
    rng: np.random.Generator,
) -> Volume:
    """Render one healthy brain in another contrast.

    Args:
        image: healthy T1w intensities, 0 outside the brain.
        fractions: its CSF, GM and WM shares, 0 outside the brain.
        to_template: voxel index → MNI152 millimetres.
        spacing_mm: voxel edge lengths.
        contrast: a key of `LOOKS`.
        rng: source of everything random; two equal generators give two equal brains.

    Returns:
        float32 intensities > 0 inside the brain, 0 outside.

    Raises:
        ConfigError: a contrast that cannot be rendered.
    """
    check_renderable([contrast])
    look = LOOKS[contrast]
    drawing = _Drawing(fractions, to_template, np.asarray(spacing_mm, float), rng)
    texture = _texture(image, drawing) * drawing.between(look.texture)
    csf = fractions[..., 0]
    fluid = _fluid(drawing, look) * (1 - _void(image, drawing) * drawing.between(VOID))
    drawn = csf * fluid + (1 - csf) * _solid(drawing, look) * (1 + texture)
    return _scanned(_with_vessels(drawn, drawing, look), drawing)


def _solid(drawing: _Drawing, look: Look) -> Volume:
    """Level of what is not fluid in each voxel."""
    share = drawing.fractions[..., 1] / np.maximum(drawing.fractions[..., 1:].sum(axis=-1), 1e-3)
    grain, grey = drawing.between(look.grain), drawing.between(look.grey)
    level = share * grey * drawing.uneven(1.5 * grain) + (1 - share) * drawing.uneven(grain)
    drawn = {name: drawing.between(getattr(look, name)) for name in ("striatum", "thalamus", "pallidum", "nigra")}
    drawn["limbic"] = grey * drawing.between(look.limbic)
    for region in REGIONS:
        weight = drawing.ellipsoid(region.centre, region.axes) * (share if region.grey_only else 1)
        level = level + weight * (drawn[region.name] - level)
    ventricle = (drawing.fractions[..., 0] > 0.5) & (drawing.ellipsoid(*VENTRICLES) > 0.5)
    if ventricle.any():
        from_middle = (np.abs(drawing.place[1] - VENTRICLES[0][1]) / 30).clip(0, 1)
        horns = np.exp(-drawing.depth(~ventricle) / drawing.between((1.5, 4.0))) * (1 - share) * from_middle
        level = level * (1 + (drawing.between(look.caps) - 1) * horns)
    return level


def _fluid(drawing: _Drawing, look: Look) -> Volume:
    """Level of fluid: at rest, moving, or with choroid plexus in it."""
    # In sulci pia, small vessels and arachnoid mix with it.
    level = drawing.between(look.fluid) * drawing.uneven(drawing.between((0.03, 0.12)))
    flow, plexus = drawing.between(look.flow), drawing.between(look.plexus)
    for centre, axes in MOVING:
        moves = (drawing.ellipsoid(centre, axes) * (0.5 + drawing.field(12))).clip(0, 1)
        level = level + moves * (flow - level)
    return level + drawing.ellipsoid(*PLEXUS) * (drawing.field(5) > 0) * (plexus - level)


def _void(image: Volume, drawing: _Drawing) -> Volume:
    """How much of a voxel gives no signal: 0 where T1w is as bright as in the ventricles, 1 where it is black."""
    pure = drawing.fractions[..., 0] > 0.95
    still = pure & (drawing.ellipsoid(*VENTRICLES) > 0.5)
    level = np.median(image[still]) if still.any() else np.quantile(image[pure], 0.7) if pure.any() else 0.0
    return np.where(pure, 1 - image / max(float(level), 1e-3), 0).clip(0, 1)


def _texture(image: Volume, drawing: _Drawing) -> Volume:
    """What the fractions do not explain of the T1w scan, relative to it, without its slow changes; about ± 0.05."""
    pure = [image[drawing.fractions[..., c] > 0.9] for c in range(3)]
    medians = np.array([float(np.median(values)) if values.size else 1.0 for values in pure])
    ratio = np.where(drawing.brain, image / np.maximum(drawing.fractions @ medians, 1e-3), 0)
    sigma = 8.0 / drawing.spacing
    weight = ndimage.gaussian_filter(drawing.brain.astype(np.float32), sigma)
    slow = ndimage.gaussian_filter(ratio, sigma) / np.maximum(weight, 1e-3)
    return np.where(drawing.brain, (ratio / np.maximum(slow, 1e-3) - 1).clip(-0.2, 0.2), 0)


def _with_vessels(drawn: Volume, drawing: _Drawing, look: Look) -> Volume:
    """Curved vessels in the sulci and cisterns, sinuses along the midline, and dura at the brain's surface."""
    csf, place, depth = drawing.fractions[..., 0], drawing.place, drawing.depth(drawing.brain)
    sulci = (csf > 0.2) & (drawing.ellipsoid(*VENTRICLES) < 0.5)
    # Where two smooth random fields both vanish there are random curves.
    distance = np.hypot(drawing.field(6), drawing.field(6))
    reach = np.quantile(distance[sulci], look.vessels * drawing.between((0.3, 1.7))) if sulci.any() else 0.0
    vessel = np.where(sulci, np.exp(-((distance / max(reach, 1e-6)) ** 2)), 0)
    sinus = sulci & (depth < 6) & (np.abs(place[0]) < 4) & ((place[1] < -40) | (place[2] > 45))
    vessel = np.maximum(vessel, sinus * drawing.between((0, 0.7)))
    drawn = drawn + vessel * (drawing.between(look.vessel) - drawn)
    patches = drawing.field(15)
    covered = patches > np.quantile(patches, 1 - look.dura_share * drawing.between((0, 2)))
    thick = np.exp(-((depth / drawing.between((1.0, 2.5))) ** 2)) * covered
    return drawn + thick * (drawing.between(look.dura) - drawn)


def _scanned(drawn: Volume, drawing: _Drawing) -> Volume:
    """Slices of some thickness, contrast a little bent, a bias field and Rician noise."""
    brain, rng = drawing.brain, drawing.rng
    fwhm = np.full(3, drawing.between((1.0, 3.0)))
    if rng.uniform() < THICK:
        fwhm[rng.choice(3, p=(0.15, 0.15, 0.7))] = drawing.between((3.0, 6.0))
    sigma = fwhm / FWHM / drawing.spacing
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    image = ndimage.gaussian_filter(np.where(brain, drawn, 0), sigma) / np.maximum(weight, 1e-3)
    image = np.maximum(image, 1e-3) ** drawing.between((0.9, 1.1))
    bias = drawing.paired_field(50, drawing.between(BIAS_PAIRED), drawing.between(BIAS_SINGLE))
    real, imaginary = drawing.between(NOISE) * rng.standard_normal((2, *brain.shape))
    image = np.hypot(image * np.exp(bias) + real, imaginary)
    return np.where(brain, np.maximum(image * WHITE_LEVEL, 1.0), 0).astype(np.float32)
