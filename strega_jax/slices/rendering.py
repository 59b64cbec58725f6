"""A healthy T1w scan rendered in other contrasts: segmentation and alignment for `scans.rendered`."""

import dataclasses
import zlib

import numpy as np

from strega_jax.scans.rendered import render
from strega_jax.scans.scan import Scan
from strega_jax.slices.align import align_to_template
from strega_jax.slices.preprocess import windowed
from strega_jax.tissue import segment

# Of the intensities that the anatomy is segmented from, as `configs/strega.py` does.
WINDOW_PERCENTILES = (3.0, 90.0)


def render_contrasts(scan: Scan, contrasts: tuple[str, ...], seed: int) -> dict[str, Scan]:
    """The same healthy brain in other contrasts, on the scan's own grid.

    Args:
        scan: healthy, brain-extracted, T1w.
        contrasts: keys of `scans.rendered.LOOKS`.
        seed: with the scan's file name and the contrast it decides everything random.

    Raises:
        ScanError: the scan cannot be segmented or aligned.
        ConfigError: a contrast that cannot be rendered.
    """
    image = windowed(scan.data, WINDOW_PERCENTILES)
    fractions = segment(image, scan.spacing_mm, assume_stripped=bool(scan.brain)).pve.astype(np.float32)
    to_template = np.linalg.inv(align_to_template(fractions, scan.affine)) @ scan.affine
    rendered = {}
    for contrast in contrasts:
        rng = np.random.default_rng([seed, zlib.crc32(f"{scan.path.name} {contrast}".encode())])
        image = render(scan.data, fractions, to_template, scan.spacing_mm, contrast, rng)
        rendered[contrast] = dataclasses.replace(scan, data=image, contrast=contrast)
    return rendered
