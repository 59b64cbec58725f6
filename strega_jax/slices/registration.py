"""Levenberg–Marquardt for the affine map that lays a template over a scan, on the device.

It minimises

    mean_x ρ(‖m(T x) − f(x)‖²) + prior(T),    ρ(s) = c² s / (c² + s)    (Geman & McClure 1985)

over T's 12 parameters with the exact gradient of trilinear interpolation; x runs over the template's brain and a
shell around it, f and m are the smoothed features of template and scan. ρ levels off: a tumour costs a constant and
pulls nowhere. Voxels that lie beyond the field of view are left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

GRID_MM = 4.0
GRID_VOXELS = 64  # 256 mm: any head in any pose
RADIUS_MM = 60.0  # of a brain, about; makes translations commensurate with rotations and strains
SETTLED_MM = 0.005  # an iteration that moves the brain's surface by less is the last
MAX_SHEAR = 0.2


class Level(NamedTuple):
    """The template at one resolution: n points about its centre of gravity."""

    points: Float[Array, "n 3"]  # millimetres
    features: Float[Array, "n 3"]  # weighted brain, GM, WM


class Prior(NamedTuple):
    """What is known of T before the scan is looked at: bounds of its scales, and Gaussians.

    Attributes:
        scale_range: of the scale along each axis.
        aspect: means of the log scales about the mean of the three.
        scale_std, shear_std: standard deviations of these and of the shears.
        weight: of the prior against the mean of ρ.
    """

    scale_range: tuple[float, float]
    aspect: tuple[float, float, float]
    scale_std: float
    shear_std: float
    weight: float


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
    turn = Rotation.from_matrix(rotation).as_rotvec()
    angle = float(np.linalg.norm(turn))
    return turn * (2 * np.tan(angle / 2) / angle) if angle > 0 else turn


def matrix(p: Float[Array, "12"] | Float[np.ndarray, "12"]) -> Float[Array, "3 4"]:
    """Parameters (shift / RADIUS_MM, rotation, log scales, shears) → linear part and shift / RADIUS_MM."""
    zero, one = jnp.zeros((), p.dtype), jnp.ones((), p.dtype)
    k = jnp.stack([zero, -p[5], p[4], p[5], zero, -p[3], -p[4], p[3], zero]).reshape(3, 3)
    # Cayley's transform: a rotation by 2 atan(|p| / 2), smooth everywhere.
    rotation = jnp.eye(3, dtype=p.dtype) + (k + k @ k / 2) / (1 + jnp.sum(p[3:6] ** 2) / 4)
    shear = jnp.stack([one, p[9], p[10], zero, one, p[11], zero, zero, one]).reshape(3, 3)
    linear = rotation @ shear @ jnp.diag(jnp.exp(p[6:9]))
    return jnp.concatenate([linear, p[:3, None]], axis=1)


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


def _prior_residual(p: Float[Array, "12"], prior: Prior) -> Float[Array, "6"]:
    scales = p[6:9] - jnp.mean(p[6:9])
    if any(prior.aspect):
        scales = scales - jnp.array(prior.aspect, p.dtype)
    return jnp.concatenate([scales / prior.scale_std, p[9:] / prior.shear_std]) * prior.weight**0.5


def _normal_equations(
    level: Level, volume: Float[Array, "g g g 4"], c: float, p: Float[Array, "12"], prior: Prior
) -> tuple[Float[Array, ""], Float[Array, "12"], Float[Array, "12 12"]]:
    """Cost, half its gradient, and the Gauss–Newton approximation of half its Hessian."""
    moved = level.points @ matrix(p)[:, :3].T + RADIUS_MM * p[None, :3]
    value, slope = sample(volume, moved)
    seen = value[:, 3]
    residual, slope = value[:, :3] - level.features, slope[:, :3]
    square = jnp.sum(residual**2, axis=1)
    # A mean over what was scanned: to move into the unknown neither costs nor gains.
    share = seen / jnp.sum(seen)
    cost = jnp.sum(share * c**2 * square / (c**2 + square))
    weight = share * (c**2 / (c**2 + square)) ** 2
    place = jnp.concatenate([level.points, jnp.full_like(level.points[:, :1], RADIUS_MM)], axis=1)
    pull = jnp.einsum("n,nc,nca->na", weight, residual, slope)
    metric = jnp.einsum("n,nca,ncb->nab", weight, slope, slope)
    squares = place[:, :, None] * place[:, None, :]
    hessian = metric.reshape(-1, 9).T @ squares.reshape(-1, 16)
    hessian = hessian.reshape(3, 3, 4, 4).transpose(0, 2, 1, 3).reshape(12, 12)
    chain = jax.jacfwd(matrix)(p).reshape(12, 12)
    known, known_slope = _prior_residual(p, prior), jax.jacfwd(_prior_residual)(p, prior)
    gradient = chain.T @ (pull.T @ place).reshape(12) + known_slope.T @ known
    return cost + known @ known, gradient, chain.T @ hessian @ chain + known_slope.T @ known_slope


def _bounded(p: Float[Array, "12"], scale_range: tuple[float, float]) -> Float[Array, "12"]:
    scales = jnp.clip(p[6:9], np.log(scale_range[0]), np.log(scale_range[1]))
    return jnp.concatenate([p[:6], scales, jnp.clip(p[9:], -MAX_SHEAR, MAX_SHEAR)])


def minimise(
    level: Level,
    volume: Float[Array, "g g g 4"],
    c: float,
    iterations: int,
    start: Float[Array, "12"],
    free: Float[Array, "12"],
    prior: Prior,
) -> Fit:
    """Levenberg–Marquardt (Marquardt 1963) over the free parameters.

    Args:
        level: the template's points and features.
        volume: the scan's features and field of view, about its centre.
        c: where ρ levels off, in units of the weighted features.
        iterations: at most.
        start: (12,) float32, as `matrix` takes them.
        free: (12,) float32, 1 for what may change and 0 for what may not.
        prior: of T.
    """

    def step(carry: tuple[jax.Array, Fit]) -> tuple[jax.Array, Fit]:
        count, fit = carry
        system = fit.hessian * free[:, None] * free[None, :]
        system = system + jnp.diag(fit.damping * jnp.diag(system) + (1 - free) + 1e-9)
        trial = _bounded(fit.parameters - jnp.linalg.solve(system, fit.gradient * free), prior.scale_range)
        cost, gradient, hessian = _normal_equations(level, volume, c, trial, prior)
        moved = RADIUS_MM * jnp.max(jnp.abs(trial - fit.parameters))
        better = Fit(trial, cost, gradient, hessian, fit.damping * 0.2, moved)
        worse = fit._replace(damping=fit.damping * 8, moved=moved)
        return count + 1, jax.tree.map(lambda a, b: jnp.where(cost < fit.cost, a, b), better, worse)

    def unsettled(carry: tuple[jax.Array, Fit]) -> jax.Array:
        return (carry[0] < iterations) & (carry[1].moved > SETTLED_MM)

    first = Fit(start, *_normal_equations(level, volume, c, start, prior), jnp.float32(1e-3), jnp.float32(jnp.inf))
    return jax.lax.while_loop(unsettled, step, (jnp.int32(0), first))[1]


def agreement(
    level: Level, volume: Float[Array, "g g g 4"], p: Float[Array, "12"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of what was scanned: Dice of the smoothed brains, correlation of the GM − WM contrast within the template's."""
    value, _ = sample(volume, level.points @ matrix(p)[:, :3].T + RADIUS_MM * p[None, :3])
    seen = value[:, 3]
    ours, theirs = value[:, 0] * seen, level.features[:, 0] * seen
    dice = 2 * jnp.sum(jnp.minimum(ours, theirs)) / jnp.sum(ours + theirs)
    a, b = value[:, 1] - value[:, 2], level.features[:, 1] - level.features[:, 2]
    brain = theirs / jnp.sum(theirs)
    a, b = a - jnp.sum(brain * a), b - jnp.sum(brain * b)
    correlation = jnp.sum(brain * a * b) / jnp.sqrt(jnp.sum(brain * a**2) * jnp.sum(brain * b**2))
    return dice, correlation
