"""Pictures of a detection for its page: axial slices with outlines and boxes, what the network saw, data URLs."""

import base64
import io
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from strega_jax.boxes import bounding_box
from strega_jax.detection.found import Detection
from strega_jax.postprocess import slice_boxes

JPEG_QUALITY = 80
SHOWN_SLICES, COLUMNS = 12, 6
TILE_PIXELS = 200
STAGE_PIXELS = 260
OUTLINE_PIXELS = 2
# Okabe and Ito's: told apart by colour-blind readers.
MARK, BOX, ENHANCED = (213, 94, 0), (86, 180, 233), (0, 158, 115)
# Grey value of a pixel that is all CSF, GM, WM; what is beyond WM goes on to white.
TISSUE_GREY = (0.15, 0.5, 0.8, 0.2, 0.0)
STAGES = ("what the network saw", "what it expects of a healthy brain", "how they differ", "anomaly score")


def slice_picture(detection: Detection, image: UInt8[np.ndarray, "x y z"]) -> Image.Image:
    """Up to 12 axial slices, evenly spaced over what is marked, lowest first; front up, left on the left.

    `image` are the scan's intensities as `grey` values.
    """
    x, y, _ = bounding_box(detection.slices.brain) or (slice(None),) * 3
    spacing = detection.scan.spacing_mm
    width_mm, height_mm = (x.stop - x.start) * spacing[0], (y.stop - y.start) * spacing[1]
    scale = TILE_PIXELS / max(width_mm, height_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    chosen = shown_slices(detection)
    sheet = Image.new("RGB", (COLUMNS * TILE_PIXELS, math.ceil(len(chosen) / COLUMNS) * TILE_PIXELS))
    for place, k in enumerate(chosen):
        picture = Image.fromarray(image[x, y, k].T[::-1]).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for box in slice_boxes(detection.mask[:, :, k : k + 1]):
            left, right = ((edge - x.start) * spacing[0] * scale for edge in (box.lo[0], box.hi[0]))
            top, bottom = ((y.stop - edge) * spacing[1] * scale for edge in (box.hi[1], box.lo[1]))
            # A voxel of a thick slice may be thinner than a pixel here.
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=BOX)
        picture.paste(MARK, mask=_outline(detection.mask[x, y, k], size, OUTLINE_PIXELS))
        if detection.enhancing is not None:
            picture.paste(ENHANCED, mask=_outline(detection.enhancing[x, y, k], size, 1))
        left = place % COLUMNS * TILE_PIXELS + (TILE_PIXELS - size[0]) // 2
        top = place // COLUMNS * TILE_PIXELS
        sheet.paste(picture, (left, top))
        ImageDraw.Draw(sheet).text((place % COLUMNS * TILE_PIXELS + 4, top + 3), f"z = {k}", fill=(255, 255, 255))
    return sheet


def _outline(mask: Bool[np.ndarray, "x y"], size: tuple[int, int], pixels: int) -> Image.Image:
    """The outer `pixels` of a mask, front up, at the size of its picture."""
    on = np.asarray(Image.fromarray(mask.T[::-1]).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(on & ~np.asarray(ndimage.binary_erosion(on, iterations=pixels, border_value=1), bool))


def shown_slices(detection: Detection) -> list[int]:
    """The axial slices to show: over the marked ones, or over the brain where nothing is marked."""
    held = np.flatnonzero(detection.mask.any(axis=(0, 1)))
    if held.size == 0:
        within = np.flatnonzero(detection.slices.brain.any(axis=(0, 1)))
        ends = len(within) // 10  # the lowest and the highest show hardly any brain
        held = within[ends : len(within) - ends or None]
    return [int(k) for k in held[np.unique(np.linspace(0, held.size - 1, SHOWN_SLICES).round().astype(int))]]


def stages_picture(detection: Detection) -> Image.Image | None:
    """`STAGES` side by side, at the network's slice nearest to the most marked one; None where it has no slices."""
    slices = detection.slices
    if not len(slices.images):
        return None
    count = detection.mask.sum(axis=(0, 1))
    height = int(count.argmax()) if count.any() else detection.mask.shape[2] // 2
    h, w, _ = slices.grid.shape
    corners = np.array([[h / 2, w / 2, k, 1] for k in slices.indices])
    nearest = int(np.abs(corners @ slices.grid.to_scan[2] - height).argmin())
    seen, expected = slices.images[nearest], detection.reconstruction[nearest]
    difference = np.abs(seen - expected).mean(axis=-1)
    place = np.indices((h, w, 1)).reshape(3, -1)
    place[2] = slices.indices[nearest]
    to_scan = slices.grid.to_scan
    score = ndimage.map_coordinates(detection.score, to_scan[:3, :3] @ place + to_scan[:3, 3:], order=1).reshape(h, w)
    heats = [_heat(image / max(float(image.max()), 1e-6)) for image in (difference, score)]
    tiles = [_tissue_picture(seen), _tissue_picture(expected), *heats]
    h_mm, w_mm, _ = slices.grid.spacing_mm(detection.scan)
    scale = STAGE_PIXELS / max(h * h_mm, w * w_mm)
    size = max(1, round(h * h_mm * scale)), max(1, round(w * w_mm * scale))
    sheet = Image.new("RGB", (len(tiles) * STAGE_PIXELS, size[1]))
    for column, tile in enumerate(tiles):
        turned = np.ascontiguousarray(tile.swapaxes(0, 1)[::-1])
        sheet.paste(Image.fromarray(turned).resize(size, Image.Resampling.BICUBIC), (column * STAGE_PIXELS, 0))
    return sheet


def _tissue_picture(image: Float[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Fractions as grey values, CSF dark and WM bright; images of one channel as they are."""
    channels = image.shape[-1]
    value = image[..., 0] if channels == 1 else image @ np.array(TISSUE_GREY[:channels], np.float32)
    level = np.clip(value / (max(float(value.max()), 1e-6) if channels == 1 else 1.0) * 255, 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def _heat(value: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """0 to 1 as black over orange to white."""
    ramp = np.stack([value * 2, value * 1.5 - 0.2, value * 2 - 1], axis=-1)
    return (np.clip(ramp, 0, 1) * 255).astype(np.uint8)


def grey(image: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> UInt8[np.ndarray, "x y z"]:
    """Intensities as grey values: the brain's darkest half percent black, its brightest white."""
    inside = image[brain]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (image.min(), image.max())
    low = min(float(low), float(high) * 0.2)
    level = np.zeros(image.shape, np.uint8)
    level[brain] = np.clip((inside - low) * (255 / max(float(high) - low, 1e-6)), 0, 255).astype(np.uint8)
    return level


def tiled(volume: UInt8[np.ndarray, "x y z"], columns: int) -> Image.Image:
    """Axial slices in rows of `columns`, each with the front up."""
    x, y, z = volume.shape
    rows = math.ceil(z / columns)
    tiles = np.zeros((rows * columns, y, x), np.uint8)
    tiles[:z] = volume.transpose(2, 1, 0)[:, ::-1]
    return Image.fromarray(tiles.reshape(rows, columns, y, x).transpose(0, 2, 1, 3).reshape(rows * y, columns * x))


def jpeg(picture: Image.Image) -> str:
    """A picture as a data URL."""
    return _url(picture, "jpeg", quality=JPEG_QUALITY)


def png(picture: Image.Image) -> str:
    """A picture of two colours as a data URL, without loss."""
    return _url(picture.convert("1"), "png", optimize=False)


def _url(picture: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
