"""Lesion-wise Dice: hand-made cases, and the definition spelt out voxel by voxel."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.evaluation.lesion_wise import dilate, lesion_wise_dice

MM = (1.0, 1.0, 1.0)
SHAPE = (40, 30, 24)


def boxes(*corners: tuple[int, int, int, int, int, int]) -> np.ndarray:
    """Boxes given by first corner and sides."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z, dx, dy, dz in corners:
        mask[x : x + dx, y : y + dy, z : z + dz] = True
    return mask


def spelt_out(mask: np.ndarray, truth: np.ndarray, rounds: int = 3, smallest: float = 50) -> float:
    """As the challenge says it, at 1 mm: SciPy's iterated dilation, loops over lesions and components."""
    eighteen, all26 = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    groups, count = ndimage.label(ndimage.binary_dilation(truth, eighteen, rounds), all26)
    marks, mark_count = ndimage.label(mask, all26)
    values, matched = [], set()
    for i in range(1, count + 1):
        lesion = truth & (groups == i)
        around = ndimage.binary_dilation(lesion, eighteen, rounds)
        own = {m for m in range(1, mark_count + 1) if (marks[around] == m).any()}
        matched |= own
        found = np.isin(marks, list(own)) & mask
        if lesion.sum() > smallest:
            values.append(2 * (found & lesion).sum() / (found.sum() + lesion.sum()))
    values += [0.0] * (mark_count - len(matched))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_challenges_definition_spelt_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(44, 40, 36)), 2.0) for _ in range(2)]
    truth = fields[0] > np.quantile(fields[0], 0.985)
    mixed = fields[0] + fields[1]
    mask = mixed > np.quantile(mixed, 0.98)
    found = lesion_wise_dice(mask, truth, MM)
    assert found == pytest.approx(spelt_out(mask, truth))
    assert 0 < found < 1
    # Every rule counts in these cases: without it the value is another.
    assert found != pytest.approx(spelt_out(mask, truth, smallest=0))
    assert found != pytest.approx(spelt_out(mask, truth, rounds=1))


@pytest.mark.parametrize("seed", range(3))
def test_at_1_mm_the_dilation_is_three_rounds_of_the_18_neighbourhood(seed: int) -> None:
    mask = np.random.default_rng(seed).random((24, 22, 20)) > 0.997
    mask |= ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=mask.shape), 2) > 0.12
    wanted = ndimage.binary_dilation(mask, ndimage.generate_binary_structure(3, 2), iterations=3)
    np.testing.assert_array_equal(dilate(mask, MM), wanted)
    np.testing.assert_array_equal(dilate(np.asfortranarray(mask), (1.00004, 0.99996, 1.0)), wanted)


def test_on_other_grids_the_dilation_is_the_same_body_in_mm() -> None:
    spacing = (0.75, 2.0, 6.5)
    point = np.zeros((15, 9, 5), bool)
    point[7, 4, 2] = True
    grown = dilate(point, spacing)
    for voxel in itertools.product(*(range(n) for n in point.shape)):
        away = [abs(a - b) * mm for a, b, mm in zip(voxel, (7, 4, 2), spacing, strict=True)]
        assert grown[voxel] == (max(away) <= 3 and sum(away) <= 6)


def test_two_lesions_count_alike_and_a_false_positive_counts_as_nothing() -> None:
    large, small, false = (2, 2, 2, 12, 10, 10), (24, 4, 4, 4, 4, 4), (34, 24, 18, 3, 3, 3)
    truth = boxes(large, small)
    assert lesion_wise_dice(truth, truth, MM) == 1
    assert lesion_wise_dice(boxes(large), truth, MM) == 0.5
    assert lesion_wise_dice(boxes(small), truth, MM) == 0.5
    assert lesion_wise_dice(boxes(large, small, false), truth, MM) == pytest.approx(2 / 3)
    assert lesion_wise_dice(boxes(false), truth, MM) == 0
    assert lesion_wise_dice(truth & False, truth, MM) == 0


def test_parts_of_a_lesion_whose_dilations_touch_are_one() -> None:
    first, near, far = (2, 2, 2, 6, 6, 6), (14, 2, 2, 6, 6, 6), (16, 2, 2, 6, 6, 6)
    # 6 voxels between them: dilated by 3 each, they touch.
    assert lesion_wise_dice(boxes(first), boxes(first, near), MM) == pytest.approx(2 * 216 / (216 + 432))
    assert lesion_wise_dice(boxes(first), boxes(first, far), MM) == 0.5


def test_lesions_of_50_mm3_and_less_are_left_out_and_what_meets_them_is_not_false() -> None:
    large, tiny, above = (2, 2, 2, 8, 8, 8), (24, 4, 4, 5, 5, 2), (24, 4, 4, 17, 3, 1)
    assert boxes(tiny).sum() == 50
    for mask in (boxes(large), boxes(large, tiny), boxes(large, (27, 6, 8, 4, 1, 1))):
        assert lesion_wise_dice(mask, boxes(large, tiny), MM) == 1
    assert boxes(above).sum() == 48
    assert lesion_wise_dice(boxes(large), boxes(large, above), (1.0, 1.0, 1.1)) == 0.5  # 52.8 mm³


def test_a_component_over_two_lesions_counts_whole_for_each() -> None:
    truth, mask = boxes((2, 2, 2, 6, 6, 6), (20, 2, 2, 6, 6, 6)), boxes((2, 2, 2, 24, 6, 6))
    assert lesion_wise_dice(mask, truth, MM) == pytest.approx(2 * 216 / (216 + 864))


def test_what_is_not_defined_is_nan() -> None:
    nothing, tiny = boxes(), boxes((4, 4, 4, 2, 2, 2))
    assert math.isnan(lesion_wise_dice(nothing, nothing, MM))
    assert math.isnan(lesion_wise_dice(tiny, nothing, MM))
    assert math.isnan(lesion_wise_dice(tiny, tiny, MM))
    assert math.isnan(lesion_wise_dice(nothing, tiny, MM))
    assert lesion_wise_dice(boxes((30, 20, 20, 2, 2, 2)), tiny, MM) == 0
