"""Equalised intensity: scikit-image's equalisation, or ranks among what was trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detector_checks import check_contract, fresh
from scipy import stats

from strega_jax.detectors.base import Batch
from strega_jax.detectors.intensity_threshold import IntensityThreshold
from strega_jax.errors import ConfigError


def random_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return {
        "images": jnp.asarray(rng.gamma(2.0, 0.3, (6, 32, 32, 1)) - 1, jnp.float32),
        "brain": jnp.asarray(rng.random((6, 32, 32)) > 0.3, jnp.float32),
        "position": jnp.zeros(6),
    }


@pytest.mark.parametrize(("anomaly", "sign"), [("bright", 1), ("dark", -1)])
def test_slice_scores_are_percentile_ranks_of_the_slice(anomaly, sign):
    batch, detector = random_batch(), IntensityThreshold(equalise="slice", anomaly=anomaly)
    score, _ = check_contract(detector, fresh(detector), batch)
    for got, image, brain in zip(score, batch["images"], np.asarray(batch["brain"]) > 0, strict=True):
        values = sign * np.asarray(image)[brain, 0]
        np.testing.assert_allclose(got[brain], stats.percentileofscore(values, values, "weak") / 100, rtol=1e-5)


@pytest.mark.parametrize(("anomaly", "sign"), [("bright", 1), ("dark", -1)])
def test_training_scores_are_ranks_among_all_training_pixels(anomaly, sign):
    detector = IntensityThreshold(anomaly=anomaly, bins=4096, limits=(-1.0, 4.0))
    variables, losses = fresh(detector), []
    step = jax.jit(detector.loss)
    for seed in range(1, 5):
        loss, aux = step(variables, random_batch(seed), jax.random.key(0), jnp.int32(0))
        variables, losses = {"params": {}, **aux.mutable}, [*losses, float(loss)]
    assert losses == sorted(losses, reverse=True)
    batch = random_batch(9)
    score, _ = check_contract(detector, variables, batch)
    brain = np.asarray(batch["brain"]) > 0
    pool = np.concatenate(
        [np.asarray(b["images"])[np.asarray(b["brain"]) > 0, 0] for b in map(random_batch, range(1, 5))]
    )
    values = np.asarray(batch["images"])[brain, 0]
    expected = stats.percentileofscore(sign * pool, sign * values, "weak") / 100
    np.testing.assert_allclose(score[brain], expected, atol=3e-3)


def test_more_than_one_channel_is_refused():
    with pytest.raises(ConfigError, match="one channel"):
        IntensityThreshold().init(jax.random.key(0), (32, 32, 3))
