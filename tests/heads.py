"""A whole head made of ellipsoids, and methods of brain extraction that know where its brain is."""

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.scans import extraction
from strega_jax.scans.extraction import Method

SHAPE, MM = (44, 52, 46), 4.0


def ellipsoid(radius: float) -> np.ndarray:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((x - 22) / 17) ** 2 + ((y - 26) / 21) ** 2 + ((z - 23) / 16) ** 2 < radius**2


BRAIN = ellipsoid(1.0)


def head_image() -> np.ndarray:
    """A brain of 1530 ml with smooth texture, fluid, dark bone and bright skin around it, in noisy air."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    image = np.where(BRAIN, 500 + 200 * texture / texture.std(), 50 * ellipsoid(1.05))
    image += 700 * (ellipsoid(1.3) & ~ellipsoid(1.15))
    return (np.abs(image) + rng.uniform(1, 20, SHAPE)).astype(np.float32)


def install_methods(monkeypatch: pytest.MonkeyPatch) -> dict[str, Method]:
    """The table of methods, with one that knows where the brain is and leaves a hole and a crumb."""
    spoiled = BRAIN.copy()
    spoiled[22, 26, 23] = False
    spoiled[1, 1, 1] = True
    table = {
        "absent": Method(lambda: False, lambda scan: pytest.fail("not installed, yet called")),
        "known": Method(lambda: True, lambda scan: spoiled.copy()),
        "blind": Method(lambda: True, lambda scan: np.zeros(SHAPE, bool)),
    }
    monkeypatch.setattr(extraction, "METHODS", table)
    monkeypatch.setattr("strega_jax.scans.source.METHODS", table)
    return table
