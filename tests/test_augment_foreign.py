"""Planted anomalies and changed appearance: what is changed, where, and that nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import discs
from scipy import ndimage

from strega_jax.augment import foreign as module
from strega_jax.augment.foreign import HIGHEST, LOWEST, TRACE, Planting, plant, vary
from strega_jax.detectors.judge import tissue_scale
from strega_jax.errors import ConfigError


@pytest.fixture(scope="module")
def slices() -> tuple[jax.Array, jax.Array]:
    batch = discs(24, 3)
    return tissue_scale(batch["images"]), batch["brain"] > 0


def planted(slices, key=0, **settings):
    program = jax.jit(lambda k, x, b: plant(k, x, b, Planting(**settings)))
    return tuple(np.asarray(part) for part in program(jax.random.key(key), *slices))


def test_an_anomaly_is_visible_where_it_is_told_and_stays_in_the_brain(slices):
    tissue, brain = (np.asarray(part) for part in slices)
    images, foreign = planted(slices, probability=1.0, radius=(0.1, 0.2))
    assert foreign.any(axis=(1, 2)).mean() > 0.8
    assert not foreign[~brain].any()
    np.testing.assert_array_equal(images[~brain], tissue[~brain])
    change = np.abs(images - tissue)
    assert change[foreign].mean() > 2 * TRACE
    assert change[~foreign & brain].mean() < 0.05
    assert images[brain].min() >= min(LOWEST, tissue[brain].min())
    assert images.max() <= HIGHEST


def test_what_is_told_foreign_can_be_seen_and_is_as_large_as_its_outline(slices):
    images, foreign = planted(slices, 3, probability=1.0, radius=(0.05, 0.2))
    changes = np.abs(images - np.asarray(slices[0]))
    about = np.stack([ndimage.gaussian_filter(change, 1.5, mode="constant", truncate=4 / 1.5) for change in changes])
    assert about[foreign].min() > TRACE - 0.01
    # In a brain that fills a large slice the outline keeps an ellipse's area, however it is disturbed. Between grey and
    # white matter nothing resists infiltration.
    wide = jnp.full((32, 96, 96), 2.5), jnp.ones((32, 96, 96), bool)
    _, foreign = planted(wide, probability=1.0, radius=(0.1, 0.1))
    border = np.ones((96, 96), bool)
    border[2:-2, 2:-2] = False
    areas = [label.sum() for label in foreign if label.any() and not (label & border).any()]
    assert len(areas) > 8
    assert 0.7 < np.median(areas) / (np.pi * 9.6**2) < 1.15


def test_infiltrating_anomalies_follow_white_matter():
    tissue = jnp.full((48, 96, 96), 3.0).at[:, :, 48:].set(2.0)
    halves = tissue, jnp.ones(tissue.shape, bool)

    def white_to_grey(infiltrating: float) -> float:
        _, foreign = planted(halves, 4, probability=1.0, radius=(0.15, 0.2), infiltrating=infiltrating)
        return foreign[:, :, :48].sum() / foreign[:, :, 48:].sum()

    # Where nothing infiltrates, a dark zone is seen in white matter alone.
    assert white_to_grey(1.0) > 2.0 * white_to_grey(0.0)


def test_outer_zones_are_darker_or_brighter():
    white = jnp.full((256, 48, 48), 3.0), jnp.ones((256, 48, 48), bool)
    images, foreign = planted(white, 5, probability=1.0, radius=(0.2, 0.25), infiltrating=0.0)
    rings = [label & ~ndimage.binary_erosion(label, iterations=2) for label in foreign]
    change = np.array([(image - 3.0)[ring].mean() for image, ring in zip(images, rings, strict=True) if ring.any()])
    # A quarter has a bright rim out to its end, a quarter of the others a bright zone.
    assert 0.33 < (change > 0).mean() < 0.5


def test_without_luck_nothing_is_planted(slices):
    images, foreign = planted(slices, probability=0.0)
    np.testing.assert_array_equal(images, np.asarray(slices[0]))
    assert not foreign.any()


def test_share_of_slices_and_size_follow_the_settings(slices):
    some = [planted(slices, key, probability=0.4, radius=(0.1, 0.12))[1].any(axis=(1, 2)) for key in range(8)]
    assert 0.25 < np.mean(some) < 0.5
    small = planted(slices, probability=1.0, radius=(0.06, 0.07))[1].sum()
    large = planted(slices, probability=1.0, radius=(0.2, 0.22))[1].sum()
    assert large > 4 * small


def test_the_same_key_plants_the_same_and_another_another(slices):
    first, again, other = planted(slices, 1), planted(slices, 1), planted(slices, 2)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[1] != other[1]).any()


def test_appearance_changes_within_bounds_and_keeps_the_brain(slices):
    tissue, brain = (np.asarray(part) for part in slices)
    varied = np.asarray(jax.jit(vary)(jax.random.key(0), *slices))
    assert not varied[~brain].any()
    assert varied[brain].min() >= LOWEST
    assert varied.max() <= HIGHEST
    change = np.abs(varied - tissue)
    assert (change.mean(axis=(1, 2)) > 0.01).mean() > 0.8
    # Anatomy survives: slices still resemble themselves more than one another.
    inside = brain.all(axis=0)
    own = [np.corrcoef(varied[i][inside], tissue[i][inside])[0, 1] for i in range(len(tissue))]
    assert np.median(own) > 0.5


@pytest.mark.parametrize(
    "fields", [{"probability": 1.2}, {"infiltrating": -0.1}, {"radius": (0.3, 0.1)}, {"radius": (0.0, 0.1)}]
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match="planting"):
        Planting(**fields)


def test_tissue_scale_counts_classes_and_what_is_beyond():
    images = jnp.asarray(np.eye(4, dtype=np.float32)[None, None])
    np.testing.assert_array_equal(np.asarray(tissue_scale(images))[0, 0], [1, 2, 3, 3])


@pytest.mark.parametrize("work", [lambda *of: plant(*of, Planting()), vary])
def test_as_many_random_numbers_are_drawn_as_are_used(slices, monkeypatch, work):
    drawn, used = [], []
    uniform, normal, numbers, fields = (
        jax.random.uniform,
        jax.random.normal,
        module._Draws._number,
        module._Draws.field,
    )
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: drawn.append(shape[0]) or uniform(key, shape))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: drawn.append(shape[1]) or normal(key, shape))
    monkeypatch.setattr(module._Draws, "_number", lambda self: used.append(1) or numbers(self))
    monkeypatch.setattr(module._Draws, "field", lambda self, n: used.append(1j * n**2) or fields(self, n))
    jax.eval_shape(lambda *of: work(*of), jax.random.key(0), *slices)  # a function never traced before
    twice = sum(used)  # once in the trial
    assert drawn == [twice.real / 2, twice.imag / 2]
