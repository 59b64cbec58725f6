"""The pieces of the tissue segmentation against plain loops, SciPy and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, interpolate, ndimage, stats

from strega_jax.tissue import bias, hmrf, mixel

SPACING = (1.0, 1.5, 2.5)


@pytest.fixture(scope="module")
def brain():
    """An irregular mask off the border, and a random class probability in it."""
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 10, 9), bool)
    mask[1:-1, 1:-1, 1:-1] = ndimage.gaussian_filter(rng.normal(size=(10, 8, 7)), 1) > -0.1
    return mask, (rng.random(mask.shape) * mask).astype(np.float32)


def _neighbours():
    for step in itertools.product((-1, 0, 1), repeat=3):
        if 0 < np.abs(step).sum() <= 2:
            yield step, 1.0 / np.linalg.norm(np.array(step) * SPACING)


def test_neighbour_sum_is_a_correlation_with_inverse_distances(brain):
    kernel = np.zeros((3, 3, 3))
    for step, weight in _neighbours():
        kernel[tuple(np.array(step) + 1)] = weight
    volumes = [brain[1], brain[1][::-1], 1 - brain[1]]
    packed = hmrf.pack(tuple(jnp.asarray(volume) for volume in volumes))
    for volume, got in zip(
        volumes, hmrf.neighbour_sums(packed, jnp.asarray(hmrf.step_weights(SPACING)), 3), strict=True
    ):
        expected = ndimage.correlate(volume.astype(float), kernel, mode="constant")[1:-1, 1:-1, 1:-1]
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_packed_probabilities_come_back_to_16_bits(brain, count):
    volumes = [brain[1], 1 - brain[1], (brain[1] > 0.5).astype(np.float32)][:count]
    back = hmrf.unpack(hmrf.pack(tuple(jnp.asarray(volume) for volume in volumes)), count)
    np.testing.assert_allclose(np.stack(back), volumes, atol=0.51 / 2**16)
    assert set(np.unique(back[-1])) == {0, 1} or count < 3


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_posteriors_are_bayes_rule(brain, n_classes):
    y = brain[1] * 4 - 2
    means, variances = np.linspace(-2, 2, n_classes), np.linspace(0.01, 0.4, n_classes)
    density = np.stack([stats.norm.pdf(y, m, v**0.5) for m, v in zip(means, variances, strict=True)])
    expected = density / density.sum(0) * brain[0]
    got = hmrf.posteriors(
        jnp.asarray(y), jnp.asarray(brain[0]), jnp.asarray(means, jnp.float32), jnp.asarray(variances, jnp.float32)
    )
    np.testing.assert_allclose(np.stack(got), expected[:-1], atol=2e-5)


def test_class_statistics_are_weighted_moments(brain):
    rng = np.random.default_rng(1)
    y = (rng.normal(size=brain[0].shape) * brain[0]).astype(np.float32)
    weights = [brain[1], brain[0] - brain[1]]
    means = [np.average(y, weights=w) for w in weights]
    variances = [np.average((y - m) ** 2, weights=w) for m, w in zip(means, weights, strict=True)]
    got = hmrf.class_statistics((jnp.asarray(brain[1]),), jnp.asarray(y), jnp.asarray(brain[0], jnp.float32))
    np.testing.assert_allclose(got[0], means, atol=1e-5)
    np.testing.assert_allclose(got[1], variances, rtol=1e-4)


def test_starting_classes_are_the_fixed_point_of_soft_clustering():
    """Against the same steps on every intensity, without a histogram."""
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.normal(m, s, 20000) for m, s in ((6.0, 0.3), (7.2, 0.1), (7.7, 0.07))]).astype(np.float32)
    means = np.percentile(y, (25, 50, 75))
    p = (np.abs(y - means[:, None]).argmin(0) == np.arange(3)[:, None]).astype(float)
    variances = np.zeros(3)
    for _ in range(19):
        means = p @ y / p.sum(1)
        variances = (p * (y - means[:, None]) ** 2).sum(1) / p.sum(1)
        p = stats.norm.pdf(y, means[:, None], np.sqrt(variances)[:, None])
        p /= p.sum(0)
    start = next(hmrf.starts(y, 3, 19))
    np.testing.assert_allclose(start.means, means, atol=2e-3)
    np.testing.assert_allclose(start.variances, variances, rtol=2e-2)
    assert start.low < 6 - 0.3 * 3
    assert start.high > y.max()
    assert start.separation == pytest.approx(min(np.diff(means) / np.sqrt(variances[:2])), rel=2e-2)


@pytest.mark.parametrize("outlying", [0.0, 0.02, 0.05])
def test_starting_classes_stand_apart_whatever_the_outlying_voxels(outlying):
    """T2w: white, grey matter and less fluid, with a dark tail."""
    rng = np.random.default_rng(6)
    y = np.concatenate([rng.normal(m, s, n) for m, s, n in ((7.1, 0.07, 40000), (7.5, 0.06, 45000), (8.0, 0.1, 15000))])
    tail = rng.random(y.size) < outlying
    y = np.where(tail, y + np.log(0.5 * rng.random(y.size) ** 2 + 1e-3), y).astype(np.float32)
    start = next(hmrf.starts(y, 3, 19))
    np.testing.assert_allclose(start.means[:2], (7.1, 7.5), atol=0.1)
    assert 7.6 < start.means[2] < 8.05
    assert start.separation >= hmrf.APART


def test_starts_need_as_many_intensities_as_classes():
    two = np.repeat(np.float32([1.0, 2.0]), 50)
    assert not list(hmrf.starts(two, 3, 19))
    assert not list(hmrf.starts(np.ones(9, np.float32), 2, 19))
    np.testing.assert_allclose(next(hmrf.starts(two, 2, 19)).means, (1, 2), atol=1e-3)
    # Three quarters of one value are all percentiles at once.
    saturated = np.concatenate([np.full(3000, 5.0), np.linspace(3, 4.9, 1000)]).astype(np.float32)
    assert next(hmrf.starts(saturated, 3, 19)).separation > 0


def test_pooled_variances_lie_between_each_and_their_mean(brain):
    p = (jnp.asarray(brain[1]),)
    inside, variances = jnp.asarray(brain[0], jnp.float32), jnp.asarray([0.5, 2.0], jnp.float32)
    sizes = [brain[1].sum(), (brain[0] - brain[1]).sum()]
    common = np.average(variances, weights=sizes)

    def pooled(share):
        return hmrf.pooled_variances(p, inside, variances, jnp.float32(share))

    np.testing.assert_allclose(pooled(1.0), [common, common], rtol=1e-4)
    np.testing.assert_array_equal(pooled(0.0), variances)
    np.testing.assert_allclose(pooled(0.5), np.sqrt(common * np.asarray(variances)), rtol=1e-4)


@pytest.mark.parametrize(("n", "sigma"), [(64, 5.1), (40, 10.2), (24, 1.57)])
def test_smoothing_is_a_truncated_gaussian_filter(n, sigma):
    line = np.random.default_rng(2).normal(size=n)
    expected = ndimage.gaussian_filter(line, sigma, mode="constant", radius=2 * int(sigma))
    np.testing.assert_allclose(bias.smoothing_matrix(n, sigma) @ line, expected, atol=1e-12)


@pytest.mark.parametrize(("n", "stride"), [(40, 3), (17, 4), (181, 9), (128, 1)])
def test_spline_matrix_is_scipys(n, stride):
    nodes = np.minimum(np.arange(0, n - 1 + stride, stride), n - 1)  # the last gap may be shorter
    expected = interpolate.make_interp_spline(nodes, np.eye(nodes.size), k=3)(np.arange(n))
    np.testing.assert_allclose(bias.spline_matrix(nodes, n), expected, atol=1e-14)


def test_bias_at_sparse_nodes_is_the_full_smoothing():
    rng = np.random.default_rng(3)
    shape, spacing = (48, 40, 32), (2.0, 2.0, 3.0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    mask = (grid**2).sum(0) < 0.8
    p = (rng.random(shape) * mask).astype(np.float32)
    y = ((0.1 * grid[0] + 0.05 * grid[2] + 0.2 * rng.normal(size=shape)) * mask).astype(np.float32)
    means, variances = np.array([-0.1, 0.2], np.float32), np.array([0.02, 0.05], np.float32)
    tau = [p / variances[0], (mask - p) / variances[1]]
    sigmas = [bias.SIGMA_OF_EXTENT * 20 / mm for mm in spacing]

    def smoothed(volume):
        for axis, sigma in enumerate(sigmas):
            volume = ndimage.gaussian_filter1d(volume, sigma, axis, mode="constant", radius=2 * int(sigma))
        return volume

    expected = smoothed(tau[0] * (y - means[0]) + tau[1] * (y - means[1])) / np.maximum(smoothed(sum(tau)), 1e-9)
    expected = np.where(mask, expected - expected[mask].mean(), 0)
    smoothers = tuple(bias.smoother(n, mm, 20.0) for n, mm in zip(shape, spacing, strict=True))
    got = bias.estimate_bias(
        (jnp.asarray(p),), jnp.asarray(y), jnp.asarray(mask), jnp.asarray(means), jnp.asarray(variances), smoothers
    )
    assert np.abs(expected).max() > 0.03
    assert np.sqrt(np.mean((np.asarray(got) - expected)[mask] ** 2)) < 5e-4


def test_mixture_likelihood_is_the_integral_over_the_fraction():
    means, variances = np.array([0.2, 0.6, 1.0]), np.array([0.01, 0.004, 0.006])
    intensity = np.linspace(0, 1.2, 13)
    got, fraction = mixel.tabulate(*(jnp.asarray(a, jnp.float32) for a in (intensity, means, variances)))
    for row, (a, b) in enumerate(mixel.pairs(3), start=3):
        for column, value in enumerate(intensity):

            def density(d, a=a, b=b, value=value):
                spread = d**2 * variances[a] + (1 - d) ** 2 * variances[b]
                return stats.norm.pdf(value, d * means[a] + (1 - d) * means[b], spread**0.5)

            # Euler and Maclaurin: a sum of steps of 0.01 that counts both ends in full exceeds the integral by these.
            slope = (density(1) - density(1 - 1e-5) - density(1e-5) + density(0)) / 1e-5
            expected = integrate.quad(density, 0, 1)[0] + 0.005 * (density(0) + density(1)) + slope * 1e-4 / 12
            assert np.exp(got[row, column]) == pytest.approx(expected * np.sqrt(2 * np.pi), rel=2e-3, abs=1e-6)
            steps = np.linspace(0, 1, 101)
            mean = steps * means[a] + (1 - steps) * means[b]
            spread = steps**2 * variances[a] + (1 - steps) ** 2 * variances[b]
            cost = (value - mean) ** 2 / spread + np.log(spread)
            assert cost[int(fraction[row - 3, column])] == pytest.approx(cost.min(), abs=1e-4)


@pytest.mark.parametrize("raster", [mixel.X_FASTEST, ((2, True), (0, False), (1, True))])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_wavefronts_are_the_raster_sweep(brain, raster, n_classes):
    mask, beta = brain[0], 0.7
    rng = np.random.default_rng(4)
    members = mixel.members(n_classes)
    likelihood = rng.normal(size=(len(members), 50)).astype(np.float32)
    bins = rng.integers(50, size=mask.shape)
    types = np.where(mask, likelihood.argmax(0)[bins], -1)
    start = types.copy()
    ranges = [range(mask.shape[axis])[:: -1 if back else 1] for axis, back in raster]
    for slow, middle, fast in itertools.product(ranges[2], ranges[1], ranges[0]):
        voxel = [0, 0, 0]
        for (axis, _), value in zip(raster, (fast, middle, slow), strict=True):
            voxel[axis] = value
        if not mask[tuple(voxel)]:
            continue
        score = likelihood[:, bins[tuple(voxel)]].astype(float)
        for step, weight in _neighbours():
            near = types[tuple(np.array(voxel) + step)]
            if near >= 0:
                for t, own in enumerate(members):
                    related = own < members[near] or members[near] < own
                    score[t] += beta * weight * (2 if near == t else 1 if related else -1)
        types[tuple(voxel)] = score.argmax()
    got = jax.jit(mixel.classify)(
        jnp.asarray(bins, jnp.uint16),
        jnp.asarray(mask),
        jnp.asarray(likelihood),
        mixel.wavefronts(mask, raster),
        jnp.asarray(hmrf.step_weights(SPACING)),
        jnp.float32(beta),
    )
    assert (types != start).sum() > 20
    np.testing.assert_array_equal(np.asarray(got)[mask], types[mask])


def test_fractions_and_labels_follow_from_the_types():
    types = np.array([[[0, 2, 3, 4, 5, 5, 6]]], np.uint8)
    fraction = np.array([[30], [100], [50]], np.uint8)
    out = mixel.encode(jnp.asarray(types), jnp.zeros(types.shape, jnp.uint16), jnp.asarray(fraction))
    mixeltype, code = map(np.asarray, out)
    pveseg, pve = np.ones(types.shape, np.uint8), np.ones((*types.shape, 3), np.float32)
    mixel.decode(code, pveseg, pve)
    expected = [[1, 0, 0], [0, 0, 1], [0.3, 0.7, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5], [0, 0, 0]]
    np.testing.assert_allclose(pve[0, 0], expected, atol=1e-6)
    assert mixeltype.ravel().tolist() == [0, 2, 3, 4, 5, 5, 0]
    assert pveseg.ravel().tolist() == [1, 3, 2, 1, 3, 3, 0]
