"""What counts as brain-extracted: a brain that the field of view cuts off does, a head does not."""

import numpy as np
import pytest

from strega_jax.errors import ScanError
from strega_jax.scans.stripped import border_mode
from strega_jax.tissue.checks import brain_intensities

SPACING = (2.0, 2.0, 2.0)


def ball(radius: float) -> np.ndarray:
    at = np.indices((90, 90, 90)) - 44.5
    image = np.random.default_rng(0).uniform(100, 200, (90, 90, 90)).astype(np.float32)
    return np.where(np.linalg.norm(at, axis=0) < radius, image, 0).astype(np.float32)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, 1])
def test_one_face_may_cut_the_brain(axis, end):
    brain = ball(36)
    kept = [slice(None)] * 3
    kept[axis] = slice(25, None) if end == 0 else slice(None, 65)
    cut = brain[tuple(kept)]
    assert border_mode(cut, SPACING) == (0.0, 1.0)
    assert brain_intensities(cut, SPACING, None, False)[1].sum() == (cut > 0).sum()


def test_two_sides_of_a_corner_may_not():
    with pytest.raises(ScanError, match="not look brain-extracted"):
        brain_intensities(ball(36)[25:, 25:], SPACING, None, False)


def test_a_large_head_that_is_cut_at_the_neck_is_refused_by_its_size():
    with pytest.raises(ScanError, match="a brain at most"):
        brain_intensities(ball(44)[:, :, 10:], SPACING, None, False)
