"""The grid on which axial slices are sampled, and the way from it back to the scan."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from strega_jax.boxes import bounding_box, widened
from strega_jax.config import Preprocess
from strega_jax.scans.scan import Scan


@dataclasses.dataclass(frozen=True)
class SliceGrid:
    """A stack of k axial slices of h × w pixels laid over a scan.

    Attributes:
        shape: (h, w, k); h runs left→right, w posterior→anterior, k inferior→superior.
        to_scan: (4, 4) affine, grid index (h, w, k) → voxel index (x, y, z) of the scan's canonical array.
    """

    shape: tuple[int, int, int]
    to_scan: Float[np.ndarray, "4 4"]

    def spacing_mm(self, scan: Scan) -> tuple[float, float, float]:
        """Distance of neighbouring pixels along h, w and of neighbouring slices, in millimetres."""
        h, w, k = np.linalg.norm((scan.affine @ self.to_scan)[:3, :3], axis=0)
        return float(h), float(w), float(k)

    def sample(self, volume: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "k h w"]:
        """Linear interpolation of a scan-grid volume onto the slices; 0 outside the scan.

        Where a pixel is larger than a voxel the volume is smoothed first, so that fine scans lose what a
        coarse grid cannot hold instead of aliasing it.
        """
        box = bounding_box(volume != 0)
        if box is None:
            return np.zeros((self.shape[2], *self.shape[:2]), volume.dtype)
        return self.sample_part(volume[box], box, volume.shape)

    def sample_part(
        self, part: Float[np.ndarray, "a b c"], box: tuple[slice, ...], scan_shape: tuple[int, ...]
    ) -> Float[np.ndarray, "k h w"]:
        """`sample` of a volume that is 0 outside a box, of which only this part is given."""
        step = np.linalg.norm(self.to_scan[:3, :3], axis=1)
        sigma = np.maximum(0.0, (step - 1.0) / 2.0)
        reach = (4 * sigma + 0.5).astype(int)  # where SciPy ends a Gaussian
        # One voxel more, so that what lies beside the last one is interpolated towards zero.
        near = widened(box, (reach + 1).tolist(), scan_shape)
        before = [inner.start - outer.start for inner, outer in zip(box, near, strict=True)]
        after = [outer.stop - inner.stop for inner, outer in zip(box, near, strict=True)]
        volume = np.pad(part, list(zip(before, after, strict=True)))
        if sigma.max() > 0:
            ndimage.gaussian_filter(volume, sigma, output=volume, mode="constant")
        to_part = self.to_scan.copy()
        to_part[:3, 3] -= [s.start for s in near]
        # scipy takes the offset from a homogeneous matrix
        stack = ndimage.affine_transform(volume, to_part, output_shape=self.shape, order=1)
        return np.ascontiguousarray(np.moveaxis(stack, 2, 0))

    def back(self, slices: Float[np.ndarray, "k h w"], scan_shape: tuple[int, int, int]) -> Float[np.ndarray, "x y z"]:
        """Linear interpolation of a stack of slices at every voxel of the scan; 0 outside the stack."""
        return self.back_part(slices, tuple(slice(0, n) for n in scan_shape))

    def back_part(self, slices: Float[np.ndarray, "k h w"], box: tuple[slice, ...]) -> Float[np.ndarray, "a b c"]:
        """`back` at the voxels of a box."""
        from_scan = np.linalg.inv(self.to_scan)
        from_scan[:3, 3] += from_scan[:3, :3] @ [side.start for side in box]
        shape = tuple(side.stop - side.start for side in box)
        return ndimage.affine_transform(np.moveaxis(slices, 0, 2), from_scan, output_shape=shape, order=1)


def whole_slice_grid(scan: Scan, settings: Preprocess) -> SliceGrid:
    """The scan's own axial slices, each resized to the square: `stretch` ignores its proportions, `pad` keeps them."""
    x, y, z = scan.data.shape
    extent_mm = np.array([x * scan.spacing_mm[0], y * scan.spacing_mm[1]])
    if settings.grid == "pad":
        extent_mm[:] = extent_mm.max()
    pixel_voxels = extent_mm / settings.size / np.array(scan.spacing_mm[:2])
    return _centred_grid((settings.size, settings.size, z), (*pixel_voxels, 1.0), (np.array([x, y, z]) - 1) / 2)


def fixed_grid(scan: Scan, brain: Bool[np.ndarray, "x y z"], settings: Preprocess) -> SliceGrid:
    """A field of view of `field_of_view_mm` about the centre of the brain's box; slices span the brain's height."""
    inside = [np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    centre = np.array([(hit[0] + hit[-1]) / 2 for hit in inside])
    pixel_mm = settings.field_of_view_mm / settings.size
    step_mm = settings.slice_spacing_mm or scan.spacing_mm[2]
    height_mm = (inside[2][-1] - inside[2][0] + 1) * scan.spacing_mm[2]
    count = int(np.ceil(height_mm / step_mm - 1e-6))
    steps = np.array([pixel_mm, pixel_mm, step_mm]) / np.array(scan.spacing_mm)
    return _centred_grid((settings.size, settings.size, count), tuple(steps), centre)


def template_grid(scan: Scan, template_to_scan_mm: Float[np.ndarray, "4 4"], settings: Preprocess) -> SliceGrid:
    """The same field of view and heights in MNI152 space for every scan, seen through its affine alignment."""
    shape, to_template = template_pixels(settings, scan.spacing_mm[2])
    return SliceGrid(shape, np.linalg.inv(scan.affine) @ template_to_scan_mm @ to_template)


def template_pixels(
    settings: Preprocess, step_mm: float = 0.0
) -> tuple[tuple[int, int, int], Float[np.ndarray, "4 4"]]:
    """Shape of the template's slices, and grid index (h, w, k) → MNI152 millimetres.

    `step_mm` is the distance of slices where the settings leave it to the scan.
    """
    pixel_mm = settings.field_of_view_mm / settings.size
    step_mm = settings.slice_spacing_mm or step_mm
    bottom, top = TEMPLATE_HEIGHT_MM
    count = round((top - bottom) / step_mm) + 1
    to_template = np.diag([pixel_mm, pixel_mm, step_mm, 1.0])
    half = (settings.size - 1) / 2 * pixel_mm
    to_template[:3, 3] = TEMPLATE_CENTRE_MM[0] - half, TEMPLATE_CENTRE_MM[1] - half, bottom
    return (settings.size, settings.size, count), to_template


# MNI152 world millimetres: the in-plane centre of the brain, and the heights between which it lies.
TEMPLATE_CENTRE_MM = (0.0, -18.0)
TEMPLATE_HEIGHT_MM = (-70.0, 82.0)


def _centred_grid(shape: tuple[int, int, int], steps: tuple[float, ...], centre: Float[np.ndarray, "3"]) -> SliceGrid:
    to_scan = np.diag([*steps, 1.0])
    to_scan[:3, 3] = centre - to_scan[:3, :3] @ ((np.array(shape) - 1) / 2)
    return SliceGrid(shape, to_scan)
