"""The compact context-encoding VAE: its loss is eqs. 13 and 14."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from strega_jax.augment.context import ContextEncoding
from strega_jax.detectors.base import Batch
from strega_jax.detectors.cce_vae import CceVae, kl_divergence
from strega_jax.errors import ConfigError

SMALL = {"maps": (8, 16), "latent": 12}
SIDE = 32


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These networks are tiny: compiling them well would take far longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def slices(count: int = 4, channels: int = 1) -> Batch:
    """Axial slices of nested ellipsoids: bright shell, dark core, each slice of another height and contrast."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    heights = np.linspace(-0.5, 0.5, count)[:, None, None]
    radius = np.sqrt((row / 0.8) ** 2 + (column / 0.9) ** 2 + heights**2)
    brain = (radius < 1).astype(np.float32)
    tissue = np.stack([(radius < 0.4), (radius >= 0.7), (radius >= 0.4) & (radius < 0.7)], -1)[..., :channels]
    images = tissue * brain[..., None] * rng.uniform(0.8, 1.2, (count, 1, 1, 1))
    return {
        "images": jnp.asarray(images, jnp.float32),
        "brain": jnp.asarray(brain),
        "position": jnp.asarray((heights + 0.5).reshape(-1), jnp.float32),
    }


def fresh(channels: int = 1, **fields) -> tuple[CceVae, dict]:
    return CceVae(**{**SMALL, **fields}), weights(channels)


@functools.cache
def weights(channels: int) -> dict:
    return jax.jit(CceVae(**SMALL).init, static_argnums=1)(jax.random.key(0), (SIDE, SIDE, channels))


def loss(detector: CceVae, variables: dict, batch: Batch, step: int = 0, seed: int = 7):
    return jax.jit(detector.loss)(variables, batch, jax.random.key(seed), jnp.int32(step))


def score(detector: CceVae, variables: dict, batch: Batch, seed: int = 0) -> np.ndarray:
    return np.asarray(jax.jit(detector.score)(variables, batch, jax.random.key(seed)))


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.3, -2.0), (-0.4, 0.7)])
def test_kl_equals_numerical_integral(mean: float, log_variance: float):
    posterior, prior = stats.norm(mean, np.exp(log_variance / 2)), stats.norm(0, 1)
    expected, _ = integrate.quad(lambda z: posterior.pdf(z) * (posterior.logpdf(z) - prior.logpdf(z)), -12, 12)
    got = kl_divergence(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance))
    np.testing.assert_allclose(got, [[expected]], atol=1e-6)


def test_paper_loss_is_the_unweighted_sum_of_equation_14():
    detector, variables = fresh()
    total, aux = loss(detector, variables, slices())
    np.testing.assert_allclose(total, sum(aux.metrics.values()), rtol=1e-6)
    assert set(aux.metrics) == {"kl", "rec", "rec_ce"}
    assert min(float(value) for value in aux.metrics.values()) > 0


def test_released_loss_weighs_and_averages_the_same_terms():
    batch = slices()
    paper, variables = fresh()
    released, _ = fresh(objective="released")
    sums = loss(paper, variables, batch)[1].metrics
    total, aux = loss(released, variables, batch)
    np.testing.assert_allclose(aux.metrics["kl"] * SMALL["latent"], sums["kl"], rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["rec"] * SIDE**2, sums["rec"], rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["rec_ce"] * SIDE**2, sums["rec_ce"], rtol=1e-5)
    expected = 0.5 * (0.01 * aux.metrics["kl"] + aux.metrics["rec"]) + 0.5 * aux.metrics["rec_ce"]
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_kl_weight_rises_over_the_warm_up():
    detector, variables = fresh(kl_warmup_steps=4, kl_weight=2.0, ce_weight=0.0)
    shares = []
    for step in (0, 1, 4, 9):
        total, aux = loss(detector, variables, slices(), step)
        shares.append(float((total - aux.metrics["rec"]) / aux.metrics["kl"]))
    np.testing.assert_allclose(shares, [0.4, 0.8, 2.0, 2.0], rtol=1e-3)


def test_context_branch_sees_nothing_hidden_and_is_held_to_the_clean_image():
    # A square as large as the image, centred in a small brain, hides exactly the brain.
    detector, variables = fresh(reconstruction="l2", context=ContextEncoding(squares=(1, 1), side=(1.0, 1.0)))
    batch = slices()
    brain = np.zeros((4, SIDE, SIDE), np.float32)
    brain[:, 12:20, 14:20] = 1
    batch["brain"] = jnp.asarray(brain)

    def rec_ce(change: float, where: np.ndarray) -> float:
        images = batch["images"] + change * jnp.asarray(where)[..., None]
        return float(loss(detector, variables, {**batch, "images": images})[1].metrics["rec_ce"])

    def bend(where: np.ndarray) -> float:
        return rec_ce(2.0, where) - 2 * rec_ce(0.0, where) + rec_ce(-2.0, where)

    # Σ (t + δ − o)² over the hidden pixels bends by 2·δ² each if they count as target and o ignores them.
    np.testing.assert_allclose(bend(brain), 2 * 2.0**2 * 8 * 6, rtol=1e-3)
    seen = np.roll(brain, 8, axis=1)
    assert abs(bend(seen) - 2 * 2.0**2 * 8 * 6) > 1  # where it sees, the output follows


def test_running_averages_follow_the_vae_branch_alone():
    some, variables = fresh()
    most, _ = fresh(context=ContextEncoding(squares=(3, 3), side=(0.8, 0.9)))
    first, second = loss(some, variables, slices())[1], loss(most, variables, slices())[1]
    assert first.metrics["rec_ce"] != second.metrics["rec_ce"]
    jax.tree.map(np.testing.assert_array_equal, first.mutable, second.mutable)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.mutable["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_same_key_same_loss_bit_for_bit_and_another_key_another():
    detector, variables = fresh()
    first, second = loss(detector, variables, slices())[0], loss(detector, variables, slices())[0]
    assert first == second
    assert loss(detector, variables, slices(), seed=8)[0] != first


def trained(detector: CceVae, variables: dict, batch: Batch, steps: int) -> tuple[dict, list[dict[str, float]]]:
    optimiser = optax.adam(3e-3)
    moments = optimiser.init(variables["params"])
    history = []

    @jax.jit
    def advance(variables, moments, step):
        def total(params):
            return detector.loss(
                {**variables, "params": params}, batch, jax.random.fold_in(jax.random.key(3), step), step
            )

        gradient, aux = jax.grad(total, has_aux=True)(variables["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            update, moments = optimiser.update(gradient, moments)
        return {"params": optax.apply_updates(variables["params"], update), **aux.mutable}, moments, aux.metrics

    for step in range(steps):
        variables, moments, metrics = advance(variables, moments, jnp.int32(step))
        history.append({name: float(value) for name, value in metrics.items()})
    return variables, history


def test_training_lowers_both_branches_and_a_planted_lesion_then_scores_highest():
    detector, variables = fresh()
    batch = slices(8)
    variables, history = trained(detector, variables, batch, 120)
    assert history[-1]["rec"] < 0.4 * history[0]["rec"]
    assert history[-1]["rec_ce"] < 0.4 * history[0]["rec_ce"]
    lesion = np.zeros((8, SIDE, SIDE), np.float32)
    lesion[:, 14:18, 21:25] = 1
    ill: Batch = {**batch, "images": batch["images"] + 1.5 * jnp.asarray(lesion)[..., None]}
    found = score(detector, variables, ill)
    inside, elsewhere = found[lesion == 1].mean(), found[(lesion == 0) & (np.asarray(batch["brain"]) == 1)].mean()
    assert inside > 4 * elsewhere


def test_bfloat16_keeps_parameters_averages_losses_and_images_float32():
    batch = slices()
    full, variables = fresh()
    half, _ = fresh(compute_dtype="bfloat16")

    @jax.jit
    def everything(variables):
        def total(params):
            return half.loss({**variables, "params": params}, batch, jax.random.key(7), jnp.int32(0))

        made = half.init(jax.random.key(0), (SIDE, SIDE, 1))
        return jax.value_and_grad(total, has_aux=True)(variables["params"]), half.reconstruct(variables, batch), made

    results = everything(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(results[0][0][0], loss(full, variables, batch)[0], rtol=0.05)
    layers = str(jax.make_jaxpr(lambda v: half.reconstruct(v, batch))(variables)).count("bf16[")
    assert layers > 50  # they do compute in bfloat16


def parameters(detector: CceVae, shape: tuple[int, int, int]) -> int:
    variables = jax.eval_shape(lambda: detector.init(jax.random.key(0), shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_default_is_compact_and_the_literal_one_is_not():
    assert parameters(CceVae(), (256, 256, 1)) == 2_642_384
    literal = CceVae(stem_stride=2, block="basic", head="full_conv")
    assert 200e6 < parameters(literal, (256, 256, 1)) < 207e6


@pytest.mark.parametrize(
    ("shape", "head", "stem_stride"),
    [
        ((64, 64, 1), "dense", 4),
        ((96, 96, 3), "full_conv", 4),
        ((208, 176, 1), "dense", 4),
        ((256, 256, 3), "dense", 2),
        ((128, 112, 1), "full_conv", 2),
    ],
)
def test_every_image_size_comes_back_at_its_size(shape, head, stem_stride):
    detector = CceVae(head=head, stem_stride=stem_stride)
    h, w, _ = shape
    batch: Batch = {"images": jnp.zeros((2, *shape)), "brain": jnp.zeros((2, h, w)), "position": jnp.zeros(2)}

    def run():
        variables = detector.init(jax.random.key(0), shape)
        return detector.reconstruct(variables, batch), detector.score(variables, batch, jax.random.key(0))

    image, score = jax.eval_shape(run)
    assert image.shape == (2, *shape)
    assert score.shape == (2, h, w)


@pytest.mark.parametrize(("fields", "shape"), [({}, (40, 48, 1)), ({"channel_weights": (1.0,)}, (64, 64, 3))])
def test_images_that_do_not_fit_are_refused(fields: dict, shape: tuple[int, int, int]):
    with pytest.raises(ConfigError, match=r"multiples of 16|channel_weights has 1"):
        CceVae(**fields).init(jax.random.key(0), shape)
