"""The gate before any score: two volumes are compared only if they lie on one grid in scanner space."""

import nibabel as nib
import numpy as np
from jaxtyping import Bool

from strega_jax.errors import ScanError
from strega_jax.scans.scan import AFFINE_TOLERANCE_MM, Scan, same_grid

# Brain masks are automatic and may cut into a lesion, but not off most of it.
MIN_SHARE_IN_BRAIN = 0.5


def check_geometry(a: Scan, b: Scan) -> None:
    """Refuse two scans that do not share shape, axes and affine.

    Raises:
        ScanError: naming both files and what differs.
    """
    if same_grid(a, b):
        return
    codes = [" ".join(nib.orientations.aff2axcodes(scan.native_affine)) for scan in (a, b)]
    if a.data.shape != b.data.shape:
        differs = f"shapes {a.data.shape} and {b.data.shape} in RAS order"
    else:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.data.shape])).reshape(3, -1)
        apart = np.linalg.norm((a.affine - b.affine) @ np.vstack([corners, np.ones(8)]), axis=0).max()
        differs = f"their voxels lie up to {apart:.3g} mm apart (allowed: {AFFINE_TOLERANCE_MM} mm)"
    raise ScanError(
        f"{a.path} (axes {codes[0]}) and {b.path} (axes {codes[1]}) are not on one grid: {differs}; "
        "give the mask that was drawn on this scan, or resample it onto the scan's grid with nearest neighbours"
    )


def check_truth_in_brain(truth: Bool[np.ndarray, "x y z"], brain: Bool[np.ndarray, "i j k"], name: str) -> None:
    """Refuse an expert mask that lies mostly outside the brain: it is of another scan, or its axes are swapped.

    Raises:
        ScanError: naming `name`, the mask's file.
    """
    if truth.shape != brain.shape:
        raise ScanError(f"{name}: shape {truth.shape} is not the scan's {brain.shape}; give the mask of this scan")
    total = np.count_nonzero(truth)
    inside = np.count_nonzero(truth & brain)
    if inside < MIN_SHARE_IN_BRAIN * total:
        raise ScanError(
            f"{name}: only {100 * inside / total:.0f} % of the lesion lies inside the brain; "
            "the mask is of another scan, or its axes are swapped or flipped"
        )
