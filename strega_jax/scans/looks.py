"""What healthy brains look like in each contrast: ranges of the levels of their structures, and where these lie.

Levels are relative to white matter. They were taken from relaxation times at 1.5 and 3 T (Stanisz et al. 2005,
Wansapura et al. 1999) in the signal equations of spin echo and inversion recovery, and widened to the ratios that five
patients with several contrasts of one session show outside their lesions. Nothing of a lesion has a part in them.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from strega_jax.errors import ConfigError

Range = tuple[float, float]
Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Look:
    """One contrast: ranges of levels relative to white matter, and of what else is drawn for every scan."""

    fluid: Range
    grey: Range
    pallidum: Range
    striatum: Range
    thalamus: Range
    nigra: Range  # red nucleus, substantia nigra, dentate nucleus: iron
    limbic: Range  # hippocampus, amygdala and insula, relative to grey matter
    plexus: Range  # choroid plexus
    vessel: Range
    dura: Range
    caps: Range  # white matter at the ventricles' horns, relative to white matter
    texture: Range  # how strongly, and with which sign, the T1w scan's own texture shows
    flow: Range  # fluid's level where it moves, in basal cisterns, aqueduct and fourth ventricle
    grain: Range  # SD of white matter's level over a few millimetres; grey matter's is half as much again
    vessels: float = 0.02  # share of the voxels that hold fluid which are vessels
    dura_share: float = 0.1  # of the brain's surface that has dura at it


LOOKS: dict[str, Look] = {
    "T1ce": Look(
        fluid=(0.25, 0.55),
        grey=(0.58, 0.88),
        pallidum=(0.92, 1.12),
        striatum=(0.82, 1.02),
        thalamus=(0.82, 1.08),
        nigra=(0.8, 1.1),
        limbic=(0.98, 1.12),
        plexus=(1.0, 1.8),
        vessel=(1.1, 2.4),
        dura=(0.9, 2.0),
        caps=(0.95, 1.0),
        texture=(0.5, 1.0),
        flow=(0.3, 0.6),
        grain=(0.02, 0.05),
        dura_share=0.15,
    ),
    "T2w": Look(
        fluid=(2.3, 4.2),
        grey=(1.05, 1.45),
        pallidum=(0.72, 0.98),
        striatum=(0.85, 1.12),
        thalamus=(0.95, 1.25),
        nigra=(0.75, 1.05),
        limbic=(0.98, 1.12),
        plexus=(1.8, 2.6),
        vessel=(0.3, 0.9),
        dura=(0.4, 0.9),
        caps=(1.0, 1.3),
        texture=(-1.0, -0.3),
        flow=(0.6, 2.5),
        grain=(0.04, 0.08),
    ),
    # Physics alone gives grey matter 1.1 to 1.3; three-dimensional FLAIR of two patients shows 0.81 and 0.94.
    "FLAIR": Look(
        fluid=(0.1, 0.45),
        grey=(0.85, 1.2),
        pallidum=(0.68, 0.92),
        striatum=(0.75, 1.0),
        thalamus=(0.92, 1.1),
        nigra=(0.8, 1.02),
        limbic=(1.02, 1.15),
        plexus=(1.05, 1.45),
        vessel=(0.3, 0.7),
        dura=(0.4, 1.2),
        caps=(1.0, 1.4),
        texture=(-1.0, 0.3),
        flow=(0.3, 1.0),
        grain=(0.04, 0.08),
    ),
    "PD": Look(
        fluid=(0.95, 1.45),
        grey=(1.1, 1.3),
        pallidum=(0.9, 1.02),
        striatum=(1.02, 1.18),
        thalamus=(1.0, 1.15),
        nigra=(0.88, 1.03),
        limbic=(1.0, 1.06),
        plexus=(1.1, 1.4),
        vessel=(0.3, 0.9),
        dura=(0.4, 0.9),
        caps=(1.0, 1.12),
        texture=(-0.6, 0.0),
        flow=(0.6, 1.2),
        grain=(0.02, 0.05),
    ),
}


def check_renderable(contrasts: Iterable[str]) -> None:
    """Raise ConfigError for a contrast that no T1w scan can be rendered in."""
    if unknown := set(contrasts) - set(LOOKS):
        raise ConfigError(f"cannot render {', '.join(sorted(unknown))}; known: {', '.join(LOOKS)}")


class Region(NamedTuple):
    """A soft ellipsoid on both sides of the midline, in MNI152 millimetres."""

    name: str
    centre: Point
    axes: Point
    grey_only: bool  # only as far as a voxel is grey matter


REGIONS = (
    Region("striatum", (26, 4, 1), (7, 16, 10), True),
    Region("striatum", (13, 14, 8), (7, 11, 11), True),
    Region("thalamus", (12, -18, 8), (11, 14, 9), False),
    Region("pallidum", (19, -5, -1), (6, 8, 6), False),
    Region("nigra", (8, -18, -11), (6, 6, 5), False),
    Region("nigra", (15, -56, -35), (7, 9, 6), False),
    Region("limbic", (38, 4, 0), (6, 20, 14), True),
    Region("limbic", (25, -15, -18), (10, 20, 9), True),
)
# Centre and half axes.
VENTRICLES = ((0, -12, 12), (34, 50, 22))
PLEXUS = ((21, -40, 8), (6, 9, 7))
MOVING = (((0, -18, -32), (22, 30, 26)), ((0, -45, -32), (9, 12, 14)))  # basal cisterns, fourth ventricle
