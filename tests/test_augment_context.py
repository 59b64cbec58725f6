"""Context-encoding masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from strega_jax.augment import ContextEncoding, context_mask
from strega_jax.errors import ConfigError

draw = jax.jit(context_mask, static_argnums=2)


def disk(count: int, size: int = 64, radius: float = 26) -> jax.Array:
    axis = np.arange(size) - size / 2
    return jnp.asarray(np.broadcast_to(np.hypot(axis[:, None], axis[None]) < radius, (count, size, size)))


def test_something_is_hidden_in_every_brain_and_only_there():
    brain = disk(200)
    kept = np.asarray(draw(jax.random.key(0), brain, ContextEncoding()))
    assert kept.dtype == np.float32
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert kept[~np.asarray(brain)].all()
    assert (kept == 0).any((1, 2)).all()


def test_one_square_has_the_side_asked_for():
    settings = ContextEncoding(squares=(1, 1), side=(0.25, 0.25))
    hidden = np.asarray(draw(jax.random.key(1), jnp.ones((100, 64, 64)), settings)) == 0
    for mask in hidden:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == rows.size * columns.size
        assert max(rows.size, columns.size) <= 16
        if rows[0] > 0 and rows[-1] < 63:
            assert rows.size == 16


def test_the_number_of_squares_is_uniform_in_its_range():
    settings = ContextEncoding(squares=(1, 3), side=(0.004, 0.004))  # one pixel each
    hidden = np.asarray(draw(jax.random.key(2), disk(3000, 256, 120), settings)) == 0
    counts = np.bincount(hidden.sum((1, 2)), minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_centres_are_uniform_over_the_brain():
    brain = np.zeros((4000, 16, 16), bool)
    brain[:, 2:5, 3:7] = True  # 12 pixels in one part
    brain[:, 10, 1:14] = True  # 13 in a row of its own
    settings = ContextEncoding(squares=(1, 1), side=(1 / 16, 1 / 16))
    hidden = np.asarray(draw(jax.random.key(3), jnp.asarray(brain), settings)) == 0
    assert hidden.sum() == 4000
    assert stats.chisquare(hidden.sum(0)[brain[0]]).pvalue > 1e-3


def test_an_empty_slice_hides_nothing():
    assert draw(jax.random.key(0), jnp.zeros((3, 32, 32), bool), ContextEncoding()).all()


def test_released_variant_hides_at_most_one_square_and_none_in_a_third():
    settings = ContextEncoding(variant="released")
    hidden = np.asarray(draw(jax.random.key(4), disk(900, 256, 100), settings)) == 0
    empty = int((~hidden.any((1, 2))).sum())
    # one of 128 sides is 0
    assert stats.binomtest(empty, 900, 1 / 3 + 2 / 3 / 128).pvalue > 1e-3
    sides = []
    for mask in hidden[hidden.any((1, 2))]:
        assert ndimage.label(mask)[1] == 1
        (box,) = ndimage.find_objects(mask.astype(int))
        assert mask[box].all()
        assert mask[box].shape[0] == mask[box].shape[1]
        sides.append(mask[box].shape[0])
    assert stats.kstest(np.asarray(sides) - 0.5, stats.uniform(0.5, 127).cdf).pvalue > 1e-3
    assert hidden[~np.asarray(disk(900, 256, 100))].any()


@pytest.mark.parametrize(
    "fields", [{"variant": "paper"}, {"squares": (3, 1)}, {"side": (0.0, 0.5)}, {"side": (0.5, 1.5)}]
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match="context"):
        ContextEncoding(**fields)
