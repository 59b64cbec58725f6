"""The layers that a judge scores with are those that it was trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from strega_jax.detectors.judge_network import Judge
from strega_jax.detectors.judge_unet import Trained, u_net

MAPS, BLOCKS, PATCH = (8, 16, 12), 2, 4


@pytest.fixture(scope="module")
def features():
    return jax.random.normal(jax.random.key(1), (3, 32, 16, 5))


@pytest.fixture(scope="module")
def variables(features):
    """Of a network whose norms have averages, scales and biases of all sizes, as trained ones have."""
    fresh = Judge(MAPS, BLOCKS, PATCH).init(jax.random.key(0), features)
    rng = np.random.default_rng(2)

    def drawn(path, leaf):
        if path[-1].key == "kernel":
            return leaf
        positive = path[-1].key in ("var", "scale")
        return jnp.asarray(rng.uniform(0.5 if positive else -0.5, 2.0, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, fresh)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_they_say_what_the_network_says(variables, features, dtype, tolerance):
    seen = features.astype(dtype)
    theirs = Judge(MAPS, BLOCKS, PATCH, jnp.dtype(dtype)).apply(variables, seen)
    ours = u_net(Trained(variables, jnp.dtype(dtype)), seen, MAPS, BLOCKS, PATCH)
    assert ours.dtype == jnp.float32
    assert ours.shape == (3, 32, 16)
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)


def test_weights_of_another_network_are_refused(variables, features):
    with pytest.raises(ValueError, match=r"kernel of \(1, 1, 80, 8\) is not one of \(1, 1, 80, 4\)"):
        u_net(Trained(variables), features, (4, 16, 12), BLOCKS, PATCH)
    with pytest.raises(ValueError, match="is not one of"):
        u_net(Trained(variables), features, MAPS, BLOCKS + 1, PATCH)
