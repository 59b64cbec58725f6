"""Levenberg–Marquardt for the affine map that lays a template over a scan, on the device.

It minimises

    mean_x ρ(‖m(T x) − f(x)‖²) + prior(T),    ρ(s) = c² s / (c² + s)    (Geman & McClure 1985)

over T's 12 parameters with the exact gradient of trilinear interpolation; x runs over the template's brain and a
shell around it, f and m are the smoothed features of template and scan. ρ levels off: a tumour costs a constant and
pulls nowhere. Voxels that lie beyond the field of view are left out.
"""

import functools
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from strega_jax.programs import OPTIMISED, Program

GRID_MM = 4.0
GRID_VOXELS = 64  # 256 mm: any head in any pose
RADIUS_MM = 60.0  # of a brain, about; makes translations commensurate with rotations and strains
SETTLED_MM = 0.005  # an iteration that moves the brain's surface by less is the last
MAX_SHEAR = 0.2
# Every level is worked on in pieces of so many points and padded to so many pieces: one compiled program serves all.
PIECE, PIECES = 3072, 16


Scalar = float | Float[Array, ""]


class Level(NamedTuple):
    """The template at one resolution: n points about its centre of gravity."""

    points: Float[np.ndarray, "n 3"]  # millimetres
    features: Float[np.ndarray, "n 3"]  # weighted brain, GM, WM


class Prior(NamedTuple):
    """What is known of T before the scan is looked at: bounds of its scales, and Gaussians.

    Attributes:
        scale_range: of the scale along each axis.
        aspect: means of the log scales about the mean of the three.
        scale_std, shear_std: standard deviations of these and of the shears.
        weight: of the prior against the mean of ρ.
    """

    scale_range: tuple[Scalar, Scalar]
    aspect: tuple[Scalar, Scalar, Scalar]
    scale_std: Scalar
    shear_std: Scalar
    weight: Scalar


class Fit(NamedTuple):
    """State of Levenberg–Marquardt: the best parameters yet, and the normal equations there."""

    parameters: Float[Array, "12"]
    cost: Float[Array, ""]
    gradient: Float[Array, "12"]
    hessian: Float[Array, "12 12"]
    damping: Float[Array, ""]
    moved: Float[Array, ""]


def cayley(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """The parameters of `matrix` that give a rotation of less than half a turn."""
    k = 2 * np.linalg.solve((rotation + np.eye(3)).T, (rotation - np.eye(3)).T).T
    return np.array([k[2, 1] - k[1, 2], k[0, 2] - k[2, 0], k[1, 0] - k[0, 1]]) / 2


@overload
def matrix(p: Float[Array, "12"]) -> Float[Array, "3 4"]: ...


@overload
def matrix(p: Float[np.ndarray, "12"]) -> Float[np.ndarray, "3 4"]: ...


def matrix(p: Float[Array, "12"] | Float[np.ndarray, "12"]) -> Float[Array, "3 4"] | Float[np.ndarray, "3 4"]:
    """Parameters (shift / RADIUS_MM, rotation, log scales, shears) → linear part and shift / RADIUS_MM.

    Of a NumPy array, by NumPy: op by op, JAX compiles dozens of programs for it.
    """
    xp = np if isinstance(p, np.ndarray) else jnp
    zero, one = xp.zeros((), p.dtype), xp.ones((), p.dtype)
    k = xp.stack([zero, -p[5], p[4], p[5], zero, -p[3], -p[4], p[3], zero]).reshape(3, 3)
    # Cayley's transform: a rotation by 2 atan(|p| / 2), smooth everywhere.
    rotation = xp.eye(3, dtype=p.dtype) + (k + k @ k / 2) / (1 + xp.sum(p[3:6] ** 2) / 4)
    shear = xp.stack([one, p[9], p[10], zero, one, p[11], zero, zero, one]).reshape(3, 3)
    linear = rotation @ shear * xp.exp(p[None, 6:9])
    return xp.concatenate([linear, p[:3, None]], axis=1)


def sample(
    volume: Float[Array, "g g g c"], points: Float[Array, "n 3"]
) -> tuple[Float[Array, "n c"], Float[Array, "n c 3"]]:
    """Trilinear values at points (millimetres about the grid's centre), and their gradients per millimetre."""
    index = jnp.clip(points / GRID_MM + (GRID_VOXELS - 1) / 2, 0, GRID_VOXELS - 1 - 1e-3)
    corner = jnp.floor(index)
    part = index - corner
    at = corner.astype(jnp.int32)
    flat = (at[:, 0] * GRID_VOXELS + at[:, 1]) * GRID_VOXELS + at[:, 2]
    steps = [(i * GRID_VOXELS + j) * GRID_VOXELS + k for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    rows = volume.reshape(-1, volume.shape[-1])[flat[:, None] + jnp.array(steps, jnp.int32)[None, :]]
    v = rows.reshape(len(points), 2, 2, 2, volume.shape[-1])
    x, y, z = (part[:, axis, None] for axis in range(3))
    ends = v[:, :, :, 0] + (v[:, :, :, 1] - v[:, :, :, 0]) * z[:, None, None]
    along_z = v[:, :, :, 1] - v[:, :, :, 0]
    lines = ends[:, :, 0] + (ends[:, :, 1] - ends[:, :, 0]) * y[:, None]
    along_y = ends[:, :, 1] - ends[:, :, 0]
    z_lines = along_z[:, :, 0] + (along_z[:, :, 1] - along_z[:, :, 0]) * y[:, None]
    value = lines[:, 0] + (lines[:, 1] - lines[:, 0]) * x
    dx = lines[:, 1] - lines[:, 0]
    dy = along_y[:, 0] + (along_y[:, 1] - along_y[:, 0]) * x
    dz = z_lines[:, 0] + (z_lines[:, 1] - z_lines[:, 0]) * x
    return value, jnp.stack([dx, dy, dz], axis=-1) / GRID_MM


def _prior_terms(p: Float[Array, "12"], prior: Prior) -> tuple[Float[Array, "6"], Float[Array, "6 12"]]:
    """What the prior adds to the residuals, and its derivative, which is constant."""
    select = np.zeros((6, 12), np.float32)
    select[:3, 6:9] = np.eye(3) - 1 / 3  # log scales about their mean
    select[3:, 9:] = np.eye(3)
    strength = jnp.sqrt(prior.weight) / jnp.repeat(jnp.stack([prior.scale_std, prior.shear_std]), 3)
    residual = jnp.asarray(select) @ p - jnp.concatenate([jnp.stack(prior.aspect), jnp.zeros(3)])
    return residual * strength, jnp.asarray(select) * strength[:, None]


class _Sums(NamedTuple):
    """Over points: of what was seen; of this times cost, half its gradient and half its Hessian."""

    seen: Float[Array, ""]
    cost: Float[Array, ""]
    gradient: Float[Array, "12"]
    hessian: Float[Array, "9 16"]


def _piece(
    points: Float[Array, "n 3"],
    features: Float[Array, "n 3"],
    real: Float[Array, "n"],
    volume: Float[Array, "g g g 4"],
    c: Float[Array, ""],
    pose: Float[Array, "3 4"],
) -> _Sums:
    """Of some points, of which those with `real` 0 do not count; derivatives by the elements of the pose."""
    value, slope = sample(volume, points @ pose[:, :3].T + RADIUS_MM * pose[None, :, 3])
    seen = value[:, 3] * real
    residual, slope = value[:, :3] - features, slope[:, :3]
    square = jnp.sum(residual**2, axis=1)
    weight = seen * (c**2 / (c**2 + square)) ** 2
    place = jnp.concatenate([points, jnp.full_like(points[:, :1], RADIUS_MM)], axis=1)
    pull = jnp.einsum("n,nc,nca->na", weight, residual, slope)
    metric = jnp.einsum("n,nca,ncb->nab", weight, slope, slope)
    squares = place[:, :, None] * place[:, None, :]
    return _Sums(
        jnp.sum(seen),
        jnp.sum(seen * c**2 * square / (c**2 + square)),
        (pull.T @ place).reshape(12),
        metric.reshape(-1, 9).T @ squares.reshape(-1, 16),
    )


def _normal_equations(
    level: Level,
    count: Int[Array, ""],
    volume: Float[Array, "g g g 4"],
    c: Float[Array, ""],
    p: Float[Array, "12"],
    prior: Prior,
) -> tuple[Float[Array, ""], Float[Array, "12"], Float[Array, "12 12"]]:
    """Cost, half its gradient, and the Gauss–Newton approximation of half its Hessian, over `count` points."""
    pose = matrix(p)

    def add(i: Int[Array, ""], sums: _Sums) -> _Sums:
        points, features = (jax.lax.dynamic_slice_in_dim(part, i * PIECE, PIECE) for part in level)
        real = (i * PIECE + jnp.arange(PIECE) < count).astype(jnp.float32)
        return jax.tree.map(jnp.add, sums, _piece(points, features, real, volume, c, pose))

    zeros = _Sums(jnp.zeros(()), jnp.zeros(()), jnp.zeros(12), jnp.zeros((9, 16)))
    sums = jax.lax.fori_loop(0, (count + PIECE - 1) // PIECE, add, zeros)
    # A mean over what was scanned: to move into the unknown neither costs nor gains.
    sums = jax.tree.map(lambda part: part / sums.seen, sums)
    hessian = sums.hessian.reshape(3, 3, 4, 4).transpose(0, 2, 1, 3).reshape(12, 12)
    chain = jax.jacfwd(matrix)(p).reshape(12, 12)
    known, slope = _prior_terms(p, prior)
    gradient = chain.T @ sums.gradient + slope.T @ known
    return sums.cost + known @ known, gradient, chain.T @ hessian @ chain + slope.T @ slope


def _bounded(p: Float[Array, "12"], scale_range: tuple[Scalar, Scalar]) -> Float[Array, "12"]:
    scales = jnp.clip(p[6:9], jnp.log(scale_range[0]), jnp.log(scale_range[1]))
    return jnp.concatenate([p[:6], scales, jnp.clip(p[9:], -MAX_SHEAR, MAX_SHEAR)])


def minimise(
    level: Level,
    volume: Float[Array, "g g g 4"] | Float[np.ndarray, "g g g 4"],
    c: float,
    iterations: int,
    start: Float[Array, "12"] | Float[np.ndarray, "12"],
    free: Float[np.ndarray, "12"],
    prior: Prior,
) -> Fit:
    """Levenberg–Marquardt (Marquardt 1963) over the free parameters.

    Args:
        level: the template's points and features, at most PIECE · PIECES.
        volume: the scan's features and field of view, about its centre.
        c: where ρ levels off, in units of the weighted features.
        iterations: at most.
        start: (12,) float32, as `matrix` takes them.
        free: (12,) float32, 1 for what may change and 0 for what may not.
        prior: of T.
    """
    count = len(level.points)
    padded = Level(*(np.pad(part, [(0, PIECE * PIECES - count), (0, 0)]) for part in level))
    return _minimise(padded, np.int32(count), volume, c, iterations, start, free, prior)


def prepare() -> None:
    """Compile the program of `minimise`, one for all scans, or fetch it from where it is kept."""
    _minimise.ready(*_like())


def compile_ahead() -> None:
    """Compile it, if it is kept nowhere."""
    _minimise.compile_ahead(*_like())


def _like() -> tuple[Any, ...]:
    """Arguments of `_minimise`, as far as shapes and types go."""
    points, parameters = (np.zeros(shape, np.float32) for shape in ((PIECE * PIECES, 3), (12,)))
    volume = np.zeros((GRID_VOXELS,) * 3 + (4,), np.float32)
    prior = Prior((0.0, 0.0), (0.0, 0.0, 0.0), 0.0, 0.0, 0.0)
    return Level(points, points), np.int32(0), volume, 0.0, 0, parameters, parameters, prior


@functools.partial(Program, options=OPTIMISED)
def _minimise(
    level: Level,
    count: Int[Array, ""],
    volume: Float[Array, "g g g 4"],
    c: Float[Array, ""],
    iterations: Int[Array, ""],
    start: Float[Array, "12"],
    free: Float[Array, "12"],
    prior: Prior,
) -> Fit:
    def step(carry: tuple[jax.Array, Fit]) -> tuple[jax.Array, Fit]:
        done, fit = carry
        first = done == 0  # evaluates the start; in the loop, so that what evaluates is compiled once
        system = fit.hessian * free[:, None] * free[None, :]
        system = system + jnp.diag(fit.damping * jnp.diag(system) + (1 - free) + 1e-9)
        trial = _bounded(fit.parameters - jnp.linalg.solve(system, fit.gradient * free), prior.scale_range)
        trial = jnp.where(first, fit.parameters, trial)
        cost, gradient, hessian = _normal_equations(level, count, volume, c, trial, prior)
        moved = jnp.where(first, jnp.inf, RADIUS_MM * jnp.max(jnp.abs(trial - fit.parameters)))
        better = Fit(trial, cost, gradient, hessian, fit.damping * jnp.where(first, 1.0, 0.2), moved)
        worse = fit._replace(damping=fit.damping * 8, moved=moved)
        return done + 1, jax.tree.map(lambda a, b: jnp.where(cost < fit.cost, a, b), better, worse)

    def unsettled(carry: tuple[jax.Array, Fit]) -> jax.Array:
        return (carry[0] <= iterations) & (carry[1].moved > SETTLED_MM)

    inf = jnp.float32(jnp.inf)
    unknown = Fit(start, inf, jnp.zeros(12), jnp.eye(12), jnp.float32(1e-3), inf)
    return jax.lax.while_loop(unsettled, step, (jnp.int32(0), unknown))[1]


def agreement(level: Level, volume: Float[np.ndarray, "g g g 4"], p: Float[np.ndarray, "12"]) -> tuple[float, float]:
    """Of what was scanned: Dice of the smoothed brains, correlation of the GM − WM contrast within the template's."""
    from scipy import ndimage  # takes longer to load than the program to be compiled, which need not wait for it

    pose = matrix(p)
    index = (level.points @ pose[:, :3].T + RADIUS_MM * pose[:, 3]) / GRID_MM + (GRID_VOXELS - 1) / 2
    value = [ndimage.map_coordinates(volume[..., i], index.T, order=1, mode="nearest") for i in range(4)]
    seen = value[3]
    ours, theirs = value[0] * seen, level.features[:, 0] * seen
    dice = 2 * np.sum(np.minimum(ours, theirs)) / np.sum(ours + theirs)
    a, b = value[1] - value[2], level.features[:, 1] - level.features[:, 2]
    brain = theirs / np.sum(theirs)
    a, b = a - np.sum(brain * a), b - np.sum(brain * b)
    with np.errstate(invalid="ignore"):  # of no tissue at all: not a number, and good enough for nothing
        correlation = np.sum(brain * a * b) / np.sqrt(np.sum(brain * a**2) * np.sum(brain * b**2))
    return float(dice), float(correlation)
