"""Is there a faint shifted copy of the brain in the brain? Periodic motion and flow leave such ghosts."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.fft import next_fast_len

from strega_jax.boxes import block_sums, bounding_box

WORKING_MM = 2.0  # finer scans are averaged to about this
DETAIL_MM = 3.0  # standard deviation of what is taken off as smooth
NEAREST_MM = 16.0  # anatomy is like itself nearer than this
LEAST_OVERLAP = 0.1  # of the brain with its shifted copy
LARGEST_DETAIL = 3.0  # standard deviations: one bright vessel must not decide


@dataclasses.dataclass(frozen=True)
class Ghost:
    """The strongest likeness of a brain's detail to its own shifted copy.

    Attributes:
        strength: correlation at the shift times the root of the share that overlaps, ≥ 0. Scans without ghosts
            reach 0.06.
        axis: along which it is shifted, of the canonical array.
        shift_mm: by how much.
    """

    strength: float
    axis: int
    shift_mm: float


def strongest_ghost(
    image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> Ghost:
    """Look along every axis, at every shift from 16 mm on, for a ghost.

    A ghost is the image itself, shifted along the phase-encoding direction and weak (Haacke & Patrick 1986; the
    model of TorchIO's `RandomGhosting`), so the detail in the brain then correlates with itself at that shift.
    """
    detail, core, spacing = _detail(image, brain, spacing_mm)
    best = Ghost(0.0, 0, 0.0)
    if not core.any():
        return best
    for axis in range(3):
        likeness, overlap = _autocorrelation(detail, axis), _autocorrelation(core.astype(np.float32), axis)
        shift_mm = np.arange(detail.shape[axis]) * spacing[axis]
        allowed = (shift_mm >= NEAREST_MM) & (overlap > LEAST_OVERLAP)
        strength = np.abs(likeness) / np.sqrt(np.maximum(overlap, LEAST_OVERLAP)) * allowed
        at = int(strength.argmax())
        if strength[at] > best.strength:
            best = Ghost(float(strength[at]), axis, float(shift_mm[at]))
    return best


def _detail(
    image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> tuple[Float[np.ndarray, "i j k"], Bool[np.ndarray, "i j k"], Float[np.ndarray, "3"]]:
    """What is left of the brain's inside after its smooth part is taken off, where that is, and the spacing."""
    box = bounding_box(brain) or (slice(None),) * 3
    inside = brain[box].astype(np.float32)
    image = np.where(brain[box], image[box], np.float32(0))
    spacing = np.array(spacing_mm)
    step = np.maximum(1, (WORKING_MM / spacing + 1e-3).astype(int))
    if step.max() > 1:
        whole_blocks = tuple(slice(0, n - n % size) for n, size in zip(image.shape, step, strict=True))
        voxels = np.float32(step.prod())
        image = block_sums(image[whole_blocks], step.tolist()) / voxels
        inside = block_sums(inside[whole_blocks], step.tolist()) / voxels
        spacing = spacing * step
    whole = inside > 0.99
    sigma = DETAIL_MM / spacing
    weight = ndimage.gaussian_filter(whole.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(image * whole, sigma) / np.maximum(weight, 1e-3)
    core = whole & (weight > 0.9)
    detail = np.where(core, image - smooth, np.float32(0))
    bound = LARGEST_DETAIL * float(detail[core].std()) if core.any() else 0.0
    return np.clip(detail, -bound, bound), core, spacing


def _autocorrelation(volume: Float[np.ndarray, "i j k"], axis: int) -> Float[np.ndarray, " n"]:
    """Of the volume with itself shifted by 0 … n − 1 voxels along an axis, relative to no shift."""
    n = volume.shape[axis]
    length = next_fast_len(2 * n, real=True)
    power = np.abs(np.fft.rfft(volume, length, axis=axis)) ** 2
    total = np.fft.irfft(power.sum(axis=tuple({0, 1, 2} - {axis})), length)[:n]
    return total / max(float(total[0]), 1e-12)
