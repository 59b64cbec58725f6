"""Quality control of the field of view: the sides at which it cuts the brain off, and how much lies beyond."""

import numpy as np

from strega_jax.scans.scan import Scan
from strega_jax.slices.preprocess import SliceVolume
from strega_jax.slices.unseen import CUT_FACE, sections, unseen_shares

UNSEEN_SHARE = 0.02  # of the template's brain beyond a face; of 70 brains that were not cut at most 0.013
SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))


def field_of_view_warnings(scan: Scan, slices: SliceVolume) -> list[tuple[str, str]]:
    """A (check, reason) that names the cut sides, and the share not seen where the brain was aligned; or none."""
    unseen = _unseen(scan, slices)
    if not unseen:
        return []
    reason = f"the field of view cuts the brain off at the {' and the '.join(side for side, _ in unseen)}"
    if slices.alignment is not None:
        shares = " and ".join(f"{max(share, 0.01):.0%}" for _, share in unseen)
        reason += f": about {shares} of it, by MNI152's brain in this pose, was not seen and cannot be judged"
    return [("field of view", reason)]


def is_cut(scan: Scan, slices: SliceVolume) -> bool:
    """Whether at least `UNSEEN_SHARE` of the template's brain lies beyond one side of the field of view."""
    return any(share >= UNSEEN_SHARE for _, share in _unseen(scan, slices))


def _unseen(scan: Scan, slices: SliceVolume) -> list[tuple[str, float]]:
    """Sides at which the brain is cut off, and the share of the template's brain beyond (0 where not aligned)."""
    shares = np.zeros((3, 2))
    if slices.alignment is not None:
        shares = unseen_shares(slices.brain, scan.affine, slices.alignment)
    found = []
    for axis, area in enumerate(sections(slices.brain)):
        faces = area[[0, -1]] > CUT_FACE * area.max()
        found += [
            (SIDES[axis][end], float(shares[axis, end]))
            for end in (0, 1)
            if faces[end] or shares[axis, end] >= UNSEEN_SHARE
        ]
    return found
