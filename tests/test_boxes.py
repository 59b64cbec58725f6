"""Boxes around what an array holds, and the sums of its blocks."""

import numpy as np
import pytest

from strega_jax.boxes import block_sums, bounding_box, slab_boxes, within_reach
from strega_jax.slices.unseen import sections


def by_loop(volume, block):
    """Sums of blocks, one after the other."""
    shape = [-(-n // size) for n, size in zip(volume.shape[:3], block, strict=True)]
    found = np.zeros((*shape, *volume.shape[3:]))
    for place in np.ndindex(*shape):
        part = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, block, strict=True))
        found[place] = volume[part].sum(axis=(0, 1, 2))
    return found


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 2, 2), (3, 1, 4)])
@pytest.mark.parametrize("shape", [(6, 8, 4), (7, 5, 9), (7, 5, 9, 2)])
def test_blocks_are_summed_as_one_by_one(block, shape):
    volume = np.random.default_rng(0).random(shape, np.float32)
    sums = block_sums(volume, block)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, by_loop(volume, block), rtol=1e-6)
    counts = block_sums(volume > 0.5, block)
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts, by_loop(volume > 0.5, block))


def test_what_is_within_reach_ends_with_the_array():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:5, 8:10, 18] = True
    box = bounding_box(mask)
    assert box == (slice(2, 5), slice(8, 10), slice(18, 19))
    assert within_reach(box, (1.0, 2.0, 4.0), 5.0, mask.shape) == (slice(0, 10), slice(5, 13), slice(16, 20))


def test_sections_of_a_mask_and_of_shares_are_the_same():
    mask = np.random.default_rng(1).random((5, 7, 300)) > 0.4
    for counted, summed in zip(sections(mask), sections(mask.astype(np.float32)), strict=True):
        assert counted.dtype == np.float64
        np.testing.assert_array_equal(counted, summed)


def test_boxes_of_slabs_hold_all_that_is_marked_in_a_part_each_as_small_as_can_be():
    rng = np.random.default_rng(0)
    mask = rng.random((23, 9, 11)) < 0.02
    mask[7:11] = False  # a slab without any
    within = (slice(3, 22), slice(1, 8), slice(0, 10))
    found = list(slab_boxes(mask, 4, within))
    seen = np.zeros(mask.shape, int)
    for box in found:
        assert box[0].stop - box[0].start <= 4
        assert bounding_box(mask[box]) == tuple(slice(0, s.stop - s.start) for s in box)
        seen[box] += mask[box]
    inside = np.zeros_like(mask)
    inside[within] = mask[within]
    np.testing.assert_array_equal(seen, inside)
    assert len(found) == 4
    assert list(slab_boxes(mask, 100)) == [bounding_box(mask)]
    assert not list(slab_boxes(np.zeros_like(mask), 4))
