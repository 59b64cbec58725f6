"""The tissue-standardised intensity: classes at 1, 2, 3 whatever the scanner, and room beyond them."""

import dataclasses

import numpy as np
import pytest

from strega_jax.errors import ScanError
from strega_jax.slices.preprocess import tissue_standardised
from strega_jax.tissue import TissueMap


def tissue_of(labels: np.ndarray) -> TissueMap:
    blank = np.zeros(labels.shape, np.float32)
    fractions = np.stack([labels == c for c in (1, 2, 3)], axis=-1).astype(np.float32)
    means = np.ones(3, np.float32)
    return TissueMap(labels, labels, fractions, labels, blank + 1, blank, means, means)


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.array([1, 2, 3], np.uint8), 40).reshape(3, 10, 4)


@pytest.mark.parametrize("medians", [(100.0, 300.0, 400.0), (900.0, 400.0, 150.0)], ids=["T1w", "T2w"])
def test_class_medians_become_one_two_three_and_the_ends_go_on(labels: np.ndarray, medians: tuple) -> None:
    image = np.select([labels == c for c in (1, 2, 3)], medians).astype(np.float32)
    np.testing.assert_allclose(tissue_standardised(image, tissue_of(labels)), labels, atol=1e-6)
    fluid, grey, white = medians
    image[2, 0] = [white + (white - grey), white + 9 * (white - grey), (grey + white) / 2, fluid - (grey - fluid) / 2]
    standard = tissue_standardised(image, tissue_of(labels))
    np.testing.assert_allclose(standard[2, 0], [4, 6, 2.5, 0.5], rtol=1e-5)
    shifted = tissue_standardised(3 * image + 50, tissue_of(labels))
    np.testing.assert_allclose(shifted, standard, atol=1e-4)


def test_classes_of_one_brightness_are_refused(labels: np.ndarray) -> None:
    tissue = dataclasses.replace(tissue_of(labels), pveseg=labels)
    with pytest.raises(ScanError, match="do not differ in intensity"):
        tissue_standardised(np.ones(labels.shape, np.float32), tissue)
