"""The VQ-VAE: eqs. 10 and 11, the straight-through estimator, a causal prior, its two stages, restoration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from detector_checks import check_contract, discs, fresh, train_few
from scipy.spatial.distance import cdist

from strega_jax.detectors.transformer import CausalTransformer
from strega_jax.detectors.vq_vae import VqVae, nearest, resting, straight_through

TINY = {"maps": (8, 8, 8), "codes": 12, "code_width": 4, "width": 16, "heads": 2, "layers": 1, "samples": 3}


def test_nearest_is_the_least_euclidean_distance():
    rng = np.random.default_rng(0)
    features, codebook = rng.normal(size=(2, 3, 5, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    expected = cdist(features.reshape(-1, 4), codebook).argmin(1).reshape(2, 3, 5)
    np.testing.assert_array_equal(nearest(jnp.asarray(features), jnp.asarray(codebook)), expected)


def test_straight_through_gives_the_vectors_and_the_gradient_to_the_features():
    features, vectors = jnp.asarray([0.3, -1.0]), jnp.asarray([1.0, 2.0])
    value, pull = jax.vjp(straight_through, features, vectors)
    np.testing.assert_allclose(value, vectors, rtol=1e-6)
    to_features, to_vectors = pull(jnp.asarray([5.0, 7.0]))
    np.testing.assert_array_equal(to_features, [5.0, 7.0])
    np.testing.assert_array_equal(to_vectors, [0.0, 0.0])


@pytest.fixture(scope="module")
def prior():
    network = CausalTransformer(vocabulary=7, length=10, width=8, heads=2, layers=2)
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 10)), jnp.int32)
    condition = jnp.asarray([0.2, 0.9])
    variables = network.init(jax.random.key(0), codes, condition)
    return network, variables, codes, condition


def test_prior_sees_only_what_came_before(prior):
    network, variables, codes, condition = prior
    run = jax.jit(network.apply)
    logits = np.asarray(run(variables, codes, condition))
    changed = np.asarray(run(variables, codes.at[:, 4].set((codes[:, 4] + 1) % 7), condition))
    np.testing.assert_allclose(changed[:, :5], logits[:, :5], atol=1e-6)
    assert (np.abs(changed[:, 5:] - logits[:, 5:]).max(-1) > 1e-5).all()
    higher = np.asarray(run(variables, codes, condition + 0.05))
    assert (np.abs(higher - logits).max(-1) > 1e-6).all()


def test_place_by_place_gives_the_logits_of_all_at_once(prior):
    network, variables, codes, condition = prior
    step = jax.jit(lambda before, cache, place: network.apply(variables, before, cache, place, method="step"))
    before, cache = network.apply(variables, condition, method="begin"), network.empty_cache(2)
    logits = []
    for place in range(10):
        now, cache = step(before, cache, jnp.int32(place))
        logits.append(now)
        before = network.apply(variables, codes[:, place], method="embed")
    np.testing.assert_allclose(np.stack(logits, 1), network.apply(variables, codes, condition), atol=1e-5)


def test_loss_is_equation_11_then_the_priors_alone():
    detector, batch = VqVae(**TINY, autoencoder_steps=5, commitment=0.5), discs()
    variables = fresh(detector)

    @jax.jit
    def parts(step):
        def total(params):
            return detector.loss({"params": params}, batch, jax.random.key(0), step)

        (loss, aux), gradient = jax.value_and_grad(total, has_aux=True)(variables["params"])
        moved = {name: jax.tree.map(lambda g: jnp.abs(g).max(), tree) for name, tree in gradient.items()}
        return loss, aux.metrics, {name: jnp.stack(jax.tree.leaves(tree)).max() for name, tree in moved.items()}

    loss, metrics, moved = parts(jnp.int32(4))
    np.testing.assert_allclose(loss, metrics["nll"] + metrics["codebook"] + 0.5 * metrics["commitment"], rtol=1e-6)
    np.testing.assert_allclose(metrics["codebook"], metrics["commitment"], rtol=1e-6)
    assert moved["autoencoder"] > 0 == moved["prior"]
    loss, metrics, moved = parts(jnp.int32(5))
    assert loss == metrics["prior"] > 0 == metrics["nll"]
    assert moved["prior"] > 0 == moved["autoencoder"]


@pytest.fixture(scope="module")
def trained():
    detector, batch = VqVae(**TINY, autoencoder_steps=250, unlikely_nats=3.0), discs(12)
    return detector, batch, *train_few(detector, fresh(detector), batch, 500, rate=5e-3)


def test_both_stages_learn(trained):
    detector, batch, variables, history = trained
    assert history[249]["nll"] < history[0]["nll"] - 20
    assert history[-1]["prior"] < 0.5 * history[250]["prior"]
    assert len(np.unique(jax.jit(detector.encode)(variables, batch["images"]))) > 3


def test_a_resting_stage_does_not_move_on_its_momentum():
    optimiser, params = resting(optax.adam(0.1)), {"a": jnp.ones(3), "b": jnp.zeros(2)}
    with jax.numpy_dtype_promotion("standard"):
        moved, state = optimiser.update(params, optimiser.init(params), params)
        still, after = optimiser.update(jax.tree.map(jnp.zeros_like, params), state, params)
        again, _ = optimiser.update(params, after, params)
    np.testing.assert_allclose(moved["a"], -0.1, rtol=1e-4)
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    jax.tree.map(np.testing.assert_array_equal, state, after)
    np.testing.assert_allclose(again["a"], -0.1, rtol=1e-4)


def test_an_unlikely_code_is_found_and_restored(trained):
    detector, batch, variables, _ = trained
    check_contract(detector, variables, batch)
    lesion = np.zeros((12, 32, 32), bool)
    lesion[:, 12:20, 12:20] = True
    sick = {**batch, "images": batch["images"] + 2.0 * jnp.asarray(lesion, jnp.float32)[..., None]}
    told = jax.jit(detector.sample_score)
    assert np.mean(told(variables, sick)) > np.mean(told(variables, batch)) + 3
    score = np.asarray(jax.jit(detector.score)(variables, sick, jax.random.key(0)))
    assert score[lesion].mean() > 3 * score[~lesion & (np.asarray(batch["brain"]) > 0)].mean()
    encode, restore = jax.jit(detector.encode), jax.jit(detector.restored_codes)
    codes, healthy = encode(variables, sick["images"]), encode(variables, batch["images"])
    # On a latent grid of 4×4 the planted square itself alters most codes; restoring gives the healthy ones back.
    assert (codes == healthy).mean() < 0.5
    assert (restore(variables, sick, None) == healthy).mean() > 0.95
    assert (restore(variables, sick, jax.random.key(0)) == healthy).mean() > 0.9
    np.testing.assert_array_equal(restore(variables, batch, jax.random.key(0)), healthy)
    nobody = VqVae(**{**TINY, "unlikely_nats": 1e6})
    same = jax.jit(lambda: nobody.restored_codes(variables, sick, jax.random.key(1)))()
    np.testing.assert_array_equal(same, codes)
