"""The atlas: running statistics equal numpy's over all slices, and distances follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
from detector_checks import check_contract, fresh

from strega_jax.detectors.base import Batch
from strega_jax.detectors.tissue_atlas import TissueAtlas

BINS, SIDE = 3, 32


def random_batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    return [
        {
            "images": jnp.asarray(rng.normal(100.0, 2.0, (8, SIDE, SIDE, 2)), jnp.float32),
            "brain": jnp.asarray(rng.random((8, SIDE, SIDE)) > 0.3, jnp.float32),
            "position": jnp.asarray(rng.uniform(0, 1, 8), jnp.float32),
        }
        for _ in range(5)
    ]


def filled(detector: TissueAtlas, batches: list[Batch]) -> tuple[dict, list[float]]:
    variables, losses = fresh(detector, 2), []
    step = jax.jit(detector.loss)
    for batch in batches:
        loss, aux = step(variables, batch, jax.random.key(0), jnp.int32(0))
        variables, losses = {"params": {}, **aux.mutable}, [*losses, float(loss)]
    return variables, losses


def test_statistics_and_distances_equal_numpys_over_all_slices_at_once():
    detector, batches = TissueAtlas(bins=BINS, prior_count=2.0), random_batches()
    variables, _ = filled(detector, batches)
    images, brain, position = (
        np.concatenate([np.asarray(batch[name], np.float64) for batch in batches])
        for name in ("images", "brain", "position")
    )
    everything = images[brain > 0]
    centre, spread = everything.mean(0), everything.var(0)
    score, expected = check_contract(detector, variables, batches[0])
    for height in range(BINS):
        mine = np.minimum((position * BINS).astype(int), BINS - 1) == height
        seen = brain[mine][..., None]
        count = seen.sum(0)
        np.testing.assert_array_equal(variables["atlas"]["count"][height], count)
        # Two more samples at the whole brain's mean, with its variance.
        mean = ((images[mine] * seen).sum(0) + 2 * centre) / (count + 2)
        squares = (np.square(images[mine] - mean) * seen).sum(0) + 2 * (spread + np.square(centre - mean))
        first = np.asarray(batches[0]["position"])
        chosen = np.minimum((first * BINS).astype(int), BINS - 1) == height
        inside = np.asarray(batches[0]["brain"])[chosen]
        distance = np.square(np.asarray(batches[0]["images"])[chosen] - mean) / (squares / (count + 2))
        np.testing.assert_allclose(score[chosen], np.sqrt(distance.mean(-1)) * inside, rtol=2e-3, atol=2e-3)
        where = inside[..., None] > 0
        np.testing.assert_allclose((expected[chosen] - mean) * where, 0, atol=1e-3)


def test_healthy_slices_come_closer_and_an_unseen_pixel_is_judged_by_the_whole_brain():
    detector, batches = TissueAtlas(bins=1), random_batches()
    for batch in batches:
        batch["brain"] = batch["brain"].at[:, 5, 5].set(0.0)
    variables, losses = filled(detector, batches)
    assert losses[-1] < 0.01 * losses[0]  # 100 is far from 0, at which untrained statistics stand
    probe = {**batches[0], "brain": jnp.ones((8, SIDE, SIDE))}
    probe["images"] = probe["images"].at[:, 5, 5].set(110.0)
    score, _ = check_contract(detector, variables, probe)
    np.testing.assert_allclose(score[:-2, 5, 5], 10 / 2, rtol=0.05)
