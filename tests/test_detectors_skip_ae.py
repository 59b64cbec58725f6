"""The Bayesian skip-autoencoder: eq. 6 by hand, dropout on the skips alone, Monte-Carlo mean and spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.detectors.skip_ae import SkipAe, gradient_difference

TINY = {"maps": (4, 8), "bottleneck": 4}


def test_gradient_difference_of_a_hand_worked_example():
    target = jnp.asarray([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]).reshape(1, 2, 3, 1)
    output = jnp.asarray([[0.0, -1.0, 0.0], [0.0, 0.0, 5.0]]).reshape(1, 2, 3, 1)
    # down: |2,1,−1| against |0,1,5| → 2 + 0 + 4; across: |1,2|,|0,0| against |−1,1|,|0,5| → 0 + 1 + 0 + 5
    np.testing.assert_allclose(gradient_difference(target, output), [12.0])


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_loss_is_equation_6_with_the_sign_chosen(weight):
    detector, batch = SkipAe(**TINY, gdl_weight=weight), discs()
    total, aux = jax.jit(detector.loss)(fresh(detector), batch, jax.random.key(0), jnp.int32(0))
    np.testing.assert_allclose(total, aux.metrics["l1"] + weight * aux.metrics["gdl"], rtol=1e-6)
    assert float(aux.metrics["gdl"]) > 0


def test_the_printed_sign_rewards_a_checkerboard_without_bound():
    target = jnp.zeros((1, 8, 8, 1))
    board = jnp.asarray((np.indices((8, 8)).sum(0) % 2).reshape(1, 8, 8, 1), jnp.float32)
    printed = [float(jnp.abs(a * board).sum() - gradient_difference(target, a * board)[0]) for a in (1.0, 10.0)]
    assert printed[0] < 0
    np.testing.assert_allclose(printed[1], 10 * printed[0])


@pytest.fixture(scope="module")
def trained():
    return train_few(SkipAe(**TINY), fresh(SkipAe(**TINY)), discs(), 60)


def test_training_lowers_the_loss(trained):
    _, history = trained
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


def test_the_monte_carlo_mean_comes_from_dropout(trained):
    batch, key = discs(), jax.random.key(1)
    variables = trained[0]
    some = SkipAe(**TINY, samples=4)
    score, _ = check_contract(some, variables, batch)
    once, _ = check_contract(SkipAe(**TINY), variables, batch)
    assert np.abs(score - once).max() > 1e-3
    sure = SkipAe(**TINY, samples=4, dropout=0.0)
    np.testing.assert_allclose(jax.jit(sure.score)(variables, batch, key), once, atol=1e-4)
