"""Tissue classes as scores: fractions as they are, labels by their value."""

import jax
import jax.numpy as jnp
import numpy as np
from detector_checks import check_contract, discs, fresh

from strega_jax.detectors.tissue_class import TissueClass

KEY = jax.random.key(0)


def test_fractions_give_the_classs_own():
    batch = discs(channels=3)
    for index, name in enumerate(("CSF", "GM", "WM")):
        detector = TissueClass(name)
        variables = fresh(detector, 3)
        assert not jax.tree.leaves(variables)
        score, expected = check_contract(detector, variables, batch)
        np.testing.assert_array_equal(score, np.asarray(batch["images"])[..., index] * np.asarray(batch["brain"]))
        np.testing.assert_array_equal(expected, batch["images"])
        with_excess = {**batch, "images": jnp.concatenate([batch["images"], 0.1 + batch["images"][..., :1]], axis=-1)}
        np.testing.assert_array_equal(detector.score(variables, with_excess, KEY), score)
        loss, _ = detector.loss(variables, batch, KEY, jnp.int32(0))
        inside = np.asarray(batch["brain"]) > 0
        np.testing.assert_allclose(loss, np.asarray(batch["images"])[inside][:, index].mean(), rtol=1e-5)


def test_labels_over_three_mark_their_class():
    labels = np.random.default_rng(0).integers(0, 4, (2, 16, 16))
    blurred = (labels + np.random.default_rng(1).uniform(-0.4, 0.4, labels.shape)) / 3
    batch = {
        "images": jnp.asarray(blurred[..., None], jnp.float32),
        "brain": jnp.asarray(labels > 0, jnp.float32),
        "position": jnp.zeros(2),
    }
    for label, name in enumerate(("CSF", "GM", "WM"), start=1):
        np.testing.assert_array_equal(TissueClass(name).score({"params": {}}, batch, KEY), labels == label)
