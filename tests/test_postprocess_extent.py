"""How far detections reach: against pairwise distances, propagation and labelling in SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from strega_jax.config import Postprocess
from strega_jax.postprocess import extent
from strega_jax.postprocess.extent import decide_extent, drop_specks, grow_into

TOUCHING = np.ones((3, 3, 3))


@pytest.mark.parametrize("reach", [2.5, 5.0, 40.0])
def test_a_mask_grows_over_what_is_joined_to_it_and_no_farther_than_the_reach(reach: float) -> None:
    rng, spacing = np.random.default_rng(3), np.array([1.0, 0.7, 2.0])
    into = rng.random((14, 15, 9)) < 0.25
    mask = np.zeros(into.shape, bool)
    mask[5:7, 5:8, 4] = True
    mask[0, 14, 8] = True
    places, marked = (np.argwhere(of) * spacing for of in (np.ones_like(mask), mask))
    distance = np.linalg.norm(places[:, None] - marked[None], axis=-1).min(axis=1).reshape(mask.shape)
    allowed = mask | (into & (distance <= reach))
    expected = ndimage.binary_propagation(mask, TOUCHING, allowed)
    assert mask.sum() < expected.sum() < allowed.sum()
    np.testing.assert_array_equal(grow_into(mask, into, tuple(map(float, spacing)), reach), expected)
    assert not grow_into(np.zeros_like(mask), into, (1.0, 1.0, 1.0), reach).any()


def test_specks_go_and_of_every_detection_something_stays() -> None:
    rng = np.random.default_rng(8)
    mask = ndimage.gaussian_filter(rng.normal(size=(40, 42, 38)), 1.3) > 0.12
    detections = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5) > 0.2
    kept = drop_specks(mask, detections, 60)
    labels, count = ndimage.label(mask, TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    sizes = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    large = np.isin(labels, 1 + np.flatnonzero(sizes >= 60))
    assert large.sum() < kept.sum() < mask.sum()
    assert (kept >= large).all()
    parts, number = ndimage.label(detections, TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    rescued = set(np.unique(labels[kept & ~large]))
    wanted = set()
    for part in range(1, number + 1):
        inside = set(np.unique(labels[(parts == part) & mask])) - {0}
        if inside and max(sizes[label - 1] for label in inside) < 60:
            wanted.add(max(sorted(inside), key=lambda label: sizes[label - 1]))
    assert rescued == wanted != set()
    np.testing.assert_array_equal(drop_specks(mask, detections, 1), mask)
    assert not drop_specks(np.zeros_like(mask), detections, 60).any()


def test_detections_grow_are_fitted_to_intensities_and_lose_specks_in_this_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask, sure, brain = (np.zeros((30, 30, 30), bool) for _ in range(3))
    brain[2:28, 2:28, 2:28] = True
    mask[10:14, 10:14, 10:14] = True
    sure[14:17, 10:14, 10:14] = True
    given = []

    def fitted(grown: np.ndarray, *rest: object) -> np.ndarray:
        given.append(grown)
        speck = grown.copy()
        speck[25, 25, 25] = True
        return speck

    monkeypatch.setattr(extent, "refine_by_appearance", fitted)
    settings = Postprocess(appearance_mm=5.0, min_volume_ml=0.02)
    spacing = (1.0, 1.0, 1.0)
    found = decide_extent(mask, [brain.astype(np.float32)], brain, spacing, settings, sure)
    np.testing.assert_array_equal(found, mask | sure)
    np.testing.assert_array_equal(given[0], mask | sure)
    decide_extent(mask, [brain.astype(np.float32)], brain, spacing, settings)
    np.testing.assert_array_equal(given[1], mask)
    np.testing.assert_array_equal(decide_extent(mask, [], brain, spacing, Postprocess(), sure), mask)
