"""One scan → the slices that a detector sees. Training and prediction both come through here."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from nibabel.affines import from_matvec

from strega_jax import memory
from strega_jax.boxes import bounding_box, slab_boxes
from strega_jax.config import Preprocess
from strega_jax.errors import ScanError
from strega_jax.scans.background import remove_background
from strega_jax.scans.contrast import CONTRASTS, ENHANCED_CONTRAST, Contrast
from strega_jax.scans.scan import Scan
from strega_jax.scans.source import told_contrast
from strega_jax.slices.align import align_to_template
from strega_jax.slices.grid import SliceGrid, fixed_grid, template_grid, whole_slice_grid
from strega_jax.slices.tissue_prior import divide_tissue, grey_share
from strega_jax.tissue import TissueMap, segment

# Inside the brain a pixel is never 0, so that a slice alone tells brain from background.
BRAIN_FLOOR = 1e-3
# Restored intensities are divided by this percentile of the brain's.
INTENSITY_PERCENTILE = 98.0
INTENSITY_CEILING = 2.0
WHITE = 3.0  # white matter on the scale of `tissue_standardised`
FRACTIONS = ("fractions", "fractions_excess", "fractions_intensity")  # representations of tissue shares
# Where these percentiles of the brain's intensities end up in the channel of intensities, and its range.
BRAIN_PERCENTILES, THEIR_VALUES = (3.0, 90.0), (0.1, 0.9)
BRAIN_RANGE = (0.02, 2.0)
SLAB = 16  # planes of the scan whose common box is filled at once: a brain fills its whole box by half


@dataclasses.dataclass(frozen=True)
class SliceVolume:
    """The slices of one scan and where they came from.

    Attributes:
        images: (k, h, w, c) float32; tissue labels divided by 3, fractions (CSF, GM, WM), these and how far
            beyond white matter (0 to 1), these four and the brain's intensities (0.02 to 2), or intensities
            relative to the brain's bright end; 0 outside the brain and > 0 inside it.
        indices: (k,) index of each slice in the grid; slices with too little brain are left out.
        position: (k,) float32 height of each slice: 0 the grid's lowest, 1 its highest.
        grid: how slices lie over the scan.
        brain: (x, y, z) brain mask on the scan's canonical grid.
        tissue: the tissue map, on the scan's canonical grid.
        alignment: (4, 4) MNI152 millimetres → scan millimetres, for `grid="template"`.
        grey_from_template: whether the shares of GM and WM are the template's, and the classes of `tissue` fluid and
            two of brightness.
    """

    images: Float[np.ndarray, "k h w c"]
    indices: Int[np.ndarray, " k"]
    position: Float[np.ndarray, " k"]
    grid: SliceGrid
    brain: Bool[np.ndarray, "x y z"]
    tissue: TissueMap
    alignment: Float[np.ndarray, "4 4"] | None = None
    grey_from_template: bool = False

    def back(
        self, scores: Float[np.ndarray, "k h w"], near: tuple[slice, ...] | None = None
    ) -> Float[np.ndarray, "x y z"]:
        """Scores of these slices on the scan's canonical grid; 0 outside the brain and in slices left out.

        With a box, `near`, of that grid, 0 outside this, too: the less there is to do.
        """
        h, w, count = self.grid.shape
        stack = np.zeros((count, h, w), np.float32)
        stack[self.indices] = scores
        volume = np.zeros(self.brain.shape, np.float32)

        def fill(box: tuple[slice, ...]) -> None:
            volume[box] = np.where(self.brain[box], self.grid.back_part(stack, box), np.float32(0))

        with ThreadPoolExecutor(max_workers=2) as pool:  # scipy lets go of the interpreter
            list(pool.map(fill, slab_boxes(self.brain, SLAB, near)))
        return volume


def preprocess(scan: Scan, settings: Preprocess) -> SliceVolume:
    """Segment a brain-extracted scan and cut it into slices.

    Args:
        scan: the scan.
        settings: how; `settings.contrast` is that of scans of unknown contrast.

    Raises:
        ScanError: no brain in it, not brain-extracted, or the alignment failed.
    """
    return cut_slices(scan, segment_scan(scan, settings), settings)


def segment_scan(scan: Scan, settings: Preprocess, meanwhile: Callable[[], None] = lambda: None) -> TissueMap:
    """The first half of `preprocess`: the tissue map. `meanwhile` is called once its programs are compiled.

    Raises ScanError: no brain in it, or not brain-extracted.
    """
    contrast: Any = told_contrast(scan, settings.contrast)
    with _naming(scan):
        return segment(
            windowed(scan.data, settings.window_percentiles),
            scan.spacing_mm,
            contrast=contrast,
            preset=settings.tissue,
            assume_stripped=bool(scan.brain),
            restore=settings.representation == "intensity" or contrast == ENHANCED_CONTRAST,
            meanwhile=meanwhile,
        )


def cut_slices(scan: Scan, tissue: TissueMap, settings: Preprocess) -> SliceVolume:
    """The second half: the slices. Raises ScanError: the alignment failed, or no slice holds enough brain."""
    with _naming(scan):
        return _cut_slices(scan, tissue, settings)


@contextlib.contextmanager
def _naming(scan: Scan) -> Iterator[None]:
    """A ScanError raised in here names the scan's file."""
    try:
        yield
    except ScanError as error:
        if str(scan.path) in str(error):
            raise
        raise ScanError(f"{scan.path}: {error}") from error


def _cut_slices(scan: Scan, tissue: TissueMap, settings: Preprocess) -> SliceVolume:
    contrast: Any = told_contrast(scan, settings.contrast)
    brain = tissue.seg > 0
    box = bounding_box(brain)
    assert box is not None  # an image without brain is not segmented
    borrowed = _is_borrowed(contrast, settings)
    # Of a fine scan both at once would take several hundred megabytes more.
    make_maps = functools.partial(_maps, scan.data[box], tissue.part(box), borrowed, settings)
    with ThreadPoolExecutor(1) as beside:  # NumPy lets go of the interpreter
        coming = None if memory.is_fine(scan.data.size) else beside.submit(make_maps)
        alignment = None
        if settings.grid == "template":
            corner = from_matvec(np.eye(3), [side.start for side in box])
            alignment = align_to_template(tissue.pve[box], scan.affine @ corner)
    grid, maps = _grid(scan, alignment, brain, settings), coming.result() if coming else make_maps()

    def sampled(channel: np.ndarray) -> np.ndarray:
        return grid.sample_part(channel, box, brain.shape)

    with ThreadPoolExecutor(max_workers=2) as pool:  # scipy lets go of the interpreter
        share, *channels = pool.map(sampled, [brain[box].astype(np.float32), *maps])
    inside = share > 0.5
    fraction = inside.mean(axis=(1, 2))
    indices = np.flatnonzero(fraction > settings.min_brain_fraction)
    if indices.size == 0:
        raise ScanError("no axial slice holds enough brain; is it a brain-extracted head scan?")
    share, channels = share[indices], [channel[indices] for channel in channels]
    if borrowed:
        images = divide_tissue(channels[0], channels[1], grey_share(settings, scan.spacing_mm[2])[indices])
        images = images[..., :3] if settings.representation == "fractions" else images
        images = np.concatenate([images, *(channel[..., None] for channel in channels[2:])], axis=-1)
    elif settings.representation in FRACTIONS:
        images = np.stack([*channels[:2], share - channels[0] - channels[1], *channels[2:]], axis=-1)
    else:
        images = np.stack(channels, axis=-1)
    images = np.maximum(images, BRAIN_FLOOR) * inside[indices, :, :, None]
    position = (indices / max(1, len(fraction) - 1)).astype(np.float32)
    return SliceVolume(images.astype(np.float32), indices, position, grid, brain, tissue, alignment, borrowed)


def _maps(
    image: Float[np.ndarray, "x y z"], tissue: TissueMap, borrowed: bool, settings: Preprocess
) -> list[Float[np.ndarray, "x y z"]]:
    """What is sampled."""
    maps = [tissue.pve[..., 0], beyond_tissue(image, tissue)] if borrowed else _channels(image, tissue, settings)
    if settings.representation == "fractions_intensity":
        maps.append(brain_scaled(image, tissue.seg > 0))
    return maps


def _is_borrowed(contrast: Contrast, settings: Preprocess) -> bool:
    """Whether GM and WM, which the contrast does not tell apart as the training contrast does, are the template's."""
    untold = CONTRASTS[contrast].grey_from_template and contrast != settings.contrast
    return untold and settings.grid == "template" and settings.representation in FRACTIONS


# Windowed intensities end up between these: far enough from 0 for the segmentation's logarithm to stay even.
WINDOWED_RANGE = (100.0, 300.0)


def windowed(image: Float[np.ndarray, "x y z"], percentiles: tuple[float, float]) -> Float[np.ndarray, "x y z"]:
    """Brain intensities beyond the percentiles set to them, and the rest stretched to `WINDOWED_RANGE`."""
    if percentiles == (0.0, 100.0):
        return image
    image = remove_background(image)
    brain = image > 0
    inside = image[brain]
    if not inside.size:
        return image
    low, high = np.percentile(inside, percentiles)
    floor, ceiling = WINDOWED_RANGE
    stretched = np.zeros(image.shape, np.float32)
    stretched[brain] = floor + (np.clip(inside, low, high) - low) * ((ceiling - floor) / max(high - low, 1e-6))
    return stretched


def _grid(
    scan: Scan, alignment: Float[np.ndarray, "4 4"] | None, brain: Bool[np.ndarray, "x y z"], settings: Preprocess
) -> SliceGrid:
    if alignment is not None:
        return template_grid(scan, alignment, settings)
    if settings.grid == "fixed":
        return fixed_grid(scan, brain, settings)
    return whole_slice_grid(scan, settings)


def _channels(
    image: Float[np.ndarray, "x y z"], tissue: TissueMap, settings: Preprocess
) -> list[Float[np.ndarray, "x y z"]]:
    """Tissue; of fractions CSF and GM, for what is left of the brain is WM."""
    brain = tissue.seg > 0
    if settings.representation in FRACTIONS:
        fractions = [tissue.pve[..., c] for c in range(2)]
        if settings.representation == "fractions":
            return fractions
        excess = np.zeros(brain.shape, np.float32)
        inside = tissue_standardised(image[brain], tissue.pveseg[brain])
        excess[brain] = np.maximum(inside - np.float32(WHITE), np.float32(0)) / np.float32(WHITE)
        return [*fractions, excess]
    if settings.representation == "intensity":
        restored = tissue.restored.astype(np.float32)
        bright = np.percentile(restored[brain], INTENSITY_PERCENTILE)
        return [np.clip(restored / np.float32(bright), 0, INTENSITY_CEILING)]
    labels = tissue.pveseg if settings.representation == "pveseg" else tissue.seg
    return [labels.astype(np.float32) / np.float32(3)]


def brain_scaled(image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Intensities of the brain on a scale that scanners share: a low and a high percentile at 0.1 and 0.9.

    The whole range of the scan is kept, from 0.02 to 2; no bias field is taken out; 0 outside the brain.
    """
    inside = image[brain]
    low, high = np.percentile(inside, BRAIN_PERCENTILES)
    least, most = THEIR_VALUES
    scaled = np.zeros(image.shape, np.float32)
    scaled[brain] = np.clip((inside - low) * ((most - least) / max(float(high - low), 1e-6)) + least, *BRAIN_RANGE)
    return scaled


def beyond_tissue(image: Float[np.ndarray, "x y z"], tissue: TissueMap) -> Float[np.ndarray, "x y z"]:
    """How far brighter than the brightest class' median, where classes are fluid and two of tissue; 0 to 1.

    The unit is half the distance from fluid to tissue, as GM lies about midway between CSF and WM in T1w, over 3 as in
    the excess of other contrasts.

    Raises:
        ScanError: fluid is not darker than tissue.
    """
    classes = (tissue.pveseg == 1, tissue.pveseg > 1, tissue.pveseg == 3)
    fluid, solid, bright = (float(np.median(image[one])) for one in classes)
    if not fluid < solid:
        raise ScanError("its fluid is not darker than its tissue; is it the contrast that it is said to be?")
    return np.clip((image - bright) / (WHITE * (solid - fluid) / 2), 0, 1).astype(np.float32)


def tissue_standardised(
    image: Float[np.ndarray, "*shape"], labels: UInt8[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Intensities on the scale of the tissue classes: the median CSF, GM and WM voxel become 1, 2 and 3.

    Between the medians the map is linear; beyond them it goes on with the same slope, to 0 and to 6. What no
    healthy tissue shows, such as a rim that takes up contrast agent, keeps a value of its own, which fractions and
    labels cannot hold. Images of any scanner and contrast come out on the one scale.

    Args:
        image: intensities of any voxels.
        labels: of these, as `TissueMap.pveseg`.

    Raises:
        ScanError: two classes share a median.
    """
    medians = np.array([np.median(image[labels == label]) for label in (1, 2, 3)])
    rank = np.argsort(medians)
    low, middle, high = medians[rank]
    if not low < middle < high:
        raise ScanError("its tissue classes do not differ in intensity; is it the contrast that it is said to be?")
    # Brightness runs CSF, GM, WM or the other way round (T2w). Three classes' width beyond either end is enough.
    values = np.array([1.0, 2.0, 3.0])[rank]
    known = (low - 3 * (middle - low), low, middle, high, high + 3 * (high - middle))
    scale = (values[0] - 3 * (values[1] - values[0]), *values, values[2] + 3 * (values[2] - values[1]))
    return np.clip(np.interp(image, known, scale), 0, 2 * WHITE).astype(np.float32)
