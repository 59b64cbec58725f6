"""Frames of one DICOM series → the volumes in it: by direction and grid, then by echo, time and the like."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float

from strega_jax.scans.dicom_frames import Frame
from strega_jax.scans.scan import MIN_AXIS_VOXELS, MIN_SPACING_MM

ORIENTATION_TOLERANCE = 1e-3  # of direction cosines
SPACING_TOLERANCE_MM = 1e-3
# More in one series are a movie or a measurement of relaxation, not images to look at.
MAX_VOLUMES = 8
# A localiser has a few slices in each of several directions.
LOCALISER_SLICES = 10

# What may tell volumes at one place apart, in the order in which it is tried → the word for it in a name.
KEYS: list[tuple[str, Callable[[Frame], Hashable]]] = [
    # Some anonymisers give all series one UID.
    ("name", lambda frame: (frame.acquisition.description, frame.acquisition.protocol)),
    ("part", lambda frame: frame.acquisition.component),
    ("echo", lambda frame: frame.acquisition.te or 0.0),
    ("inversion", lambda frame: frame.acquisition.ti or 0.0),
    ("flip", lambda frame: frame.acquisition.flip or 0.0),
    ("time", lambda frame: _sortable(frame.time)),
    ("type", lambda frame: frame.acquisition.image_type),
    ("acquisition", lambda frame: _sortable(frame.number)),
    ("trigger", lambda frame: _sortable(frame.trigger)),
]


def split_volumes(frames: Sequence[Frame]) -> tuple[dict[str, list[Frame]], list[Frame]]:
    """Volumes of a series by what tells them apart, e.g. "echo-1" ("" where there is one); and slices too few for one.

    A group in which slices lie at one place and nothing tells them apart stays together, for the reader to refuse.
    """
    grids = _by_grid(frames)
    whole = [group for group in grids if len(group) >= MIN_AXIS_VOXELS]
    volumes: dict[str, list[Frame]] = {}
    for number, group in enumerate(whole, start=1):
        direction = f"direction-{number}" if len(whole) > 1 else ""
        for further, volume in _by_keys(group, KEYS):
            volumes["_".join(filter(None, (direction, further)))] = volume
    return volumes, [frame for group in grids for frame in group if len(group) < MIN_AXIS_VOXELS]


def is_localiser(frames: Sequence[Frame]) -> bool:
    """Whether frames are a few slices in each of several directions, about as many in one as in another."""
    largest, *others = _by_grid(frames)
    turned = [group for group in others if not np.allclose(group[0].orientation, largest[0].orientation, atol=0.1)]
    return bool(turned) and len(largest) < min(LOCALISER_SLICES, 2 * len(turned[0]) + 1)


def normal_of(frame: Frame) -> Float[np.ndarray, "3"]:
    """The direction in which slices are stacked."""
    directions = np.array(frame.orientation)
    return np.cross(directions[:3], directions[3:])


def _by_grid(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of one size, direction, pixel spacing and stack; the largest group first."""
    groups: list[list[Frame]] = []
    for frame in frames:
        group = next((group for group in groups if _same_grid(group[0], frame)), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return sorted(groups, key=len, reverse=True)


def _same_grid(a: Frame, b: Frame) -> bool:
    return (
        (a.rows, a.columns, a.stack) == (b.rows, b.columns, b.stack)
        and np.allclose(a.orientation, b.orientation, atol=ORIENTATION_TOLERANCE, rtol=0)
        and np.allclose(a.spacing, b.spacing, atol=SPACING_TOLERANCE_MM, rtol=0)
    )


def _by_keys(frames: list[Frame], keys: list[tuple[str, Callable[[Frame], Hashable]]]) -> list[tuple[str, list[Frame]]]:
    if not keys or not _overlap(frames):
        return [("", frames)]
    (name, key), *rest = keys
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    # What differs from slice to slice, as acquisition numbers may, tells no volumes apart.
    if len(groups) == 1 or min(len(group) for group in groups.values()) < MIN_AXIS_VOXELS:
        return _by_keys(frames, rest)
    return [
        ("_".join(filter(None, (f"{name}-{number}", further))), volume)
        for number, value in enumerate(sorted(groups), start=1)  # pyright: ignore[reportArgumentType]
        for further, volume in _by_keys(groups[value], rest)
    ]


def _overlap(frames: list[Frame]) -> bool:
    heights = np.sort(np.array([frame.position for frame in frames]) @ normal_of(frames[0]))
    return bool((np.diff(heights) < MIN_SPACING_MM).any())


def _sortable(written: str) -> tuple[float, str]:
    try:
        return float(written), ""
    except ValueError:
        return 0.0, written
