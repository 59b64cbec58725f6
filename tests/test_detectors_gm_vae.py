"""The Gaussian-mixture VAE: eq. 12 against Monte Carlo and Bayes' rule by scipy, restoration, TV weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, discs, fresh, train_few
from scipy import integrate, special, stats

from strega_jax.detectors.gm_vae import GmVae, cluster_posterior, total_variation
from strega_jax.detectors.operations import depth_to_space, space_to_depth

TINY = {"maps": 8, "depth": 1, "clusters": 3}


def test_cluster_posterior_is_bayes_rule():
    rng = np.random.default_rng(0)
    z, means, spreads = rng.normal(size=(2, 3, 4, 2)), *rng.normal(size=(2, 2, 3, 4, 2, 5))
    logs = stats.norm(means, np.exp(spreads / 2)).logpdf(z[..., None]).sum(3)
    expected = np.exp(logs - special.logsumexp(logs, axis=-1, keepdims=True))
    got = cluster_posterior(*(jnp.asarray(part, jnp.float32) for part in (z, means, spreads)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_terms_equal_numerical_integrals():
    detector, batch = GmVae(**TINY, variance=0.5), discs(2)
    variables = fresh(detector)
    # Larger parameters than fresh ones, so that clusters differ.
    variables = {**variables, "params": jax.tree.map(lambda p: 2.0 * p, variables["params"])}

    @jax.jit
    def everything():
        network = detector._network(1).bind({"params": variables["params"]})
        w_mean, w_spread, z_mean, z_spread = network.encode(space_to_depth(batch["images"], 4))
        posteriors = w_mean, jnp.exp(w_spread / 2), z_mean, jnp.exp(z_spread / 2)
        terms = detector.elbo_terms(variables, batch["images"])
        return terms, posteriors, network.clusters_of(w_mean), depth_to_space(network.decode(z_mean), 4)

    terms, posteriors, clusters_of_w, output = jax.tree.map(np.asarray, everything())
    w, w_sd, z, z_sd = posteriors
    means, spreads = clusters_of_w
    for place in [(0, 4, 4), (1, 3, 5), (1, 0, 0)]:
        q = stats.norm(z[place][0], z_sd[place][0])
        clusters = [stats.norm(m, np.exp(s / 2)) for m, s in zip(means[place][0], spreads[place][0], strict=True)]
        likelihood = np.array([c.pdf(z[place][0]) for c in clusters])
        share = likelihood / likelihood.sum()

        def divergence(p, q=q):
            ends = q.mean() - 9 * q.std(), q.mean() + 9 * q.std()
            return integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *ends)[0]

        kl_z = sum(part * divergence(c) for part, c in zip(share, clusters, strict=True))
        np.testing.assert_allclose(terms.kl_z[place], kl_z, rtol=1e-3, atol=1e-4)
        kl_w = divergence(stats.norm(0, 1), stats.norm(w[place][0], w_sd[place][0]))
        np.testing.assert_allclose(terms.kl_w[place], kl_w, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(terms.kl_c[place], stats.entropy(share, np.full(3, 1 / 3)), rtol=1e-3, atol=1e-5)
    nll = -stats.norm(output, np.sqrt(0.5)).logpdf(np.asarray(batch["images"])).sum((1, 2, 3))
    np.testing.assert_allclose(terms.nll, nll, rtol=1e-4)


def test_loss_holds_the_cluster_term_up_and_sums_the_others():
    batch = discs()
    for c_lambda in (0.0, 2.0):
        detector = GmVae(**TINY, c_lambda=c_lambda)
        loss, aux = jax.jit(detector.loss)(fresh(detector), batch, jax.random.key(0), jnp.int32(0))
        m = aux.metrics
        held = 8 * 8 * c_lambda if c_lambda else m["kl_c"]  # the KL of 3 clusters is at most log 3 < 2
        np.testing.assert_allclose(loss, m["nll"] + m["kl_z"] + m["kl_w"] + held, rtol=1e-5)


def test_total_variation_counts_steps_in_both_directions():
    image = np.random.default_rng(0).normal(size=(2, 6, 7, 1)).astype(np.float32)
    expected = np.abs(np.diff(image, axis=1)).sum((1, 2, 3)) + np.abs(np.diff(image, axis=2)).sum((1, 2, 3))
    np.testing.assert_allclose(total_variation(jnp.asarray(image)), expected, rtol=1e-3)


@pytest.fixture(scope="module")
def trained():
    detector, batch = GmVae(**TINY, variance=0.05, restoration_steps=120, tv_weights=(0.0, 2.0, 1000.0)), discs()
    return detector, *train_few(detector, fresh(detector), batch, 200)


def test_training_lowers_the_loss(trained):
    _, _, history = trained
    assert history[-1]["nll"] < history[0]["nll"] - 100


def test_restoration_climbs_its_objective_and_removes_a_lesion(trained):
    detector, variables, _ = trained
    batch = discs()
    lesion = np.zeros((6, 32, 32), bool)
    lesion[:, 13:19, 13:19] = True
    images = batch["images"] + 1.5 * jnp.asarray(lesion, jnp.float32)[..., None]
    score, restored = check_contract(detector, variables, {**batch, "images": images})
    healthy = ~lesion & (np.asarray(batch["brain"]) > 0)
    assert score[lesion].mean() > 2 * score[healthy].mean()

    @jax.jit
    def objective(y):
        terms = detector.elbo_terms(variables, y)
        elbo = -terms.nll - (terms.kl_z + terms.kl_w + terms.kl_c).sum((1, 2))
        return elbo - 2.0 * total_variation(images - y)

    assert (np.asarray(objective(jnp.asarray(restored))) > np.asarray(objective(images))).all()


def test_the_tv_weight_chosen_changes_healthy_slices_least(trained):
    detector, variables, _ = trained
    weights = detector.tv_weights
    changes = np.asarray(jax.jit(detector.healthy_changes)(variables, discs()))
    kept = jax.jit(detector.fit_after_training)(variables, discs())["restoration"]["tv_weight"]
    assert kept == weights[changes.argmin()]
    brain = np.asarray(discs()["brain"]) > 0
    moved = np.abs(jax.jit(detector.restore)(variables, discs()["images"], 2.0) - discs()["images"])
    np.testing.assert_allclose(changes[1], np.asarray(moved)[brain].mean(), rtol=1e-2)
    assert len(set(changes.tolist())) == 3
