"""The adversarial autoencoder: gradient penalty, who is trained by what, and a posterior drawn to the prior."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from detector_checks import check_contract, discs, fresh, train_few

from strega_jax.detectors.aae import Aae, gradient_penalty

TINY = {"maps": (4, 8), "latent": 3, "critic_units": (8,)}


def test_penalty_of_a_linear_critic_is_its_excess_length_squared():
    weights = jnp.asarray([[2.0], [-1.0], [2.0]])
    real, fake = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    share = jnp.full((5, 1), 0.3)
    np.testing.assert_allclose(gradient_penalty(lambda z: (z @ weights)[:, 0], real, fake, share), 4.0, rtol=1e-6)


def test_penalty_is_taken_between_real_and_fake():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 5, 3)).astype(np.float32)
    share = rng.random((5, 1)).astype(np.float32)
    got = gradient_penalty(lambda z: jnp.square(z).sum(axis=1), *map(jnp.asarray, (real, fake, share)))
    between = (1 - share) * real + share * fake  # where the slope of ‖z‖² is 2z
    np.testing.assert_allclose(got, np.square(2 * np.linalg.norm(between, axis=1) - 1).mean(), rtol=1e-5)


def test_each_part_of_the_loss_moves_its_own_network_alone():
    detector, batch = Aae(**TINY), discs()
    variables, key = fresh(detector), jax.random.key(1)

    @jax.jit
    def gradients():
        def metric(params, name):
            return detector.loss({"params": params}, batch, key, jnp.int32(0))[1].metrics[name]

        return {
            name: jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(metric)(variables["params"], name))
            for name in ("rec", "generator", "critic", "penalty")
        }

    moved = {
        name: {part: max(map(float, jax.tree.leaves(tree))) > 0 for part, tree in flat(of).items()}
        for name, of in gradients().items()
    }
    assert moved["rec"] == {"encoder": True, "decoder": True, "critic": False}
    assert moved["generator"] == {"encoder": True, "decoder": False, "critic": False}
    assert moved["critic"] == {"encoder": False, "decoder": False, "critic": True}
    assert moved["penalty"] == {"encoder": False, "decoder": False, "critic": True}


def test_loss_is_the_sum_and_the_encoder_plays_in_every_fifth_step():
    detector, batch = Aae(**TINY, adversarial_weight=0.5), discs()
    run = jax.jit(lambda step: detector.loss(fresh(detector), batch, jax.random.key(1), step))
    for step, turn in [(0, 0.5), (1, 0.0), (4, 0.0), (5, 0.5)]:
        total, aux = run(jnp.int32(step))
        m = aux.metrics
        expected = m["rec"] + turn * m["generator"] + m["critic"] + 10 * m["penalty"]
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        assert abs(float(m["generator"])) > 1e-3


def flat(gradient):
    return {**gradient["autoencoder"], "critic": gradient["critic"]}


def test_the_critic_has_an_adam_of_its_own():
    detector = Aae(**TINY, critic_learning_rate=0.25)
    params = fresh(detector)["params"]
    optimiser = detector.optimizer(optax.sgd(0.5))
    ones = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        update, _ = optimiser.update(ones, optimiser.init(params), params)
    for leaf in jax.tree.leaves(update["autoencoder"]):
        np.testing.assert_allclose(leaf, -0.5)
    for leaf in jax.tree.leaves(update["critic"]):  # Adam's first step is its rate
        np.testing.assert_allclose(leaf, -0.25, rtol=1e-4)


def test_training_lowers_the_error_and_draws_the_posterior_to_the_prior():
    batch = discs(24)
    detector = Aae(**TINY, critic_learning_rate=1e-2, adversarial_weight=5.0)
    plain = Aae(**TINY, adversarial_weight=0.0)

    def excess(variables):  # how far q(z) of eq. 1 is from N(0, 1), in its first two moments
        z = np.asarray(detector.encode(variables, batch["images"]))
        return np.square(z.mean(0)).sum() + np.square(z.std(0) - 1).sum()

    start = jax.tree.map(jnp.copy, fresh(detector))
    start["params"]["autoencoder"]["encoder"]["Dense_0"]["bias"] += 3.0
    variables, history = train_few(detector, start, batch, 400, rate=1e-3)
    free, _ = train_few(plain, start, batch, 400, rate=1e-3)
    assert history[-1]["rec"] < 0.5 * history[0]["rec"]
    assert excess(variables) < 0.5 * excess(free)
    check_contract(detector, variables, batch)
