"""What takes up contrast agent: known rings in made brains, and a glioblastoma whose rim an expert outlined."""

import dataclasses

import numpy as np
import pytest

import strega_jax
from strega_jax.detection.enhancing import ENHANCING, enhancing, label_regions
from strega_jax.errors import ScanError
from strega_jax.evaluation.metrics import dice
from strega_jax.scans.cohorts import find_cases
from strega_jax.scans.scan import read_scan
from strega_jax.tissue import TissueMap

CSF, GM, WM, OEDEMA, RIM = 300.0, 500.0, 600.0, 450.0, 850.0


@dataclasses.dataclass
class Brain:
    """A ball of tissues with a tumour whose rim, mask and vessel are known."""

    image: np.ndarray
    tissue: TissueMap
    mask: np.ndarray
    ring: np.ndarray
    vessel: np.ndarray
    speck: np.ndarray


def made_brain(spacing=(1.0, 1.0, 1.0), rim=RIM, slope=1.0, offset=0.0, bias_strength=0.15) -> Brain:
    """40 mm of radius; oedema of 14 mm around a ring of 7 to 10 mm, a vessel on the surface beside it and into it."""
    shape = tuple(round(90 / edge) for edge in spacing)
    place = [(index + 0.5) * edge - 45 for index, edge in zip(np.indices(shape), spacing, strict=True)]
    x, y, z = place
    radius = np.sqrt(x**2 + y**2 + z**2)
    from_tumour = np.sqrt((x - 24) ** 2 + y**2 + z**2)
    brain = radius < 40
    image = np.select([radius < 30, radius < 36, brain], [WM, GM, CSF], 0.0)
    mask = brain & (from_tumour < 14.5)
    image[mask] = OEDEMA
    ring = (from_tumour >= 7) & (from_tumour < 10) & (radius < 35)
    vessel = brain & (radius > 37) & (np.abs(y) < 15)
    speck = (np.abs(x - 24) < 1.5) & (np.abs(y) < 1.5) & (np.abs(z) < 1.5)
    image[ring] = rim
    image[vessel | speck] = RIM
    labels = np.select([~brain, radius >= 36, radius >= 30], [0, 1, 2], 3).astype(np.uint8)
    labels[mask] = 1
    labels[mask & (image >= WM)] = 3  # a segmentation takes what is bright for white matter
    noise = np.random.default_rng(0).normal(scale=8.0, size=shape)
    bias = np.where(brain, np.exp(bias_strength * x / 40), 1).astype(np.float32)
    seen = np.where(brain, (image + noise) * bias, 0).astype(np.float32)
    # What the segmentation sees: the bright end cut off, as before every detection.
    segmented = np.where(brain, np.clip(seen, *np.percentile(seen[brain], (3, 90))), 0).astype(np.float32)
    tissue = TissueMap(
        labels, labels, np.eye(4, dtype=np.float32)[labels][..., 1:], labels, bias, segmented / bias,
        np.zeros(3, np.float32), np.ones(3, np.float32),
    )  # fmt: skip
    return Brain(np.where(brain, seen * slope + offset, 0).astype(np.float32), tissue, mask, ring, vessel, speck)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 5.0), (2.0, 1.0, 1.0)])
def test_a_ring_in_its_oedema_is_found_and_neither_vessel_nor_speck(spacing):
    brain = made_brain(spacing)
    found = enhancing(brain.image, brain.tissue, brain.mask, spacing)
    assert dice(found, brain.ring) > 0.93
    assert not (found & ~brain.mask).any()
    assert (brain.vessel & brain.mask).sum() > 20
    assert not (found & brain.vessel).any()
    if spacing == (1.0, 1.0, 1.0):
        assert brain.speck.sum() == 8
        assert not (found & brain.speck).any()


def test_a_tumour_that_is_no_brighter_than_white_matter_has_nothing_that_enhances():
    brain = made_brain(rim=WM)
    assert not enhancing(brain.image, brain.tissue, brain.mask, (1.0, 1.0, 1.0)).any()
    nothing = np.zeros_like(brain.mask)
    assert not enhancing(brain.image, brain.tissue, nothing, (1.0, 1.0, 1.0)).any()


def test_the_unit_of_the_intensities_does_not_matter():
    brain, other = made_brain(), made_brain(slope=0.02, offset=100.0)
    found = enhancing(brain.image, brain.tissue, brain.mask, (1.0, 1.0, 1.0))
    again = enhancing(other.image, other.tissue, other.mask, (1.0, 1.0, 1.0))
    assert np.count_nonzero(found != again) <= 3  # of float32's rounding
    assert found.any()


def test_the_bias_field_is_divided_out():
    dim = made_brain(bias_strength=-0.5)  # the rim is darker than white matter elsewhere
    assert np.median(dim.image[dim.ring]) < np.quantile(dim.image[dim.tissue.pveseg == 3], 0.9)
    found = enhancing(dim.image, dim.tissue, dim.mask, (1.0, 1.0, 1.0))
    assert dice(found, dim.ring) > 0.9


def test_a_rim_that_outweighs_white_matter_in_its_class_does_not_hide_itself():
    brain = made_brain()
    labels = np.where((brain.tissue.pveseg == 3) & ~brain.mask, 2, brain.tissue.pveseg)
    place = np.argwhere((labels == 2) & ~brain.mask)[::200]  # little white matter is left outside
    labels[tuple(place.T)] = 3
    tissue = dataclasses.replace(brain.tissue, pveseg=labels.astype(np.uint8))
    assert ((labels == 3) & brain.mask).sum() > ((labels == 3) & ~brain.mask).sum()
    assert dice(enhancing(brain.image, tissue, brain.mask, (1.0, 1.0, 1.0)), brain.ring) > 0.9


def test_a_contrast_whose_fluid_is_bright_is_refused():
    brain = made_brain()
    with pytest.raises(ScanError, match="T1ce"):
        enhancing(np.where(brain.image > 0, 2000 - brain.image, 0), brain.tissue, brain.mask, (1.0, 1.0, 1.0))


def test_labels_say_anomaly_and_what_of_it_enhances():
    mask, part = np.zeros((2, 3, 3, 3), bool)
    mask[0, 0], part[0, 0, 1] = True, True
    labels = label_regions(mask, part)
    assert labels.dtype == np.uint8
    assert labels[0, 0].tolist() == [1, 2, 1]
    assert labels[1:].max() == 0


@pytest.mark.data
def test_the_rim_that_an_expert_outlined_is_labelled(test_data):
    """0.79, and 0.29 of the whole mask, when this was written."""
    (case,) = (case for case in find_cases(test_data / "gbm") if case.name == "sub-gbm02_ses-post_T1ce")
    assert case.mask is not None
    found = strega_jax.detect(case.image)
    truth = read_scan(case.mask).data > 0
    scan = read_scan(case.image)
    assert found.regions is not None
    np.testing.assert_array_equal(found.regions > 0, found.mask)
    rim = found.regions == ENHANCING
    truth = scan.to_native(truth)
    assert dice(rim, truth) > 0.6
    assert dice(rim, truth) > dice(found.mask, truth) + 0.2
